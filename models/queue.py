"""A queue of rows in a buffer: first in, first out."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def enqueued(queue: Tensor, start: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The queue in which new rows have replaced the oldest ones, and where its oldest row is then.

    It is a copy, because a graph may still hold the given one. Nothing is read back from the device.

    Args:
        queue: shape ``(K, width)``.
        start: index of its oldest row, int64 without dimensions.
        rows: shape ``(row, width)``, the oldest first; of more than K the last K.
    """
    size = len(queue)
    rows = rows[-size:].detach().to(queue.dtype)
    places = torch.arange(len(rows), device=rows.device)
    return queue.index_copy(0, (start + places) % size, rows), (start + len(rows)) % size

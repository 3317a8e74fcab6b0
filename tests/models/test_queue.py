"""A queue in a buffer against Python's deque."""

from __future__ import annotations

from collections import deque

import torch

from pp_simve.models.queue import enqueued


def test_a_queue_holds_the_last_rows_in_their_order() -> None:
    """Over its end, and with more rows at once than it holds."""
    queue, start = torch.zeros(5, 2), torch.tensor(0)
    expected = deque(queue.tolist(), maxlen=5)
    for count in (2, 4, 5, 1, 13, 3):
        rows = torch.randn(count, 2)
        before = queue
        queue, start = enqueued(queue, start, rows)
        expected.extend(rows.tolist())
        assert queue.roll(-int(start), 0).tolist() == list(expected)
        assert queue is not before

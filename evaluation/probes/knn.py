"""Nearest-neighbor probe: majority vote of the k nearest train rows, k and metric selected on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import ClassProbe, accuracy, checked_grid, unit_rows

NEIGHBORS = (1, 5, 10, 20, 50)
METRICS = ("euclidean", "cosine")

_ENTRIES = 2**22
"""Similarities held at a time: 16 MiB in float32."""


class KNNProbe(ClassProbe):
    """Majority vote of the k nearest train rows, on unstandardized features.

    Among classes with equally many votes, the one with the nearest voter wins. The ``k`` and ``metric``
    (``"euclidean"`` or ``"cosine"``) with the best validation accuracy are selected; among equals, the larger k, then
    the metric named first. Values of k are limited to the number of train rows. The order of train rows at equal
    distances is not specified.
    """

    standardized: ClassVar[bool] = False
    k: int
    metric: str

    def __init__(self, neighbors: Sequence[int] = NEIGHBORS, metrics: Sequence[str] = METRICS) -> None:
        checked_grid("neighbors", neighbors, least=1)
        if not metrics or not set(metrics) <= set(METRICS):
            raise ValueError(f"metrics must be among {METRICS}, got {metrics}")
        self.neighbors, self.metrics = tuple(neighbors), tuple(metrics)

    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        self._train = x, y
        # The neighbors of the largest k include those of the smaller ones.
        ks = sorted({min(k, len(x)) for k in self.neighbors}, reverse=True)
        nearest = {metric: y[nearest_rows(validation_x, x, ks[0], metric)] for metric in self.metrics}
        self.validation_score = -1.0
        for k, metric in product(ks, self.metrics):
            score = accuracy(self._vote(nearest[metric][:, :k]), validation_y)
            if score > self.validation_score:
                self.k, self.metric, self.validation_score = k, metric, score

    def _outputs(self, x: Tensor) -> Tensor:
        train_x, train_y = self._train
        return self._vote(train_y[nearest_rows(x, train_x, self.k, self.metric)])

    def _vote(self, nearest: Tensor) -> Tensor:
        """Most frequent class of each row of ``nearest``, classes of neighbors, nearest first, ``(row, k)``."""
        votes = nearest.new_zeros(len(nearest), len(self.classes)).scatter_add_(1, nearest, torch.ones_like(nearest))
        # argmax takes the first of equal maxima: the nearest neighbor of a class with the most votes.
        first = votes.gather(1, nearest).argmax(dim=1, keepdim=True)
        return nearest.gather(1, first).squeeze(1)


def nearest_rows(x: Tensor, train_x: Tensor, k: int, metric: str) -> Tensor:
    """Positions of the k nearest train rows of each row of ``x``, nearest first, int64, ``(row, k)``."""
    if metric == "cosine":
        x, train_x = unit_rows(x), unit_rows(train_x)
        offset = x.new_zeros(len(train_x))
    else:
        # x·t − ½‖t‖² orders train rows t as −‖x − t‖². Centered, as far from 0 squares would swallow differences.
        origin = train_x.mean(dim=0, dtype=torch.float64).to(x.dtype)
        x, train_x = x - origin, train_x - origin
        offset = train_x.square().sum(1) / -2
    chunks = torch.split(x, max(1, _ENTRIES // len(train_x)))
    return torch.cat([torch.addmm(offset, chunk, train_x.T).topk(k, dim=1).indices for chunk in chunks])

"""Nearest-neighbor probes: k and metric selected on validation rows, and weighted votes of a fixed k by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import (
    Array,
    ClassProbe,
    accuracy,
    checked_grid,
    checked_labels,
    unit_rows,
)

NEIGHBORS = (1, 5, 10, 20, 50)
METRICS = ("euclidean", "cosine")

_ENTRIES = 2**22
"""Similarities held at a time: 16 MiB in float32."""


class KNNProbe(ClassProbe):
    """k-NN probe: majority vote of the k nearest train rows, on unstandardized features.

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
        nearest = {metric: y[nearest_rows(validation_x, x, ks[0], metric)[0]] for metric in self.metrics}
        self.validation_score = -1.0
        for k, metric in product(ks, self.metrics):
            score = accuracy(self._vote(nearest[metric][:, :k]), validation_y)
            if score > self.validation_score:
                self.k, self.metric, self.validation_score = k, metric, score

    def _outputs(self, x: Tensor) -> Tensor:
        train_x, train_y = self._train
        return self._vote(train_y[nearest_rows(x, train_x, self.k, self.metric)[0]])

    def _vote(self, nearest: Tensor) -> Tensor:
        """Most frequent class of each row of ``nearest``, classes of neighbors, nearest first, ``(row, k)``."""
        votes = nearest.new_zeros(len(nearest), len(self.classes)).scatter_add_(1, nearest, torch.ones_like(nearest))
        # argmax takes the first of equal maxima: the nearest neighbor of a class with the most votes.
        first = votes.gather(1, nearest).argmax(dim=1, keepdim=True)
        return nearest.gather(1, first).squeeze(1)


class WeightedKNNProbe(ClassProbe):
    """Weighted k-NN probe, the protocol of the self-supervised literature: nothing is selected on validation.

    The k train rows of the largest cosine similarity s to a row vote for their classes with weight exp(s /
    temperature), on unstandardized features (Wu et al., "Unsupervised feature learning via non-parametric instance
    discrimination" (2018, arXiv 1805.01978): k = 200, temperature 0.07; Caron et al., "Emerging properties in
    self-supervised vision transformers" (2021, arXiv 2104.14294): k = 20). k is limited to the number of train rows.
    """

    standardized: ClassVar[bool] = False

    def __init__(self, k: int = 20, temperature: float = 0.07) -> None:
        checked_grid("k", [k], least=1)
        checked_grid("temperature", [temperature], strict=True)
        self.k, self.temperature = k, temperature

    @torch.no_grad()
    def top_accuracies(self, x: Array, y: Array, counts: Sequence[int] = (1, 5)) -> list[float]:
        """For each n of ``counts``, the fraction of rows whose class is among the n of most votes (and has a vote)."""
        votes, places = self._votes(self._features(x)).sort(dim=1, descending=True, stable=True)
        hits = (self.classes[places] == checked_labels(y, votes, "test")[:, None]) & (votes > 0)
        return [float(hits[:, :count].any(dim=1).double().mean()) for count in counts]

    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        self._train = x, y
        self.validation_score = accuracy(self._outputs(validation_x), validation_y)

    def _outputs(self, x: Tensor) -> Tensor:
        return self._votes(x).argmax(dim=1)

    def _votes(self, x: Tensor) -> Tensor:
        """Votes in units of the nearest neighbor's, ``(row, class)``."""
        train_x, train_y = self._train
        rows, cosines = nearest_rows(x, train_x, min(self.k, len(train_x)), "cosine")
        weights = ((cosines - cosines[:, :1]) / self.temperature).exp()
        return weights.new_zeros(len(x), len(self.classes)).scatter_add_(1, train_y[rows], weights)


def nearest_rows(x: Tensor, train_x: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Positions of the k nearest train rows of each row of ``x``, nearest first, int64, and similarities, ``(row, k)``.

    The similarity is the cosine, or of the Euclidean metric a decreasing function of the distance.
    """
    if metric == "cosine":
        x, train_x = unit_rows(x), unit_rows(train_x)
        offset = x.new_zeros(len(train_x))
    else:
        # x·t − ½‖t‖² orders train rows t as −‖x − t‖². Centered, as far from 0 squares would swallow differences.
        origin = train_x.mean(dim=0, dtype=torch.float64).to(x.dtype)
        x, train_x = x - origin, train_x - origin
        offset = train_x.square().sum(1) / -2
    chunks = torch.split(x, max(1, _ENTRIES // len(train_x)))
    found = [torch.addmm(offset, chunk, train_x.T).topk(k, dim=1) for chunk in chunks]
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found])

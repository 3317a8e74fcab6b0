"""Nearest-neighbour probe: the vote of the k nearest train rows, k and metric chosen on validation rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from pp_simve.evaluation.features import checked_classes, checked_features, checked_labels, checked_rows, unit_rows
from pp_simve.evaluation.linear import accuracy

NEIGHBOURS = (1, 5, 10, 20, 50)
"""Numbers of neighbours tried by default."""

METRICS = ("euclidean", "cosine")
"""Metrics known, and tried by default."""

_BLOCK = 2**24
"""Entries of a block of distances, (queries × train rows): 64 MiB in float32, however many rows there are."""


class KNNProbe:
    """Majority vote of the k nearest train rows, on the features as they are (not standardised).

    Among classes with equally many votes, the one whose nearest voter is nearest wins. The k and metric with the best
    validation accuracy are kept; among equals, the larger k, then the metric named first. The order of train rows
    at equal distances is not specified.

    Args:
        neighbours: values of k to choose from, each limited to the number of train rows.
        metrics: ``"euclidean"``, ``"cosine"`` or both.

    Attributes:
        k, metric: the chosen ones.
        validation_score: their accuracy on the validation rows.
        classes: labels seen in train, ascending, shape ``(class,)``.
    """

    k: int
    metric: str
    validation_score: float
    classes: Tensor

    def __init__(self, neighbours: Sequence[int] = NEIGHBOURS, metrics: Sequence[str] = METRICS) -> None:
        if not neighbours or min(neighbours) < 1:
            raise ValueError(f"neighbours must be one or more numbers >= 1, got {neighbours}")
        if not metrics or not set(metrics) <= set(METRICS):
            raise ValueError(f"metrics must be among {METRICS}, got {metrics}")
        self.neighbours = tuple(neighbours)
        self.metrics = tuple(metrics)
        self._train: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def fit(self, train_x: Tensor, train_y: Tensor, validation_x: Tensor, validation_y: Tensor) -> KNNProbe:
        """Remembers the train rows and chooses k and the metric on the validation rows.

        Args:
            train_x, validation_x: float features, shape ``(row, feature)``, on one device.
            train_y, validation_y: integer labels, shape ``(row,)``. A validation class unseen in train is never right.

        Raises:
            ValueError: for features that are not finite, shapes that do not agree, or a single train class.
        """
        train_x, train_y, validation_x, validation_y = checked_rows(train_x, train_y, validation_x, validation_y)
        self.classes = checked_classes(train_y)
        self._train = (train_x, torch.searchsorted(self.classes, train_y))

        # One search at the largest k answers for the smaller ones.
        ks = sorted({min(k, len(train_x)) for k in self.neighbours}, reverse=True)
        nearest = {metric: self._search(validation_x, metric, ks[0]) for metric in self.metrics}
        self.validation_score = -1.0
        for k, metric in product(ks, self.metrics):
            score = accuracy(self._vote(nearest[metric][:, :k]), validation_y)
            if score > self.validation_score:
                self.k, self.metric, self.validation_score = k, metric, score
        return self

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The class of each row by vote, shape ``(row,)``, int64."""
        if self._train is None:
            raise RuntimeError("KNNProbe has not been fitted: call fit first")
        x = checked_features(x, "test", width=self._train[0].shape[1])
        return self._vote(self._search(x, self.metric, self.k))

    def score(self, x: Tensor, y: Tensor) -> float:
        """Fraction of rows whose class is predicted."""
        return accuracy(self.predict(x), checked_labels(y, x, "test"))

    def _search(self, x: Tensor, metric: str, k: int) -> Tensor:
        """Class index of the k nearest train rows, nearest first, shape ``(row, k)``."""
        assert self._train is not None
        train_x, train_y = self._train
        distances = cosine_blocks(x, train_x) if metric == "cosine" else euclidean_blocks(x, train_x)
        return torch.cat([train_y[block.topk(k, dim=1, largest=False, sorted=True).indices] for block in distances])

    def _vote(self, nearest: Tensor) -> Tensor:
        votes = nearest.new_zeros(len(nearest), len(self.classes)).scatter_add_(1, nearest, torch.ones_like(nearest))
        # argmax gives the first of equal maxima: the nearest neighbour of a class with the most votes.
        first = votes.gather(1, nearest).argmax(dim=1, keepdim=True)
        return self.classes[nearest.gather(1, first).squeeze(1)]


def euclidean_blocks(x: Tensor, train_x: Tensor) -> Iterator[Tensor]:
    """Blocks of rows of ½‖x − t‖² − ½‖x‖², which orders the train rows t of each x as the distance does."""
    # About the train mean: far from 0 the squares would swallow the differences.
    origin = train_x.mean(dim=0, dtype=torch.float64).to(train_x.dtype)
    x, train_x = x - origin, train_x - origin
    half_squares = train_x.square().sum(dim=1) / 2
    for chunk in torch.split(x, max(1, _BLOCK // len(train_x))):
        yield torch.addmm(half_squares, chunk, train_x.T, alpha=-1)


def cosine_blocks(x: Tensor, train_x: Tensor) -> Iterator[Tensor]:
    """Blocks of rows of −cos(x, t), 0 where x or t is 0."""
    x, train_x = unit_rows(x), unit_rows(train_x)
    for chunk in torch.split(x, max(1, _BLOCK // len(train_x))):
        yield -(chunk @ train_x.T)

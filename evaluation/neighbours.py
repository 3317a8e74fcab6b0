"""Nearest-neighbour probe: the vote of the k nearest train rows, k and metric chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import isqrt

import torch
from torch import Tensor

from pp_simve.evaluation.features import checked_classes, checked_features, checked_labels, checked_rows, unit_rows
from pp_simve.evaluation.linear import accuracy

NEIGHBOURS = (1, 5, 10, 20, 50)
"""Numbers of neighbours tried by default."""

METRICS = ("euclidean", "cosine")
"""Metrics known, and tried by default."""

_QUERIES, _ROWS = 512, 1024
"""Queries and train rows of a tile of scores: 2 MiB in float32, which a core keeps in its cache."""

_GATHERED = 2**22
"""Entries of train rows gathered at a time."""


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
        pair = cosine_pair(x, train_x) if metric == "cosine" else euclidean_pair(x, train_x)
        return train_y[most_alike(*pair, k)]

    def _vote(self, nearest: Tensor) -> Tensor:
        votes = nearest.new_zeros(len(nearest), len(self.classes)).scatter_add_(1, nearest, torch.ones_like(nearest))
        # argmax gives the first of equal maxima: the nearest neighbour of a class with the most votes.
        first = votes.gather(1, nearest).argmax(dim=1, keepdim=True)
        return self.classes[nearest.gather(1, first).squeeze(1)]


def euclidean_pair(x: Tensor, train_x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of each x and each train row t whose product is ½‖x‖² − ½‖x − t‖²: the greater, the nearer."""
    # About the train mean: far from 0 the squares would swallow the differences.
    origin = train_x.mean(dim=0, dtype=torch.float64).to(train_x.dtype)
    x, train_x = x - origin, train_x - origin
    return torch.cat([x, x.new_ones(len(x), 1)], 1), torch.cat([train_x, train_x.square().sum(1, True) / -2], 1)


def cosine_pair(x: Tensor, train_x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of each x and each train row t whose product is cos(x, t), 0 where x or t is 0."""
    return unit_rows(x), unit_rows(train_x)


def most_alike(queries: Tensor, rows: Tensor, k: int) -> Tensor:
    """The k rows with the greatest products with each query, greatest first: int64 positions, ``(query, k)``.

    Exact up to the rounding of products, in memory that does not grow with queries × rows. Rows are cut into short
    blocks. A first pass keeps only the greatest product in each block; the k blocks where that is greatest hold the
    k best rows, so a second pass multiplies those again, and the few rows left over after the last block. For were a
    row outside them among the k best, each of k blocks would hold a product at least as great as its own, and k
    others could stand in its place: at equal products, which is all that may change, the order is not specified.

    Args:
        queries: shape ``(query, feature)``.
        rows: shape ``(row, feature)``, at least k of them.
        k: at least 1.
    """
    # The passes leave rows / width maxima and k · width products; the second costs more, since it gathers rows.
    width = max(1, isqrt(len(rows) // k) // 4)
    count = len(rows) // width
    blocks = rows[: count * width].unflatten(0, (count, width))
    rest = rows[count * width :]
    within = torch.arange(width, device=rows.device)
    after = torch.arange(count * width, len(rows), device=rows.device)
    gathered = max(1, _GATHERED // (k * width * rows.shape[1]))
    found = []
    for some in torch.split(queries, _QUERIES):
        # Row by query, so that maxima run along memory.
        maxima = [
            (tile.flatten(0, 1) @ some.T).unflatten(0, (len(tile), width)).amax(dim=1)
            for tile in torch.split(blocks, max(1, _ROWS // width))
        ]
        best = torch.cat(maxima).T.contiguous().topk(k, dim=1, sorted=False).indices
        for few, own in zip(torch.split(some, gathered), torch.split(best, gathered), strict=True):
            products = torch.cat([(blocks[own].flatten(1, 2) @ few.unsqueeze(2)).squeeze(2), few @ rest.T], dim=1)
            position = torch.cat([(own.unsqueeze(2) * width + within).flatten(1), after.expand(len(few), -1)], dim=1)
            found.append(position.gather(1, products.topk(k, dim=1).indices))
    return torch.cat(found)

"""Uniformity of ranks: rank ECDFs with simultaneous bands, and exact p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor

Array = NDArray[np.float64]

_POINTS = 100
"""Largest number of places at which an ECDF is evaluated."""

_SURELY = 1e-10
"""Pointwise probability below which p is its sum over places (an upper bound), since 1 − p is rounded to 1."""


@dataclass(frozen=True)
class Uniformity:
    """Ranks of a value among draws of the same distribution, a column per quantity, and tests of their uniformity.

    The statistic of a column is the smallest two-sided binomial probability along its ECDF. Its p-value is exact for
    independent rows, and its ECDF leaves the simultaneous `band` exactly if p ≤ ``level / curves``. ∪ in the histogram
    (difference first above, then below 0) means draws too narrow, ∩ too wide, a slope shifted draws. Säilynoja,
    Bürkner, Vehtari, "Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation and
    multiple sample comparison" (2022, arXiv 2103.10522).

    Attributes:
        ranks: how many of the draws lie below, ties broken at random: int64, 0 to ``largest``, shape ``(row, column)``.
        largest: number of draws ranked among.
        p_values: of each column by itself, small where not uniform, shape ``(column,)``.
        level: probability of any false alarm among ``curves`` columns (Bonferroni's bound, whatever their dependence).
        curves: how many columns share the level, these among them.
    """

    names: tuple[str, ...]
    ranks: Tensor
    largest: int
    p_values: Tensor
    level: float
    curves: int

    @property
    def failing(self) -> tuple[str, ...]:
        """Names of the columns that leave the band."""
        leaves = self.p_values <= self.level / self.curves
        return tuple(name for name, out in zip(self.names, leaves.tolist(), strict=True) if out)

    @property
    def alarm(self) -> bool:
        return bool(self.failing)

    @property
    def places(self) -> Tensor:
        """Probabilities in (0, 1) at which `differences` and `band` are evaluated, shape ``(place,)``."""
        return torch.from_numpy((_thresholds(self.largest) + 1.0) / (self.largest + 1))

    def differences(self) -> Tensor:
        """ECDFs less the uniform distribution function, shape ``(column, place)``."""
        counts = torch.from_numpy(_counts(self.ranks, self.largest))
        return counts.double() / len(self.ranks) - self.places

    def band(self) -> tuple[Tensor, Tensor]:
        """Lower and upper edge of the simultaneous band of `differences`, ``(place,)`` each."""
        rows = len(self.ranks)
        edges = _interval(rows, self.largest, _critical(rows, self.largest, self.level / self.curves))
        low, high = (torch.from_numpy(edge / rows) - self.places for edge in edges)
        return low, high

    def histogram(self, bins: int = 20) -> Tensor:
        """Counts of ranks in bins of [0, largest] of nearly equal width, shape ``(column, bin)``."""
        bins = min(bins, self.largest + 1)
        bin_of = self.ranks * bins // (self.largest + 1)
        return torch.stack([torch.bincount(column, minlength=bins) for column in bin_of.unbind(1)])


def rank_uniformity(
    ranks: Tensor, largest: int, names: Sequence[str], *, level: float = 0.01, curves: int | None = None
) -> Uniformity:
    """Tests the uniformity of columns of ranks; arguments as of `Uniformity`, whose rows are independent.

    Raises:
        ValueError: ranks of another shape or range, none, or a level that is not a probability.
    """
    if ranks.ndim != 2 or not ranks.numel() or ranks.shape[1] != len(names):
        raise ValueError(f"ranks must have shape (row, {len(names)}) and hold some, got {tuple(ranks.shape)}")
    if ranks.is_floating_point() or largest < 1 or int(ranks.min()) < 0 or int(ranks.max()) > largest:
        raise ValueError(f"ranks must be integers from 0 to the number of draws, {largest}, which must be at least 1")
    if not 0 < level < 1:
        raise ValueError(f"level must be a probability above 0 and below 1, got {level}")
    ranks = ranks.cpu().long()
    smallest = np.take_along_axis(_tails(len(ranks), largest), _counts(ranks, largest).T, axis=1).min(0)
    p_values = [_p_value(len(ranks), largest, float(pointwise)) for pointwise in smallest]
    found = torch.tensor(p_values, dtype=torch.float64)
    return Uniformity(tuple(names), ranks, largest, found, level, curves or len(names))


def rank_among(truth: Tensor, draws: Tensor, generator: torch.Generator) -> Tensor:
    """Number of draws ``(draw, ...)`` below the truth ``(...)``, ties broken at random: int64 on the CPU.

    Raises:
        ValueError: NaN, which has no rank.
    """
    truth, draws = truth.cpu(), draws.cpu()
    if truth.isnan().any() or draws.isnan().any():
        raise ValueError("NaN has no rank among draws; look for what made it in the model or the guide")
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    share = torch.rand(truth.shape, generator=generator, dtype=torch.float64)
    return below + (share * (equal + 1)).long()


def _thresholds(largest: int) -> NDArray[np.int64]:
    """Ranks at which ECDFs are evaluated; at the largest rank they are 1."""
    return np.unique(np.linspace(0, largest - 1, min(largest, _POINTS)).round().astype(np.int64))


def _counts(ranks: Tensor, largest: int) -> NDArray[np.int64]:
    """Number of ranks up to each threshold, shape ``(column, place)``."""
    return (ranks.numpy().T[..., None] <= _thresholds(largest)).sum(1)


@lru_cache(maxsize=16)
def _tails(rows: int, largest: int) -> Array:
    """Two-sided binomial probability of each count at each place, shape ``(place, count)``."""
    places = ((_thresholds(largest) + 1) / (largest + 1))[:, None]
    counts = np.arange(rows + 1)
    tails = 2 * np.minimum(binom.cdf(counts, rows, places), binom.sf(counts - 1, rows, places))
    # Rounded, so that tails that are equal by symmetry are equal, and all equally extreme outcomes are counted.
    mantissa, exponent = np.frexp(tails)
    rounded: Array = np.ldexp(np.round(mantissa * 2**36) / 2**36, exponent)
    return rounded


def _interval(rows: int, largest: int, pointwise: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Smallest and largest count at each place whose probability exceeds ``pointwise``; the median's always does."""
    inside = _tails(rows, largest) > pointwise
    return inside.argmax(1), rows - inside[:, ::-1].argmax(1)


@lru_cache(maxsize=4096)
def _p_value(rows: int, largest: int, pointwise: float) -> float:
    """Probability that the ECDF of uniform ranks has a tail of ``pointwise`` or less at any place.

    Counts are a Markov chain over the places: a binomial number of the ranks above one place lies below the next.
    """
    places = (_thresholds(largest) + 1.0) / (largest + 1)
    if pointwise < _SURELY:
        return len(places) * pointwise
    if pointwise >= 1:
        return 1.0
    counts, probability, before = np.zeros(1, dtype=np.int64), np.ones(1), 0.0
    for place, first, last in zip(places, *_interval(rows, largest, pointwise), strict=True):
        following = np.arange(first, last + 1)
        step = binom.pmf(following - counts[:, None], rows - counts[:, None], (place - before) / (1 - before))
        counts, probability, before = following, probability @ step, place
    return float(np.clip(1 - probability.sum(), 0, 1))


@lru_cache(maxsize=64)
def _critical(rows: int, largest: int, level: float) -> float:
    """The largest pointwise probability whose p-value is no more than ``level``."""
    # p is at most the sum over places, and jumps, so that it may stay low for long; at 1 it is 1.
    low, high = np.log(level / (2 * len(_thresholds(largest)))), 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _p_value(rows, largest, float(np.exp(middle))) <= level else (low, middle)
    return float(np.exp(low))

"""Tests of uniform ranks: p-values against all outcomes counted out, bands against p-values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from pp_simve.evaluation.posterior import rank_uniformity
from pp_simve.evaluation.posterior.ranks import rank_among


def all_outcomes(rows: int, largest: int) -> Tensor:
    """Every table of ranks there is, equally probable where ranks are uniform: a column each."""
    return torch.tensor(list(itertools.product(range(largest + 1), repeat=rows))).T


def statistic(ranks: np.ndarray, largest: int) -> float:
    """The smallest two-sided tail along the distribution function, written out."""
    smallest = np.inf
    for rank in range(largest):
        count, place = int((ranks <= rank).sum()), (rank + 1) / (largest + 1)
        below = binom.cdf(count, len(ranks), place)
        above = 1 - binom.cdf(count - 1, len(ranks), place)
        smallest = min(smallest, 2 * below, 2 * above)
    return float(smallest)


@pytest.mark.parametrize(("rows", "largest"), [(4, 3), (3, 6), (7, 1), (1, 4)])
def test_p_values_are_those_of_all_outcomes_counted_out(rows: int, largest: int) -> None:
    outcomes = all_outcomes(rows, largest)
    statistics = np.array([statistic(column, largest) for column in outcomes.numpy().T])
    as_small = (statistics[None] <= statistics[:, None] + 1e-12).mean(1)
    found = rank_uniformity(outcomes, largest, [str(place) for place in range(outcomes.shape[1])])
    np.testing.assert_allclose(found.p_values.numpy(), as_small, atol=1e-9)


@pytest.mark.parametrize("level", [0.3, 0.05])
def test_curves_leave_the_band_just_where_p_is_too_small(level: float) -> None:
    ranks = torch.randint(0, 20, (30, 300), generator=torch.Generator().manual_seed(0))
    found = rank_uniformity(ranks, 19, [str(place) for place in range(300)], level=level, curves=1)
    low, high = found.band()
    differences = found.differences()
    outside = ((differences < low - 1e-12) | (differences > high + 1e-12)).any(1)
    assert outside.tolist() == (found.p_values <= level).tolist()
    assert found.failing == tuple(str(place) for place in outside.nonzero().flatten().tolist())
    assert 0 < outside.sum() < 300


def test_small_p_values_are_sums_of_tails() -> None:
    """All ranks 0: at the first place all rows are below, with probability (1/2)^rows."""
    found = rank_uniformity(torch.zeros(60, 1, dtype=torch.long), 1, ["zero"])
    assert float(found.p_values) == pytest.approx(2 * 0.5**60, rel=1e-6)
    assert found.alarm


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_what_is_not_uniform_is_found(power: float) -> None:
    ranks = (torch.rand(400, 3, generator=torch.Generator().manual_seed(1)) ** power * 100).long()
    found = rank_uniformity(ranks, 99, ["a", "b", "c"])
    assert found.failing == (() if power == 1 else ("a", "b", "c"))
    if power != 1:
        assert (found.differences().mean(1) > 0).all() == (power > 1)


def test_the_level_is_shared() -> None:
    ranks = torch.cat([torch.randint(0, 10, (40, 1)), torch.zeros(40, 1, dtype=torch.long)], 1)
    alone = rank_uniformity(ranks, 9, ["fine", "low"])
    assert alone.curves == 2
    assert alone.failing == ("low",)
    shared = rank_uniformity(ranks, 9, ["fine", "low"], curves=1000)
    assert (shared.band()[1] >= alone.band()[1]).all()
    assert (shared.band()[1] > alone.band()[1]).any()


def test_histogram_counts_every_rank() -> None:
    ranks = torch.arange(100).repeat(2)[:, None]
    assert rank_uniformity(ranks, 99, ["all"]).histogram(20).tolist() == [[10] * 20]
    assert rank_uniformity(ranks[:4], 99, ["four"]).histogram(3).sum() == 4
    assert rank_uniformity(torch.tensor([[0], [1]]), 1, ["two"]).histogram(20).tolist() == [[1, 1]]


def test_ties_are_broken_evenly() -> None:
    generator = torch.Generator().manual_seed(2)
    ranks = rank_among(torch.zeros(4000), torch.zeros(3, 4000), generator)
    assert torch.bincount(ranks).tolist() == pytest.approx([1000] * 4, abs=120)
    truth, draws = torch.tensor([0.5, -1.0, 9.0]), torch.arange(4.0)[:, None].expand(4, 3)
    assert rank_among(truth, draws, generator).tolist() == [1, 0, 4]

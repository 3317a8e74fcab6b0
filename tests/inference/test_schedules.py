"""Schedules of the learning rate."""

from __future__ import annotations

import math
import re

import pytest

from pp_simve.inference import WarmupCosine
from pp_simve.inference.schedules import constant


def test_constant_is_one() -> None:
    assert {constant(step, 100) for step in range(100)} == {1.0}


def test_warmup_rises_in_equal_steps_from_above_zero_to_one() -> None:
    schedule = WarmupCosine(0.1)
    rise = [schedule(step, 100) for step in range(11)]
    assert rise == pytest.approx([(step + 1) / 11 for step in range(11)])


def test_after_warmup_follows_half_a_cosine_to_almost_zero() -> None:
    schedule = WarmupCosine(0.2)
    for step in range(20, 100):
        assert schedule(step, 100) == pytest.approx(math.cos(math.pi / 2 * (step - 20) / 80) ** 2)
    assert 0 < schedule(99, 100) < 1e-3
    assert schedule(60, 100) == pytest.approx(0.5)


def test_without_warmup_it_starts_at_one() -> None:
    assert WarmupCosine(0.0)(0, 10) == 1


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.99])
def test_stays_in_the_unit_interval_and_above_zero_for_short_fits(warmup: float, total: int) -> None:
    assert all(0 < WarmupCosine(warmup)(step, total) <= 1 for step in range(total))


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 5.0, math.nan])
def test_warmup_outside_the_fit_is_refused(warmup: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"fraction of all steps in [0, 1), got {warmup}")):
        WarmupCosine(warmup)

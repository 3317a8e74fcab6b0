"""Faults planted in the linear-Gaussian program's posterior: docs/planted_faults.md lists which checks find them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from pp_simve.evaluation.posterior import (
    AxesCheck,
    Calibration,
    LeaveOneOut,
    PredictiveCheck,
    WeightCheck,
    calibrate,
    check_axes,
    check_predictions,
    check_weights,
    leave_one_view_out,
    weigh,
)
from pp_simve.inference import Guide
from pp_simve.models import ConjugatePrior

from ..inference.linear_gaussian import Linear
from .planted_guides import WrongPosterior, independent_views, planted, prior_as_guide, wrong_posterior

PAGE = Path(__file__).parents[2] / "docs" / "planted_faults.md"
IMAGES = 500

GUIDES: dict[str, Callable[[Linear, ConjugatePrior], Guide]] = {
    "none: the posterior itself": wrong_posterior,
    "deviations × 0.5": lambda linear, prior: wrong_posterior(linear, prior, factor=0.5),
    "deviations × 2": lambda linear, prior: wrong_posterior(linear, prior, factor=2.0),
    "deviations × 1.25": lambda linear, prior: wrong_posterior(linear, prior, factor=1.25),
    "mean shifted by 1 sd": lambda linear, prior: wrong_posterior(linear, prior, shift=1.0),
    "views taken as independent": independent_views,
    "the prior, whatever the views": prior_as_guide,
}

CHECKS: dict[str, Callable[[Found], bool]] = {
    "k̂": lambda found: found.weights.khat_alarm,
    "gap": lambda found: found.weights.gap_alarm,
    "SBC, coordinates": lambda found: any(found.calibration.ranks[name].alarm for name in ("content", "style", "z")),
    "SBC, log likelihood": lambda found: found.calibration.ranks["log likelihood"].alarm,
    "predictive": lambda found: found.predictive.alarm,
    "left-out view": lambda found: found.left_out.alarm,
    "axes": lambda found: found.axes.alarm,
}


@dataclass(frozen=True)
class Found:
    """Results of the checks of a guide."""

    weights: WeightCheck
    calibration: Calibration
    predictive: PredictiveCheck
    left_out: LeaveOneOut
    axes: AxesCheck


@cache
def found(fault: str) -> Found:
    """All checks of a guide, as a user would run them, on images of the program itself."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, exact, views, _, linear = planted(images=IMAGES)
    guide = GUIDES[fault](linear, exact.prior)
    statistics = {
        "along the first axis": lambda images: images.flatten(-3) @ linear.weight[:, 0],
        "energy": lambda images: images.square().mean((-3, -2, -1)),
    }
    return Found(
        weights=check_weights(model, guide, views, seed=1),
        calibration=calibrate(model, guide, views, seed=2),
        predictive=check_predictions(model, guide, views[:, :200], draws=500, seed=3, statistics=statistics),
        left_out=leave_one_view_out(model, guide, views, draws=200, seed=4, statistics=statistics),
        axes=check_axes(model, guide, views, seed=5),
    )


def tables() -> list[list[list[str]]]:
    """The page's tables: rows of cells, headings first."""
    found: list[list[list[str]]] = [[]]
    for line in PAGE.read_text().splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not all(re.fullmatch(r"-+:?", cell) for cell in cells):
                found[-1].append(cells)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_the_page_lists_every_fault_and_check() -> None:
    alarms, numbers, _ = tables()
    assert alarms[0][1:] == list(CHECKS)
    assert [row[0] for row in alarms[1:]] == [row[0] for row in numbers[1:]] == list(GUIDES)


@pytest.mark.parametrize("fault", GUIDES)
def test_the_checks_find_what_the_page_says(fault: str) -> None:
    row = next(cells for cells in tables()[0] if cells[0] == fault)
    assert dict(zip(CHECKS, row[1:], strict=True)) == {
        name: "alarm" if alarm(found(fault)) else "–" for name, alarm in CHECKS.items()
    }


@pytest.mark.parametrize("fault", GUIDES)
def test_the_numbers_are_those_of_the_page(fault: str) -> None:
    """To the last digit but for what another machine's sums may change."""
    row = next(cells for cells in tables()[1] if cells[0] == fault)
    this = found(fault)
    measured = [float(this.weights.khat.median()), *this.weights.mean_gap[:1], this.left_out.mean_score[0]]
    measured.append(float(this.axes.latents["content"].contraction.mean()))
    for cell, value in zip(row[1:], measured, strict=True):
        expected = float(cell.replace("∞", "inf").replace("−", "-"))
        assert value == pytest.approx(expected, abs=0.011), (row, measured)


def test_weights_of_a_wider_guide_are_bounded_so_that_khat_falls_with_draws() -> None:
    """Twice as wide in 12 dimensions, w = 2¹² exp(−3/2 |u|²) for u ~ N(0, I): more draws than 2¹² see the bound."""
    generator = torch.Generator().manual_seed(0)
    medians = []
    for draws in (500, 5_000, 50_000):
        u = torch.randn(draws, 10, 12, generator=generator)
        medians.append(float(weigh(-1.5 * u.square().sum(-1)).khat.median()))
    assert medians[0] > 1
    assert medians[0] > medians[1] > medians[2]
    assert medians[2] < 0.7


def test_gaps_are_divergences_as_far_as_draws_tell() -> None:
    """From below, and closely where the divergence is far below log S and weights are bounded."""
    _, exact, *_, linear = planted()
    for fault, guide in GUIDES.items():
        made = guide(linear, exact.prior)
        if isinstance(made, WrongPosterior):
            mean, error = found(fault).weights.mean_gap
            assert mean < made.divergence + 4 * error + 1e-9
    mild = wrong_posterior(linear, exact.prior, factor=1.25)
    assert found("deviations × 1.25").weights.mean_gap[0] == pytest.approx(mild.divergence, abs=0.02)


def test_only_the_score_is_worse_for_a_guide_that_ignores_the_views() -> None:
    right, prior = found("none: the posterior itself").left_out, found("the prior, whatever the views").left_out
    assert prior.mean_score[0] < right.mean_score[0] - 0.2
    assert "along the first axis of view 0" in found("mean shifted by 1 sd").left_out.failing
    assert found("the prior, whatever the views").calibration.failing == ("log likelihood",)

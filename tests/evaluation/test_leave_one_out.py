"""Views predicted from the others, where log p(view | others) is a difference of two dense Gaussians."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation.posterior import leave_one_view_out
from pp_simve.models import NTXent, SimVE

from ..inference.linear_gaussian import CASES, QUADRATIC, exact_program
from .planted_guides import planted


def without(views: Tensor, place: int) -> Tensor:
    return torch.cat([views[:place], views[place + 1 :]])


@pytest.mark.parametrize("name", QUADRATIC)
def test_scores_are_exact_with_the_posterior(name: str) -> None:
    model, guide, views, evidence, linear = exact_program(name)
    found = leave_one_view_out(model, guide, views, draws=10, seed=1)
    of_others = [CASES[name].evidence(linear, without(views, place)) for place in range(len(views))]
    expected = evidence - torch.stack(of_others)
    torch.testing.assert_close(found.score, expected, rtol=0, atol=1e-9)
    assert (found.error < 1e-9).all()
    assert found.mean_score[0] == pytest.approx(float(expected.mean()))
    assert found.mean_score[1] == pytest.approx(float(expected.mean(0).std()) / len(expected[0]) ** 0.5)


def test_errors_of_scores_are_right() -> None:
    model, guide, view, evidence, linear = planted(shift=0.15, images=1)
    views = view.expand(-1, 300, -1, -1, -1)  # 300 times the same
    found = leave_one_view_out(model, guide, views, draws=300, seed=1)
    ratio = found.score.std(1) / found.error.mean(1)
    assert (ratio - 1).abs().max() < 0.2
    expected = torch.cat([evidence - CASES["gaussian"].evidence(linear, without(view, j)) for j in range(3)])
    # Mild weights: the bias is far below the error of one image, and that of the mean.
    assert (found.score.mean(1) - expected).abs().max() < 0.01


def test_groups_are_no_part_of_a_prediction() -> None:
    model, guide, views, *_ = planted(views=2)  # one is left, with nothing to compare
    grouped = SimVE(guide.prior, model.likelihood_of(), group=NTXent())
    found = [leave_one_view_out(each, guide, views, draws=20, seed=1).score for each in (model, grouped)]
    assert torch.equal(found[0], found[1])

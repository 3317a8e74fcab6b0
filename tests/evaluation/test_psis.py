"""Importance weights of guides whose distance from the posterior is a closed form."""

from __future__ import annotations

import math

import pytest
import torch

from pp_simve.evaluation.posterior import check_weights, weigh, weighted_moments
from pp_simve.inference import draw

from ..inference.linear_gaussian import QUADRATIC, exact_program
from .planted_guides import planted, wrong_posterior


@pytest.mark.parametrize("name", QUADRATIC)
def test_the_posterior_has_equal_weights(name: str) -> None:
    model, guide, views, evidence, _ = exact_program(name)
    found = check_weights(model, guide, views, draws=50, seed=1)
    assert (found.khat < 0.3).all()
    assert found.share_above == 0
    assert not found.khat_alarm
    assert not found.gap_alarm
    torch.testing.assert_close(found.bound, evidence, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.gap, torch.zeros_like(found.gap), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.ess, torch.full_like(found.ess, 50))


def test_the_gap_is_the_divergence_and_its_error_is_right() -> None:
    model, guide, view, evidence, _ = planted(shift=0.2, images=1)
    views = view.expand(-1, 400, -1, -1, -1)  # 400 times the same check of one image
    found = check_weights(model, guide, views, draws=1000, seed=1)
    mean, error = found.mean_gap
    # With K draws the bound is low by about (E[w²] − 1) / 2K, E[w²] = exp(12 · 0.2²).
    bias = (math.exp(12 * 0.2**2) - 1) / 2000
    assert abs(mean - (guide.divergence - bias)) < 4 * error
    assert float(found.gap.std()) == pytest.approx(float(found.gap_error.mean()), rel=0.15)
    assert error == pytest.approx(float(found.gap_error.mean()) / 20, rel=0.05)
    torch.testing.assert_close(found.elbo.mean(), evidence[0] - guide.divergence, rtol=0, atol=0.02)


def test_weights_mend_a_wrong_guide() -> None:
    model, guide, views, _, linear = planted()
    right = draw(model, guide, views, 20_000, seed=1)
    wrong = draw(model, wrong_posterior(linear, guide.prior, factor=1.2, shift=0.2), views, 20_000, seed=2)
    weights = weigh(wrong.log_weight)
    assert (weights.khat < weights.threshold).all()
    for name in ("content", "style", "z"):
        exact = weighted_moments(getattr(right, name))
        mended = weighted_moments(getattr(wrong, name), weights.log_weight)
        unmended = weighted_moments(getattr(wrong, name))
        assert ((unmended.mean - exact.mean) / exact.sd).mean() > 0.1
        assert ((mended.mean - exact.mean) / exact.sd).abs().max() < 0.06
        assert (mended.sd / exact.sd - 1).abs().max() < 0.06
        assert (unmended.sd / exact.sd - 1).mean() > 0.1
        torch.testing.assert_close(exact.mean, getattr(right, name).mean(0))
        torch.testing.assert_close(exact.sd, getattr(right, name).std(0, correction=0))


def test_the_worst_come_first() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1000, 3, generator=generator) * torch.tensor([1.0, 9.0, 3.0])
    found = weigh(weight)
    assert found.worst(2).tolist() == [1, 2]
    assert found.threshold == pytest.approx(2 / 3)  # of 1,000 draws
    assert weigh(torch.randn(10_000, 1)).threshold == 0.7
    assert found.share_above == pytest.approx(2 / 3)
    assert found.khat_alarm
    assert found.gap_alarm


def test_a_draw_that_the_model_excludes_costs_the_guide_its_bound() -> None:
    weight = torch.zeros(100, 2)
    weight[7, 1] = -torch.inf
    found = weigh(weight)
    assert found.elbo.tolist() == [0, -torch.inf]
    assert found.bound[1] == pytest.approx(math.log(0.99))
    assert found.gap_alarm
    assert not found.khat_alarm

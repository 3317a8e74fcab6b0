"""Axes of latents against their prior, where posterior variances are closed forms."""

from __future__ import annotations

import pytest
import torch

from pp_simve.evaluation.posterior import check_axes

from ..inference.linear_gaussian import CONTENT, DOUBLE, LATENT, STYLE, draw_views, exact_program
from .planted_guides import exact_moments, planted, prior_as_guide, wrong_posterior


def test_contraction_is_that_of_the_closed_form() -> None:
    model, guide, views, _, linear = planted(images=50)
    found = check_axes(model, guide, views, draws=2000, seed=1)
    content, style = torch.tensor(CONTENT, dtype=DOUBLE), torch.tensor(STYLE, dtype=DOUBLE)
    of_prior = {"content": content, "style": style, "z": content + style}
    for name, (_, variance) in exact_moments(linear, views, CONTENT, STYLE).items():
        left = variance.reshape(-1, LATENT)[0] / of_prior[name]
        torch.testing.assert_close(found.latents[name].contraction, 1 - left, rtol=0, atol=0.04)
    assert found.latents["content"].prior_sd.tolist() == pytest.approx([v**0.5 for v in CONTENT], rel=0.03)
    assert found.latents["style"].prior_mean.tolist() == pytest.approx([0.0] * LATENT, abs=0.05)
    assert {check.curves for check in found.latents.values()} == {3 * LATENT}


def test_the_aggregated_posterior_is_the_prior_with_the_posterior_alone() -> None:
    model, guide, views, _, linear = planted(images=600)
    right = check_axes(model, guide, views, seed=1)
    assert not right.alarm
    for check in right.latents.values():
        assert (check.spread - 1).abs().max() < 0.12
        assert check.shift.abs().max() < 0.15
        assert check.wasserstein.max() < 0.2
        assert (check.kolmogorov < 0.08).all()
    shifted = check_axes(model, wrong_posterior(linear, guide.prior, shift=1.0), views, seed=1)
    assert shifted.alarm
    content = shifted.latents["content"]
    # Moved by one posterior standard deviation, √(1 − contraction) of the prior's.
    assert (content.shift - (1 - content.contraction).sqrt()).abs().max() < 0.15
    assert (content.wasserstein - content.shift).abs().max() < 0.1
    assert content.failing == [0, 1, 2]
    wide = check_axes(model, wrong_posterior(linear, guide.prior, factor=2.0), views, seed=1)
    assert wide.latents["style"].failing == [0, 1, 2]
    assert (wide.latents["style"].spread > 1.2).all()


def test_a_guide_that_says_nothing_has_empty_axes_and_fills_the_prior() -> None:
    model, guide, views, _, linear = planted(images=100)
    found = check_axes(model, prior_as_guide(linear, guide.prior), views, draws=200, seed=1)
    assert not found.alarm
    assert all(check.empty == [0, 1, 2] for check in found.latents.values())
    assert not any(check.wider for check in found.latents.values())


def test_a_guide_wider_than_the_prior_is_found() -> None:
    model, wide, views, _, linear = planted(factor=1.5, images=50)
    found = check_axes(model, wide, views, seed=1)
    assert found.latents["style"].wider == [0, 1, 2]
    assert not found.latents["style"].empty
    assert found.alarm
    # Of one image the chance is larger, and said to be.
    nothing = prior_as_guide(linear, wide.prior)
    for images in (1, 4):
        few = check_axes(model, nothing, draw_views(linear, images=images), draws=20, seed=1)
        assert not any(check.wider for check in few.latents.values())
    found_each = [check_axes(model, nothing, draw_views(linear), draws=20, seed=seed) for seed in range(15)]
    contractions = torch.stack([check.latents["z"].contraction for check in found_each])
    error = torch.stack([check.latents["z"].contraction_error for check in found_each]).mean()
    assert float(contractions.std()) == pytest.approx(float(error), rel=0.35)


def test_priors_without_content_and_improper_ones() -> None:
    for name, latents, note in (
        ("standard", ["style", "z"], "shares nothing"),
        ("flat", ["style"], "improper"),
        ("block", ["content", "style", "z"], None),
    ):
        found = check_axes(*exact_program(name)[:3], seed=1)
        assert list(found.latents) == latents
        assert (note is None) == (not found.notes)
        if note is not None:
            assert note in found.notes["content"]

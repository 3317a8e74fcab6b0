"""Axes of z: their variances by prior, and the divergence of guides whose moments are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pp_simve.evaluation.latent_axes import active_units, axis_divergence, kl_by_axis
from pp_simve.inference import AmortizedGuide, DeltaGuide
from pp_simve.models import FlatPrior, GaussianPrior, Prior

from ..inference.linear_gaussian import (
    CONTENT,
    LATENT,
    PIXEL_VARIANCE,
    STYLE,
    PotentialEncoder,
    exact_program,
    set_head,
)

GAUSSIAN = GaussianPrior(LATENT, CONTENT, STYLE)


@pytest.mark.parametrize("draws", [4, 64])
def test_the_divergence_of_a_known_gaussian(draws: int) -> None:
    """Unbiased for any number of draws: over 3000 images, few draws find what many find."""
    _, exact, views, _, linear = exact_program(images=3000, views=1)
    images, prior = views[0], exact.prior
    guide = AmortizedGuide(PotentialEncoder(linear), prior)
    scale = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    set_head(guide, scale)
    state = torch.get_rng_state()
    found = axis_divergence(guide, prior, images, seed=1, draws=draws)
    assert torch.equal(torch.get_rng_state(), state)
    means = linear.potential_mean(images[None])[0]
    of_prior = torch.tensor(CONTENT, dtype=torch.float64) + torch.tensor(STYLE, dtype=torch.float64)
    expected = kl_by_axis(means, scale.square().expand_as(means), of_prior)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_the_divergence_of_the_exact_posterior() -> None:
    """Of x = W z + ε the posterior of z by one view is Gaussian, its precision that of the prior plus Λ."""
    _, guide, views, _, linear = exact_program(images=500, views=1)
    images, prior = views[0], guide.prior
    of_prior = torch.tensor(CONTENT, dtype=torch.float64) + torch.tensor(STYLE, dtype=torch.float64)
    precision = 1 / of_prior + linear.weight.square().sum(0) / PIXEL_VARIANCE
    means = linear.precision * linear.potential_mean(images[None])[0] / precision
    expected = kl_by_axis(means, precision.reciprocal().expand_as(means), of_prior)
    found = axis_divergence(guide, prior, images, seed=1, draws=200, batch_size=100)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.01)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_divergence_by_axis_is_torch_s() -> None:
    means, spread = normal(30, 4, seed=33), normal(30, 4, seed=34).exp()
    spread[0, 0] = 1e-20
    prior = torch.tensor([1.0, 0.15, 1.15, 7.0], dtype=torch.float64)
    expected = kl_divergence(Normal(means, spread.sqrt()), Normal(torch.zeros(4), prior.sqrt())).mean(dim=0)
    torch.testing.assert_close(kl_by_axis(means, spread, prior), expected, rtol=0, atol=1e-10)
    assert torch.equal(
        kl_by_axis(means, spread, 1.15), kl_by_axis(means, spread, torch.full((4,), 1.15, dtype=torch.float64))
    )
    assert torch.equal(kl_by_axis(means, spread), kl_by_axis(means, spread, 1.0))


def test_active_units_vary_by_more_than_the_threshold_wherever_they_lie() -> None:
    # ±a has variance a².
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(5).unsqueeze(1)
    means = 50.0 + sign * torch.tensor([0.0, 0.05, 0.0999, 0.1001, 2.0], dtype=torch.float64)
    assert active_units(means) == 2
    assert active_units(means, threshold=0.001) == 4
    assert active_units(torch.tensor([[0.0], [2.0]]), threshold=1.0) == 0
    assert active_units(means[:1]) == 0


X, BAD = normal(5, 2, seed=38), normal(5, 2, seed=39).index_fill(0, torch.tensor(2), math.nan)
IMAGES = torch.zeros(2, 1, 2, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("posterior mean features are NaN", lambda: active_units(BAD)),
        ("posterior variances are NaN", lambda: kl_by_axis(X, BAD.exp())),
        (r"posterior variances must have shape \(5, 2\) .* got \(4, 2\)", lambda: kl_by_axis(X, X[:4].exp())),
        (r"prior_variance must have shape \(2,\) .* got \(3,\)", lambda: kl_by_axis(X, X.exp(), torch.ones(3))),
        ("posterior variances must be positive, got values from 0.0", lambda: kl_by_axis(X, 0 * X.exp())),
        ("prior_variance must be positive", lambda: kl_by_axis(X, X.exp(), -1.0)),
        ("the guide's z is deterministic", lambda: divergence_of(DeltaGuide)),
        ("at least 4 draws, got 3", lambda: divergence_of(AmortizedGuide, draws=3)),
        ("under FlatPrior the axes of z have no Gaussian", lambda: divergence_of(AmortizedGuide, FlatPrior(LATENT))),
    ],
)
def test_refuses(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def divergence_of(guide: type[AmortizedGuide], prior: Prior = GAUSSIAN, draws: int = 64) -> torch.Tensor:
    return axis_divergence(guide(PotentialEncoder(), prior), prior, IMAGES, seed=0, draws=draws)

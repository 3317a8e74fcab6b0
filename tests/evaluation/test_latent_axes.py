"""Axes of z: their variances by prior, and the divergence of guides whose moments are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pp_simve.evaluation.latent_axes import active_units, axis_divergence, gaussian_axes, kl_by_axis
from pp_simve.inference import AmortizedGuide, DeltaGuide
from pp_simve.models import BlockPrior, FlatPrior, GaussianPrior, Prior, StandardPrior

from ..inference.linear_gaussian import (
    CONTENT,
    LATENT,
    PIXEL_VARIANCE,
    STYLE,
    PotentialEncoder,
    draw_views,
    exact_structured_guide,
    make_linear,
    set_head,
)

GAUSSIAN = GaussianPrior(LATENT, CONTENT, STYLE)


@pytest.mark.parametrize(
    ("prior", "content", "style"),
    [
        (GAUSSIAN, CONTENT, STYLE),
        (GaussianPrior(LATENT, CONTENT, STYLE, learn_content=True, learn_style=True), CONTENT, STYLE),
        (StandardPrior(LATENT), [0, 0, 0], [1, 1, 1]),
        (BlockPrior(LATENT, GaussianPrior(2, 2.0, 0.5), variance=4.0), [2, 2, 0], [0.5, 0.5, 4]),
        (BlockPrior(LATENT, StandardPrior(1), variance=0.25), [0, 0, 0], [1, 0.25, 0.25]),
    ],
)
def test_variances(prior: Prior, content: list[float], style: list[float]) -> None:
    found = gaussian_axes(prior)
    assert not any(part.requires_grad for part in found)
    torch.testing.assert_close(found, (torch.tensor(content).float(), torch.tensor(style).float()))


def test_variances_are_those_of_draws() -> None:
    prior = BlockPrior(LATENT, GaussianPrior(2, 2.0, 0.5), variance=4.0)
    content, style = gaussian_axes(prior)
    torch.manual_seed(0)
    contents = prior.content().sample((100_000,))
    z = prior.compose(contents, prior.style(contents).sample())
    torch.testing.assert_close(z.var(0), content + style, rtol=0.03, atol=0)


def test_other_priors_are_refused() -> None:
    with pytest.raises(ValueError, match="under FlatPrior the axes of z have no Gaussian with known variances"):
        gaussian_axes(FlatPrior(LATENT))


@pytest.mark.parametrize("draws", [4, 64])
def test_the_divergence_of_a_known_gaussian(draws: int) -> None:
    """Unbiased for any number of draws: over 3000 images, few draws find what many find."""
    torch.manual_seed(0)
    linear = make_linear()
    prior = GAUSSIAN.double()
    guide = AmortizedGuide(PotentialEncoder(linear), prior)
    scale = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    set_head(guide, scale)
    images = draw_views(linear, images=3000, views=1)[0]
    state = torch.get_rng_state()
    found = axis_divergence(guide, prior, images, seed=1, draws=draws)
    assert torch.equal(torch.get_rng_state(), state)
    means = linear.potential_mean(images[None])[0]
    of_prior = torch.tensor(CONTENT, dtype=torch.float64) + torch.tensor(STYLE, dtype=torch.float64)
    expected = kl_by_axis(means, scale.square().expand_as(means), of_prior)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_the_divergence_of_the_exact_posterior() -> None:
    """Of x = W z + ε the posterior of z by one view is Gaussian, its precision that of the prior plus Λ."""
    torch.manual_seed(0)
    linear = make_linear()
    prior = GAUSSIAN.double()
    guide = exact_structured_guide(prior, linear)
    images = draw_views(linear, images=500, views=1)[0]
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
    for number in (1.0, 1.15):
        same = torch.full((4,), number, dtype=torch.float64)
        expected = kl_divergence(Normal(means, spread.sqrt()), Normal(torch.zeros(4), same.sqrt())).mean(dim=0)
        torch.testing.assert_close(kl_by_axis(means, spread, number), expected, rtol=0, atol=1e-10)
    assert torch.equal(kl_by_axis(means, spread), kl_by_axis(means, spread, 1.0))


def test_a_collapsed_axis_has_no_divergence_and_is_not_active() -> None:
    means = torch.stack([torch.zeros(40, dtype=torch.float64), normal(40, seed=35)], dim=1)
    divergence = kl_by_axis(means, torch.full((40, 2), 0.15), 0.15)
    assert float(divergence[0]) == pytest.approx(0.0, abs=1e-7)
    assert float(divergence[1]) > 1.0
    assert active_units(means) == 1


def test_active_units_vary_by_more_than_the_threshold_wherever_they_lie() -> None:
    # ±a has variance a².
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(5).unsqueeze(1)
    means = 50.0 + sign * torch.tensor([0.0, 0.05, 0.0999, 0.1001, 2.0], dtype=torch.float64)
    assert active_units(means) == 2
    assert active_units(means, threshold=0.001) == 4
    assert active_units(torch.tensor([[0.0], [2.0]]), threshold=1.0) == 0
    assert active_units(means[:1]) == 0


def test_moments_without_a_meaning_are_refused() -> None:
    x, y = normal(5, 2, seed=38), normal(4, 2, seed=39)
    bad = torch.where(torch.arange(5).unsqueeze(1) == 2, math.nan, x)
    for call in (lambda: active_units(bad), lambda: kl_by_axis(bad, x.exp()), lambda: kl_by_axis(x, bad.exp())):
        with pytest.raises(ValueError, match=r"NaN or infinite in 1 of 5 rows \(rows 2\)"):
            call()
    with pytest.raises(ValueError, match="5 rows of posterior means but 4 of variances"):
        kl_by_axis(x, y.exp())
    with pytest.raises(ValueError, match=r"a number or have shape \(2,\), got shape \(3,\)"):
        kl_by_axis(x, x.exp(), torch.ones(3))
    with pytest.raises(ValueError, match=r"posterior variances must be positive and finite, got .* from 0\.0 to 1\.0"):
        kl_by_axis(x, torch.tensor([0.0, 1.0]).expand(5, 2))
    with pytest.raises(ValueError, match="prior_variance must be positive and finite"):
        kl_by_axis(x, x.exp(), -1.0)


def test_what_has_no_divergence_is_refused() -> None:
    prior = GAUSSIAN.double()
    images = torch.zeros(2, 1, 2, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="the guide has no density"):
        axis_divergence(DeltaGuide(PotentialEncoder(), prior).double(), prior, images, seed=0)
    with pytest.raises(ValueError, match="at least 4 draws, got 3"):
        axis_divergence(AmortizedGuide(PotentialEncoder(), prior), prior, images, seed=0, draws=3)

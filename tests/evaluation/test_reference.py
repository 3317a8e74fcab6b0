"""NUTS against posteriors in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pp_simve.evaluation.posterior import Reference, nuts_reference
from pp_simve.evaluation.posterior.reference import worst_axis
from pp_simve.inference import AmortizedGuide
from pp_simve.inference.mcmc import Target
from pp_simve.models import EmpiricalPrior, GaussianPrior, Prior, SimVE, StudentTPrior

from ..inference.linear_gaussian import (
    CONTENT,
    DOUBLE,
    LATENT,
    POINTS,
    STYLE,
    WEIGHTS,
    Linear,
    PotentialEncoder,
    exact_program,
    make_model,
    mixture,
    set_head,
)
from .planted_guides import Moments, exact_moments

VIEWS, IMAGES = 2, 2
DEVIATIONS = 5.0


def agrees(reference: Reference, exact: Moments) -> bool:
    """Whether means and variances are within `DEVIATIONS` Monte-Carlo errors, by the worst axis's effective draws."""
    for name, (mean, variance) in exact.items():
        draws = torch.as_tensor(getattr(reference, name)).flatten(0, 1)
        ess = torch.as_tensor(reference.ess).view(-1, *(1,) * (mean.ndim - 1))
        off = (draws.mean(0) - mean).abs() / (variance / ess).sqrt()
        # Of squares a chain has fewer effective draws than of values: half as many is on the safe side.
        wide = (draws.var(0) / variance - 1).abs() / (4 / ess).sqrt()
        if float(torch.maximum(off, wide).max()) > DEVIATIONS:
            return False
    return True


def wide_guide(linear: Linear, prior: Prior) -> AmortizedGuide:
    """Not the posterior, but about where it is."""
    guide = AmortizedGuide(PotentialEncoder(linear), prior)
    set_head(guide, linear.precision.rsqrt())
    return guide


@pytest.mark.parametrize("guided", [True, False])
def test_moments_are_those_of_the_posterior_and_of_no_other(guided: bool) -> None:
    images = IMAGES if guided else 1
    model, _, views, _, linear = exact_program(images=images, views=VIEWS)
    guide = wide_guide(linear, model.prior) if guided else None
    warmup = 30 if guided else 100  # without a guide scales must be learned, too
    reference = nuts_reference(model, views, guide=guide, draws=100, warmup=warmup, chains=2, seed=2)
    assert reference.content.shape == (2, 100, images, LATENT)
    assert reference.style.shape == reference.z.shape == (2, 100, images, VIEWS, LATENT)
    np.testing.assert_allclose(reference.z, reference.content[..., None, :] + reference.style, atol=1e-12)
    assert (reference.rhat < 1.05).all()
    assert not reference.diverging.any()
    assert reference.converged.all()
    assert reference.ess.min() > 100
    assert agrees(reference, exact_moments(linear, views, CONTENT, STYLE))
    # Without content's prior, and without style's.
    assert not agrees(reference, exact_moments(linear, views, [1e6] * LATENT, STYLE))
    assert not agrees(reference, exact_moments(linear, views, CONTENT, [1e6] * LATENT))
    assert 1 <= reference.tree_depth.min() <= reference.tree_depth.max() <= 5
    assert (np.abs(reference.acceptance - 0.8) < 0.2).all()


def test_the_density_is_the_programs_own() -> None:
    model, _, views, _, linear = exact_program(images=IMAGES, views=VIEWS)
    target = Target(model, views)
    content, style = (torch.randn(5, *shape, LATENT, dtype=DOUBLE) for shape in ((IMAGES,), (VIEWS, IMAGES)))
    coordinates = target.coordinates(content, style)
    assert coordinates.shape == (5, IMAGES, target.size) == (5, IMAGES, (1 + VIEWS) * LATENT)
    for found, expected in zip(target.latents(coordinates), (content, style), strict=True):
        torch.testing.assert_close(found, expected)
    normal = torch.distributions.Normal
    expected = normal(0.0, torch.tensor(CONTENT, dtype=DOUBLE).sqrt()).log_prob(content).sum(-1)
    expected = expected + normal(0.0, torch.tensor(STYLE, dtype=DOUBLE).sqrt()).log_prob(style).sum((1, -1))
    pixels = (content.unsqueeze(1) + style) @ linear.weight.T + linear.bias
    expected = expected + normal(pixels, 0.5).log_prob(views.flatten(2)).sum((1, -1))
    torch.testing.assert_close(target.log_density(coordinates), expected)
    torch.testing.assert_close(target.log_density(coordinates[0]), expected[0])


def test_discrete_content_is_summed_out() -> None:
    """p(content | views) of a mixture, from z's closed form around each prototype."""
    model, _, views, _, linear = exact_program("mixture", images=1, views=VIEWS)
    wide = wide_guide(linear, model.prior)
    reference = nuts_reference(model, views, guide=wide, draws=100, warmup=30, chains=2, seed=1)
    assert reference.settings["content_summed_out"]
    own = linear.of_pixels(torch.tensor(STYLE, dtype=DOUBLE))
    joint = []
    for point, weight in zip(POINTS, WEIGHTS, strict=True):
        mean = linear.weight @ torch.tensor(point, dtype=DOUBLE) + linear.bias
        likelihood = torch.distributions.MultivariateNormal(mean, own).log_prob(views.flatten(2)).sum(0)
        joint.append(likelihood + np.log(weight))
    expected = torch.stack(joint).softmax(0).T  # (image, K)
    points = torch.tensor(POINTS, dtype=DOUBLE)
    drawn = torch.as_tensor(reference.content).flatten(0, 1).unsqueeze(-2)
    chosen = (drawn == points).all(-1)
    assert bool(chosen.any(-1).all())
    error = (expected * (1 - expected) / torch.as_tensor(reference.ess).unsqueeze(-1)).sqrt()
    assert bool(((chosen.double().mean(0) - expected).abs() < DEVIATIONS * error + 0.01).all())


class PositivePrior(Prior):
    """content ~ Gamma, style ~ N(0, 1): a user's prior, of constrained content."""

    def __init__(self) -> None:
        super().__init__(1)

    def content(self) -> dist.TorchDistribution:
        return dist.Gamma(torch.full((1,), 3.0, dtype=DOUBLE), 2.0).to_event(1)

    def style(self, content: Tensor) -> dist.TorchDistribution:
        return dist.Normal(torch.zeros_like(content), 1.0).to_event(1)

    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        return content + style

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return z - content


class Blind(torch.nn.Module):
    """A likelihood that does not look at z."""

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(z.new_zeros(*z.shape[:-1], 1, 1, 1), 1.0).to_event(3)


def test_constrained_content_is_sampled_with_its_jacobian() -> None:
    """Views that say nothing leave the prior, here Gamma(3, 2), whose mean is 1.5 and variance 0.75."""
    model = SimVE(PositivePrior(), Blind())  # type: ignore[arg-type]
    views = torch.zeros(1, 1, 1, 1, 1, dtype=DOUBLE)
    reference = nuts_reference(model, views, draws=100, warmup=40, chains=2, seed=3)
    assert (reference.content > 0).all()
    assert (reference.rhat < 1.05).all()
    error = (0.75 / reference.ess) ** 0.5
    assert (np.abs(reference.content.mean((0, 1))[:, 0] - 1.5) < DEVIATIONS * error).all()


def test_same_seed_same_draws_and_nothing_else_is_touched() -> None:
    _, _, views, _, linear = exact_program(images=IMAGES, views=1)
    model = make_model(GaussianPrior(LATENT, CONTENT, STYLE, learn_style=True), linear)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    told: list[tuple[int, int, int]] = []
    runs = [
        nuts_reference(model, views, draws=4, warmup=4, chains=2, seed=seed, progress=bar)
        for seed, bar in ((1, lambda *at: told.append(at)), (1, None), (2, None))
    ]
    np.testing.assert_array_equal(runs[0].z, runs[1].z)
    np.testing.assert_array_equal(runs[0].leapfrogs, runs[1].leapfrogs)
    assert not np.array_equal(runs[0].z, runs[2].z)
    assert not np.array_equal(runs[0].z[0], runs[0].z[1])  # chains have numbers of their own
    assert told == [(chain, draw, 8) for chain in range(2) for draw in range(1, 9)]
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not pyro.get_param_store().keys()


class DiscretePrior(StudentTPrior):
    def content(self) -> dist.TorchDistribution:
        return mixture(POINTS, STYLE).content()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 3}, "draws must be at least 4"),
        ({"warmup": 0}, "warmup must be at least 1"),
        ({"chains": 0}, "chains must be at least 1"),
        ({"target_accept": 1.0}, "between 0 and 1"),
        ({"pixels": False}, "no images"),
        ({"prior": EmpiricalPrior(LATENT, memory=None)}, "give the prior a memory"),
        ({"prior": DiscretePrior(LATENT)}, "derive the prior from ExactPrior"),
        ({"broken": True, "draws": 4, "warmup": 1}, "not finite where a chain"),
    ],
)
def test_bad_input_is_refused(settings: dict[str, Any], message: str) -> None:
    exact, _, views, _, linear = exact_program(images=1, views=1)
    settings = dict(settings)
    prior = settings.pop("prior", exact.prior)
    views = views * (torch.nan if settings.pop("broken", False) else 1)
    model = make_model(prior, linear) if settings.pop("pixels", True) else SimVE(prior)
    with pytest.raises(ValueError, match=message):
        nuts_reference(model, views, **settings)


@pytest.mark.parametrize("case", ["flat", "standard"])
def test_improper_and_empty_content_are_sampled(case: str) -> None:
    model, _, views, *_ = exact_program(case, images=1, views=2)
    reference = nuts_reference(model, views, draws=20, warmup=20, chains=1, seed=1)
    assert reference.content.shape[-1] == (0 if case == "standard" else LATENT)
    assert np.isfinite(reference.z).all()


def test_chains_that_do_not_agree_are_seen() -> None:
    generator = np.random.default_rng(0)
    draws = generator.normal(size=(4, 200, 3, 2))
    draws[0, :, 1] += 3  # one chain elsewhere
    draws[:, :, 2, 0] = np.arange(4)[:, None]  # chains that stand still
    draws[:, :, 2, 1] = 1.0
    rhat, ess = worst_axis(draws)
    assert rhat[0] < 1.03
    assert ess[0] > 500
    assert rhat[1] > 1.2
    assert ess[1] < 30
    assert rhat[2] == np.inf
    nowhere = worst_axis(np.ones((2, 10, 1, 2)))
    assert np.isnan(nowhere[0]).all()
    assert np.isnan(nowhere[1]).all()

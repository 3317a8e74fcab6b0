"""Priors: marginals and conditionals against dense Gaussians, and properties that the suite cannot check by draws."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pp_simve.models import (
    BlockPrior,
    EmpiricalPrior,
    FlatPrior,
    GaussianPrior,
    MixturePrior,
    Prior,
    StandardPrior,
    StudentTPrior,
)

VIEWS = [1, 2, 5]
IMAGES, LATENT = 4, 3

GAUSSIAN: dict[str, Callable[[], GaussianPrior]] = {
    "isotropic": lambda: GaussianPrior(LATENT),
    "per axis": lambda: GaussianPrior(LATENT, [0.5, 1.0, 3.0], [0.05, 0.4, 2.0]),
    "learned": lambda: GaussianPrior(LATENT, [0.5, 1.0, 3.0], 0.3, learn_content=True, learn_style=True),
}


def draw_z(views: int, *leading: int) -> Tensor:
    return torch.randn(*leading, views, IMAGES, LATENT, dtype=torch.float64)


def variances(prior: GaussianPrior) -> tuple[Tensor, Tensor]:
    return prior.content_variance().detach(), prior.style_variance().detach()


def dense_marginal(content_variance: Tensor, style_variance: Tensor, z: Tensor) -> Tensor:
    """log N(z_1..J; 0, Σ I + τ² 11ᵀ) of each image, by a dense covariance over the views of each axis."""
    views = z.shape[-3]
    total = torch.zeros(z.shape[:-3] + z.shape[-2:-1], dtype=z.dtype)
    for axis in range(z.shape[-1]):
        covariance = style_variance[axis] * torch.eye(views, dtype=z.dtype) + content_variance[axis]
        joint = MultivariateNormal(torch.zeros(views, dtype=z.dtype), covariance)
        total = total + joint.log_prob(z[..., axis].movedim(-2, -1))
    return total


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussian_marginal_is_the_dense_gaussian_over_views(name: str, views: int) -> None:
    prior = GAUSSIAN[name]().double()
    z = draw_z(views)
    torch.testing.assert_close(prior.log_marginal(z), dense_marginal(*variances(prior), z), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussian_content_posterior_is_the_dense_gaussian_conditioned_on_z(name: str, views: int) -> None:
    prior = GAUSSIAN[name]().double()
    content_variance, style_variance = variances(prior)
    z = draw_z(views)
    posterior = prior.content_posterior(z)
    assert posterior.batch_shape == (1, IMAGES)
    for axis in range(LATENT):
        of_views = style_variance[axis] * torch.eye(views, dtype=z.dtype) + content_variance[axis]
        cross = content_variance[axis].expand(views)
        gain = torch.linalg.solve(of_views, cross)
        mean = z[..., axis].T @ gain
        variance = content_variance[axis] - cross @ gain
        torch.testing.assert_close(posterior.mean[0, :, axis], mean, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(posterior.variance[0, :, axis], variance.expand(IMAGES), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("views", VIEWS)
def test_flat_marginal_is_the_formula(views: int) -> None:
    prior = FlatPrior(LATENT, [0.05, 0.4, 2.0]).double()
    z = draw_z(views)
    style_variance = prior.style_variance()
    expected = torch.zeros(IMAGES, dtype=z.dtype)
    for image in range(IMAGES):
        for axis in range(LATENT):
            values = [float(z[view, image, axis]) for view in range(views)]
            mean = sum(values) / views
            variance = float(style_variance[axis])
            expected[image] -= sum((value - mean) ** 2 for value in values) / (2 * variance)
            expected[image] -= (views - 1) / 2 * math.log(2 * math.pi * variance) + math.log(views) / 2
    torch.testing.assert_close(prior.log_marginal(z), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("views", VIEWS)
def test_standard_marginal_is_a_standard_normal_of_every_view(views: int) -> None:
    z = draw_z(views)
    expected = Normal(torch.zeros((), dtype=z.dtype), 1.0).log_prob(z).sum((0, -1))
    torch.testing.assert_close(StandardPrior(LATENT).double().log_marginal(z), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prior", [GAUSSIAN["learned"](), FlatPrior(LATENT, 0.3, learn_style=True)])
def test_learned_variances_are_parameters_that_start_at_the_given_value(prior: GaussianPrior | FlatPrior) -> None:
    torch.testing.assert_close(prior.style_variance(), torch.full((LATENT,), 0.3))
    learned = ["style_variance.log"]
    if isinstance(prior, GaussianPrior):
        torch.testing.assert_close(prior.content_variance(), torch.tensor([0.5, 1.0, 3.0]))
        learned.append("content_variance.log")
    assert [name for name, _ in prior.named_parameters()] == learned
    prior.log_marginal(torch.randn(2, IMAGES, LATENT)).sum().backward()
    for parameter in prior.parameters():
        assert bool((parameter.grad != 0).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"style_variance": 0.0}, "style_variance must be positive and finite, got 0.0"),
        ({"style_variance": -1.0}, "style_variance must be positive"),
        ({"style_variance": math.nan}, "style_variance must be positive"),
        ({"content_variance": math.inf}, "content_variance must be positive"),
        ({"style_variance": [0.1, 0.2]}, "style_variance must be one number or one for each of the 3 latent axes"),
        ({"content_variance": torch.ones(3, 3)}, "for each of the 3 latent axes, got shape (3, 3)"),
    ],
)
def test_impossible_variances_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        GaussianPrior(LATENT, **arguments)


def test_a_variance_given_as_a_tensor_is_copied() -> None:
    given = torch.full((LATENT,), 0.2)
    prior = GaussianPrior(LATENT, style_variance=given)
    given.fill_(9.0)
    torch.testing.assert_close(prior.style_variance(), torch.full((LATENT,), 0.2))


# Properties.

OF_BATCH = [EmpiricalPrior(2, memory=None), BlockPrior(3, EmpiricalPrior(2, memory=None))]
OTHERS = [
    *(StudentTPrior(2), MixturePrior(2, 3), EmpiricalPrior(2, memory=5), FlatPrior(2)),
    *(BlockPrior(3, MixturePrior(2, 3)), BlockPrior(3, FlatPrior(2))),
]


@pytest.mark.parametrize("prior", [*OTHERS, *OF_BATCH])
def test_only_gaussians_have_axis_variances(prior: Prior) -> None:
    assert prior.axis_variances() is None
    assert prior.depends_on_batch == (prior in OF_BATCH)


def test_axis_variances_of_a_block_in_a_block() -> None:
    variances = BlockPrior(4, BlockPrior(3, GaussianPrior(2, [0.5, 2.0], 0.25)), variance=4.0).axis_variances()
    assert [value.tolist() for value in variances] == [[0.5, 2.0, 0.0, 0.0], [0.25, 0.25, 1.0, 4.0]]


@pytest.mark.parametrize("prior", OF_BATCH)
def test_a_prior_of_the_batch_has_no_content_without_one(prior: Prior) -> None:
    with pytest.raises(RuntimeError, match="before a guide was called with a batch"):
        prior.content()
    prior.remember(torch.randn(2, 4, prior.latent_dim))
    assert prior.content().sample((3,)).shape == (3, 2)

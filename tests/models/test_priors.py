"""Priors: marginals and conditionals against dense Gaussians, quadrature and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import MultivariateNormal, Normal

from pp_simve.models import FlatPrior, GaussianPrior, Prior, StandardPrior

VIEWS = [1, 2, 5]
IMAGES, LATENT = 4, 3

GAUSSIAN: dict[str, Callable[[], GaussianPrior]] = {
    "isotropic": lambda: GaussianPrior(LATENT),
    "per axis": lambda: GaussianPrior(LATENT, [0.5, 1.0, 3.0], [0.05, 0.4, 2.0]),
    "learned": lambda: GaussianPrior(LATENT, [0.5, 1.0, 3.0], 0.3, learn_content=True, learn_style=True),
}
FLAT: dict[str, Callable[[], FlatPrior]] = {
    "isotropic": lambda: FlatPrior(LATENT),
    "per axis": lambda: FlatPrior(LATENT, [0.05, 0.4, 2.0]),
    "learned": lambda: FlatPrior(LATENT, 0.3, learn_style=True),
}
ALL: dict[str, Callable[[], Prior]] = {
    **{f"gaussian {name}": make for name, make in GAUSSIAN.items()},
    **{f"flat {name}": make for name, make in FLAT.items()},
    "standard": lambda: StandardPrior(LATENT),
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


def log_joint(prior: Prior, content: Tensor, z: Tensor) -> Tensor:
    """log p(content) + Σ_j log p(style_j | content), per image."""
    style = prior.decompose(content, z)
    return prior.content().log_prob(content).sum(-2) + prior.style(content).log_prob(style).sum(-2)


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


@pytest.mark.parametrize("make", [FlatPrior, GaussianPrior], ids=lambda make: make.__name__)
def test_marginal_is_the_integral_over_content_in_two_dimensions(make: Callable[..., Prior]) -> None:
    prior = make(2, style_variance=[0.3, 0.8]).double()
    z = torch.randn(3, 1, 2, dtype=torch.float64)
    line = torch.linspace(-9, 9, 301, dtype=torch.float64)
    content = torch.cartesian_prod(line, line).view(-1, 1, 1, 2)
    density = log_joint(prior, content, z.expand(len(content), -1, -1, -1)).exp().view(301, 301)
    integral = torch.trapezoid(torch.trapezoid(density, line), line).log()
    torch.testing.assert_close(prior.log_marginal(z).squeeze(), integral, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("views", VIEWS)
def test_standard_marginal_is_a_standard_normal_of_every_view(views: int) -> None:
    z = draw_z(views)
    expected = Normal(torch.zeros((), dtype=z.dtype), 1.0).log_prob(z).sum((0, -1))
    torch.testing.assert_close(StandardPrior(LATENT).double().log_marginal(z), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_gradients_of_marginal_and_content_posterior_are_right(name: str, views: int) -> None:
    prior = ALL[name]().double()
    z = draw_z(views).requires_grad_()
    parameters = list(prior.parameters())

    def answers(z: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        posterior = prior.content_posterior(z)
        if not posterior.event_shape[0]:
            return (prior.log_marginal(z),)
        return prior.log_marginal(z), posterior.mean, posterior.log_prob(torch.full_like(posterior.mean, 0.3))

    assert gradcheck(answers, (z, *parameters))


@pytest.mark.parametrize("name", ["gaussian learned", "flat learned"])
def test_learned_variances_are_parameters_that_start_at_the_given_value(name: str) -> None:
    prior = ALL[name]()
    assert isinstance(prior, GaussianPrior | FlatPrior)
    torch.testing.assert_close(prior.style_variance(), torch.full((LATENT,), 0.3))
    learned = ["style_variance.log"]
    if isinstance(prior, GaussianPrior):
        torch.testing.assert_close(prior.content_variance(), torch.tensor([0.5, 1.0, 3.0]))
        learned.append("content_variance.log")
    assert [name for name, _ in prior.named_parameters()] == learned
    prior.log_marginal(torch.randn(2, IMAGES, LATENT)).sum().backward()
    for parameter in prior.parameters():
        assert parameter.grad is not None
        assert bool((parameter.grad != 0).all())


@pytest.mark.parametrize("make", [FlatPrior, GaussianPrior, StandardPrior], ids=lambda make: make.__name__)
def test_a_prior_without_latents_is_refused(make: type[Prior]) -> None:
    with pytest.raises(ValueError, match="latent_dim must be at least 1, got 0"):
        make(0)


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

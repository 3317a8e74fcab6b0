"""Priors: marginals and conditionals against dense Gaussians, quadrature and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
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
ADDITIVE = [name for name in ALL if name != "standard"]


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


def test_flat_marginal_of_two_views_is_their_squared_distance_over_four_variances() -> None:
    prior = FlatPrior(LATENT, 0.3).double()
    z, moved = draw_z(2), draw_z(2)
    difference = prior.log_marginal(z) - prior.log_marginal(moved)
    variance = float(prior.style_variance()[0])
    distances = [(pair[0] - pair[1]).square().sum(-1) for pair in (z, moved)]
    torch.testing.assert_close(difference, -(distances[0] - distances[1]) / (4 * variance), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("make", [FlatPrior, GaussianPrior], ids=lambda make: make.__name__)
def test_marginal_is_the_integral_over_content_in_one_dimension(make: type[Prior], views: int) -> None:
    prior = make(1).double()
    z = torch.randn(views, 1, 1, dtype=torch.float64)
    content = torch.linspace(-12, 12, 20_001, dtype=torch.float64).view(-1, 1, 1, 1)
    density = log_joint(prior, content, z.expand(len(content), -1, -1, -1)).exp().flatten()
    integral = torch.trapezoid(density, content.flatten()).log()
    torch.testing.assert_close(prior.log_marginal(z).squeeze(), integral, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [FlatPrior, GaussianPrior], ids=lambda make: make.__name__)
def test_marginal_is_the_integral_over_content_in_two_dimensions(make: Callable[..., Prior]) -> None:
    prior = make(2, style_variance=[0.3, 0.8]).double()
    z = torch.randn(3, 1, 2, dtype=torch.float64)
    line = torch.linspace(-9, 9, 601, dtype=torch.float64)
    content = torch.cartesian_prod(line, line).view(-1, 1, 1, 2)
    density = log_joint(prior, content, z.expand(len(content), -1, -1, -1)).exp().view(601, 601)
    integral = torch.trapezoid(torch.trapezoid(density, line), line).log()
    torch.testing.assert_close(prior.log_marginal(z).squeeze(), integral, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("make", [FlatPrior, GaussianPrior], ids=lambda make: make.__name__)
def test_content_posterior_is_the_normalised_joint_in_one_dimension(make: type[Prior], views: int) -> None:
    prior = make(1).double()
    z = torch.randn(views, 1, 1, dtype=torch.float64)
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    content = grid.view(-1, 1, 1, 1)
    joint = log_joint(prior, content, z.expand(len(content), -1, -1, -1)).flatten()
    normalised = (joint - torch.trapezoid(joint.exp(), grid).log()).exp()
    posterior = prior.content_posterior(z)
    torch.testing.assert_close(posterior.log_prob(content).exp().flatten(), normalised, rtol=1e-8, atol=1e-10)
    mean = torch.trapezoid(normalised * grid, grid)
    torch.testing.assert_close(posterior.mean.squeeze(), mean, rtol=1e-8, atol=1e-8)
    variance = torch.trapezoid(normalised * (grid - mean).square(), grid)
    torch.testing.assert_close(posterior.variance.squeeze(), variance, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("name", ALL)
def test_joint_over_posterior_is_the_marginal_whatever_the_content(name: str, views: int) -> None:
    prior = ALL[name]().double()
    z = draw_z(views)
    posterior = prior.content_posterior(z)
    expected = prior.log_marginal(z)
    assert expected.shape == (IMAGES,)
    width = posterior.event_shape[0]
    for content in (posterior.sample(), 3 * torch.randn(1, IMAGES, width, dtype=z.dtype)):
        ratio = log_joint(prior, content, z) - posterior.log_prob(content).squeeze(-2)
        torch.testing.assert_close(ratio, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("views", VIEWS)
def test_gaussian_prior_tends_to_the_flat_one_at_the_rate_of_one_over_content_variance(views: int) -> None:
    style = [0.05, 0.4, 2.0]
    z = draw_z(views)
    flat = FlatPrior(LATENT, style).double().log_marginal(z)
    errors = []
    for content_variance in (1e2, 1e3, 1e4):
        gaussian = GaussianPrior(LATENT, content_variance, style).double().log_marginal(z)
        errors.append(gaussian + LATENT / 2 * math.log(2 * math.pi * content_variance) - flat)
    # To first order the error is −(Σ_i z̄_i² + Σ_i Σ_i/J) / (2 τ²).
    first_order = -(z.mean(0).square() + torch.tensor(style, dtype=torch.float32).double() / views).sum(-1) / 2
    torch.testing.assert_close(errors[-1] * 1e4, first_order, rtol=1e-3, atol=1e-5)
    for coarse, fine in pairwise(errors):
        torch.testing.assert_close(coarse / fine, torch.full_like(coarse, 10.0), rtol=0.1, atol=0)


def test_gaussian_content_posterior_tends_to_the_flat_one() -> None:
    z = draw_z(3)
    flat = FlatPrior(LATENT, 0.4).double().content_posterior(z)
    wide = GaussianPrior(LATENT, 1e10, 0.4).double().content_posterior(z)
    torch.testing.assert_close(wide.mean, flat.mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(wide.variance, flat.variance, rtol=1e-8, atol=0)


@pytest.mark.parametrize("views", VIEWS)
def test_standard_marginal_is_a_standard_normal_of_every_view(views: int) -> None:
    z = draw_z(views)
    expected = Normal(torch.zeros((), dtype=z.dtype), 1.0).log_prob(z).sum((0, -1))
    torch.testing.assert_close(StandardPrior(LATENT).double().log_marginal(z), expected, rtol=1e-12, atol=1e-12)


def test_one_view_under_the_gaussian_prior_is_normal_with_the_summed_variance() -> None:
    prior = GaussianPrior(LATENT, 2.0, 0.5).double()
    z = draw_z(1)
    expected = Normal(torch.zeros((), dtype=z.dtype), math.sqrt(2.5)).log_prob(z).sum((0, -1))
    torch.testing.assert_close(prior.log_marginal(z), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_compose_undoes_decompose(name: str) -> None:
    prior = ALL[name]().double()
    z = draw_z(2)
    content = prior.content_posterior(z).sample()
    torch.testing.assert_close(prior.compose(content, prior.decompose(content, z)), z, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_particles_stand_to_the_left_and_give_what_each_gives_alone(name: str) -> None:
    prior = ALL[name]().double()
    z = draw_z(2, 3)
    marginal, posterior = prior.log_marginal(z), prior.content_posterior(z)
    assert marginal.shape == (3, IMAGES)
    assert posterior.batch_shape == (3, 1, IMAGES)
    for particle in range(3):
        alone = prior.content_posterior(z[particle])
        torch.testing.assert_close(marginal[particle], prior.log_marginal(z[particle]), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(posterior.mean[particle], alone.mean, rtol=1e-13, atol=1e-13)


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


@pytest.mark.parametrize("name", [name for name in ALL if "learned" not in name])
def test_fixed_variances_are_no_parameters(name: str) -> None:
    assert not list(ALL[name]().parameters())


@pytest.mark.parametrize("name", ALL)
def test_saved_and_loaded_prior_gives_the_same_numbers(name: str) -> None:
    prior, fresh = ALL[name](), ALL[name]()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.5
    fresh.load_state_dict(prior.state_dict())
    z = torch.randn(2, IMAGES, LATENT)
    assert torch.equal(prior.log_marginal(z), fresh.log_marginal(z))


@pytest.mark.parametrize("name", ALL)
def test_double_moves_every_number_of_the_prior(name: str) -> None:
    prior = ALL[name]().double()
    z = draw_z(2)
    content = prior.content_posterior(z).mean
    assert prior.log_marginal(z).dtype == content.dtype == torch.float64
    assert prior.style(content).mean.dtype == torch.float64
    if not isinstance(prior, FlatPrior):  # Pyro's improper density is a plain zero, in the default type
        assert prior.content().log_prob(content).dtype == torch.float64


@pytest.mark.parametrize("make", [FlatPrior, GaussianPrior, StandardPrior], ids=lambda make: make.__name__)
def test_a_prior_without_latents_is_refused(make: type[Prior]) -> None:
    with pytest.raises(ValueError, match="latent must be at least 1 dimension, got 0"):
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

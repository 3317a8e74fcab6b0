"""Likelihoods against formulas written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from pp_simve.models import Bernoulli, Gaussian, Likelihood, MLPDecoder

LATENT, SHAPE = 3, (2, 4, 5)

LIKELIHOODS: dict[str, Callable[[nn.Module], Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "gaussian learned": lambda decoder: Gaussian(decoder, 0.3, learned=True),
}


def decoder() -> nn.Module:
    return MLPDecoder(LATENT, SHAPE, hidden=(7,)).double()


def latents(*leading: int) -> Tensor:
    return torch.randn(*leading, LATENT, dtype=torch.float64)


def pictures(*leading: int) -> Tensor:
    return torch.rand(*leading, *SHAPE, dtype=torch.float64)


@pytest.mark.parametrize("leading", [(6,), (2, 6), (4, 2, 6)])
def test_bernoulli_is_minus_the_cross_entropy_of_grey_values(leading: tuple[int, ...]) -> None:
    network, z, images = decoder(), latents(*leading), pictures(*leading)
    probability = torch.sigmoid(network(z.reshape(-1, LATENT))).view(*leading, *SHAPE)
    pixels = images * probability.log() + (1 - images) * (1 - probability).log()
    density = Bernoulli(network)(z)
    assert density.batch_shape == leading
    assert density.event_shape == SHAPE
    torch.testing.assert_close(density.log_prob(images), pixels.sum((-3, -2, -1)), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(density.mean, probability)


def test_bernoulli_scores_black_white_and_saturated_logits_without_nan() -> None:
    likelihood = Bernoulli(nn.Unflatten(-1, (1, 1, 3)))
    logits = torch.tensor([[-200.0, 200.0, 0.0]], dtype=torch.float64)
    right = likelihood(logits).log_prob(torch.tensor([[[[0.0, 1.0, 1.0]]]], dtype=torch.float64))
    wrong = likelihood(logits).log_prob(torch.tensor([[[[1.0, 0.0, 1.0]]]], dtype=torch.float64))
    torch.testing.assert_close(right, torch.tensor([-math.log(2)], dtype=torch.float64))
    torch.testing.assert_close(wrong, torch.tensor([-400 - math.log(2)], dtype=torch.float64))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("leading", [(6,), (2, 6), (4, 2, 6)])
def test_gaussian_is_the_formula(leading: tuple[int, ...], learned: bool) -> None:
    network, z, images = decoder(), latents(*leading), pictures(*leading)
    likelihood = Gaussian(network, 0.02, learned=learned).double()
    mean = network(z.reshape(-1, LATENT)).view(*leading, *SHAPE)
    variance = likelihood.variance.item()
    assert variance == pytest.approx(0.02, rel=1e-6)
    squares = (images - mean).square().sum((-3, -2, -1))
    expected = -squares / (2 * variance) - math.prod(SHAPE) / 2 * math.log(2 * math.pi * variance)
    density = likelihood(z)
    assert density.batch_shape == leading
    torch.testing.assert_close(density.log_prob(images), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(density.mean, mean)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_are_right(name: str) -> None:
    network = nn.Sequential(nn.Linear(LATENT, math.prod(SHAPE)), nn.Unflatten(-1, SHAPE))
    likelihood = LIKELIHOODS[name](network).double()
    z, images = latents(2).requires_grad_(), pictures(2).requires_grad_(name == "gaussian")
    parameters = list(likelihood.parameters())

    def log_density(z: Tensor, *_: Tensor) -> Tensor:
        value: Tensor = likelihood(z).log_prob(images)
        return value

    assert gradcheck(log_density, (z, *parameters))


def test_learned_variance_gets_the_gradient_of_the_formula_and_a_fixed_one_is_no_parameter() -> None:
    network, z, images = decoder(), latents(6), pictures(6)
    likelihood = Gaussian(network, 0.3, learned=True).double()
    likelihood(z).log_prob(images).sum().backward()
    squares = (images - network(z)).square().sum()
    # d/d(log σ) of −r²/(2σ²) − n log σ
    expected = squares / likelihood.variance - images.numel()
    torch.testing.assert_close(likelihood.log_scale.grad, expected.detach(), rtol=1e-10, atol=0)
    assert "log_scale" not in dict(Gaussian(network).named_parameters())


@pytest.mark.parametrize("variance", [0.0, -0.1, math.inf, math.nan])
def test_impossible_variances_are_refused(variance: float) -> None:
    with pytest.raises(ValueError, match=f"variance must be positive and finite, got {variance}"):
        Gaussian(decoder(), variance)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_saved_and_loaded_likelihood_gives_the_same_numbers(name: str) -> None:
    first, second = LIKELIHOODS[name](decoder()), LIKELIHOODS[name](decoder())
    if name == "gaussian":
        second = Gaussian(decoder(), variance=7.0)  # a fixed variance travels too
    first, second = first.double(), second.double()
    second.load_state_dict(first.state_dict())
    z, images = latents(6), pictures(6)
    assert torch.equal(first(z).log_prob(images), second(z).log_prob(images))

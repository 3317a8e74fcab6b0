"""Likelihoods against formulas written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pp_simve.models import Bernoulli, Gaussian, MLPDecoder

LATENT, SHAPE = 3, (2, 4, 5)


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

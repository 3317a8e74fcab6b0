"""Reconstruction error and bits per dimension, on programs whose posterior and evidence are closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pp_simve.evaluation.reconstruction import dequantized, reconstruction_scores
from pp_simve.inference import AmortizedGuide, DeltaGuide
from pp_simve.models import Bernoulli, EmpiricalPrior, FlatPrior, Gaussian, Prior, SimVE, StandardPrior

from ..inference.linear_gaussian import CASES, CONTENT, LATENT, PIXEL_VARIANCE, STYLE, PotentialEncoder, exact_program
from .planted_guides import Flatten

SHAPE = (1, 2, 4)
IMAGES = torch.randint(256, (7, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


class Blind(nn.Module):
    """A decoder that gives the same logits or means whatever z is."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, z: Tensor) -> Tensor:
        return self.values.expand(len(z), *self.values.shape)


def blind_program(values: Tensor, *, bernoulli: bool, prior: Prior | None = None) -> tuple[SimVE, AmortizedGuide]:
    """Pixels independent of z, and a guide that answers the standard prior: its bound is exact."""
    prior = prior or StandardPrior(LATENT)
    guide = AmortizedGuide(Flatten(8), prior)
    head = guide.recognition.encoder_head.head
    with torch.no_grad():
        head.weight.zero_()
        head.bias[:LATENT] = 0
        head.bias[LATENT:] = math.log(math.e - 1)  # softplus of it is 1
    decoder = Blind(values)
    return SimVE(prior, Bernoulli(decoder) if bernoulli else Gaussian(decoder)), guide


def test_against_the_dense_gaussian() -> None:
    model, guide, _, _, linear = exact_program()
    model.float(), guide.float()
    state = torch.get_rng_state()
    found = reconstruction_scores(model, guide, IMAGES, seed=5, draws=2, batch_size=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert guide.training

    x = IMAGES.double().flatten(1) / 255
    prior_precision = 1 / (torch.tensor(CONTENT, dtype=torch.float64) + torch.tensor(STYLE, dtype=torch.float64))
    precision = prior_precision.diag() + linear.weight.T @ linear.weight / PIXEL_VARIANCE
    z = torch.linalg.solve(precision, linear.weight.T @ (x - linear.bias).T / PIXEL_VARIANCE).T
    error = (z @ linear.weight.T + linear.bias - x).square().mean(1)
    assert found["mse"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert found["psnr"] == pytest.approx(float((-10 * error.log10()).mean()), rel=1e-5)

    noisy = dequantized(IMAGES, seed=5).double()
    evidence = CASES["gaussian"].evidence(linear, noisy[None])
    assert found["bits_per_dim"] == pytest.approx(float(8 - evidence.mean() / math.log(2) / 8), abs=1e-5)
    assert set(found) == {"mse", "psnr", "bits_per_dim"}


def test_bits_of_black_and_white_images_under_coins() -> None:
    probability = torch.tensor([[[0.5, 0.1, 0.9, 0.2], [0.3, 0.5, 0.7, 0.6]]])
    images = 255 * (IMAGES > 127).to(torch.uint8)
    model, guide = blind_program(probability.logit(), bernoulli=True)
    found = reconstruction_scores(model, guide, images, seed=0)
    black = images.double() / 255
    spent = -(black * probability.log2() + (1 - black) * (1 - probability).log2())
    assert found["bits_per_dim"] == pytest.approx(float(spent.mean()), rel=1e-5)
    assert found["mse"] == pytest.approx(float((black - probability).square().mean()), rel=1e-6)


def test_a_perfect_reconstruction_has_no_psnr() -> None:
    model, guide = blind_program(IMAGES[0] / 255, bernoulli=False)
    found = reconstruction_scores(model, guide, IMAGES[:1], seed=0)
    assert found["mse"] == 0
    assert found["psnr"] is None


def test_bits_that_mean_nothing_are_not_reported() -> None:
    grey, _ = blind_program(torch.zeros(SHAPE), bernoulli=True)
    prior = grey.prior
    flat, empirical = FlatPrior(LATENT), EmpiricalPrior(LATENT, memory=None)
    cases = {
        "gray values": blind_program(torch.zeros(SHAPE), bernoulli=True),
        "improper": blind_program(torch.zeros(SHAPE), bernoulli=False, prior=flat),
        "images of the batch": blind_program(torch.zeros(SHAPE), bernoulli=False, prior=empirical),
        "no density": (
            SimVE(prior, Gaussian(Blind(torch.zeros(SHAPE)))),
            DeltaGuide(PotentialEncoder(), prior).float(),
        ),
    }
    for words, (model, guide) in cases.items():
        found = reconstruction_scores(model, guide, IMAGES, seed=0)
        assert found["bits_per_dim"] is None
        assert words in found["notes"]["bits_per_dim"]
        assert found["mse"] is not None


def test_dequantized_stays_within_its_step() -> None:
    values = torch.arange(256).to(torch.uint8).repeat(2000, 1)
    state = torch.get_rng_state()
    spread = dequantized(values, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal((spread * 256).floor().to(torch.uint8), values)
    within = spread.double() * 256 - values
    # Uniform on [0, 1): mean 1/2, variance 1/12, to within five standard errors.
    assert abs(float(within.mean()) - 1 / 2) < 5 * (1 / 12 / within.numel()) ** 0.5
    assert float(within.var()) == pytest.approx(1 / 12, rel=0.01)
    assert torch.equal(dequantized(values, seed=1), spread)
    assert not torch.equal(dequantized(values, seed=2), spread)
    with pytest.raises(ValueError, match=r"images must be uint8, got torch\.float32"):
        dequantized(spread, seed=0)


def test_wrong_input_is_named() -> None:
    model, guide = blind_program(torch.zeros(SHAPE), bernoulli=False)
    with pytest.raises(ValueError, match=r"images must be uint8, .* got torch\.float32"):
        reconstruction_scores(model, guide, IMAGES / 255, seed=0)
    with pytest.raises(ValueError, match=r"and hold some, got torch\.uint8 \(0, 1, 2, 4\)"):
        reconstruction_scores(model, guide, IMAGES[:0], seed=0)
    with pytest.raises(ValueError, match="no images to generate or decode"):
        reconstruction_scores(SimVE(StandardPrior(LATENT)), guide, IMAGES, seed=0)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        reconstruction_scores(model, guide, IMAGES, seed=0, draws=0)

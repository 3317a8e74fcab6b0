"""Simulation from the program, and calibration of guides that are exact, wrong, or uninformative."""

from __future__ import annotations

import pyro
import pytest
import torch
from torch import Tensor, nn

from pp_simve.evaluation.posterior import calibrate, simulate
from pp_simve.inference import AmortizedGuide, Draws
from pp_simve.models import Bernoulli, Gaussian, GaussianPrior, InfoNCE, SimVE

from ..inference.linear_gaussian import CONTENT, LATENT, PIXEL_VARIANCE, STYLE, exact_program
from .planted_guides import Flatten, planted, program_of_modalities


def test_simulated_views_follow_the_program() -> None:
    model, _, given, _, linear = planted()
    views, truth = simulate(model, given, 20_000, seed=1)
    assert views.shape == (3, 20_000, 1, 2, 4)
    assert truth.content.shape == (1, 20_000, LATENT)
    assert truth.style.shape == truth.z.shape == (1, 3, 20_000, LATENT)
    torch.testing.assert_close(truth.z, truth.content.unsqueeze(1) + truth.style)
    torch.testing.assert_close(truth.content[0].var(0), torch.tensor(CONTENT).double(), rtol=0.05, atol=0)
    torch.testing.assert_close(truth.style.flatten(0, -2).var(0), torch.tensor(STYLE).double(), rtol=0.05, atol=0)
    noise = views.flatten(2) - truth.z[0] @ linear.weight.T - linear.bias
    assert float(noise.var()) == pytest.approx(PIXEL_VARIANCE, rel=0.02)
    assert float((noise * (truth.z[0] @ linear.weight.T)).mean()) == pytest.approx(0, abs=0.01)
    torch.testing.assert_close(truth.log_likelihood[0], model.likelihood_of()(truth.z[0]).log_prob(views))
    of_prior = torch.distributions.Normal(0.0, torch.tensor(CONTENT).double().sqrt()).log_prob(truth.content[0]).sum(-1)
    of_style = torch.distributions.Normal(0.0, torch.tensor(STYLE).double().sqrt()).log_prob(truth.style[0])
    torch.testing.assert_close(truth.log_prior[0], of_prior + of_style.sum((0, -1)))


def test_views_of_several_kinds_and_groups_are_simulated() -> None:
    model, _, like = program_of_modalities()
    views, truth = simulate(model, like, 7, seed=1)
    assert {modality: tuple(batch.shape) for modality, batch in views.items()} == {
        "picture": (2, 7, 1, 2, 3),
        "attributes": (1, 7, 4, 1, 1),
    }
    assert set(views["attributes"].unique().tolist()) <= {0.0, 1.0}
    assert truth.log_likelihood.shape == truth.z.shape[:3] == (1, 3, 7)
    by_modality = model.likelihood_of("attributes")(truth.z[0, 2:]).log_prob(views["attributes"])
    torch.testing.assert_close(truth.log_likelihood[0, 2:], by_modality)
    plain, guide, views, *_ = planted()
    _, of_grouped = simulate(SimVE(guide.prior, plain.likelihood_of(), group=InfoNCE()), views, 5, seed=1)
    assert of_grouped.log_likelihood.shape == (1, 3, 5)


@pytest.mark.parametrize("name", ["gaussian", "standard", "block", "mixture", "block of mixture"])
def test_the_posterior_is_calibrated(name: str) -> None:
    model, guide, views, *_ = exact_program(name)
    with pyro.validation_enabled(False):  # which would ask for gradients, and points have none
        found = calibrate(model, guide, views, simulations=400, seed=1)
    assert not found.alarm, found.failing
    assert not any(pooled.alarm for pooled in found.pooled.values())
    widths = {part: ranks.ranks.shape[1] for part, ranks in found.ranks.items()}
    content = model.prior.content().event_shape[0]
    assert list(found.pooled) == ["content", "style", "z"][not content :]
    parts = {"content": content, "style": LATENT, "z": LATENT, "log likelihood": 1}
    assert widths == {part: width for part, width in parts.items() if width}
    assert {ranks.curves for ranks in found.ranks.values()} == {sum(widths.values())}
    if content:
        assert found.ranks["content"].names[:2] == ("content 0", "content 1")
    assert not found.notes


@pytest.mark.parametrize(("factor", "shift", "outer"), [(0.5, 0.0, True), (2.0, 0.0, False), (1.0, 0.7, None)])
def test_shapes_of_ranks_say_what_is_wrong(factor: float, shift: float, outer: bool | None) -> None:
    found = calibrate(*planted(factor, shift)[:3], simulations=400, seed=1)
    assert {"content", "style", "z"} <= {name.split()[0] for name in found.failing}
    assert all(pooled.alarm for pooled in found.pooled.values())
    first, last = found.ranks["content"].histogram(10).sum(0)[[0, -1]].tolist()
    if outer is None:
        assert first > 2 * last  # the truth lies below draws that were moved up
    else:
        assert (min(first, last) > 200) if outer else (max(first, last) < 100)


def test_quantities_of_ones_own() -> None:
    def product(draws: Draws) -> Tensor:
        return draws.content[..., 0] * draws.style[:, 0, :, 0]

    found = calibrate(*planted()[:3], simulations=200, seed=1, quantities={"product": product})
    assert found.ranks["product"].names == ("product",)
    assert not found.alarm


def test_notes_say_where_simulated_views_are_unlike_real_ones() -> None:
    prior = GaussianPrior(2)
    decoder = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(-1, (1, 2, 2)))
    guide = AmortizedGuide(Flatten(4), prior)
    grey = torch.rand(2, 3, 1, 2, 2)
    coins, normals = SimVE(prior, Bernoulli(decoder)), SimVE(prior, Gaussian(decoder, 0.5))
    few = {"simulations": 20, "draws": 9, "seed": 1}
    assert "black and white" in calibrate(coins, guide, grey, **few).notes["views"]
    assert not calibrate(coins, guide, grey.round(), **few).notes
    assert "leave [0, 1]" in calibrate(normals, guide, grey, **few).notes["views"]
    model, of_modalities, views = program_of_modalities()
    assert list(calibrate(model, of_modalities, views, **few).notes) == ["picture"]

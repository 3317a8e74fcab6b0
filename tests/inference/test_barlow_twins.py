"""Barlow Twins against loops from the paper, the flat prior's density, and the batch of several processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import pp_simve.inference.objectives.barlow_twins as barlow_twins
from pp_simve.inference import DeltaGuide, Guide
from pp_simve.inference.objectives.barlow_twins import BarlowTwins
from pp_simve.models import FlatPrior, SimVE

from .programs import (
    DOUBLE,
    IMAGES,
    LATENT,
    PIXELS,
    SHAPE,
    SmoothEncoder,
    WithoutPixels,
    assert_same,
    draw_views,
    embeddings,
)

WEIGHT = 0.3


class Given(nn.Module):
    """An encoder of images that are z themselves, in the first pixels."""

    features = LATENT

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :LATENT]


def make_objective(redundancy: float = WEIGHT, dtype: torch.dtype = DOUBLE) -> BarlowTwins:
    prior = FlatPrior(LATENT)
    guide = DeltaGuide(SmoothEncoder(), prior)
    return BarlowTwins(SimVE(prior), guide, redundancy=redundancy).to(dtype)


def of_z(redundancy: float = WEIGHT) -> BarlowTwins:
    """An objective whose z are what `as_views` makes views of."""
    prior = FlatPrior(LATENT)
    guide = DeltaGuide(Given(), prior)
    with torch.no_grad():
        guide.encoder_head.heads()[0].weight.copy_(torch.eye(LATENT))
        guide.encoder_head.heads()[0].bias.zero_()
    return BarlowTwins(SimVE(prior), guide, redundancy=redundancy).double()


def as_views(z: Tensor) -> Tensor:
    padding = z.new_zeros(*z.shape[:2], PIXELS - LATENT)
    return torch.cat([z, padding], -1).unflatten(-1, SHAPE)


def standardised(values: Tensor) -> list[Tensor]:
    """One axis of one view over the batch: mean 0, and variance 1 but for batch norm's eps."""
    images = len(values)
    mean = torch.stack(list(values)).sum() / images
    variance = torch.stack([(value - mean) ** 2 for value in values]).sum() / images
    return [(value - mean) / (variance + 1e-5) ** 0.5 for value in values]


def terms_by_loops(z: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 1 and 2 of the paper, summed over unordered pairs of views."""
    views, images, axes = z.shape
    invariance = redundancy = torch.zeros((), dtype=DOUBLE)
    for j in range(views):
        for other in range(j):
            for i in range(axes):
                for k in range(axes):
                    one, two = standardised(z[j, :, i]), standardised(z[other, :, k])
                    entry = torch.stack([a * b for a, b in zip(one, two, strict=True)]).sum() / images
                    if i == k:
                        invariance = invariance + (1 - entry) ** 2
                    else:
                        redundancy = redundancy + entry**2
    return invariance, redundancy


# The loss.


@pytest.mark.parametrize(("views", "redundancy", "training"), [(2, 0.0, True), (3, 0.3, True), (2, 2.0, False)])
def test_it_is_the_papers_sum_over_pairs_of_views(views: int, redundancy: float, training: bool) -> None:
    objective, batch = make_objective(redundancy).train(training), draw_views(views)
    terms = objective(batch)
    invariance, off_diagonal = terms_by_loops(embeddings(objective.guide, batch))
    assert_same(terms["loss"], invariance + redundancy * off_diagonal, list(objective.parameters()))
    assert set(terms) == {"loss", "invariance", "redundancy"}
    for name, expected in {"invariance": invariance, "redundancy": off_diagonal}.items():
        assert not terms[name].requires_grad
        torch.testing.assert_close(terms[name], expected.detach(), rtol=1e-10, atol=1e-10)


def test_the_weight_is_the_papers_by_default() -> None:
    prior = FlatPrior(LATENT)
    objective = BarlowTwins(SimVE(prior), DeltaGuide(SmoothEncoder(), prior)).double()
    terms = objective(draw_views(2))
    torch.testing.assert_close(terms["loss"].detach(), terms["invariance"] + 5e-3 * terms["redundancy"])


def test_invariance_is_the_flat_priors_pull_on_standardised_axes_squared() -> None:
    """mean (z − z')² = 2(1 − C_ii), so −log p(z, z') is the sum of the (1 − C_ii)/2Σ_i, whose squares are the term."""
    raw = torch.randn(2, 50, LATENT, dtype=DOUBLE)
    raw[1] += 2 * raw[0]
    z = (raw - raw.mean(1, keepdim=True)) / raw.std(1, keepdim=True, correction=0)
    variance = [0.1, 0.5, 2.0]
    prior = FlatPrior(LATENT, variance).double()
    agreed = prior.log_marginal(z[:1].expand(2, -1, -1)).mean()
    pull = agreed - prior.log_marginal(z).mean()
    distances = (z[0] - z[1]).square().mean(0) / 2
    torch.testing.assert_close(pull, (distances / (2 * torch.tensor(variance, dtype=DOUBLE))).sum())
    found = of_z()(as_views(1e4 * z))["invariance"]
    torch.testing.assert_close(found, distances.square().sum(), rtol=1e-9, atol=1e-9)


def test_independent_axes_that_agree_cost_nothing() -> None:
    """Columns of a Hadamard matrix are uncorrelated to the last bit."""
    columns = [[1, 1, 1, 1, -1, -1, -1, -1], [1, 1, -1, -1, 1, 1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]]
    z = torch.tensor(columns, dtype=DOUBLE).mT.expand(2, -1, -1) * 1e6
    terms = of_z()(as_views(z))
    assert float(terms["loss"].detach()) < 1e-20
    assert terms["redundancy"] == 0
    opposite = of_z()(as_views(torch.stack([z[0], -z[0]])))
    torch.testing.assert_close(opposite["invariance"], torch.tensor(4.0 * LATENT, dtype=DOUBLE))


# The batch of several processes.


def test_in_training_the_batch_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other processes hold is put beside one's own images, in training alone."""
    objective, joint = make_objective(), draw_views(2)
    own, others = joint[:, :2], joint[:, 2:]
    calls = []

    def gathered(values: Tensor, dim: int) -> tuple[Tensor, int]:
        calls.append((values.shape, dim))
        return torch.cat([embeddings(objective.guide, others), values], dim), IMAGES - 2

    expected, alone = objective.eval()(joint), objective(own)
    monkeypatch.setattr(barlow_twins, "gathered", gathered)
    evaluated = objective(own)
    assert calls == []
    found = objective.train()(own)
    assert calls == [((2, 2, LATENT), 1)]
    assert_same(found["loss"], expected["loss"], list(objective.parameters()))
    assert_same(evaluated["loss"], alone["loss"], list(objective.parameters()))
    assert abs(float((expected["loss"] - alone["loss"]).detach())) > 1e-3
    objective(own[:, :1])  # one image a process is enough where there are several


# The suite that users run on theirs.


class TestBarlowTwins(WithoutPixels):
    additive: ClassVar[bool] = False  # correlations are of the batch
    # Standardising takes the mean of z off.
    without_gradient: ClassVar[Sequence[str]] = ("head.bias", *WithoutPixels.without_gradient)

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return BarlowTwins(SimVE(model.prior), guide)

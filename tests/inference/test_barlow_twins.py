"""Correlations between views: against loops from the paper, the flat prior's pull, batches of several processes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Sequence
from typing import ClassVar

import pyro
import pytest
import torch
from torch import Tensor, nn

import pp_simve.inference.objectives.barlow_twins as correlation
from pp_simve.inference import DeltaGuide, Guide, ProgramError, fit
from pp_simve.inference.objectives.barlow_twins import BarlowTwins
from pp_simve.models import Bernoulli, FlatPrior, InfoNCE, SimVE, network_precision
from pp_simve.testing.objective import read_backs

from .programs import IMAGES, LATENT, PIXELS, SHAPE, SmoothEncoder, WithoutPixels, draw_views, small_images

DOUBLE = torch.float64
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


def embeddings(objective: BarlowTwins, views: Tensor) -> Tensor:
    """z by hand: shape ``(view, image, latent)``."""
    guide = objective.guide
    assert isinstance(guide, DeltaGuide)
    z: Tensor = guide.encoder_head.head(guide.encoder_head.encoder(views.flatten(0, 1))).unflatten(0, views.shape[:2])
    return z


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


def gradient(loss: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    return torch.cat([found.flatten() for found in torch.autograd.grad(loss, inputs, retain_graph=True)])


def assert_same(ours: Tensor, theirs: Tensor, inputs: Sequence[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient(ours, inputs), gradient(theirs, inputs), rtol=1e-10, atol=1e-10)


# The loss.


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("redundancy", [0.0, 0.005, 0.3, 2.0])
@pytest.mark.parametrize("views", [2, 3])
def test_it_is_the_papers_sum_over_pairs_of_views(views: int, redundancy: float, training: bool) -> None:
    objective, batch = make_objective(redundancy).train(training), draw_views(views)
    terms = objective(batch)
    invariance, off_diagonal = terms_by_loops(embeddings(objective, batch))
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


def test_scale_and_place_of_an_axis_do_not_matter() -> None:
    """As long as its variance is far above eps."""
    z = torch.randn(2, 50, LATENT, dtype=DOUBLE) * 1e4
    scale, shift = torch.rand(LATENT, dtype=DOUBLE) + 0.5, 1e4 * torch.randn(2, 1, LATENT, dtype=DOUBLE)
    expected, found = of_z()(as_views(z)), of_z()(as_views(z * scale + shift))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10)


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


def test_equal_axes_are_redundant() -> None:
    """Each of the entries off the diagonal is then 1."""
    z = 1e6 * torch.randn(1, 20, 1, dtype=DOUBLE).expand(2, 20, LATENT)
    terms = of_z()(as_views(z))
    torch.testing.assert_close(terms["redundancy"], torch.tensor(float(LATENT * (LATENT - 1)), dtype=DOUBLE))
    torch.testing.assert_close(terms["loss"].detach(), WEIGHT * terms["redundancy"])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("which", ["all", "some", "zero"])
def test_constant_embeddings_leave_loss_and_gradient_finite(which: str, dtype: torch.dtype) -> None:
    objective, views = make_objective(dtype=dtype), draw_views(2, dtype)
    guide = objective.guide
    assert isinstance(guide, DeltaGuide)
    with torch.no_grad():
        head = guide.encoder_head.heads()[0]
        head.weight[: LATENT if which != "some" else 1] = 0
        if which == "zero":
            head.bias.zero_()
    loss = objective(views)["loss"]
    assert torch.isfinite(loss)
    if which != "some":
        torch.testing.assert_close(loss.detach(), torch.tensor(float(LATENT), dtype=dtype), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(gradient(loss, list(objective.parameters()))).all()


# The batch of several processes.


def test_in_training_the_batch_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other processes hold is put beside one's own images, in training alone."""
    objective, joint = make_objective(), draw_views(2)
    own, others = joint[:, :2], joint[:, 2:]
    asked = []

    def gathered(values: Tensor, dim: int) -> tuple[Tensor, int]:
        asked.append((values.shape, dim))
        return torch.cat([embeddings(objective, others), values], dim), IMAGES - 2

    expected, alone = objective.eval()(joint), objective(own)
    monkeypatch.setattr(correlation, "gathered", gathered)
    judged = objective(own)
    assert asked == []
    found = objective.train()(own)
    assert asked == [((2, 2, LATENT), 1)]
    assert_same(found["loss"], expected["loss"], list(objective.parameters()))
    assert_same(judged["loss"], alone["loss"], list(objective.parameters()))
    assert abs(float((expected["loss"] - alone["loss"]).detach())) > 1e-3
    objective(own[:, :1])  # one image a process is enough where there are several


# In a fit.


def test_a_training_step_reads_nothing_back() -> None:
    objective = make_objective(dtype=torch.float32)
    optimizer = torch.optim.Adam(objective.parameters(), fused=True)

    def step() -> None:
        objective(draw_views(3, torch.float32))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    with pyro.validation_enabled(False):
        step()
        with read_backs() as found:
            step()
    assert found == []


def test_correlations_are_in_full_precision_where_networks_are_not() -> None:
    objective, views = make_objective(dtype=torch.float32), draw_views(2, torch.float32)
    full = objective(views)["loss"]
    with network_precision(torch.bfloat16):
        terms = objective(views)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert torch.isfinite(gradient(terms["loss"], list(objective.parameters()))).all()
    assert terms["loss"] != full
    torch.testing.assert_close(terms["loss"], full, rtol=0.05, atol=0.05)


def test_a_short_fit_lowers_the_loss() -> None:
    objective = make_objective(dtype=torch.float32)
    guide = objective.guide
    assert isinstance(guide, DeltaGuide)
    run = fit(
        objective.model,
        guide,
        small_images(),
        objective=objective,
        batch_size=20,
        steps=20,
        lr=3e-2,
        device="cpu",
        precision="32",
    )
    losses = [row["loss"] for row in run.history]
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("how", ["state dict", "deepcopy", "pickle"])
def test_a_copy_has_the_same_terms(how: str) -> None:
    original, views = make_objective(), draw_views(2)
    if how == "state dict":
        file = io.BytesIO()
        torch.save(original.state_dict(), file)
        file.seek(0)
        other = make_objective()
        other.load_state_dict(torch.load(file, weights_only=True))
    else:
        other = copy.deepcopy(original) if how == "deepcopy" else pickle.loads(pickle.dumps(original))
    expected, found = original(views), other(views)
    # Not to the bit: sums of a few numbers are vectorised by where in memory they lie.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# Errors.


@pytest.mark.parametrize("redundancy", [-0.1, float("inf"), float("nan")])
def test_a_weight_out_of_range_is_refused(redundancy: float) -> None:
    with pytest.raises(ValueError, match=f"redundancy must be finite and not negative, got {redundancy}"):
        make_objective(redundancy)


@pytest.mark.parametrize("what", ["pixels", "groups"])
def test_a_model_that_observes_something_is_refused(what: str) -> None:
    prior = FlatPrior(LATENT)
    decoder = nn.Sequential(nn.Linear(LATENT, PIXELS), nn.Unflatten(-1, SHAPE))
    model = SimVE(prior, Bernoulli(decoder)) if what == "pixels" else SimVE(prior, group=InfoNCE())
    with pytest.raises(ValueError, match="it needs a model that observes nothing"):
        BarlowTwins(model, DeltaGuide(SmoothEncoder(), prior))


def test_one_view_of_each_image_is_refused() -> None:
    with pytest.raises(ProgramError, match="agreement is between views of an image, so it needs 2 views or more"):
        make_objective()(draw_views(1))


@pytest.mark.parametrize("training", [True, False])
def test_one_image_is_refused(training: bool) -> None:
    message = "correlations over the batch need 2 images in it at least; got 1"
    with pytest.raises(ProgramError, match=message):
        make_objective().train(training)(draw_views(2)[:, :1])


# The suite that users run on theirs.


class TestCrossCorrelation(WithoutPixels):
    additive: ClassVar[bool] = False  # correlations are of the batch
    # Standardising takes the mean of z off.
    without_gradient: ClassVar[Sequence[str]] = ("head.bias", *WithoutPixels.without_gradient)

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return BarlowTwins(SimVE(model.prior), guide)

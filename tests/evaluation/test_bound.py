"""Bounds on unseen images: the objective's own, and the importance-weighted one against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pp_simve.evaluation.bound import bound_terms, importance_weighted_bound
from pp_simve.inference import ELBO, AmortizedGuide, DeltaGuide, MLPEncoder
from pp_simve.inference.augmentations import Compose, augmentation_policy, draw_views
from pp_simve.inference.data import Images
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

from ..inference.linear_gaussian import CONTENT, STYLE, PotentialEncoder, exact_program, mean_field, mean_field_guide

SHAPE = (1, 6, 6)
IMAGES = torch.randint(256, (10, *SHAPE), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


class Brightness(nn.Module):
    """Means over the images of a batch, which are known."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.batches.append(views.shape[1])
        return {"loss": -views.mean(), "sum": views.sum((0, 2, 3, 4)).mean()}


@pytest.fixture
def objective() -> ELBO:
    prior = GaussianPrior(3)
    model = SimVE(prior, Bernoulli(MLPDecoder(3, SHAPE, hidden=[8])))
    return ELBO(model, AmortizedGuide(MLPEncoder(SHAPE, hidden=[8]), prior))


@pytest.mark.parametrize(("batch_size", "batches"), [(10, [10]), (4, [4, 4, 2]), (3, [3, 3, 3, 1]), (100, [10])])
def test_every_image_counts_the_same(batch_size: int, batches: list[int]) -> None:
    known = Brightness()
    terms = bound_terms(known, Images(IMAGES, Compose([], SHAPE), n_views=2), seed=0, batch_size=batch_size)
    pixels = IMAGES.double() / 255
    assert terms == pytest.approx({"loss": -float(pixels.mean()), "sum": float(2 * pixels.sum() / 10)}, rel=1e-6)
    assert known.batches == batches


@pytest.mark.parametrize("views", [1, 3])
def test_one_batch_is_the_objective_itself(objective: ELBO, views: int) -> None:
    policy = augmentation_policy("affine", SHAPE)
    terms = bound_terms(objective, Images(IMAGES, policy, views), seed=5)
    drawn, _ = draw_views(policy, IMAGES, views, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(5)
    with torch.no_grad():
        expected = objective.eval()(drawn)
    assert terms == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-6)
    sums = terms["reconstruction"] + terms["content"] + terms["style"] + terms["entropy"]
    assert terms["loss"] == pytest.approx(-sums, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_seed_decides_and_nothing_is_left_changed(objective: ELBO, training: bool) -> None:
    objective.train(training)
    before = torch.get_rng_state()
    source = Images(IMAGES, augmentation_policy("affine", SHAPE), n_views=2)
    one, again, other = (bound_terms(objective, source, seed=seed, batch_size=4)["loss"] for seed in (1, 1, 2))
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training == training for module in objective.modules())
    assert all(parameter.grad is None for parameter in objective.parameters())


@pytest.mark.parametrize("name", ["gaussian", "standard", "block"])
@pytest.mark.parametrize("views", [1, 3])
def test_the_exact_posterior_gives_the_evidence(name: str, views: int) -> None:
    model, guide, pictures, evidence, _ = exact_program(name, images=5, views=views)
    for draws, batch_size in ((1, 512), (3, 2)):
        found = importance_weighted_bound(model, guide, pictures, draws=draws, seed=1, batch_size=batch_size)
        torch.testing.assert_close(found, evidence, rtol=0, atol=1e-9)


def test_another_guide_lacks_its_divergence_and_less_with_every_draw() -> None:
    """With one draw the mean lies below the evidence by KL(q ‖ p); with K by about (E[w²]/E[w]² − 1) / 2K."""
    # Of 4 images, each many times over: the guide of views that it knows by heart needs them all in one batch.
    model, exact, images, of_images, linear = exact_program()
    views, evidence = images.repeat(1, 400, 1, 1, 1), of_images.repeat(400)
    # Wider than the best, so that weights have a variance.
    known = mean_field(linear, views, CONTENT, STYLE, width=1.1)
    guide = mean_field_guide(exact.prior, known)

    def lack(draws: int) -> tuple[float, float]:
        rest = evidence - importance_weighted_bound(model, guide, views, draws=draws, seed=2, batch_size=len(evidence))
        return float(rest.mean()), float(rest.std()) / len(rest) ** 0.5

    one, error = lack(1)
    assert abs(one - float(known.divergence)) < 4 * error
    few, _ = lack(4)
    many, error = lack(64)
    assert one > few > many > -4 * error
    assert abs(many - (float(known.square) - 1) / (2 * 64)) < 4 * error + 0.01


def test_the_seed_decides_the_weights_and_torch_stays_as_it_was() -> None:
    model, exact, views, _, linear = exact_program()
    guide = AmortizedGuide(PotentialEncoder(linear), exact.prior).double().train()

    def bound(seed: int) -> Tensor:
        return importance_weighted_bound(model, guide, views, draws=2, seed=seed, batch_size=2)

    state = torch.get_rng_state()
    first = bound(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(bound(3), first)
    assert not torch.equal(bound(4), first)
    assert first.shape == views.shape[1:2]
    assert guide.training
    assert not first.requires_grad


def test_what_has_no_bound_is_refused() -> None:
    model, guide, views, _, linear = exact_program()
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        importance_weighted_bound(model, guide, views, draws=0, seed=0)
    with pytest.raises(ValueError, match="no likelihood"):
        importance_weighted_bound(SimVE(guide.prior), guide, views, draws=1, seed=0)
    points = DeltaGuide(PotentialEncoder(linear), guide.prior).double()
    with pytest.raises(ValueError, match="the guide has no density"):
        importance_weighted_bound(model, points, views, draws=1, seed=0)

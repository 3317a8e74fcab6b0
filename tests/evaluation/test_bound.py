"""The bound on unseen images: the objective itself, averaged over images and not over batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pp_simve.evaluation.bound import bound_terms
from pp_simve.inference import ELBO, AmortizedGuide, MLPEncoder
from pp_simve.inference.augmentations import AugmentationPolicy, Parameters, augmentation_policy, draw_views
from pp_simve.inference.data import Images
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

SHAPE = (1, 6, 6)
IMAGES = torch.randint(256, (10, *SHAPE), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


class Same(AugmentationPolicy):
    """Every view is the image."""

    names = ()

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        return {}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return images


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
    terms = bound_terms(known, Images(IMAGES, Same(), n_views=2), seed=0, batch_size=batch_size)
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


def test_the_seed_decides(objective: ELBO) -> None:
    policy = augmentation_policy("affine", SHAPE)
    one, again, other = (
        bound_terms(objective, Images(IMAGES, policy, n_views=2), seed=seed, batch_size=4)["loss"] for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_changed(objective: ELBO, training: bool) -> None:
    objective.train(training)
    before = torch.get_rng_state()
    bound_terms(objective, Images(IMAGES, augmentation_policy("affine", SHAPE), n_views=2), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training == training for module in objective.modules())
    assert all(parameter.grad is None for parameter in objective.parameters())

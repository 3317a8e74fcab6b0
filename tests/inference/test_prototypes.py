"""SwAV and instance discrimination against plain references from their papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pp_simve.inference import (
    DeltaGuide,
    Guide,
    InstanceDiscrimination,
    Run,
    SwAV,
    fit,
)
from pp_simve.inference.augmentations import Compose, RandomFlip
from pp_simve.inference.objectives.prototypes import balanced
from pp_simve.models import EmpiricalPrior, MixturePrior, Prior, SimVE
from pp_simve.models.priors.mixture import PrototypePrior
from pp_simve.testing.guide import GuideSuite
from pp_simve.testing.prior import PriorSuite

from .programs import (
    DOUBLE,
    IMAGES,
    LATENT,
    SHAPE,
    SmoothEncoder,
    WithoutPixels,
    assert_same,
    draw_views,
    embeddings,
    gradients,
    on_sphere,
    small_images,
)

STILL = Compose([RandomFlip(probability=0.0)], SHAPE)


def exact_style(prior: MixturePrior, style_variance: float) -> None:
    """In float64 not rounded to float32."""
    prior.style_variance.fixed.fill_(style_variance)


def swav(prototypes: int = 7, style_variance: float = 0.1, **options: Any) -> SwAV:
    """Unit norm, no noise."""
    prior = MixturePrior(LATENT, prototypes, style_variance=style_variance, unit_norm=True)
    guide = DeltaGuide(SmoothEncoder(), prior, unit_norm=True)
    objective = SwAV(SimVE(prior), guide, **options).double()
    exact_style(prior, style_variance)
    return objective


def instances(count: int = 11, style_variance: float = 0.07, momentum: float = 0.5) -> InstanceDiscrimination:
    """The paper's, for a data set of ``count`` images."""
    prior = MixturePrior(LATENT, count, style_variance=style_variance, unit_norm=True, learn_prototypes=False)
    guide = DeltaGuide(SmoothEncoder(), prior, unit_norm=True)
    objective = InstanceDiscrimination(SimVE(prior), guide, momentum=momentum).double()
    exact_style(prior, style_variance)
    return objective


def mixture_of(objective: nn.Module) -> MixturePrior:
    assert isinstance(objective, SwAV | InstanceDiscrimination)
    prior = objective.model.prior
    assert isinstance(prior, MixturePrior)
    return prior


def unit_embeddings(guide: Any, views: Tensor) -> Tensor:
    return on_sphere(embeddings(guide, views))


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == DOUBLE
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


# The papers' formulas.


def sinkhorn(scores: Tensor, rounds: int) -> Tensor:
    """Caron et al. 2020, appendix A: codes ``(image, K)`` of positive scores ``(image, K)``, exp already taken."""
    transport = scores.mT / scores.sum()
    prototypes, images = transport.shape
    for _ in range(rounds):
        transport = torch.stack([row / row.sum() / prototypes for row in transport])
        transport = torch.stack([column / column.sum() / images for column in transport.mT], 1)
    return (transport / transport.sum(0, keepdim=True)).mT


def cross_entropy(codes: Tensor, probabilities: Tensor) -> Tensor:
    """Their equation 2, of each image: −Σ_k q_k log p_k."""
    losses = []
    for q, p in zip(codes, probabilities, strict=True):
        losses.append(-sum((q[k] * p[k].log() for k in range(len(q))), start=torch.zeros((), dtype=DOUBLE)))
    return torch.stack(losses)


def swapped_loss(codes: Sequence[Tensor], probabilities: Sequence[Tensor]) -> Tensor:
    """Their equation 1 of each pair of views, ℓ(z_t, q_s) + ℓ(z_s, q_t): mean over the batch, sum over pairs."""
    total = torch.zeros((), dtype=DOUBLE)
    for t in range(len(codes)):
        for s in range(t):
            of_pair = cross_entropy(codes[s], probabilities[t]) + cross_entropy(codes[t], probabilities[s])
            total = total + of_pair.mean()
    return total


def swav_loss(z: Tensor, prototypes: Tensor, temperature: float, epsilon: float, rounds: int) -> Tensor:
    """The paper's method for z and prototypes of unit norm: codes are constants."""
    scores = [view @ prototypes.mT for view in z]
    codes = [sinkhorn((score.detach() / epsilon).exp(), rounds) for score in scores]
    raised = [(score / temperature).exp() for score in scores]
    return swapped_loss(codes, [power / power.sum(-1, keepdim=True) for power in raised])


def instance_loss(z: Tensor, bank: Tensor, index: Tensor, temperature: float) -> Tensor:
    """Wu et al. 2018, equation 2, as a negative log: sum over views, mean over images."""
    total = torch.zeros((), dtype=DOUBLE)
    for view in z:
        for place, image in enumerate(index.tolist()):
            powers = torch.stack([(row @ view[place] / temperature).exp() for row in bank])
            total = total - (powers[image] / powers.sum()).log()
    return total / len(index)


# SwAV.


@pytest.mark.parametrize(
    ("prototypes", "sharpness", "rounds", "views"),
    [(3, 2.0, 3, 2), (IMAGES, 0.4, 10, 3), (15, 5.0, 2, 2), (3, 1.0, 1, 3)],
)
def test_swapped_prediction_is_swav(prototypes: int, sharpness: float, rounds: int, views: int) -> None:
    """With τ = 0.1 and ε = τ / sharpness, in the paper 0.05; of more than two views, all pairs."""
    options = {} if (sharpness, rounds) == (2.0, 3) else {"sharpness": sharpness, "iterations": rounds}  # the defaults
    objective, images = swav(prototypes, **options), draw_views(views)
    z, points = unit_embeddings(objective.guide, images), on_sphere(mixture_of(objective).points)
    theirs = swav_loss(z, points, temperature=0.1, epsilon=0.1 / sharpness, rounds=rounds)
    assert_same(objective(images)["loss"], theirs, objective.parameters(), moves=1e-4)


@pytest.mark.parametrize("prototypes", [3, 15])
def test_in_the_end_images_are_certain_to_belong_and_prototypes_have_equal_shares(prototypes: int) -> None:
    logits = 3 * torch.randn(2, IMAGES, prototypes, dtype=DOUBLE)
    codes = balanced(logits, 3000)
    close(codes.sum(-1), torch.ones(2, IMAGES, dtype=DOUBLE))
    close(codes.sum(-2), torch.full((2, prototypes), IMAGES / prototypes, dtype=DOUBLE))


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_after_any_number_of_rounds_images_are_exact(rounds: int) -> None:
    """Of numbers that would overflow, were exp taken of them as they are."""
    logits = 1000 + 3 * torch.randn(2, IMAGES, 4, dtype=DOUBLE)
    codes = balanced(logits, rounds)
    close(codes.sum(-1), torch.ones(2, IMAGES, dtype=DOUBLE))
    for view, found in zip(logits - 1000, codes, strict=True):
        close(found, sinkhorn(view.exp(), rounds))


# Other mixtures.

WEIGHTS = [0.4, 0.3, 0.2, 0.1]
STYLE = [0.4, 0.9, 1.6]
MIXTURES: dict[str, Callable[[], MixturePrior]] = {
    "of any norm": lambda: MixturePrior(LATENT, 4, style_variance=0.5, content_variance=1.0),
    "of unequal weights": lambda: MixturePrior(LATENT, 4, WEIGHTS, STYLE, content_variance=1.0),
    "all learned": lambda: MixturePrior(
        LATENT, 4, WEIGHTS, STYLE, content_variance=1.0, learn_weights=True, learn_style=True
    ),
    "of unit norm, all learned": lambda: MixturePrior(
        LATENT, 4, WEIGHTS, STYLE, unit_norm=True, learn_weights=True, learn_style=True
    ),
}


def plain_log_joint(prior: PrototypePrior, z: Tensor) -> Tensor:
    """log π_k + log N(z; m_k, Σ) by loops over prototypes: shape ``(..., K)`` for z of shape ``(..., latent)``."""
    covariance = torch.diag_embed(prior.style_variance())
    weights = prior.log_weights().exp()
    joint = []
    for point, weight in zip(prior.prototypes(), weights, strict=True):
        joint.append(weight.log() + MultivariateNormal(point, covariance).log_prob(z))
    return torch.stack(joint, -1)


def swapped(prior: MixturePrior, **options: Any) -> SwAV:
    return SwAV(SimVE(prior), DeltaGuide(SmoothEncoder(), prior), **options).double()


@pytest.mark.parametrize(("sharpness", "rounds"), [(2.0, 3), (0.7, 1), (2.0, 1000)])
@pytest.mark.parametrize("name", MIXTURES)
def test_under_any_mixture_views_predict_balanced_joint_densities(name: str, sharpness: float, rounds: int) -> None:
    prior, images = MIXTURES[name](), draw_views(3)
    objective = swapped(prior, sharpness=sharpness, iterations=rounds)
    joint = plain_log_joint(prior, embeddings(objective.guide, images)).exp()
    codes = [sinkhorn(of_view.detach() ** sharpness, rounds) for of_view in joint]
    theirs = swapped_loss(codes, list(joint / joint.sum(-1, keepdim=True)))
    assert_same(objective(images)["loss"], theirs, objective.parameters(), moves=1e-4)


def test_views_of_several_kinds_predict_one_another() -> None:
    prior = MixturePrior(LATENT, 5, unit_norm=True, style_variance=0.1)
    guide = DeltaGuide({"here": SmoothEncoder(), "there": SmoothEncoder()}, prior, unit_norm=True)
    objective = SwAV(SimVE(prior), guide).double()
    exact_style(prior, 0.1)
    views = {"here": draw_views(1), "there": draw_views(1)}
    z = []
    for modality, images in views.items():
        encoder_head: Any = guide.encoder_head.get_submodule("modalities")[modality]  # type: ignore[index]
        z.append(on_sphere(encoder_head.head(encoder_head.encoder(images[0]))))
    theirs = swav_loss(torch.stack(z), on_sphere(prior.points), 0.1, 0.05, 3)
    assert_same(objective(views)["loss"], theirs, objective.parameters(), moves=1e-4)


# Instance discrimination.

INDEX = torch.tensor([7, 2, 10, 0, 5, 3])


@pytest.mark.parametrize(("views", "training"), [(1, True), (3, True), (2, False)])
def test_instance_discrimination_is_the_nonparametric_softmax_of_the_bank_before_the_step(
    views: int, training: bool
) -> None:
    """The gradient as well, though it is taken when the bank has moved already."""
    objective, images = instances().train(training), draw_views(views)
    held = mixture_of(objective).points.clone()
    before = on_sphere(held)
    terms = objective(images, INDEX)
    theirs = instance_loss(unit_embeddings(objective.guide, images), before, INDEX, 0.07)
    assert_same(terms["loss"], theirs, objective.parameters(), moves=1e-4)
    assert terms.keys() == {"loss", "instance"}
    assert torch.equal(terms["loss"], -terms["instance"])
    if not training:
        assert torch.equal(mixture_of(objective).points, held)


def assert_moved(after: Tensor, before: Tensor, expected: Tensor) -> None:
    """Those of the batch to where they are expected, the others not at all."""
    assert not after.requires_grad
    for place, row in zip(INDEX.tolist(), expected, strict=True):
        close(after[place], row)
        assert (after[place] - before[place]).abs().max() > 1e-3
    others = [image for image in range(len(before)) if image not in INDEX.tolist()]
    assert len(others) == len(before) - IMAGES
    assert torch.equal(after[others], before[others])


@pytest.mark.parametrize(("views", "momentum"), [(1, 0.0), (3, 0.9)])
def test_the_banks_rows_of_the_batch_move_towards_the_mean_of_their_views(views: int, momentum: float) -> None:
    objective, images = instances(momentum=momentum).train(), draw_views(views)
    held = mixture_of(objective).points
    before = held.clone()
    objective(images, INDEX)
    f = unit_embeddings(objective.guide, images).mean(0).detach()
    assert_moved(mixture_of(objective).points, before, on_sphere(momentum * before[INDEX] + (1 - momentum) * f))
    assert torch.equal(held, before)  # what a graph still holds


def test_a_bank_of_any_norm_keeps_the_mean_itself() -> None:
    prior = MixturePrior(LATENT, 11, learn_prototypes=False, content_variance=1.0)
    objective = InstanceDiscrimination(SimVE(prior), DeltaGuide(SmoothEncoder(), prior), momentum=0.3).double()
    images, before = draw_views(2), prior.points.clone()
    z = embeddings(objective.guide, images)
    responsibilities = plain_log_joint(prior, z).softmax(-1)
    theirs = -sum(view[place, image].log() for view in responsibilities for place, image in enumerate(INDEX.tolist()))
    assert isinstance(theirs, Tensor)
    assert_same(objective(images, INDEX)["loss"], theirs / IMAGES, objective.parameters(), moves=1e-4)
    assert_moved(prior.points, before, 0.3 * before[INDEX] + 0.7 * z.mean(0).detach())


# Through a fit.


def fitted(objective: InstanceDiscrimination, **settings: Any) -> Run:
    defaults: dict[str, Any] = {
        "objective": objective.float(),
        "policy": STILL,
        "batch_size": 4,
        "seed": 3,
        "device": "cpu",
        "precision": "32",
    }
    return fit(objective.model, objective.guide, small_images(12), **(defaults | settings))  # type: ignore[arg-type]


def test_a_fit_takes_the_steps_of_the_paper_by_hand() -> None:
    """Two epochs of Adam with the batches that the fit's seed orders, in float32."""
    objective, by_hand = instances(12), instances(12)
    by_hand.load_state_dict(objective.state_dict())
    history = fitted(objective, views=1, epochs=2, lr=1e-2).history
    guide, bank, images = by_hand.guide, mixture_of(by_hand).points.clone(), small_images(12).double() / 255
    optimizer, shuffler = torch.optim.Adam(guide.parameters(), lr=1e-2), torch.Generator().manual_seed(3)
    losses = []
    for _ in range(2):
        for batch in torch.randperm(12, generator=shuffler).split(4):
            z = unit_embeddings(guide, images[batch][None])
            loss = instance_loss(z, bank, batch, 0.07)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bank[batch] = on_sphere(0.5 * bank[batch] + 0.5 * z[0].detach())
            losses.append(float(loss.detach()))
    assert [row["loss"] for row in history] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(mixture_of(objective).points.double(), bank, rtol=1e-4, atol=1e-4)


def test_images_of_an_incomplete_batch_keep_their_rows() -> None:
    objective = instances(12).float()
    before = mixture_of(objective).points.clone()
    fitted(objective, batch_size=5, epochs=1)
    moved = (mixture_of(objective).points != before).any(-1)
    assert int(moved.sum()) == 10


# log_joint_by_view.

PRIORS: dict[str, Callable[[], PrototypePrior]] = MIXTURES | {"empirical": lambda: EmpiricalPrior(LATENT, 5, STYLE)}


@pytest.mark.parametrize("shape", [(1, 4), (2, 5, 3, 4)], ids=str)
@pytest.mark.parametrize("name", PRIORS)
def test_the_joint_density_of_each_view_is_that_of_multivariate_normals(name: str, shape: tuple[int, ...]) -> None:
    """What stands to the left of views and images are particles."""
    prior = PRIORS[name]().double()
    z = torch.randn(*shape, LATENT, dtype=DOUBLE, requires_grad=True)
    ours, theirs = prior.log_joint_by_view(z), plain_log_joint(prior, z)
    assert ours.shape == (*shape, len(prior.prototypes()))
    close(ours, theirs)
    weights = torch.randn_like(ours)
    inputs = [z, *prior.parameters()]
    our_gradients, their_gradients = (gradients((weights * found).sum(), inputs) for found in (ours, theirs))
    for our, their in zip(our_gradients, their_gradients, strict=True):
        assert our.abs().max() > 1e-4
        close(our, their)


@pytest.mark.parametrize("name", PRIORS)
def test_a_single_views_posterior_and_density_follow_from_it(name: str) -> None:
    prior, z = PRIORS[name]().double(), torch.randn(3, 4, LATENT, dtype=DOUBLE)
    by_view = prior.log_joint_by_view(z)
    for alone, joint in zip(z, by_view, strict=True):
        close(joint.softmax(-1), prior.responsibilities(alone[None]))
        close(joint.logsumexp(-1), prior.log_marginal(alone[None]))


# Unit norm and projection.


def test_prototypes_of_unit_norm_stay_on_the_sphere_and_move_along_it() -> None:
    points = 3 * torch.randn(4, LATENT)
    prior = MixturePrior(LATENT, points, unit_norm=True).double()
    close(prior.points.detach(), torch.nn.functional.normalize(points, dim=-1).double())
    optimizer = torch.optim.SGD(prior.parameters(), lr=5.0)
    for _ in range(3):
        prior.log_joint_by_view(torch.ones(1, 1, LATENT, dtype=DOUBLE)).logsumexp(-1).sum().backward()
        (points_parameter,) = prior.parameters()
        assert points_parameter.grad is not None
        along = (points_parameter.grad * points_parameter).sum(-1).detach()
        close(along, torch.zeros(4, dtype=DOUBLE))
        optimizer.step()
        optimizer.zero_grad()
        close(prior.prototypes().norm(dim=-1).detach(), torch.ones(4, dtype=DOUBLE))
    assert (prior.points.norm(dim=-1) - 1).abs().max() > 1e-2
    close(prior.prototypes().detach(), on_sphere(prior.points).detach())
    close(prior.content().points.detach(), on_sphere(prior.points).detach())


class TestMixturePriorOfUnitNorm(PriorSuite):
    def make(self, latent_dim: int) -> MixturePrior:
        return MixturePrior(latent_dim, 4, unit_norm=True, style_variance=0.4)


class TestDeltaGuideOfUnitNorm(GuideSuite):
    has_density: ClassVar[bool] = False

    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return DeltaGuide(encoder, prior, unit_norm=True)


class TestSwAV(WithoutPixels):
    additive: ClassVar[bool] = False  # shares are those of the batch
    exact_gradient: ClassVar[bool] = False  # codes are constants

    def make_prior(self, latent_dim: int) -> Prior:
        return MixturePrior(latent_dim, 4, unit_norm=True, style_variance=0.1)

    def make_guide(self, encoder: nn.Module, prior: Prior) -> Guide:
        return DeltaGuide(encoder, prior, unit_norm=True)

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return SwAV(SimVE(model.prior), guide)

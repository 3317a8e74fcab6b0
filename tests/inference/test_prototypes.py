"""Views asked for their prototype: SwAV and instance discrimination against plain references from their papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyro
import pyro.poutine as poutine
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pp_simve.inference import (
    CheckpointFile,
    DeltaGuide,
    Guide,
    InstanceDiscrimination,
    ProgramError,
    Run,
    SwAV,
    WarmupCosine,
    fit,
)
from pp_simve.inference.augmentations import Compose, RandomFlip
from pp_simve.inference.data import Images
from pp_simve.inference.loop import VALIDATED_STEPS, Loop, Plan
from pp_simve.inference.objectives.prototypes import balanced
from pp_simve.models import EmpiricalPrior, FlatPrior, MixturePrior, NTXent, Prior, SimVE, network_precision
from pp_simve.models.priors.mixture import PrototypePrior
from pp_simve.testing.guide import GuideSuite
from pp_simve.testing.objective import ObjectiveSuite, read_backs
from pp_simve.testing.prior import PriorSuite

from .programs import FEATURES, IMAGES, LATENT, SHAPE, SmoothEncoder, draw_views, small_images

DOUBLE = torch.float64
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


def raw_embeddings(guide: Any, views: Tensor) -> Tensor:
    """What the head says, by hand: shape ``(view, image, latent)``."""
    z: Tensor = guide.encoder_head.head(guide.encoder_head.encoder(views.flatten(0, 1))).unflatten(0, views.shape[:2])
    return z


def on_sphere(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


def unit_embeddings(guide: Any, views: Tensor) -> Tensor:
    return on_sphere(raw_embeddings(guide, views))


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Every parameter must have one."""
    return list(torch.autograd.grad(loss, parameters, retain_graph=True))


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == DOUBLE
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def assert_equal_with_gradients(ours: Tensor, theirs: Tensor, module: nn.Module) -> None:
    """By every parameter of the module, none of which may be without one."""
    close(ours, theirs)
    parameters = list(module.parameters())
    for our, their in zip(gradients(ours, parameters), gradients(theirs, parameters), strict=True):
        assert our.abs().max() > 1e-4
        close(our, their)


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


def swav_loss(
    z: Tensor, prototypes: Tensor, temperature: float, epsilon: float, rounds: int, *, stopped: bool = True
) -> Tensor:
    """The paper's method for z and prototypes of unit norm.

    Args:
        stopped: whether codes are constants.
    """
    scores = [view @ prototypes.mT for view in z]
    codes = [sinkhorn(((score.detach() if stopped else score) / epsilon).exp(), rounds) for score in scores]
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


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize(("sharpness", "rounds"), [(2.0, 3), (1.0, 1), (0.4, 10), (5.0, 2)])
@pytest.mark.parametrize("prototypes", [3, IMAGES, 15])
def test_swapped_prediction_is_swav(prototypes: int, sharpness: float, rounds: int, views: int) -> None:
    """With τ = 0.1 and ε = τ / sharpness, in the paper 0.05; of more than two views, all pairs."""
    objective, images = swav(prototypes, sharpness=sharpness, iterations=rounds), draw_views(views)
    z, points = unit_embeddings(objective.guide, images), on_sphere(mixture_of(objective).points)
    theirs = swav_loss(z, points, temperature=0.1, epsilon=0.1 / sharpness, rounds=rounds)
    assert_equal_with_gradients(objective(images)["loss"], theirs, objective)


def test_the_defaults_are_the_papers_but_for_the_temperature_which_is_the_priors() -> None:
    objective, images = swav(), draw_views(2)
    z, points = unit_embeddings(objective.guide, images), on_sphere(mixture_of(objective).points)
    close(objective(images)["loss"], swav_loss(z, points, temperature=0.1, epsilon=0.05, rounds=3))


def test_codes_carry_no_gradient() -> None:
    """The reference's would change it, if they did."""
    objective, images = swav(), draw_views(2)
    z, points = unit_embeddings(objective.guide, images), on_sphere(mixture_of(objective).points)
    parameters = list(objective.parameters())
    ours = gradients(objective(images)["loss"], parameters)
    stopped, not_stopped = (gradients(swav_loss(z, points, 0.1, 0.05, 3, stopped=s), parameters) for s in (True, False))
    for our, right, wrong in zip(ours, stopped, not_stopped, strict=True):
        close(our, right)
        assert (our - wrong).abs().max() > 1e-2


def test_the_terms_of_swapped_prediction_say_what_the_loss_is() -> None:
    terms = swav()(draw_views(2))
    assert terms.keys() == {"loss", "assignment"}
    assert torch.equal(terms["loss"], -terms["assignment"])
    assert not terms["assignment"].requires_grad


@pytest.mark.parametrize("prototypes", [3, IMAGES, 15])
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


@pytest.mark.parametrize(("sharpness", "rounds"), [(2.0, 3), (0.7, 1)])
@pytest.mark.parametrize("name", MIXTURES)
def test_under_any_mixture_views_predict_balanced_joint_densities(name: str, sharpness: float, rounds: int) -> None:
    prior, images = MIXTURES[name](), draw_views(3)
    objective = swapped(prior, sharpness=sharpness, iterations=rounds)
    joint = plain_log_joint(prior, raw_embeddings(objective.guide, images)).exp()
    codes = [sinkhorn(of_view.detach() ** sharpness, rounds) for of_view in joint]
    theirs = swapped_loss(codes, list(joint / joint.sum(-1, keepdim=True)))
    assert_equal_with_gradients(objective(images)["loss"], theirs, objective)


@pytest.mark.parametrize("name", MIXTURES)
def test_in_the_end_the_codes_are_responsibilities_balanced(name: str) -> None:
    """However probable an image is, which a few rounds do see."""
    prior, images = MIXTURES[name](), draw_views(2)
    objective = swapped(prior, iterations=1000)
    z = raw_embeddings(objective.guide, images)
    responsibilities = [prior.responsibilities(view[None]) for view in z]
    codes = [sinkhorn(of_view.detach() ** 2, 1000) for of_view in responsibilities]
    assert_equal_with_gradients(objective(images)["loss"], swapped_loss(codes, responsibilities), objective)


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
    assert_equal_with_gradients(objective(views)["loss"], theirs, objective)


# Instance discrimination.

INDEX = torch.tensor([7, 2, 10, 0, 5, 3])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_instance_discrimination_is_the_nonparametric_softmax_of_the_bank_before_the_step(
    views: int, training: bool
) -> None:
    """The gradient as well, though it is taken when the bank has moved already."""
    objective, images = instances().train(training), draw_views(views)
    before = on_sphere(mixture_of(objective).points)
    terms = objective(images, INDEX)
    theirs = instance_loss(unit_embeddings(objective.guide, images), before, INDEX, 0.07)
    assert_equal_with_gradients(terms["loss"], theirs, objective)
    assert terms.keys() == {"loss", "instance"}
    assert torch.equal(terms["loss"], -terms["instance"])
    assert not terms["instance"].requires_grad


def assert_moved(after: Tensor, before: Tensor, expected: Tensor) -> None:
    """Those of the batch to where they are expected, the others not at all."""
    assert not after.requires_grad
    for place, row in zip(INDEX.tolist(), expected, strict=True):
        close(after[place], row)
        assert (after[place] - before[place]).abs().max() > 1e-3
    others = [image for image in range(len(before)) if image not in INDEX.tolist()]
    assert len(others) == len(before) - IMAGES
    assert torch.equal(after[others], before[others])


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("views", [1, 3])
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
    z = raw_embeddings(objective.guide, images)
    responsibilities = plain_log_joint(prior, z).softmax(-1)
    theirs = -sum(view[place, image].log() for view in responsibilities for place, image in enumerate(INDEX.tolist()))
    assert isinstance(theirs, Tensor)
    assert_equal_with_gradients(objective(images, INDEX)["loss"], theirs / IMAGES, objective)
    assert_moved(prior.points, before, 0.3 * before[INDEX] + 0.7 * z.mean(0).detach())


def test_in_evaluation_the_bank_stays() -> None:
    objective = instances().eval()
    before = mixture_of(objective).points.clone()
    objective(draw_views(2), INDEX)
    assert torch.equal(mixture_of(objective).points, before)


def test_the_bank_is_part_of_the_state_and_no_parameter() -> None:
    objective, other = instances(), instances()
    objective.train()(draw_views(2), INDEX)
    assert not any(name.endswith("points") for name, _ in objective.named_parameters())
    other.load_state_dict(objective.state_dict())
    views = draw_views(2)
    assert torch.equal(other.eval()(views, INDEX)["loss"], objective.eval()(views, INDEX)["loss"])


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


@pytest.mark.parametrize(("views", "epochs"), [(1, 1), (2, 1), (2, 3)])
def test_a_fit_moves_every_row_once_an_epoch_towards_its_own_image(views: int, epochs: int) -> None:
    """At a learning rate that moves no parameter, and views that are the image itself: z is the same at each step."""
    objective = instances(12)
    expected = mixture_of(objective).points.clone()
    f = unit_embeddings(objective.guide, small_images(12)[None].double() / 255)[0].detach()
    for _ in range(epochs):
        expected = on_sphere(0.5 * expected + 0.5 * f)
    run = fitted(objective, views=views, epochs=epochs, lr=1e-30)
    assert run.steps == 3 * epochs
    torch.testing.assert_close(mixture_of(objective).points.double(), expected, rtol=1e-5, atol=1e-5)
    nearest_rows = torch.cdist(expected, mixture_of(objective).points.double()).argmin(-1)
    assert torch.equal(nearest_rows, torch.arange(12))


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


def resumable(checkpoint: CheckpointFile | None, make: Callable[[], nn.Module], **settings: Any) -> Run:
    """Everything is built anew, as a new process would."""
    pyro.set_rng_seed(0)
    objective: Any = make()
    common: dict[str, Any] = {"steps": 8, "lr": 1e-2, "schedule": WarmupCosine(0.2), "policy": None, "fetch_every": 3}
    return fitted(objective, checkpoint=checkpoint, **(common | settings))


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("make", [instances, swav])
def test_a_fit_that_goes_on_ends_with_the_same_bits_bank_included(
    tmp_path: Path, make: Callable[[int], nn.Module], steps: int
) -> None:
    checkpoint, asked = CheckpointFile(tmp_path / "checkpoint.pt"), iter(range(1, 100))
    stopped = resumable(checkpoint, lambda: make(12), should_stop=lambda: next(asked) == steps)
    assert stopped.steps == steps
    resumed, whole = resumable(checkpoint, lambda: make(12)), resumable(None, lambda: make(12))
    assert resumed.history == whole.history[steps:]
    expected = whole.objective.state_dict()
    assert any(name.endswith("points") for name in expected)
    assert not torch.equal(mixture_of(stopped.objective).points, mixture_of(whole.objective).points)
    for name, value in resumed.objective.state_dict().items():
        assert torch.equal(value, expected[name]), name


# log_joint_by_view.

PRIORS: dict[str, Callable[[], PrototypePrior]] = MIXTURES | {"empirical": lambda: EmpiricalPrior(LATENT, 5, STYLE)}


@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (5, 3, 4), (2, 5, 3, 4)], ids=str)
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


def test_without_unit_norm_prototypes_are_as_they_were_given() -> None:
    points = 3 * torch.randn(4, LATENT)
    assert torch.equal(MixturePrior(LATENT, points).prototypes(), points)


def drawn_z(guide: Guide, views: Tensor) -> Tensor:
    z = poutine.trace(lambda: nn.Module.__call__(guide, views)).get_trace().nodes["z"]["value"]
    assert isinstance(z, Tensor)
    return z


def head_by_hand(guide: DeltaGuide, views: Tensor) -> Tensor:
    """Encoder, linear layers each followed by batch norm and ReLU, head: shape ``(view, image, latent)``."""
    encoder_head: Any = guide.encoder_head
    hidden = encoder_head.encoder(views.flatten(0, 1))
    for linear, norm, _ in zip(*[iter(encoder_head.projection)] * 3, strict=True):
        assert linear.bias is None
        hidden = hidden @ linear.weight.mT
        mean, variance = norm.running_mean, norm.running_var
        if guide.training:
            mean = hidden.mean(0)
            variance = (hidden - mean).square().mean(0)
        hidden = ((hidden - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias).clamp(min=0)
    z: Tensor = (hidden @ encoder_head.head.weight.mT + encoder_head.head.bias).unflatten(0, views.shape[:2])
    return z


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("projection", [(), (8,), (8, 4)], ids=str)
@pytest.mark.parametrize("unit_norm", [True, False])
def test_a_delta_guides_z_is_the_projection_of_the_features(
    unit_norm: bool, projection: tuple[int, ...], training: bool
) -> None:
    prior = MixturePrior(LATENT, 4, learn_prototypes=False)
    guide = DeltaGuide(SmoothEncoder(), prior, projection=projection, unit_norm=unit_norm).double()
    views = draw_views(2)
    guide.posterior(views)  # in training, which moves the running statistics from where they start
    guide.train(training)
    theirs = head_by_hand(guide, views)
    if unit_norm:
        theirs = on_sphere(theirs)
    weights = torch.randn_like(theirs)
    assert_equal_with_gradients((weights * drawn_z(guide, views)).sum(), (weights * theirs).sum(), guide)
    found = guide.posterior(views)
    close(found.z, theirs)
    encoder_head: Any = guide.encoder_head
    assert isinstance(found.backbone, Tensor)
    close(found.backbone, encoder_head.encoder(views.flatten(0, 1)).unflatten(0, (2, IMAGES)))
    assert found.backbone.shape[-1] == FEATURES


@pytest.mark.parametrize("projection", [(0,), (8, -1)], ids=str)
def test_a_projection_without_units_is_refused(projection: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"projection is a list of layers' widths, each at least 1, got \["):
        DeltaGuide(SmoothEncoder(), MixturePrior(LATENT), projection=projection)


class TestMixturePriorOfUnitNorm(PriorSuite):
    def make(self, latent_dim: int) -> MixturePrior:
        return MixturePrior(latent_dim, 4, unit_norm=True, style_variance=0.4)


class TestDeltaGuideOfUnitNorm(GuideSuite):
    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return DeltaGuide(encoder, prior, unit_norm=True)


class TestDeltaGuideWithProjection(GuideSuite):
    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return DeltaGuide(encoder, prior, projection=[8])


class TestSwappedPrediction(ObjectiveSuite):
    additive: ClassVar[bool] = False  # shares are those of the batch
    exact_gradient: ClassVar[bool] = False  # codes are constants
    least_views: ClassVar[int] = 2
    # No pixels are modelled, so the decoder is left alone.
    without_gradient: ClassVar[Sequence[str]] = (
        "decoder.0.weight",
        "decoder.0.bias",
        "decoder.2.weight",
        "decoder.2.bias",
    )

    def make_prior(self, latent_dim: int) -> Prior:
        return MixturePrior(latent_dim, 4, unit_norm=True, style_variance=0.1)

    def make_guide(self, encoder: nn.Module, prior: Prior) -> Guide:
        return DeltaGuide(encoder, prior, unit_norm=True)

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return SwAV(SimVE(model.prior), guide)


# The device, and what could go wrong with numbers.


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "networks in bfloat16"])
@pytest.mark.parametrize("make", [swav, instances])
def test_a_training_step_reads_nothing_back(make: Callable[[int], nn.Module], precision: torch.dtype | None) -> None:
    """Over an epoch and the turn to the next, the optimizer's steps included."""
    objective = make(16).float()
    plan = Plan(batch_size=8, total_steps=100, lr=1e-2, schedule=WarmupCosine(), seed=0, fetch_every=100)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    loop = Loop(fabric, objective, Images(small_images(16), STILL, views=2), plan)
    with network_precision(precision):
        for _ in range(VALIDATED_STEPS):
            loop.step()
        before = mixture_of(objective).points.detach().clone()
        with read_backs() as found:
            for _ in range(loop.steps_per_epoch + 1):
                loop.step()
    assert found == []
    assert (mixture_of(objective).points != before).any(-1).all()


EXTREME: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda views: views,
    "two images": lambda views: views[:, :2],
    "one image": lambda views: views[:, :1],
    "every image twice": lambda views: views.repeat(1, 2, 1, 1, 1),
    "all the same": torch.zeros_like,
}


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "networks in bfloat16"])
@pytest.mark.parametrize("batch", [*EXTREME, "embeddings of zero", "equal prototypes"])
@pytest.mark.parametrize("style_variance", [1e-4, 0.01])
@pytest.mark.parametrize("make", [swav, instances])
def test_extreme_batches_have_finite_losses_and_gradients(
    make: Callable[[int, float], nn.Module], style_variance: float, batch: str, precision: torch.dtype | None
) -> None:
    objective: Any = make(12, style_variance).float().train()
    views = EXTREME.get(batch, EXTREME["as they are"])(draw_views(2, torch.float32))
    with torch.no_grad():
        if batch == "embeddings of zero":
            objective.guide.encoder_head.head.weight.zero_()
            objective.guide.encoder_head.head.bias.zero_()
        elif batch == "equal prototypes":
            mixture_of(objective).points[:] = mixture_of(objective).points[0]
    arguments = [torch.arange(views.shape[1])] if objective.indexed else []
    with network_precision(precision):
        loss = objective(views, *arguments)["loss"]
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    for gradient in gradients(loss, list(objective.parameters())):
        assert torch.isfinite(gradient).all()
    assert torch.isfinite(mixture_of(objective).points).all()


# What is refused.


def make_swapped(prior: Prior | None = None, **options: Any) -> SwAV:
    prior = MixturePrior(LATENT) if prior is None else prior
    return SwAV(SimVE(prior), DeltaGuide(SmoothEncoder(), prior), **options)


def make_instances(prior: Prior | None = None, **options: Any) -> InstanceDiscrimination:
    prior = MixturePrior(LATENT, learn_prototypes=False) if prior is None else prior
    return InstanceDiscrimination(SimVE(prior), DeltaGuide(SmoothEncoder(), prior), **options)


@pytest.mark.parametrize("sharpness", [0.0, -1.0, math.inf, math.nan])
def test_a_sharpness_that_is_not_positive_is_refused(sharpness: float) -> None:
    with pytest.raises(ValueError, match=f"sharpness must be positive and finite, got {sharpness}"):
        make_swapped(sharpness=sharpness)


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        make_swapped(iterations=0)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, math.nan])
def test_a_momentum_that_keeps_all_or_goes_beyond_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"momentum must be in \[0, 1\), got {momentum}"):
        make_instances(momentum=momentum)


@pytest.mark.parametrize("make", [make_swapped, make_instances])
def test_another_prior_has_no_prototypes(make: Callable[[Prior], nn.Module]) -> None:
    with pytest.raises(ValueError, match="prototypes are those of a MixturePrior, got FlatPrior"):
        make(FlatPrior(LATENT))


@pytest.mark.parametrize("made", [SwAV, InstanceDiscrimination])
def test_a_program_that_observes_something_is_refused(made: Callable[[SimVE, nn.Module], nn.Module]) -> None:
    prior = MixturePrior(LATENT, learn_prototypes=False)
    with pytest.raises(ValueError, match="is of z alone, so it needs a model that observes nothing"):
        made(SimVE(prior, group=NTXent()), DeltaGuide(SmoothEncoder(), prior))


def test_a_single_view_has_no_other_to_predict() -> None:
    with pytest.raises(ProgramError, match="needs 2 views or more; got 1"):
        swav()(draw_views(1))


def test_instances_need_to_be_told_apart() -> None:
    objective, views = instances(), draw_views(2)
    assert objective.indexed
    with pytest.raises(ProgramError, match="must know which of the data's images it sees: pass index"):
        objective(views)


def test_learned_prototypes_are_no_memory() -> None:
    with pytest.raises(ValueError, match=r"remembered and not learned; build the mixture with learn_prototypes=False"):
        make_instances(MixturePrior(LATENT))

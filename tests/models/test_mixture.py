"""Priors with content among K points: mixtures in full, enumeration by Pyro, and the memory of `EmpiricalPrior`."""

from __future__ import annotations

import copy
import io
import math
import re
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.distributions import Normal

from pp_simve.inference import ELBO, AmortizedGuide, DeltaGuide, Guide, PointGuide, StructuredGuide
from pp_simve.models import Bernoulli, EmpiricalPrior, Gaussian, MixturePrior, SimVE

from ..inference.programs import PIXELS, SHAPE, SmoothEncoder

IMAGES, LATENT, VIEWS, COUNT = 4, 3, 2, 5
STYLE = [0.125, 0.5, 2.0]
WEIGHTS = [0.5, 0.25, 0.125, 0.0625, 0.0625]
DOUBLE = torch.float64


def draw_z(views: int = VIEWS, images: int = IMAGES) -> Tensor:
    return torch.randn(views, images, LATENT, dtype=DOUBLE)


def make_mixture(**options: Any) -> MixturePrior:
    """Five prototypes, spread as z is, in float64."""
    return MixturePrior(LATENT, COUNT, WEIGHTS, STYLE, **{"content_variance": 1.0, **options}).double()


def plain_log_joint(prior: MixturePrior, z: Tensor, precision: Tensor | None = None) -> Tensor:
    """log π_k + Σ_j log N(z_j; m_k, Σ + 1/precision_j) of each image and prototype, by loops."""
    joint = torch.zeros(z.shape[1], COUNT, dtype=DOUBLE)
    style = torch.tensor(STYLE, dtype=DOUBLE)
    for image in range(z.shape[1]):
        for number in range(COUNT):
            total = torch.tensor(WEIGHTS[number], dtype=DOUBLE).log()
            for view in range(len(z)):
                variance = style if precision is None else style + 1 / precision[view, image]
                total = total + Normal(prior.prototypes()[number], variance.sqrt()).log_prob(z[view, image]).sum()
            joint[image, number] = total
    return joint.detach()


@pytest.mark.parametrize("noisy", [False, True], ids=["z known", "z up to noise"])
@pytest.mark.parametrize("views", [1, 2, 5])
def test_density_and_posterior_are_those_of_a_loop_over_prototypes(views: int, noisy: bool) -> None:
    prior, z = make_mixture(), draw_z(views)
    precision = torch.rand_like(z) * 4 + 0.2 if noisy else None
    joint = plain_log_joint(prior, z, precision)
    # Weights are kept as float32 logarithms before the prior becomes float64.
    torch.testing.assert_close(prior.log_marginal(z, precision), joint.logsumexp(-1), rtol=0, atol=1e-6)
    posterior = prior.content_posterior(z, precision)
    assert posterior.batch_shape == (1, IMAGES)
    torch.testing.assert_close(posterior.probabilities[0], joint.softmax(-1), rtol=0, atol=1e-6)
    if not noisy:
        assert prior.responsibilities(z).shape == (IMAGES, COUNT)
        torch.testing.assert_close(prior.responsibilities(z), joint.softmax(-1), rtol=0, atol=1e-6)


def test_responsibilities_add_up_and_are_certain_at_a_prototype_far_from_others() -> None:
    prior = MixturePrior(LATENT, 10.0 * torch.eye(LATENT), style_variance=0.1).double()
    at_each = prior.prototypes().detach().expand(VIEWS, -1, -1)
    torch.testing.assert_close(prior.responsibilities(at_each), torch.eye(LATENT, dtype=DOUBLE), rtol=0, atol=1e-12)
    wild = 1e4 * draw_z()
    assert torch.isfinite(prior.log_marginal(wild)).all()
    torch.testing.assert_close(prior.responsibilities(wild).sum(-1), torch.ones(IMAGES, dtype=DOUBLE))


def test_equal_prototypes_are_one_of_their_summed_weight() -> None:
    first, second = [1.0, 0.5, -2.0], [-1.0, 0.0, 0.25]
    double = MixturePrior(LATENT, [first, second, first], [0.25, 0.5, 0.25], STYLE).double()
    single = MixturePrior(LATENT, [first, second], [0.5, 0.5], STYLE).double()
    z = draw_z()
    torch.testing.assert_close(double.log_marginal(z), single.log_marginal(z), rtol=0, atol=1e-6)
    shared, expected = double.responsibilities(z), single.responsibilities(z)
    torch.testing.assert_close(shared[:, 0], shared[:, 2])
    torch.testing.assert_close(shared[:, 0] + shared[:, 2], expected[:, 0], rtol=0, atol=1e-6)
    content = double.prototypes()[0].detach()
    ours, theirs = (prior.content_posterior(z).log_prob(content) for prior in (double, single))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    # So that its density over its posterior is still the marginal, whatever the content drawn.
    joint = double.content().log_prob(content) + double.style(content).log_prob(double.decompose(content, z)).sum(0)
    torch.testing.assert_close(joint - ours[0], double.log_marginal(z), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "learned"),
    [
        ({}, ["points"]),
        ({"learn_prototypes": False}, []),
        ({"learn_prototypes": False, "learn_weights": True}, ["logits"]),
    ],
)
def test_what_is_learned_is_a_parameter(options: dict[str, bool], learned: list[str]) -> None:
    assert [name for name, _ in make_mixture(**options).named_parameters()] == learned


def test_given_prototypes_are_copied_and_weights_normalised() -> None:
    given = torch.eye(LATENT)
    prior = MixturePrior(LATENT, given, [3, 1, 4])
    given.fill_(9.0)
    assert torch.equal(prior.prototypes().detach(), torch.eye(LATENT))
    torch.testing.assert_close(prior.log_weights().exp(), torch.tensor([3.0, 1.0, 4.0]) / 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prototypes": 0}, "prototypes must be at least 1, got 0"),
        ({"prototypes": [[1.0, 2.0]]}, "points of shape (K, 3), got shape (1, 2)"),
        ({"prototypes": 2, "weights": [1.0]}, "weights must be 2 positive numbers, one per prototype, got [1.0]"),
        ({"prototypes": 2, "weights": [1.0, 0.0]}, "weights must be 2 positive numbers"),
        ({"prototypes": 2, "weights": [1.0, math.nan]}, "weights must be 2 positive numbers"),
        ({"content_variance": 0.0}, "content_variance must be positive and finite, got 0.0"),
        ({"prototypes": [[0.0, math.nan, 1.0]]}, "prototypes must be finite"),
        ({"style_variance": 0.0}, "style_variance must be positive and finite, got 0.0"),
    ],
)
def test_impossible_arguments_of_a_mixture_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MixturePrior(LATENT, **arguments)


# Pyro sums over the prototypes.


def make_pair(make_guide: Callable[..., Guide], prior: MixturePrior | EmpiricalPrior) -> tuple[SimVE, Guide]:
    decoder = nn.Sequential(nn.Linear(LATENT, 5), nn.Tanh(), nn.Linear(5, PIXELS), nn.Unflatten(-1, SHAPE))
    return SimVE(prior, Bernoulli(decoder)).double(), make_guide(SmoothEncoder(), prior).double()


def enumerated_loss(model: nn.Module, guide: nn.Module, views: Tensor) -> Tensor:
    """Pyro's loss with content summed over in the guide."""
    programs = [partial(nn.Module.__call__, module) for module in (model, guide)]
    oracle, default = TraceEnum_ELBO(max_plate_nesting=2), torch.get_default_dtype()
    torch.set_default_dtype(DOUBLE)  # Pyro's zeros for deterministic sites are of the default type
    try:
        loss: Tensor = oracle.differentiable_loss(programs[0], config_enumerate(programs[1]), views)
    finally:
        torch.set_default_dtype(default)
    return loss


def test_summed_over_content_the_amortized_guide_has_the_collapsed_bound() -> None:
    """Σ_k r_k [log π_k + log p(z | k) − log r_k] = log p(z), so that nothing is left of the sum but z's density."""
    prior, views = make_mixture(learn_weights=True), torch.rand(VIEWS, IMAGES, *SHAPE, dtype=DOUBLE)
    model, guide = make_pair(AmortizedGuide, prior)
    pyro.set_rng_seed(3)
    loss = enumerated_loss(model, guide, views)
    pyro.set_rng_seed(3)
    q = guide.recognition(views)
    z = q.rsample()
    collapsed = model.likelihood(z).log_prob(views).sum() + prior.log_marginal(z).sum() - q.log_prob(z).sum()
    torch.testing.assert_close(-loss, collapsed, rtol=1e-12, atol=1e-12)
    parameters = [*model.parameters(), *guide.recognition.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(-loss, parameters), torch.autograd.grad(collapsed, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    pyro.set_rng_seed(3)
    sampled = ELBO(model, guide, scale=1)(views)["loss"]
    torch.testing.assert_close(sampled, loss, rtol=1e-12, atol=1e-12)


def test_summed_over_content_the_structured_guide_has_the_bound_of_each_prototype_by_its_responsibility() -> None:
    prior, views = make_mixture(), torch.rand(VIEWS, IMAGES, *SHAPE, dtype=DOUBLE)
    model, guide = make_pair(StructuredGuide, prior)
    with torch.no_grad():
        guide.recognition.encoder_head.head.bias[LATENT:] = 0.5  # wide potentials: several prototypes remain possible
    pyro.set_rng_seed(3)
    losses = torch.stack([enumerated_loss(model, guide, views).detach() for _ in range(80)])
    location, precision = guide.potentials(guide.recognition.features(views))
    responsibilities = prior.content_posterior(location, precision).probabilities[0]
    assert float(responsibilities.detach().max(-1).values.min()) < 0.9
    bound = torch.zeros((), dtype=DOUBLE)
    style, spread = torch.tensor(STYLE, dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)
    draws = 1000
    for number in range(COUNT):
        point = prior.prototypes()[number].detach()
        total = 1 / style + precision
        mean, variance = precision * (location - point) / total, 1 / total
        divergence = 0.5 * (variance / style + mean.square() / style - 1 - (variance / style).log()).sum((0, 2))
        z = point + mean + variance.sqrt() * torch.randn(draws, VIEWS, IMAGES, LATENT, dtype=DOUBLE)
        seen = model.likelihood(z).log_prob(views).sum(1)
        weight = responsibilities[:, number]
        each = math.log(WEIGHTS[number]) - weight.log() - divergence + seen.mean(0)
        bound = bound + (weight * each).sum().detach()
        spread = spread + (weight.square() * seen.var(0)).sum().detach() / len(z)
    error = float((losses.var() / len(losses) + spread).sqrt())
    assert abs(float(-losses.mean() - bound)) < 4.5 * error
    assert error < 0.4


def test_summed_over_content_the_exact_structured_guide_has_the_evidence_of_a_linear_program() -> None:
    """One pixel an axis, x = z + noise: log Σ_k π_k Π_j N(x_j; m_k, Σ + noise); the potentials are N(x, noise)."""
    noise, prior = 0.25, make_mixture()
    model = SimVE(prior, Gaussian(nn.Unflatten(-1, (1, 1, LATENT)), noise)).double()
    views = torch.randn(VIEWS, IMAGES, 1, 1, LATENT, dtype=DOUBLE)

    class Exact(StructuredGuide):
        def potentials(self, features: Tensor) -> tuple[Tensor, Tensor]:
            return features, torch.full_like(features, 1 / noise)

    guide = Exact(nn.Flatten(), prior, features=LATENT).double()
    z = views.flatten(2)
    expected = plain_log_joint(prior, z, torch.full_like(z, 1 / noise)).logsumexp(-1).sum()
    torch.testing.assert_close(-enumerated_loss(model, guide, views).detach(), expected, rtol=0, atol=1e-5)


# Prototypes that are the data's own.


def contents_of(z: Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in z.mean(0).tolist()]


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3, 3], [8, 8], [5, 11, 3], [20]])
def test_a_memory_keeps_the_last_images_first_in_first_out(sizes: list[int]) -> None:
    prior = EmpiricalPrior(LATENT, 8).double()
    start = [tuple(row) for row in prior.prototypes().tolist()]
    expected = deque(start, maxlen=8)
    for size in sizes:
        z = draw_z(images=size)
        prior.remember(z)
        expected.extend(contents_of(z))
        found = [tuple(row) for row in prior.prototypes().tolist()]
        assert sorted(found) == sorted(expected)
    if sum(sizes) >= 8:
        assert not set(found) & set(start)


def test_candidates_have_equal_weights_and_make_a_mixture() -> None:
    z, seen = draw_z(), draw_z(images=6)
    prior = EmpiricalPrior(LATENT, 6, STYLE).double()
    prior.remember(seen)
    mixture = MixturePrior(LATENT, 6, style_variance=STYLE).double()
    with torch.no_grad():
        mixture.points.copy_(seen.mean(0))
    torch.testing.assert_close(prior.log_weights().exp(), torch.full((6,), 1 / 6, dtype=DOUBLE))
    torch.testing.assert_close(prior.log_marginal(z), mixture.log_marginal(z), rtol=0, atol=1e-6)
    torch.testing.assert_close(prior.responsibilities(z), mixture.responsibilities(z), rtol=0, atol=1e-6)


def test_a_memory_does_not_remember_in_evaluation() -> None:
    prior = EmpiricalPrior(LATENT, 8).eval()
    before = copy.deepcopy(prior.state_dict())
    prior.remember(torch.randn(VIEWS, IMAGES, LATENT))
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())
    prior.train().remember(torch.randn(VIEWS, IMAGES, LATENT))
    assert not torch.equal(prior.bank, before["bank"])


def test_what_a_batch_was_scored_by_stays_as_it_was_when_the_next_is_remembered() -> None:
    """Else a second forward pass before the backward pass would spoil the first one's gradient."""
    prior = EmpiricalPrior(LATENT, 8).double()
    z = draw_z().requires_grad_()
    prior.remember(z)
    before = prior.prototypes().clone()
    loss = prior.log_marginal(z).sum()
    reference = MixturePrior(LATENT, 8, learn_prototypes=False).double()
    reference.points.copy_(before)
    prior.remember(draw_z())
    (slope,) = torch.autograd.grad(loss, z)
    (expected,) = torch.autograd.grad(reference.log_marginal(z).sum(), z)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-9)


def test_the_batch_at_hand_is_its_own_candidates_with_their_gradient() -> None:
    prior = EmpiricalPrior(LATENT, None, STYLE).double()
    z = draw_z().requires_grad_()
    prior.remember(z)
    assert torch.equal(prior.prototypes(), z.mean(0))
    assert prior.prototypes().requires_grad

    def density(z: Tensor) -> Tensor:
        prior.remember(z)
        return prior.log_marginal(z)

    assert gradcheck(density, (z,))
    single = draw_z(images=1)
    prior.eval().remember(single)
    assert torch.equal(prior.prototypes(), single.mean(0))
    assert not prior.state_dict().keys() & {"bank", "next"}


def test_before_any_batch_there_are_no_candidates_and_the_error_says_what_to_do() -> None:
    prior = EmpiricalPrior(LATENT, None)
    z = torch.randn(VIEWS, IMAGES, LATENT)
    for ask in (prior.prototypes, prior.content, prior.log_weights, lambda: prior.log_marginal(z)):
        with pytest.raises(
            RuntimeError, match=r"no candidates before a guide was called with a batch; call remember\(z\)"
        ):
            ask()


@pytest.mark.parametrize("memory", [None, 8])
def test_after_a_batch_it_can_be_copied_and_saved(memory: int | None) -> None:
    prior = EmpiricalPrior(LATENT, memory).double()
    z = draw_z().requires_grad_()
    prior.remember(2 * z)
    copied = copy.deepcopy(prior)
    buffer = io.BytesIO()
    torch.save(prior, buffer)
    buffer.seek(0)
    for other in (copied, torch.load(buffer, weights_only=False)):
        other.remember(draw_z())
        assert not torch.equal(other.prototypes(), prior.prototypes())
        other.remember(z)
        assert torch.isfinite(other.log_marginal(z)).all()
    # The copied prior lost nothing.
    assert prior.prototypes().shape == (memory or IMAGES, LATENT)


@pytest.mark.parametrize("memory", [None, 6])
@pytest.mark.parametrize("make_guide", [AmortizedGuide, PointGuide, DeltaGuide], ids=lambda make: make.__name__)
def test_guides_call_remember_before_they_infer_content(make_guide: Callable[..., Guide], memory: int | None) -> None:
    prior = EmpiricalPrior(LATENT, memory)
    model, guide = make_pair(make_guide, prior)
    views = torch.rand(VIEWS, IMAGES, *SHAPE, dtype=DOUBLE)
    loss = ELBO(model, guide)(views)["loss"]
    assert torch.isfinite(loss)
    loss.backward()
    if memory is None:
        assert prior.prototypes().shape == (IMAGES, LATENT)
    else:
        assert int(prior.next) == IMAGES
        guide.eval()
        guide.posterior(views)
        assert int(prior.next) == IMAGES


@pytest.mark.parametrize("memory", [0, -1])
def test_an_impossible_memory_is_refused(memory: int) -> None:
    with pytest.raises(ValueError, match=f"memory must be at least 1 image, .* got {memory}"):
        EmpiricalPrior(LATENT, memory)

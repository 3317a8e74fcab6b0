"""Views of several modalities, such as a picture and its attributes: the paper's program, with a decoder a modality.

Where everything is linear and Gaussian, an image's latents and the pixels of all its views are one dense Gaussian. What
is expected of the package is read off that Gaussian, whose latents are ordered content, style_1, …, style_J.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn import functional

from pp_simve.inference import (
    ELBO,
    IWAE,
    AmortizedGuide,
    AnalyticELBO,
    ConsistencyELBO,
    DecoderFreeELBO,
    DeltaGuide,
    DenoisingELBO,
    FlowGuide,
    Guide,
    PointGuide,
    ProgramError,
    StructuredGuide,
)
from pp_simve.inference.guides.heads import ModalityHeads
from pp_simve.inference.guides.recognition import SMALLEST_SCALE, START_SCALE
from pp_simve.models import FlatPrior, Gaussian, GaussianPrior, InfoNCE, SimVE

LATENT, IMAGES = 3, 4
SHAPES = {"picture": (1, 2, 3), "attributes": (5, 1, 1)}
PIXEL_VARIANCE = {"picture": 0.25, "attributes": 0.5}
CONTENT, STYLE = [0.5, 1.0, 2.0], [0.125, 0.25, 1.0]
DOUBLE = torch.float64
COUNTS: dict[str, dict[str, int]] = {
    "one of each": {"picture": 1, "attributes": 1},
    "the other way round": {"attributes": 1, "picture": 1},
    "two and one": {"picture": 2, "attributes": 1},
    "one and two": {"picture": 1, "attributes": 2},
    "two and one the other way round": {"attributes": 2, "picture": 1},
    "pictures alone": {"picture": 2},
    "one picture": {"picture": 1},
    "attributes alone": {"attributes": 1},
}


@pytest.fixture(autouse=True)
def local_parameters() -> Iterator[None]:
    """Parameters belong to their module, not to Pyro's global store."""
    with pyro.settings.context(module_local_params=True):
        yield
    pyro.clear_param_store()


# The linear program of several modalities.


@dataclass(frozen=True)
class Linear:
    """x = W z + b + ε of one modality, ε ~ N(0, variance), W's columns orthogonal, so that a view's potential is
    diagonal.

    Attributes:
        weight: W, shape ``(pixel, latent)``.
        bias: b, shape ``(pixel,)``.
        variance: of ε.
        shape: of an image.
    """

    weight: Tensor
    bias: Tensor
    variance: float
    shape: tuple[int, int, int]

    @property
    def precision(self) -> Tensor:
        """Wᵀ W / variance, shape ``(latent,)``."""
        return self.weight.square().sum(0) / self.variance


def make_modalities() -> dict[str, Linear]:
    """From the current random state."""
    modalities = {}
    for modality, lengths in {"picture": [1.125, 0.75, 0.5], "attributes": [0.25, 1.5, 0.625]}.items():
        pixels = math.prod(SHAPES[modality])
        columns = torch.linalg.qr(torch.randn(pixels, LATENT, dtype=DOUBLE)).Q * torch.tensor(lengths, dtype=DOUBLE)
        modalities[modality] = Linear(
            columns, 0.3 * torch.randn(pixels, dtype=DOUBLE), PIXEL_VARIANCE[modality], SHAPES[modality]
        )
    return modalities


class Dense:
    """The Gaussian over latents and pixels of an image whose views are of these modalities, one after the other."""

    def __init__(self, modalities: Mapping[str, Linear], counts: Mapping[str, int]) -> None:
        views = [modalities[modality] for modality, count in counts.items() for _ in range(count)]
        rows = []
        for place, linear in enumerate(views):
            row = torch.zeros(len(linear.bias), (1 + len(views)) * LATENT, dtype=DOUBLE)
            row[:, :LATENT] = linear.weight
            row[:, (1 + place) * LATENT : (2 + place) * LATENT] = linear.weight
            rows.append(row)
        self.of_latents = torch.cat(rows)
        self.bias = torch.cat([linear.bias for linear in views])
        self.prior = torch.tensor(CONTENT + STYLE * len(views), dtype=DOUBLE).diag()
        noise = torch.cat([torch.full_like(linear.bias, linear.variance) for linear in views])
        self.covariance = self.of_latents @ self.prior @ self.of_latents.T + noise.diag()

    def evidence(self, views: Mapping[str, Tensor]) -> Tensor:
        """log p(views), shape ``(image,)``."""
        return MultivariateNormal(self.bias, self.covariance).log_prob(pixels(views))

    def posterior_mean(self, views: Mapping[str, Tensor]) -> Tensor:
        """Shape ``(1 + view, image, latent)``: content, and the style of each view."""
        gain = torch.linalg.solve(self.covariance, self.of_latents @ self.prior)
        return ((pixels(views) - self.bias) @ gain).unflatten(1, (-1, LATENT)).transpose(0, 1)

    def posterior_covariance(self) -> Tensor:
        """Shape ``(latents, latents)``."""
        across = self.of_latents @ self.prior
        return self.prior - across.T @ torch.linalg.solve(self.covariance, across)


def pixels(views: Mapping[str, Tensor]) -> Tensor:
    """Of all views of an image, side by side: shape ``(image, pixels of all views)``."""
    return torch.cat([view.flatten(1) for batch in views.values() for view in batch], 1)


def draw_views(modalities: Mapping[str, Linear], counts: Mapping[str, int], images: int = IMAGES) -> dict[str, Tensor]:
    """From the program itself, so many views of each modality, in that order."""
    content = torch.randn(images, LATENT, dtype=DOUBLE) * torch.tensor(CONTENT, dtype=DOUBLE).sqrt()
    views = {}
    for modality, count in counts.items():
        linear = modalities[modality]
        style = torch.randn(count, images, LATENT, dtype=DOUBLE) * torch.tensor(STYLE, dtype=DOUBLE).sqrt()
        mean = (content + style) @ linear.weight.T + linear.bias
        views[modality] = (mean + linear.variance**0.5 * torch.randn_like(mean)).unflatten(-1, linear.shape)
    return views


def make_prior(*, learned: bool = False) -> GaussianPrior:
    return GaussianPrior(LATENT, CONTENT, STYLE, learn_content=learned, learn_style=learned).double()


def make_model(prior: GaussianPrior, modalities: Mapping[str, Linear]) -> SimVE:
    """The program in float64, each modality's decoder set to its map."""
    likelihoods = {}
    for modality, linear in modalities.items():
        decoder = nn.Linear(LATENT, len(linear.bias))
        likelihood = Gaussian(nn.Sequential(decoder, nn.Unflatten(-1, linear.shape)), learned=True).double()
        with torch.no_grad():
            decoder.weight.copy_(linear.weight)
            decoder.bias.copy_(linear.bias)
            likelihood.log_scale.copy_(torch.tensor(0.5 * math.log(linear.variance), dtype=DOUBLE))
        likelihoods[modality] = likelihood
    return SimVE(prior, likelihoods).double()


class TanhEncoder(nn.Sequential):
    """Features of the pixels, differentiable everywhere."""

    def __init__(self, shape: tuple[int, int, int], features: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), features), nn.Tanh())
        self.features = features


class LinearEncoder(nn.Sequential):
    """The mean of a view's potential, linear in its pixels."""

    features = LATENT

    def __init__(self, linear: Linear) -> None:
        layer = nn.Linear(len(linear.bias), LATENT).double()
        super().__init__(nn.Flatten(), layer)
        with torch.no_grad():
            to_mean = linear.weight.T / linear.variance / linear.precision.unsqueeze(-1)
            layer.weight.copy_(to_mean)
            layer.bias.copy_(-to_mean @ linear.bias)


def tanh_encoders() -> dict[str, nn.Module]:
    """One a modality, of different widths."""
    return {modality: TanhEncoder(shape, 4 + place) for place, (modality, shape) in enumerate(SHAPES.items())}


def exact_guide(prior: GaussianPrior, modalities: Mapping[str, Linear]) -> StructuredGuide:
    """The potentials are the likelihoods' own, so that the guide is the posterior."""
    guide = StructuredGuide(
        {modality: LinearEncoder(linear) for modality, linear in modalities.items()}, prior
    ).double()
    modal = guide.recognition.encoder_head
    assert isinstance(modal, ModalityHeads)
    for linear, head in zip(modalities.values(), modal.heads(), strict=True):
        scale = linear.precision.rsqrt()
        with torch.no_grad():
            head.weight.zero_()
            # The head gives the mean of the potential times N(0, 1).
            head.weight[:LATENT] = (1 / (1 + scale.square())).diag()
            head.bias[:LATENT] = 0
            head.bias[LATENT:] = (scale - SMALLEST_SCALE).expm1().log()  # the inverse of softplus
    return guide


@pytest.fixture
def modalities() -> dict[str, Linear]:
    return make_modalities()


def amortized_pair(modalities: Mapping[str, Linear]) -> tuple[SimVE, AmortizedGuide]:
    prior = make_prior(learned=True)
    return make_model(prior, modalities), AmortizedGuide(tanh_encoders(), prior).double()


def log_weights(model: SimVE, guide: Guide, views: Mapping[str, Tensor], particles: int) -> Tensor:
    """log p(views, latents) − log q(latents | views) of draws of the guide, by Pyro alone: ``(particle, image)``."""

    def repeated(module: nn.Module) -> Any:
        return pyro.plate("particles", particles, dim=-3)(partial(nn.Module.__call__, module))

    drawn = poutine.trace(repeated(guide)).get_trace(views)
    scored = poutine.trace(poutine.replay(repeated(model), trace=drawn)).get_trace(views)
    total = torch.zeros(particles, next(iter(views.values())).shape[1], dtype=DOUBLE)
    for trace, sign in ((scored, 1), (drawn, -1)):
        trace.compute_log_prob()
        for site in trace.nodes.values():
            if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample":
                total += sign * site["log_prob"].sum(-2)
    return total


# The evidence.


@pytest.mark.parametrize("counts", COUNTS)
def test_every_draw_of_the_exact_structured_guide_weighs_as_much_as_the_evidence(
    counts: str, modalities: dict[str, Linear]
) -> None:
    prior, views = make_prior(), draw_views(modalities, COUNTS[counts])
    model, guide = make_model(prior, modalities), exact_guide(prior, modalities)
    evidence = Dense(modalities, COUNTS[counts]).evidence(views)
    found = log_weights(model, guide, views, particles=50)
    torch.testing.assert_close(found, evidence.expand_as(found), rtol=0, atol=1e-9)


@pytest.mark.parametrize("counts", COUNTS)
def test_bounds_of_the_exact_structured_guide_are_the_evidence_whatever_their_samples(
    counts: str, modalities: dict[str, Linear]
) -> None:
    prior, views = make_prior(), draw_views(modalities, COUNTS[counts])
    model, guide = make_model(prior, modalities), exact_guide(prior, modalities)
    evidence = Dense(modalities, COUNTS[counts]).evidence(views)
    for objective in (
        ELBO(model, guide),
        ELBO(model, guide, particles=7),
        IWAE(model, guide, samples=1),
        IWAE(model, guide, samples=16),
    ):
        for validated in (True, False):
            with pyro.validation_enabled(validated):
                found = -objective(views)["loss"].detach()
            torch.testing.assert_close(found, evidence.mean(), rtol=0, atol=1e-9)
    for image in range(IMAGES):
        alone = {modality: batch[:, image : image + 1] for modality, batch in views.items()}
        found = -ELBO(model, guide)(alone)["loss"].detach()
        torch.testing.assert_close(found, evidence[image], rtol=0, atol=1e-9)


@pytest.mark.parametrize("modality", SHAPES)
def test_one_kinds_potentials_a_little_off_fall_short_of_the_evidence(
    modality: str, modalities: dict[str, Linear]
) -> None:
    counts, prior = COUNTS["one of each"], make_prior()
    views = draw_views(modalities, counts)
    model, guide = make_model(prior, modalities), exact_guide(prior, modalities)
    part: Any = guide.recognition.encoder_head
    with torch.no_grad():
        part.modalities[modality].head.bias[:LATENT] += 0.3
    short = Dense(modalities, counts).evidence(views) - log_weights(model, guide, views, particles=2000).detach()
    assert float(short.mean()) > 0.01
    assert float(short.std()) > 0.01


@pytest.mark.parametrize("reverse", ["views", "likelihoods", "encoders"])
def test_the_order_of_the_kinds_does_not_matter(reverse: str, modalities: dict[str, Linear]) -> None:
    """Nor need model, guide and views have the same one."""
    reversed_modalities = dict(reversed(modalities.items()))
    counts, prior = {"picture": 1, "attributes": 1}, make_prior()
    drawn = draw_views(modalities, counts)
    evidence, means = Dense(modalities, counts).evidence(drawn), Dense(modalities, counts).posterior_mean(drawn)
    views = dict(reversed(drawn.items())) if reverse == "views" else drawn
    model = make_model(prior, reversed_modalities if reverse == "likelihoods" else modalities)
    guide = exact_guide(prior, reversed_modalities if reverse == "encoders" else modalities)
    with pyro.validation_enabled(True):
        for objective in (ELBO(model, guide), IWAE(model, guide, samples=3)):
            torch.testing.assert_close(-objective(views)["loss"].detach(), evidence.mean(), rtol=0, atol=1e-9)
    found = guide.posterior(views)
    torch.testing.assert_close(found.content.detach(), means[0], rtol=0, atol=1e-10)
    styles = dict(zip(views, found.style.detach(), strict=True))
    for place, modality in enumerate(counts, start=1):
        torch.testing.assert_close(styles[modality], means[place], rtol=0, atol=1e-10)


# The bound of the amortized guide, written out.


def recognised(guide: AmortizedGuide, views: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and scale of each view's z, ``(view, image, latent)``, from the parameters of its modality's network."""
    state, means, scales = dict(guide.named_parameters()), [], []
    for modality, batch in views.items():
        prefix = f"recognition.encoder_head.modalities.{modality}."
        for view in batch:
            hidden = view.flatten(1) @ state[prefix + "encoder.1.weight"].T + state[prefix + "encoder.1.bias"]
            numbers = hidden.tanh() @ state[prefix + "head.weight"].T + state[prefix + "head.bias"]
            means.append(numbers[:, :LATENT])
            scales.append(numbers[:, LATENT:].exp().log1p() + SMALLEST_SCALE)
    return torch.stack(means), torch.stack(scales)


def reference_terms(
    model: SimVE, guide: AmortizedGuide, views: Mapping[str, Tensor], noise: Tensor
) -> dict[str, Tensor]:
    """log p(x | z), log p(z_1..J) and −log q(z), means per image, at z = mean + scale · noise."""
    mean, scale = recognised(guide, views)
    z = mean + scale * noise
    state, place = dict(model.named_parameters()), 0
    reconstruction = torch.zeros(z.shape[1], dtype=DOUBLE)
    for modality, batch in views.items():
        prefix = f"likelihood.{modality}."
        for view in batch:
            loc = z[place] @ state[prefix + "decoder.0.weight"].T + state[prefix + "decoder.0.bias"]
            density = Normal(loc, state[prefix + "log_scale"].exp()).log_prob(view.flatten(1))
            reconstruction = reconstruction + density.sum(1)
            place += 1
    count = len(z)
    prior = torch.zeros(z.shape[1], dtype=DOUBLE)
    for axis in range(LATENT):
        content, style = state["prior.content_variance.log"][axis].exp(), state["prior.style_variance.log"][axis].exp()
        covariance = style * torch.eye(count, dtype=DOUBLE) + content * torch.ones(count, count, dtype=DOUBLE)
        prior = prior + MultivariateNormal(torch.zeros(count, dtype=DOUBLE), covariance).log_prob(z[..., axis].T)
    log_q = (-0.5 * noise.square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum((0, 2))
    return {"reconstruction": reconstruction.mean(), "prior": prior.mean(), "entropy": -log_q.mean()}


def gradients(loss: Tensor, *modules: nn.Module) -> dict[str, Tensor | None]:
    parameters = dict(nn.ModuleList(modules).named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


def assert_same_gradients(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None], tolerance: float) -> None:
    for name, expected in theirs.items():
        found = ours[name]
        assert (found is None) == (expected is None), name
        if found is not None and expected is not None:
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("counts", COUNTS)
def test_value_terms_and_gradients_of_the_amortized_bound_equal_the_formula(
    counts: str, modalities: dict[str, Linear]
) -> None:
    model, guide = amortized_pair(modalities)
    views = draw_views(modalities, COUNTS[counts])
    pyro.set_rng_seed(3)
    z: Any = poutine.trace(guide).get_trace(views).nodes["z"]["value"]
    mean, scale = recognised(guide, views)
    noise = ((z - mean) / scale).detach()
    expected = reference_terms(model, guide, views, noise)
    pyro.set_rng_seed(3)
    terms = ELBO(model, guide)(views)
    assert set(terms) == {"loss", "reconstruction", "content", "style", "entropy"}
    loss = -torch.stack(list(expected.values())).sum()
    torch.testing.assert_close(terms["loss"], loss, rtol=1e-10, atol=1e-10)
    for name in ("reconstruction", "entropy"):
        torch.testing.assert_close(terms[name], expected[name].detach(), rtol=1e-10, atol=1e-10)
    of_prior = terms["content"] + terms["style"]
    torch.testing.assert_close(of_prior, expected["prior"].detach(), rtol=1e-10, atol=1e-10)
    ours, theirs = gradients(terms["loss"], model, guide), gradients(loss, model, guide)
    assert_same_gradients(ours, theirs, 1e-10)
    # Parts of a modality that is missing are left alone, those of others are not.
    for name, found in ours.items():
        missing = any(f".{modality}." in name for modality in SHAPES if modality not in COUNTS[counts])
        assert (found is None) == missing, name


@pytest.mark.parametrize("counts", ["one of each", "two and one", "pictures alone"])
def test_the_closed_form_divergence_is_that_of_dense_gaussians(counts: str, modalities: dict[str, Linear]) -> None:
    model, guide = amortized_pair(modalities)
    views = draw_views(modalities, COUNTS[counts])
    mean, scale = recognised(guide, views)
    divergence = torch.zeros(IMAGES, dtype=DOUBLE)
    for axis in range(LATENT):
        ones = torch.ones(len(mean), len(mean), dtype=DOUBLE)
        prior = STYLE[axis] * torch.eye(len(mean), dtype=DOUBLE) + CONTENT[axis] * ones
        q = MultivariateNormal(mean[..., axis].T, torch.diag_embed(scale[..., axis].T.square()))
        divergence += kl_divergence(q, MultivariateNormal(torch.zeros(len(mean), dtype=DOUBLE), prior)).detach()
    pyro.set_rng_seed(3)
    sampled = ELBO(model, guide)(views)
    pyro.set_rng_seed(3)
    terms = AnalyticELBO(model, guide)(views)
    torch.testing.assert_close(terms["divergence"], divergence.mean(), rtol=1e-7, atol=1e-7)  # the log of the variance
    torch.testing.assert_close(terms["reconstruction"], sampled["reconstruction"], rtol=1e-12, atol=1e-12)
    expected = terms["divergence"] - terms["reconstruction"]
    torch.testing.assert_close(terms["loss"].detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("guide", [AmortizedGuide, StructuredGuide, PointGuide], ids=lambda guide: guide.__name__)
def test_value_and_gradients_equal_trace_elbo(
    guide: type[AmortizedGuide | StructuredGuide | PointGuide],
    counts: str,
    particles: int,
    modalities: dict[str, Linear],
) -> None:
    prior = make_prior(learned=True)
    model, made = make_model(prior, modalities), guide(tanh_encoders(), prior).double()
    views = draw_views(modalities, COUNTS[counts])
    with pyro.validation_enabled(True):
        pyro.set_rng_seed(3)
        ours = ELBO(model, made, particles=particles, scale=1)(views)["loss"]
        pyro.set_rng_seed(3)
        oracle = Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=2)
        theirs = oracle.differentiable_loss(model, made, views)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert_same_gradients(gradients(ours, model, made), gradients(theirs, model, made), 1e-11)


@pytest.mark.parametrize("counts", ["one of each", "two and one", "attributes alone"])
def test_particles_and_the_importance_weighted_bound_average_the_weights_of_pyros_traces(
    counts: str, modalities: dict[str, Linear]
) -> None:
    model, guide = amortized_pair(modalities)
    views, samples = draw_views(modalities, COUNTS[counts]), 5
    pyro.set_rng_seed(3)
    weights = log_weights(model, guide, views, samples)
    pyro.set_rng_seed(3)
    averaged = ELBO(model, guide, particles=samples)(views)
    torch.testing.assert_close(-averaged["loss"], weights.mean(), rtol=1e-12, atol=1e-12)
    pyro.set_rng_seed(3)
    terms = IWAE(model, guide, samples=samples)(views)
    bound = (weights.exp().mean(0)).log().mean()
    torch.testing.assert_close(-terms["loss"], bound, rtol=1e-10, atol=1e-10)
    for name in ("reconstruction", "content", "style", "entropy"):
        torch.testing.assert_close(terms[name], averaged[name], rtol=1e-12, atol=1e-12)


# A modality may be missing.


@pytest.mark.parametrize("counts", COUNTS)
def test_content_and_style_are_inferred_from_the_kinds_that_are_there(
    counts: str, modalities: dict[str, Linear]
) -> None:
    guide, views = exact_guide(make_prior(), modalities), draw_views(modalities, COUNTS[counts])
    dense = Dense(modalities, COUNTS[counts])
    means = dense.posterior_mean(views)
    found = guide.posterior(views)
    torch.testing.assert_close(found.content.detach(), means[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(found.style.detach(), means[1:], rtol=0, atol=1e-10)
    torch.testing.assert_close(found.z.detach(), means[0] + means[1:], rtol=0, atol=1e-10)
    content: Any = poutine.trace(guide).get_trace(views).nodes["content"]["fn"]
    variance = dense.posterior_covariance()[:LATENT, :LATENT]
    expected = variance.diag().expand(1, IMAGES, LATENT)
    torch.testing.assert_close(content.base_dist.variance.detach(), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(variance, variance.diag().diag(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("counts", COUNTS)
def test_the_content_of_an_amortized_guide_weighs_the_views_of_all_kinds_alike(
    counts: str, modalities: dict[str, Linear]
) -> None:
    """The mean of content given z_1..J is Σ_j z_j / (J + style / content variance)."""
    _, guide = amortized_pair(modalities)
    views = draw_views(modalities, COUNTS[counts])
    z, _ = recognised(guide, views)
    ratio = torch.tensor(STYLE, dtype=DOUBLE) / torch.tensor(CONTENT, dtype=DOUBLE)
    found = guide.posterior(views)
    torch.testing.assert_close(found.z, z, rtol=1e-12, atol=1e-12)
    content = z.sum(0) / (len(z) + ratio)
    torch.testing.assert_close(found.content, content, rtol=1e-6, atol=1e-7)  # the logs of the variances
    torch.testing.assert_close(found.style, z - found.content, rtol=1e-12, atol=1e-12)


def test_a_kind_that_joins_changes_what_is_known_of_content(modalities: dict[str, Linear]) -> None:
    guide, views = exact_guide(make_prior(), modalities), draw_views(modalities, COUNTS["one of each"])
    both = guide.posterior(views).content
    for modality, batch in views.items():
        assert float((guide.posterior({modality: batch}).content - both).abs().max().detach()) > 0.1


@pytest.mark.parametrize("modality", SHAPES)
def test_images_of_one_kind_are_embedded(modality: str, modalities: dict[str, Linear]) -> None:
    _, guide = amortized_pair(modalities)
    batch = draw_views(modalities, {modality: 1}, images=7)[modality]
    images = {modality: batch[0]}
    expected = guide.posterior({modality: batch})
    assert isinstance(expected.backbone, dict)
    assert list(expected.backbone) == [modality]
    features = batch[0].flatten(1)
    weights = dict(guide.named_parameters())
    prefix = f"recognition.encoder_head.modalities.{modality}.encoder.1."
    backbone = (features @ weights[prefix + "weight"].T + weights[prefix + "bias"]).tanh()
    for size in (2, 7, 512):
        for found in (guide.embed(images).as_dict(), guide.embed_batches(images, batch_size=size).as_dict()):
            torch.testing.assert_close(found["backbone"], backbone, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found["content"], expected.content, rtol=1e-12, atol=1e-12)
            for name in ("z", "style"):
                torch.testing.assert_close(found[name], getattr(expected, name)[0], rtol=1e-12, atol=1e-12)


def test_bytes_by_kind_are_embedded_as_floats_over_255() -> None:
    guide = AmortizedGuide(tanh_encoders(), make_prior().float())
    images = torch.randint(0, 256, (7, *SHAPES["picture"]), dtype=torch.uint8)
    from_bytes = guide.embed_batches({"picture": images}).as_dict()
    from_floats = guide.embed_batches({"picture": images.float() / 255}).as_dict()
    assert all(torch.equal(from_bytes[name], value) for name, value in from_floats.items())


def test_backbones_are_kept_by_modality(modalities: dict[str, Linear]) -> None:
    _, guide = amortized_pair(modalities)
    found = guide.posterior(draw_views(modalities, COUNTS["two and one"]))
    assert isinstance(found.backbone, dict)
    shapes = {modality: tuple(features.shape) for modality, features in found.backbone.items()}
    assert shapes == {"picture": (2, IMAGES, 4), "attributes": (1, IMAGES, 5)}
    with pytest.raises(ValueError, match="the backbones of picture, attributes are not one tensor; embed one modality"):
        found.as_dict()


GUIDES = {
    "amortized": AmortizedGuide,
    "structured": StructuredGuide,
    "point": PointGuide,
    "delta": DeltaGuide,
}


@pytest.mark.parametrize("guide", GUIDES)
def test_views_that_a_guide_cannot_read_are_refused(guide: str, modalities: dict[str, Linear]) -> None:
    make: Any = GUIDES[guide]
    made = make(tanh_encoders(), make_prior()).double()
    views = draw_views(modalities, COUNTS["one of each"])
    images = {modality: batch[0] for modality, batch in views.items()}
    with pytest.raises(ValueError, match=r"one view of each image, got modalities picture, attributes; use posterior"):
        made.embed(images)
    with pytest.raises(ValueError, match=r"one view of each image, got modalities picture, attributes; use posterior"):
        made.embed_batches(images)
    assert made.training
    unknown = views | {"sound": torch.rand(1, IMAGES, 1, 1, 1, dtype=DOUBLE)}
    fewer = views | {"attributes": views["attributes"][:, 1:]}
    for call in (made, made.posterior):
        with pytest.raises(ValueError, match="views of an unknown modality: sound; known are picture, attributes"):
            call(unknown)
        with pytest.raises(ValueError, match="views must be given by modality, a dictionary of picture, attributes"):
            call(views["picture"])
        with pytest.raises(ValueError, match=r"of the same images, got .* \{'picture': 4, 'attributes': 3\}"):
            call(fewer)
        with pytest.raises(ValueError, match=r"of the same images, got .* \{\}"):
            call({})
    alone = make(TanhEncoder(SHAPES["picture"], 4), make_prior()).double()
    with pytest.raises(
        ValueError, match=r"several modalities \(picture, attributes\) need a guide with an encoder for"
    ):
        alone.posterior(views)
    with pytest.raises(
        ValueError, match=r"several modalities \(picture\) need a guide with an encoder for each modality"
    ):
        alone.embed({"picture": images["picture"]})


def test_encoders_by_kind_must_say_how_wide_they_are() -> None:
    encoders = tanh_encoders()
    with pytest.raises(
        ValueError, match="features is the width of one encoder; encoders by modality say it themselves"
    ):
        AmortizedGuide(encoders, make_prior(), features=4)
    with pytest.raises(ValueError, match="Identity has no integer attribute `features`"):
        AmortizedGuide(encoders | {"sound": nn.Identity()}, make_prior())
    with pytest.raises(ValueError, match="FlowGuide reads views of one modality"):
        FlowGuide(encoders, make_prior())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one modality"):
        DeltaGuide({}, make_prior())


def test_every_kind_starts_at_the_start_scale_where_the_features_are_zero() -> None:
    guide = AmortizedGuide(tanh_encoders(), make_prior().float())
    zeros = {"picture": torch.zeros(2, 1, 4), "attributes": torch.zeros(1, 1, 5)}
    scale = guide.recognition.latent(zeros).base_dist.scale
    torch.testing.assert_close(scale, torch.full((3, 1, LATENT), START_SCALE + SMALLEST_SCALE), rtol=1e-3, atol=0)


# Objectives of z alone, and those that need one modality.


def clip(first: Tensor, second: Tensor, temperature: Tensor) -> Tensor:
    """Radford et al. 2021, figure 3, from the features of images and texts, already projected."""
    logits = functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T / temperature
    by_rows = torch.stack([logits[i].logsumexp(0) - logits[i, i] for i in range(len(logits))]).mean()
    by_columns = torch.stack([logits[:, i].logsumexp(0) - logits[i, i] for i in range(len(logits))]).mean()
    return (by_rows + by_columns) / 2


@pytest.mark.parametrize("order", [("picture", "attributes"), ("attributes", "picture")])
def test_clip_is_the_program_without_pixels(order: tuple[str, str], modalities: dict[str, Linear]) -> None:
    """Both directions are added, where the paper takes their mean; the temperature is 0.01 + exp(parameter)."""
    prior = FlatPrior(LATENT).double()
    model = SimVE(prior, group=InfoNCE(0.07, learn_temperature=True)).double()
    guide = DeltaGuide(tanh_encoders(), prior).double()
    drawn = draw_views(modalities, COUNTS["one of each"], images=6)
    with pyro.validation_enabled(True):
        terms = ELBO(model, guide, beta=0)({modality: drawn[modality] for modality in order})
    state = dict(guide.named_parameters())
    projected = []
    for modality in SHAPES:
        prefix = f"encoder_head.modalities.{modality}."
        hidden = drawn[modality][0].flatten(1) @ state[prefix + "encoder.1.weight"].T + state[prefix + "encoder.1.bias"]
        projected.append(hidden.tanh() @ state[prefix + "head.weight"].T + state[prefix + "head.bias"])
    (excess,) = model.parameters()
    expected = 2 * clip(projected[0], projected[1], 0.01 + excess.exp())
    assert float(excess.detach()) == pytest.approx(math.log(0.06), rel=1e-6)
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(terms["group"], -expected.detach(), rtol=1e-10, atol=1e-10)
    ours, theirs = gradients(terms["loss"], model, guide), gradients(expected, model, guide)
    for name, slope in ours.items():
        assert slope is not None, name
        assert float(slope.abs().max()) > 1e-6, name
    assert_same_gradients(ours, theirs, 1e-10)


def test_the_agreement_of_two_kinds_is_their_distance(modalities: dict[str, Linear]) -> None:
    """Under the flat prior log p(z_1, z_2) = log N(z_1 − z_2; 0, 2Σ)."""
    prior = FlatPrior(LATENT, STYLE).double()
    guide = DeltaGuide(tanh_encoders(), prior).double()
    views = draw_views(modalities, COUNTS["one of each"])
    terms = DecoderFreeELBO(SimVE(prior), guide)(views)
    z = guide.posterior(views).z.detach()
    scale = (2 * torch.tensor(STYLE, dtype=DOUBLE)).sqrt()
    expected = Normal(torch.zeros(LATENT, dtype=DOUBLE), scale).log_prob(z[0] - z[1]).sum(-1).mean()
    torch.testing.assert_close(terms["agreement"], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("objective", [ConsistencyELBO, DenoisingELBO], ids=lambda objective: objective.__name__)
def test_objectives_of_the_original_image_refuse_several_modalities(
    objective: type[ConsistencyELBO | DenoisingELBO], modalities: dict[str, Linear]
) -> None:
    model, guide = amortized_pair(modalities)
    with pytest.raises(ProgramError, match="compares views with the original image, so it needs views of one modality"):
        objective(model, guide)(draw_views(modalities, COUNTS["two and one"]))


def test_a_model_without_the_guides_kinds_is_refused(modalities: dict[str, Linear]) -> None:
    prior = make_prior()
    model = make_model(prior, {"picture": modalities["picture"]})
    objective = ELBO(model, AmortizedGuide(tanh_encoders(), prior).double())
    with pytest.raises(ValueError, match="no likelihood of modality attributes; it has those of picture"):
        objective(draw_views(modalities, COUNTS["one of each"]))

"""Views of several modalities, such as a picture and its attributes: the paper's program, with a decoder a modality.

Where everything is linear and Gaussian, an image's latents and the pixels of all its views are one dense Gaussian. What
is expected of the package is read off that Gaussian, whose latents are ordered content, style_1, …, style_J.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal
from torch.nn import functional

from pp_simve.inference import (
    ELBO,
    IWAE,
    AmortizedGuide,
    ConsistencyELBO,
    DecoderFreeELBO,
    DeltaGuide,
    DenoisingELBO,
    FlowGuide,
    PointGuide,
    ProgramError,
    StructuredGuide,
)
from pp_simve.inference.guides.recognition import SMALLEST_SCALE, START_SCALE
from pp_simve.models import FlatPrior, GaussianPrior, InfoNCE, SimVE

from .linear_gaussian import (
    CONTENT,
    DOUBLE,
    IMAGES,
    LATENT,
    STYLE,
    Linear,
    PotentialEncoder,
    log_weights,
    make_likelihood,
    make_linear,
    set_layer,
)
from .programs import assert_trace_elbo

SHAPES = {"picture": (1, 2, 3), "attributes": (5, 1, 1)}
PIXEL_VARIANCE = {"picture": 0.25, "attributes": 0.5}
COUNTS: dict[str, dict[str, int]] = {
    "one of each": {"picture": 1, "attributes": 1},
    "two and one": {"picture": 2, "attributes": 1},
    "two and one the other way round": {"attributes": 2, "picture": 1},
    "pictures alone": {"picture": 2},
    "attributes alone": {"attributes": 1},
}


pytestmark = pytest.mark.usefixtures("local_parameters")


# The linear program of several modalities.


def make_modalities() -> dict[str, Linear]:
    """From the current random state."""
    lengths = {"picture": [1.125, 0.75, 0.5], "attributes": [0.25, 1.5, 0.625]}
    return {modality: make_linear(lengths[modality], PIXEL_VARIANCE[modality], SHAPES[modality]) for modality in SHAPES}


def make_model(prior: GaussianPrior, modalities: Mapping[str, Linear]) -> SimVE:
    likelihoods = {modality: make_likelihood(linear, learned=True) for modality, linear in modalities.items()}
    return SimVE(prior, likelihoods).double()


def exact_guide(prior: GaussianPrior, modalities: Mapping[str, Linear]) -> StructuredGuide:
    """The potentials are the likelihoods' own, so that the guide is the posterior."""
    encoders = {modality: PotentialEncoder(linear) for modality, linear in modalities.items()}
    guide = StructuredGuide(encoders, prior).double()
    for linear, head in zip(modalities.values(), guide.recognition.encoder_head.heads(), strict=True):
        set_layer(head, linear.precision.rsqrt(), shrunk=True)
    return guide


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


class TanhEncoder(nn.Sequential):
    """Features of the pixels, differentiable everywhere."""

    def __init__(self, shape: tuple[int, int, int], features: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), features), nn.Tanh())
        self.features = features


def tanh_encoders() -> dict[str, nn.Module]:
    """One a modality, of different widths."""
    return {modality: TanhEncoder(shape, 4 + place) for place, (modality, shape) in enumerate(SHAPES.items())}


@pytest.fixture
def modalities() -> dict[str, Linear]:
    return make_modalities()


def amortized_pair(modalities: Mapping[str, Linear]) -> tuple[SimVE, AmortizedGuide]:
    prior = make_prior(learned=True)
    return make_model(prior, modalities), AmortizedGuide(tanh_encoders(), prior).double()


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


@pytest.mark.parametrize("modality", SHAPES)
def test_potentials_of_one_modality_a_little_off_fall_short_of_the_evidence(
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
def test_the_order_of_the_modalities_does_not_matter(reverse: str, modalities: dict[str, Linear]) -> None:
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


# The bound of other guides.


def by_hand(guide: nn.Module, modality: str, images: Tensor) -> Tensor:
    """The numbers that the encoder and head of a modality give for images, from their parameters."""
    state = {name.rpartition(f"modalities.{modality}.")[2]: value for name, value in guide.named_parameters()}
    hidden = (images.flatten(1) @ state["encoder.1.weight"].T + state["encoder.1.bias"]).tanh()
    return hidden @ state["head.weight"].T + state["head.bias"]


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


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("counts", ["two and one the other way round", "pictures alone"])
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
        assert_trace_elbo(model, made, views, particles)


# A modality may be missing.


@pytest.mark.parametrize("counts", COUNTS)
def test_content_and_style_are_inferred_from_the_modalities_that_are_there(
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
def test_the_content_of_an_amortized_guide_weighs_the_views_of_all_modalities_alike(
    counts: str, modalities: dict[str, Linear]
) -> None:
    """The mean of content given z_1..J is Σ_j z_j / (J + style / content variance)."""
    _, guide = amortized_pair(modalities)
    views = draw_views(modalities, COUNTS[counts])
    numbers = [by_hand(guide, modality, view) for modality, batch in views.items() for view in batch]
    z = torch.stack(numbers)[..., :LATENT]
    ratio = torch.tensor(STYLE, dtype=DOUBLE) / torch.tensor(CONTENT, dtype=DOUBLE)
    found = guide.posterior(views)
    torch.testing.assert_close(found.z, z, rtol=1e-12, atol=1e-12)
    content = z.sum(0) / (len(z) + ratio)
    torch.testing.assert_close(found.content, content, rtol=1e-6, atol=1e-7)  # the logs of the variances
    torch.testing.assert_close(found.style, z - found.content, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("modality", SHAPES)
def test_images_of_one_modality_are_embedded(modality: str, modalities: dict[str, Linear]) -> None:
    _, guide = amortized_pair(modalities)
    batch = draw_views(modalities, {modality: 1}, images=7)[modality].sigmoid()
    expected = guide.posterior({modality: batch})
    assert isinstance(expected.backbone, dict)
    images, means = {modality: batch[0]}, {"backbone": expected.backbone[modality][0], "content": expected.content}
    means |= {"z": expected.z[0], "style": expected.style[0]}
    for size in (2, 7, 512):
        for found in (guide.embed(images).as_dict(), guide.embed_batches(images, batch_size=size).as_dict()):
            for name, value in means.items():
                torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


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
    images = {modality: batch[0].sigmoid() for modality, batch in views.items()}
    for embed in (made.embed, made.embed_batches):
        with pytest.raises(ValueError, match=r"one view of each image, got modalities picture, attributes; use post"):
            embed(images)
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
    alone = make(TanhEncoder(SHAPES["picture"], 4), make_prior()).double()
    with pytest.raises(
        ValueError, match=r"several modalities \(picture, attributes\) need a guide with an encoder for"
    ):
        alone.posterior(views)
    with pytest.raises(ValueError, match="FlowGuide takes views of one modality"):
        FlowGuide(tanh_encoders(), make_prior())  # type: ignore[arg-type]


def test_every_modality_starts_at_the_start_scale_where_the_features_are_zero() -> None:
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
    projected = [by_hand(guide, modality, drawn[modality][0]) for modality in SHAPES]
    (excess,) = model.parameters()
    expected = 2 * clip(projected[0], projected[1], 0.01 + excess.exp())
    assert float(excess.detach()) == pytest.approx(math.log(0.06), rel=1e-6)
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(terms["group"], -expected.detach(), rtol=1e-10, atol=1e-10)
    ours, theirs = gradients(terms["loss"], model, guide), gradients(expected, model, guide)
    assert all(slope is not None and float(slope.abs().max()) > 1e-6 for slope in ours.values())
    assert_same_gradients(ours, theirs, 1e-10)


def test_the_agreement_of_two_modalities_is_their_distance(modalities: dict[str, Linear]) -> None:
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

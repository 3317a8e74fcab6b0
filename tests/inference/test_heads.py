"""Encoder heads: backbone, projection head and linear layer, of one modality or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro
import pytest
import torch
from torch import Tensor, nn

from pp_simve.inference import (
    ELBO,
    AmortizedGuide,
    DeltaGuide,
    FlowGuide,
    Guide,
    PointGuide,
    StructuredGuide,
)
from pp_simve.inference.guides.heads import EncoderHead, ModalityHeads, encoder_head
from pp_simve.inference.guides.recognition import SMALLEST_SCALE
from pp_simve.models import Gaussian, GaussianPrior, Prior, SimVE, network_precision
from pp_simve.testing.guide import GuideSuite

from .programs import DOUBLE, FEATURES, IMAGES, LATENT, PIXELS, SHAPE, SmoothEncoder, draw_views, on_sphere

EPSILON, MOMENTUM = 1e-5, 0.1  # of batch norm, as usual
HEADS: dict[str, list[int]] = {"none": [], "one": [7], "two": [9, 4]}


class NormByHand:
    """Batch norm over all rows: of the batch while training, of its running statistics after."""

    def __init__(self, module: nn.Module) -> None:
        state = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.weight, self.bias = state["weight"], state["bias"]
        self.mean, self.variance = state["running_mean"], state["running_var"]

    def __call__(self, rows: Tensor, training: bool) -> Tensor:
        mean, variance = self.mean, self.variance
        if training:
            count, mean = len(rows), rows.mean(0)
            variance = (rows - mean).square().mean(0)
            self.mean = (1 - MOMENTUM) * self.mean + MOMENTUM * mean.detach()
            self.variance = (1 - MOMENTUM) * self.variance + MOMENTUM * variance.detach() * count / (count - 1)
        return (rows - mean) / (variance + EPSILON).sqrt() * self.weight + self.bias


def by_hand(part: EncoderHead, widths: Sequence[int]) -> Callable[[Tensor, bool], Tensor]:
    """Linear without bias → batch norm → ReLU for each width, then a linear head with one."""
    weights = {name: value.detach().clone() for name, value in part.named_parameters()}
    norms = [NormByHand(part.projection[3 * place + 1]) for place in range(len(widths))]

    def numbers(features: Tensor, training: bool) -> Tensor:
        hidden = features.reshape(-1, features.shape[-1])
        for place, (width, norm) in enumerate(zip(widths, norms, strict=True)):
            weight = weights[f"projection.{3 * place}.weight"]
            assert weight.shape == (width, hidden.shape[1])
            hidden = norm(hidden @ weight.T, training).clamp(min=0)
        out = hidden @ weights["head.weight"].T + weights["head.bias"]
        return out.reshape(*features.shape[:-1], -1)

    return numbers


def make_head(projection: Sequence[int], outputs: int = 6) -> EncoderHead:
    """With norms whose scales and shifts are none of their starting values."""
    part = EncoderHead(SmoothEncoder(), outputs, projection=projection).double()
    with torch.no_grad():
        for layer in part.projection:
            if isinstance(layer, nn.BatchNorm1d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.uniform_(-0.5, 0.5)
    return part


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("head", HEADS)
def test_a_projection_is_linear_layers_with_batch_norm_and_relu(head: str, views: int) -> None:
    """In training the statistics are those of all views of all images; in evaluation what was gathered then."""
    part = make_head(HEADS[head])
    expected = by_hand(part, HEADS[head])
    for _ in range(3):
        images = draw_views(views)
        features = part.features(images)
        torch.testing.assert_close(part(features), expected(features, True), rtol=1e-10, atol=1e-10)
    part.eval()
    features = part.features(draw_views(views))
    torch.testing.assert_close(part(features), expected(features, False), rtol=1e-10, atol=1e-10)
    if HEADS[head]:
        assert not torch.allclose(part(features), expected(features, True))


@pytest.mark.parametrize("head", HEADS)
def test_gradients_through_a_projection_equal_finite_differences(head: str) -> None:
    part, images = make_head(HEADS[head], outputs=2).train(), draw_views(2)
    weights = torch.randn(2, IMAGES, 2, dtype=DOUBLE)

    def loss() -> Tensor:
        return (part(part.features(images)) * weights).sum()

    slopes = dict(zip(dict(part.named_parameters()), torch.autograd.grad(loss(), list(part.parameters())), strict=True))
    for name, parameter in part.named_parameters():
        assert float(slopes[name].abs().max()) > 1e-6, name
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-6)
            up = loss()
            parameter.sub_(direction, alpha=2e-6)
            down = loss()
            parameter.add_(direction, alpha=1e-6)
        torch.testing.assert_close((up - down) / 2e-6, (slopes[name] * direction).sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_backbone_features_are_those_before_the_projection(head: str) -> None:
    part, images = make_head(HEADS[head]), draw_views(3)
    layer: Any = part.get_submodule("encoder.1")
    expected = torch.tanh(images.flatten(2) @ layer.weight.T + layer.bias)
    torch.testing.assert_close(part.features(images), expected, rtol=1e-12, atol=1e-12)


def test_the_head_stays_in_full_precision_and_the_projection_does_not() -> None:
    part = make_head([9, 4]).float().eval()
    features = torch.rand(2, IMAGES, FEATURES)
    seen: list[torch.dtype] = []
    part.head.register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
    part.projection[0].register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
    with network_precision(torch.bfloat16):
        low = part(features)
    assert seen == [torch.bfloat16, torch.float32]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, part(features), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("head", HEADS)
def test_what_is_saved_is_loaded_statistics_included(head: str) -> None:
    first, second = make_head(HEADS[head]), make_head(HEADS[head])
    for _ in range(2):
        first(first.features(draw_views(2)))
    second.load_state_dict(first.state_dict())
    images = draw_views(1)
    numbers = [part.eval()(part.features(images)) for part in (first, second)]
    assert torch.equal(numbers[0], numbers[1])


# Several modalities.


class VectorEncoder(nn.Sequential):
    """Of vectors of four numbers."""

    features = 3

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(4, 3), nn.Tanh())


def test_each_modality_has_its_encoder_projection_and_head() -> None:
    part = ModalityHeads({"image": SmoothEncoder(), "vector": VectorEncoder()}, 6, [7]).double()
    assert [tuple(head.weight.shape) for head in part.heads()] == [(6, 7), (6, 7)]
    views = {"vector": torch.rand(2, IMAGES, 4, 1, 1, dtype=DOUBLE), "image": draw_views(1)}
    parts: dict[str, EncoderHead] = {}
    for modality in views:
        alone = part.modalities[modality]
        assert isinstance(alone, EncoderHead)
        parts[modality] = alone
    formulas = {modality: by_hand(alone, [7]) for modality, alone in parts.items()}
    for training in (True, False):
        part.train(training)
        features = part.features(views)
        assert list(features) == ["vector", "image"]
        for modality, batch in views.items():
            assert torch.equal(features[modality], parts[modality].features(batch))
        expected = torch.cat([formulas[modality](features[modality], training) for modality in views])
        torch.testing.assert_close(part(features), expected, rtol=1e-10, atol=1e-10)


def test_a_missing_modality_leaves_its_statistics_alone() -> None:
    part = ModalityHeads({"image": SmoothEncoder(), "vector": VectorEncoder()}, 6, [7]).double()
    before = {name: value.clone() for name, value in part.state_dict().items()}
    assert part(part.features({"image": draw_views(2)})).shape == (2, IMAGES, 6)
    moved = {name for name, value in part.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {
        f"modalities.image.projection.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_one_encoder_may_read_several_modalities() -> None:
    shared = SmoothEncoder()
    part = ModalityHeads({"left": shared, "right": shared}, 6).double()
    views = draw_views(2)
    features = part.features({"left": views[:1], "right": views[1:]})
    assert torch.equal(
        torch.cat([features["left"], features["right"]]), EncoderHead(shared, 6).double().features(views)
    )
    assert len([name for name, _ in part.named_parameters() if "encoder" in name]) == 2


@pytest.mark.parametrize("projection", [[0], [8, 0], [-1], [8, -2, 8]])
def test_layers_without_units_are_refused(projection: list[int]) -> None:
    message = r"projection is a list of layers' widths, each at least 1, got \[.*\]"
    for make in (
        lambda: EncoderHead(SmoothEncoder(), 3, projection=projection),
        lambda: ModalityHeads({"image": SmoothEncoder()}, 3, projection),
        *(lambda make=make: make(SmoothEncoder(), GaussianPrior(LATENT), projection) for make in GUIDES.values()),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_encoders_make_the_head() -> None:
    assert isinstance(encoder_head(SmoothEncoder(), 3, None, ()), EncoderHead)
    assert isinstance(encoder_head({"image": SmoothEncoder()}, 3, None, ()), ModalityHeads)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 9))
    assert isinstance(encoder_head(plain, 3, 9, [4]), EncoderHead)
    with pytest.raises(ValueError, match="Sequential has no integer attribute `features`"):
        encoder_head(plain, 3, None, ())
    with pytest.raises(ValueError, match="features is the width of one encoder"):
        encoder_head({"image": SmoothEncoder()}, 3, FEATURES, ())
    with pytest.raises(ValueError, match="at least one modality"):
        encoder_head({}, 3, None, ())
    with pytest.raises(ValueError, match="named like variables"):
        encoder_head({"an image": SmoothEncoder()}, 3, None, ())


# Guides with a projection.

GUIDES: dict[str, Callable[[nn.Module, Prior, Sequence[int]], Guide]] = {
    "amortized": lambda encoder, prior, projection: AmortizedGuide(encoder, prior, projection=projection),
    "structured": lambda encoder, prior, projection: StructuredGuide(encoder, prior, projection=projection),
    "flow": lambda encoder, prior, projection: FlowGuide(encoder, prior, hidden=[8], projection=projection),
    "point": lambda encoder, prior, projection: PointGuide(encoder, prior, projection=projection),
    "delta": lambda encoder, prior, projection: DeltaGuide(encoder, prior, projection=projection),
    "unit delta": lambda encoder, prior, projection: DeltaGuide(encoder, prior, projection=projection, unit_norm=True),
}


def make_guide(guide: str, projection: Sequence[int] = (9, 4)) -> Guide:
    return GUIDES[guide](SmoothEncoder(), GaussianPrior(LATENT, learn_style=True), projection).double()


def head_of(guide: Guide) -> EncoderHead:
    part = guide.encoder_head if isinstance(guide, DeltaGuide) else guide.get_submodule("recognition.encoder_head")
    assert isinstance(part, EncoderHead)
    return part


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("guide", ["amortized", "structured", "point", "delta", "unit delta"])
def test_the_posterior_reads_z_off_the_projection(guide: str, training: bool) -> None:
    made, views = make_guide(guide).train(training), draw_views(2)
    part = head_of(made)
    formula = by_hand(part, [9, 4])
    layer: Any = part.get_submodule("encoder.1")
    backbone = torch.tanh(views.flatten(2) @ layer.weight.T + layer.bias)
    numbers = formula(backbone, training)
    found = made.posterior(views)
    torch.testing.assert_close(found.backbone, backbone, rtol=1e-12, atol=1e-12)
    if guide == "structured":
        # Σ_j w_j z_j / (1 + Σ_j w_j), w = 1/(Σ + S), with what the head gives for z times 1 + S.
        variance = (numbers[..., LATENT:].exp().log1p() + SMALLEST_SCALE).square()
        loc, weight = numbers[..., :LATENT] * (1 + variance), 1 / (made.prior.style_variance() + variance)
        expected = (weight * loc).sum(0) / (1 + weight.sum(0))
        torch.testing.assert_close(found.content, expected, rtol=1e-10, atol=1e-10)
    else:
        z = on_sphere(numbers) if guide == "unit delta" else numbers[..., :LATENT]
        torch.testing.assert_close(found.z, z, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("guide", GUIDES)
def test_gradients_reach_every_parameter_through_a_projection(guide: str) -> None:
    made = make_guide(guide)
    decoder = nn.Sequential(nn.Linear(LATENT, PIXELS), nn.Unflatten(-1, SHAPE))
    model = SimVE(made.prior, Gaussian(decoder)).double()
    pyro.set_rng_seed(1)
    ELBO(model, made)(draw_views(3))["loss"].backward()
    names = [name for name, _ in made.named_parameters()]
    assert any("projection" in name for name in names)
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 1e-9, name


@pytest.mark.parametrize("guide", GUIDES)
def test_without_a_projection_a_guide_has_no_such_parameters(guide: str) -> None:
    assert not any("projection" in name for name in make_guide(guide, ()).state_dict())


@pytest.mark.parametrize("guide", GUIDES)
def test_a_saved_guide_is_loaded_with_its_projection(guide: str) -> None:
    first, second = make_guide(guide), make_guide(guide)
    first.posterior(draw_views(4))  # moves the statistics
    second.load_state_dict(first.state_dict())
    images = draw_views(1)[0]
    embedded = first.embed_batches(images).as_dict()
    assert all(torch.equal(value, second.embed_batches(images).as_dict()[name]) for name, value in embedded.items())


class TestAmortizedGuideWithProjection(GuideSuite):
    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return GUIDES["amortized"](encoder, prior, [16, 8])


class TestDeltaGuideWithProjection(GuideSuite):
    has_density: ClassVar[bool] = False

    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return GUIDES["delta"](encoder, prior, [16, 8])

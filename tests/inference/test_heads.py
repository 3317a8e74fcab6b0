"""Encoder heads: backbone, projection head and linear layer, of one modality or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pp_simve.inference import (
    AmortizedGuide,
    DeltaGuide,
    FlowGuide,
    Guide,
    PointGuide,
    StructuredGuide,
)
from pp_simve.inference.guides.heads import EncoderHead, ModalityHeads, encoder_head
from pp_simve.inference.guides.recognition import SMALLEST_SCALE
from pp_simve.models import GaussianPrior, Prior, network_precision
from pp_simve.testing.guide import GuideSuite

from .programs import DOUBLE, FEATURES, IMAGES, LATENT, PIXELS, SmoothEncoder, draw_views, on_sphere

HEADS: dict[str, list[int]] = {"none": [], "one": [7], "two": [9, 4]}


def numbers_of(part: EncoderHead, features: Tensor) -> Tensor:
    """The projection's norms are over all views of all images, the head is linear."""
    rows = part.projection(features.flatten(0, -2))
    return (rows @ part.head.weight.T + part.head.bias).unflatten(0, features.shape[:-1])


@pytest.mark.parametrize("head", HEADS)
def test_a_projection_is_linear_layers_with_batch_norm_and_relu(head: str) -> None:
    part = EncoderHead(SmoothEncoder(), 6, projection=HEADS[head]).double()
    widths = [FEATURES, *HEADS[head]]
    layers = [layer for pair in pairwise(widths) for layer in (pair, pair[1], None)]
    for layer, expected in zip(part.projection, layers, strict=True):
        if isinstance(expected, tuple):
            assert isinstance(layer, nn.Linear)
            assert (layer.in_features, layer.out_features, layer.bias) == (*expected, None)
        elif expected is not None:
            assert isinstance(layer, nn.BatchNorm1d)
            assert layer.num_features == expected
        else:
            assert isinstance(layer, nn.ReLU)
    for training in (True, False):
        features = part.train(training).features(draw_views(3))
        torch.testing.assert_close(part(features), numbers_of(part, features), rtol=1e-10, atol=1e-10)


def test_the_head_stays_in_full_precision_and_the_projection_does_not() -> None:
    part = EncoderHead(SmoothEncoder(), 6, projection=[9, 4]).eval()
    features = torch.rand(2, IMAGES, FEATURES)
    seen: list[torch.dtype] = []
    part.head.register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
    part.projection[0].register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
    with network_precision(torch.bfloat16):
        low = part(features)
    assert seen == [torch.bfloat16, torch.float32]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, part(features), rtol=0.05, atol=0.05)


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
    parts: Any = part.modalities
    for training in (True, False):
        part.train(training)
        features = part.features(views)
        assert list(features) == ["vector", "image"]
        for modality, batch in views.items():
            assert torch.equal(features[modality], parts[modality].features(batch))
        expected = torch.cat([numbers_of(parts[modality], features[modality]) for modality in views])
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
    return guide.encoder_head if isinstance(guide, DeltaGuide) else guide.get_submodule("recognition.encoder_head")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("guide", ["amortized", "structured", "point", "delta", "unit delta"])
def test_the_posterior_reads_z_off_the_projection(guide: str, training: bool) -> None:
    made, views = make_guide(guide).train(training), draw_views(2)
    part = head_of(made)
    layer: Any = part.get_submodule("encoder.1")
    backbone = torch.tanh(views.flatten(2) @ layer.weight.T + layer.bias)
    numbers = numbers_of(part, backbone)
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


class TestAmortizedGuideWithProjection(GuideSuite):
    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return GUIDES["amortized"](encoder, prior, [16, 8])


class TestDeltaGuideWithProjection(GuideSuite):
    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return GUIDES["delta"](encoder, prior, [16, 8])

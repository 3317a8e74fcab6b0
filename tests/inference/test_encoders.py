"""Encoders: shapes, sizes, gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
from torch import nn

from pp_simve.inference import AmortizedGuide, MLPEncoder, ResidualEncoder, ResNet18Encoder, timm_encoder
from pp_simve.inference.guides.heads import feature_width
from pp_simve.models import GaussianPrior

Shape = tuple[int, int, int]
ENCODERS: dict[str, Callable[[Shape], nn.Module]] = {
    "mlp": lambda shape: MLPEncoder(shape, hidden=(16, 24)),
    "residual": lambda shape: ResidualEncoder(shape, width=4),
    "timm": lambda shape: timm_encoder(shape, "test_resnet", zero_init_last=False),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 28, 28), (3, 64, 64), (2, 13, 19)], ids=str)
@pytest.mark.parametrize("name", ENCODERS)
def test_images_become_features_of_the_width_named_and_every_parameter_gets_a_gradient(name: str, shape: Shape) -> None:
    encoder = ENCODERS[name](shape)
    features = encoder(torch.rand(4, *shape))
    assert features.shape == (4, feature_width(encoder, None))
    features.square().mean().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(torch.isfinite(parameter.grad).all()), parameter_name
        assert bool((parameter.grad != 0).any()), parameter_name


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 96, 96)], ids=str)
def test_resnet18_has_512_features(shape: Shape) -> None:
    encoder = ResNet18Encoder(shape).eval()
    assert encoder.features == 512
    with torch.no_grad():
        assert encoder(torch.rand(2, *shape)).shape == (2, 512)


def test_resnet18_keeps_the_full_resolution_of_small_images_only() -> None:
    with torch.no_grad():
        for side, cells in ((32, 4), (96, 3)):
            network = ResNet18Encoder((3, side, side)).eval().network
            sizes: list[int] = []
            handle = network.layer4.register_forward_hook(lambda *args, s=sizes: s.append(args[2].shape[-1]))
            network(torch.rand(1, 3, side, side))
            handle.remove()
            assert sizes == [cells]


@pytest.mark.parametrize(("side", "cells"), [(16, 16), (23, 23), (24, 12), (32, 16), (47, 24), (48, 12), (64, 16)])
def test_residual_encoder_brings_larger_images_to_about_sixteen_cells_a_side(side: int, cells: int) -> None:
    encoder = ResidualEncoder((1, side, side), width=2)
    assert encoder.stem(torch.rand(2, 1, side, side)).shape == (2, 2, cells, cells)


def test_residual_encoder_has_the_size_counted_by_hand() -> None:
    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + 2 * outputs  # no bias, and batch normalisation's two

    def stage(inputs: int, outputs: int) -> int:
        shortcut = conv(inputs, outputs, 1) if inputs != outputs else 0
        return conv(inputs, outputs, 3) + 3 * conv(outputs, outputs, 3) + shortcut

    expected = conv(3, 32, 3) + stage(32, 32) + stage(32, 64) + stage(64, 128)
    assert expected == pytest.approx(0.7e6, rel=0.01)
    encoder = ResidualEncoder((3, 32, 32))
    assert count(encoder) == expected
    assert encoder.features == 2048
    head = AmortizedGuide(encoder, GaussianPrior(64)).recognition.encoder_head.head
    assert count(head) == 2048 * 128 + 128
    assert expected + count(head) == pytest.approx(0.97e6, rel=0.02)


def test_mlp_encoder_with_its_head_has_the_papers_size() -> None:
    widths = [784, 2000, 500, 500, 20]
    expected = sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths))
    assert expected == pytest.approx(2.83e6, rel=1e-3)
    assert count(AmortizedGuide(MLPEncoder((1, 28, 28)), GaussianPrior(10)).recognition) == expected


def test_resnet18_has_the_size_of_torchvisions_without_its_classifier() -> None:
    assert count(ResNet18Encoder((3, 224, 224))) == 11_689_512 - (512 * 1000 + 1000)


@pytest.mark.parametrize(
    ("name", "options", "width"),
    [("test_vit", {}, 64), ("test_vit.r160_in1k", {"patch_size": 4}, 64), ("test_mambaout", {}, 256)],
)
def test_networks_of_timm_have_the_images_size_and_a_width(name: str, options: dict[str, Any], width: int) -> None:
    encoder = timm_encoder((1, 16, 32), name, **options)
    guide = AmortizedGuide(encoder, GaussianPrior(3))
    assert guide.eval().embed(torch.rand(2, 1, 16, 32)).backbone.shape == (2, width)
    if name.startswith("test_vit"):
        assert encoder.patch_embed.grid_size == ((4, 8) if options else (1, 2))  # type: ignore[union-attr]


def test_a_network_that_timm_made_goes_into_a_guide_without_its_width() -> None:
    guide = AmortizedGuide(timm.create_model("test_mambaout", num_classes=0), GaussianPrior(3))
    assert guide.eval().embed(torch.rand(2, 3, 32, 32)).z.shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "vit_tiny_patch16_22"}, "no network 'vit_tiny_patch16_22'; did you mean vit_tiny_patch16_224, "),
        ({"name": "hf-hub:someone/network"}, "no network 'hf-hub:someone/network'; timm.list"),
        ({"name": 3}, "no network 3"),
        ({"name": "test_vit", "pretrained": True}, "there is no option pretrained; build the network in Python"),
        ({"name": "test_vit", "checkpoint_path": "x.pt"}, "there is no option checkpoint_path"),
    ],
)
def test_networks_that_timm_lacks_and_stored_weights_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        timm_encoder((3, 32, 32), **options)


def test_a_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"an encoder of timm needs timm: pip install 'pp_simve\[timm\]'"):
        timm_encoder((3, 32, 32), "test_vit")

"""Encoders: shapes, sizes, gradients."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from pp_simve.inference import AmortizedGuide, MLPEncoder, ResidualEncoder, ResNet18Encoder
from pp_simve.models import GaussianPrior

Shape = tuple[int, int, int]
ENCODERS: dict[str, Callable[[Shape], nn.Module]] = {
    "mlp": lambda shape: MLPEncoder(shape, hidden=(16, 24)),
    "residual": lambda shape: ResidualEncoder(shape, width=4),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 28, 28), (3, 64, 64), (2, 13, 19)], ids=str)
@pytest.mark.parametrize("name", ENCODERS)
def test_images_become_features_of_the_width_named_and_every_parameter_gets_a_gradient(name: str, shape: Shape) -> None:
    encoder = ENCODERS[name](shape)
    features = encoder(torch.rand(4, *shape))
    assert features.shape == (4, encoder.features)
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

"""Decoders: shapes, sizes, gradients, and clear refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from pp_simve.models import MLPDecoder, ResidualDecoder

Shape = tuple[int, int, int]
DECODERS: dict[str, Callable[[int, Shape], nn.Module]] = {
    "mlp": lambda latent_dim, shape: MLPDecoder(latent_dim, shape, hidden=(16, 24)),
    "residual": lambda latent_dim, shape: ResidualDecoder(latent_dim, shape, width=4),
}


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 28, 28), (3, 64, 64)], ids=str)
@pytest.mark.parametrize("name", DECODERS)
def test_latents_become_images_and_every_parameter_gets_a_gradient(name: str, shape: Shape) -> None:
    decoder = DECODERS[name](5, shape)
    images = decoder(torch.randn(4, 5))
    assert images.shape == (4, *shape)
    images.square().mean().backward()
    for parameter_name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(torch.isfinite(parameter.grad).all()), parameter_name
        assert bool((parameter.grad != 0).any()), parameter_name


def test_default_mlp_has_the_papers_size() -> None:
    widths = [10, 500, 500, 2000, 784]
    expected = sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths))
    assert expected == 2_826_784
    assert sum(parameter.numel() for parameter in MLPDecoder(10, (1, 28, 28)).parameters()) == expected


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)], ids=str)
def test_default_residual_decoder_has_less_than_a_million_parameters(shape: Shape) -> None:
    assert sum(parameter.numel() for parameter in ResidualDecoder(64, shape).parameters()) < 1_000_000


@pytest.mark.parametrize("shape", [(3, 30, 30), (3, 33, 33), (1, 12, 12), (3, 32, 66), (1, 17, 16)], ids=str)
def test_residual_decoder_refuses_sizes_that_it_cannot_make(shape: Shape) -> None:
    with pytest.raises(
        ValueError, match=f"sides are multiples of 4 and at least 16, got {shape[1]}x{shape[2]}; .*MLPDecoder"
    ):
        ResidualDecoder(5, shape)


@pytest.mark.parametrize(
    ("height", "side"), [*((side, side) for side in (16, 20, 24, 28, 36, 44, 48, 96)), (24, 40), (16, 96), (36, 32)]
)
def test_residual_decoder_makes_every_multiple_of_four(height: int, side: int) -> None:
    assert ResidualDecoder(2, (1, height, side), width=2)(torch.randn(2, 2)).shape == (2, 1, height, side)


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 33, 33)], ids=str)
def test_mlp_makes_images_of_any_size(shape: Shape) -> None:
    assert MLPDecoder(2, shape, hidden=())(torch.randn(4, 2)).shape == (4, *shape)
    assert math.prod(shape) * 3 == sum(parameter.numel() for parameter in MLPDecoder(2, shape, hidden=()).parameters())


def test_residual_decoder_starts_without_a_checkerboard() -> None:
    images = ResidualDecoder(8, (3, 32, 32)).eval()(torch.randn(4, 8))
    blocks = images.unfold(-2, 2, 2).unfold(-2, 2, 2)
    assert torch.equal(blocks, blocks[..., :1, :1].expand_as(blocks))
    assert images.std() > 0

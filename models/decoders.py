"""Decoders: networks from latents to images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class MLPDecoder(nn.Sequential):
    """Fully connected decoder: latent → hidden → image, with ReLU.

    Args:
        latent_dim: latent dimensions.
        image_shape: ``(channel, height, width)``.
        hidden: widths of the hidden layers; the default mirrors the encoder of the released code (784-2000-500-500).
    """

    def __init__(
        self, latent_dim: int, image_shape: tuple[int, int, int], hidden: Sequence[int] = (500, 500, 2000)
    ) -> None:
        layers: list[nn.Module] = []
        width = latent_dim
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU()]
            width = units
        layers += [nn.Linear(width, math.prod(image_shape)), nn.Unflatten(-1, image_shape)]
        super().__init__(*layers)


class _UpBlock(nn.Module):
    """Upsampling by 2: nearest-neighbor, then a residual pair of 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        # The 1x1 shortcut commutes with the upsampling, so it is applied to the smaller image.
        shortcut = functional.interpolate(self.shortcut(inputs), scale_factor=2.0)
        hidden = functional.relu(self.first_norm(self.first(functional.interpolate(inputs, scale_factor=2.0))))
        return functional.relu(self.second_norm(self.second(hidden)) + shortcut)


class ResidualDecoder(nn.Module):
    """Convolutional residual decoder, for images whose sides are multiples of 4 (32 and 64 pixels above all).

    A linear layer to ``4·width`` channels, residual blocks that double the side and halve the channels, and a last
    doubling by pixel shuffle, which keeps every convolution off the full resolution.

    Args:
        latent_dim: latent dimensions.
        image_shape: ``(channel, height, width)``.
        width: channels of the last block.
    """

    def __init__(self, latent_dim: int, image_shape: tuple[int, int, int], width: int = 32) -> None:
        super().__init__()
        channels, height, side = image_shape
        if height % 4 or side % 4 or min(height, side) < 16:
            raise ValueError(
                "ResidualDecoder needs images whose sides are multiples of 4 and at least 16, "
                f"got {height}x{side}; resize them, or use MLPDecoder"
            )
        doublings = 0
        high, wide = height // 2, side // 2
        while high % 2 == wide % 2 == 0 and min(high, wide) > 4:
            high, wide = high // 2, wide // 2
            doublings += 1
        widths = [width * 2 ** min(2, doublings - index) for index in range(doublings + 1)]
        self.start = (widths[0], high, wide)
        self.stem = nn.Linear(latent_dim, math.prod(self.start))
        self.blocks = nn.Sequential(*(_UpBlock(*pair) for pair in pairwise(widths)))
        self.head = nn.Conv2d(width, 4 * channels, 3, padding=1)
        with torch.no_grad():
            # The four pixels of a shuffled group start equal: otherwise the image starts as a checkerboard.
            for parameter in self.head.parameters():
                parameter.copy_(parameter[::4].repeat_interleave(4, 0))

    def forward(self, z: Tensor) -> Tensor:
        hidden = functional.relu(self.stem(z)).reshape(-1, *self.start)
        images: Tensor = functional.pixel_shuffle(self.head(self.blocks(hidden)), 2)
        return images

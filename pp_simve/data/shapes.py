"""Rendered shapes, whose true content and style are known: what a judgement of a representation can be held to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOBES = {"bar": 2, "trefoil": 3, "square": 4, "star": 5}
"""The classes, and how many lobes the outline of each has."""

_DEPTH = 0.35
_RANGES = {
    "x": (-0.3, 0.3),
    "y": (-0.3, 0.3),
    "size": (0.3, 0.5),
    # Less than half of the smallest angle that turns an outline into itself, a star's 72°.
    "rotation": (-math.pi / 6, math.pi / 6),
    "grey": (0.4, 1.0),
}


@dataclass(frozen=True, eq=False)
class Shapes:
    """Grey images of one shape each.

    Attributes:
        images: uint8, shape ``(image, 1, size, size)``.
        labels: int64, shape ``(image,)``: positions in `LOBES`. The true content.
        factors: the true style, float32 of shape ``(image,)`` each: ``x`` and ``y`` of the centre (images reach from
            -1 to 1, y downwards), ``size``, ``rotation`` in radians, and ``grey`` of the shape, 1 being white.
    """

    images: Tensor
    labels: Tensor
    factors: dict[str, Tensor]


def rendered_shapes(count: int, *, size: int = 16, seed: int = 0) -> Shapes:
    """Shapes whose class and style are drawn independently and uniformly.

    In polar coordinates about its centre, the outline of a shape with m lobes is size · (1 + 0.35 cos m(φ − rotation)):
    at one size, all shapes have the same area. Edges are soft over a pixel.

    Args:
        count: images; different seeds give independent ones.
        size: side in pixels.
        seed: decides everything. Torch's own generators are neither used nor moved.

    Raises:
        ValueError: if there are no images, or images of fewer than 8 pixels a side, too small to show a lobe.
    """
    if count < 1 or size < 8:
        raise ValueError(f"expected at least 1 image of at least 8 pixels a side, got {count} of {size}")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(LOBES), (count,), generator=generator)
    factors = {
        name: low + (high - low) * torch.rand(count, generator=generator) for name, (low, high) in _RANGES.items()
    }
    x, y, reach, rotation, grey = (values.view(-1, 1, 1) for values in factors.values())
    at = (torch.arange(size) + 0.5) * 2 / size - 1
    across, down = at - x, at.unsqueeze(1) - y
    lobes = torch.tensor(list(LOBES.values()))[labels].view(-1, 1, 1)
    outline = reach * (1 + _DEPTH * torch.cos(lobes * (torch.atan2(down, across) - rotation)))
    inside = ((outline - torch.hypot(across, down)) * size / 2 + 0.5).clamp(0, 1)
    return Shapes((255 * grey * inside).round().to(torch.uint8).unsqueeze(1), labels, factors)

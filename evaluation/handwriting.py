"""Handwriting style: slant, size, thickness and position of the ink of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import checked

_PIXELS = 2**22
"""Pixels widened to float64 at a time."""


@torch.no_grad()
def handwriting_style(images: Tensor) -> dict[str, Tensor]:
    """Handwriting style: slant, size, thickness and position of ink; images ``(image, 1, height, width)``, paper 0.

    The ink I is a mass at the pixels' centers, x to the right and y downwards; with its moments about its own center,
    ``μ_pq = Σ I (x − x̄)^p (y − ȳ)^q`` and m = Σ I (Hu, "Visual pattern recognition by moment invariants", 1962):

    - ``slant``: arctan(−μ11 / μ02), degrees; positive leans to the right. A shear of the image adds the tangent of its
      angle to the tangent of the slant; removing the slant leaves μ11 = 0, the usual deskewing of digits.
    - ``size``: root mean square distance of the ink from its center, √((μ20 + μ02) / m), pixels.
    - ``thickness``: 2 m / P, pixels: w / (1 + w/l) for a stroke of width w and length l. The perimeter P is π/2 times
      the mean, over the four directions of the grid, of the total variation of the gray level along lines of that
      direction (Cauchy-Crofton; Santaló, "Integral Geometry and Geometric Probability", 1976, chapter 3): 5% short to
      3% long. Strokes of 2 pixels and less come out a tenth and more too thick.
    - ``centre_x``, ``centre_y``: x̄ and ȳ from the middle of the image, pixels, positive to the right and downwards.

    Returns:
        By name, float64 ``(image,)``. All are NaN for an image without ink, the slant also for a single row of pixels.

    Raises:
        ValueError: another shape, or values that are negative, NaN or infinite.
    """
    checked(images, "images", "image", 1, "height", "width", dtype="real")
    if (negative := (images < 0).flatten(1).any(dim=1)).any():
        raise ValueError(
            f"images must be ink on a background of 0, but {int(negative.sum())} of {len(images)} have values below 0 "
            f"(the first is image {int(negative.nonzero()[0])})"
        )
    measured = [_measured(ink) for ink in torch.split(images, max(1, _PIXELS // images[0].numel()))]
    return {name: torch.cat([part[name] for part in measured]) for name in measured[0]}


def _measured(ink: Tensor) -> dict[str, Tensor]:
    ink = ink.squeeze(1).double()
    ink = ink / ink.amax(dim=(1, 2), keepdim=True)  # 0 / 0 gives NaN for blank images
    mass = ink.sum(dim=(1, 2))
    # Positions of the pixels from the middle.
    y, x = (torch.arange(side).to(ink) - (side - 1) / 2 for side in ink.shape[1:])
    columns, rows = ink.sum(dim=1), ink.sum(dim=2)
    centre_x, centre_y = columns @ x / mass, rows @ y / mass
    x, y = x - centre_x.unsqueeze(1), y - centre_y.unsqueeze(1)
    across, down = (columns * x.square()).sum(dim=1), (rows * y.square()).sum(dim=1)
    mixed = torch.einsum("nhw,nw,nh->n", ink, x, y)
    slant = torch.atan(-mixed / down) * (180 / math.pi)
    return {
        # One row of pixels has no height; rounding of its centre must not give it one.
        "slant": torch.where((rows > 0).sum(dim=1) > 1, slant, torch.nan),
        "size": ((across + down) / mass).sqrt(),
        "thickness": 2 * mass / _outline(ink),
        "centre_x": centre_x,
        "centre_y": centre_y,
    }


def _outline(ink: Tensor) -> Tensor:
    """Perimeter of ink whose level is 1, shape ``(image,)``; with a background of 0 all around."""

    def variation(ahead: Tensor, behind: Tensor) -> Tensor:
        return (ahead - behind).abs().sum(dim=(1, 2))

    ink = torch.nn.functional.pad(ink, (1, 1, 1, 1))
    straight = variation(ink[:, :, 1:], ink[:, :, :-1]) + variation(ink[:, 1:], ink[:, :-1])
    diagonal = variation(ink[:, 1:, 1:], ink[:, :-1, :-1]) + variation(ink[:, 1:, :-1], ink[:, :-1, 1:])
    # Lines along a diagonal lie closer by √2 than rows do.
    return math.pi / 8 * (straight + diagonal / math.sqrt(2))

"""Numbers of an image that a model should reproduce: what predictive checks compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Statistic = Callable[[Tensor], Tensor]
"""From images ``(..., channel, height, width)`` to numbers ``(...)``."""


def mean(images: Tensor) -> Tensor:
    """Mean of all values: how bright."""
    return images.mean((-3, -2, -1))


def contrast(images: Tensor) -> Tensor:
    """Standard deviation of all values of an image."""
    return images.std((-3, -2, -1), correction=0)


def sharpness(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, across and down: gradient energy, and the noise's too."""
    height, width = images.shape[-2:]
    total = images.diff(dim=-1).square().sum((-2, -1)) + images.diff(dim=-2).square().sum((-2, -1))
    return total.mean(-1) / max(1, height * (width - 1) + (height - 1) * width)


def ink(images: Tensor) -> Tensor:
    """Share of values above ½."""
    return (images > 0.5).to(images.dtype).mean((-3, -2, -1))


STATISTICS: Mapping[str, Statistic] = {"mean": mean, "contrast": contrast, "sharpness": sharpness, "ink": ink}


def measured(statistics: Mapping[str, Statistic], images: Tensor) -> dict[str, Tensor]:
    """Each statistic of images ``(..., channel, height, width)``, float64 of shape ``(...)`` on the CPU.

    Raises:
        ValueError: a statistic answers in another shape.
    """
    found = {}
    for name, statistic in statistics.items():
        value = statistic(images)
        if value.shape != images.shape[:-3]:
            raise ValueError(
                f"the statistic {name!r} must give one number an image, shape {tuple(images.shape[:-3])}, "
                f"got {tuple(value.shape)}"
            )
        found[name] = value.to(torch.float64).cpu()
    return found

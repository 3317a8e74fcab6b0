"""Color augmentations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.inference.augmentations.base import (
    AugmentationPolicy,
    Parameters,
    bernoulli,
    check_images,
    check_probability,
    per_image,
    uniform,
)


@dataclass(frozen=True)
class ColorJitter(AugmentationPolicy):
    """Color jitter: brightness, contrast, saturation and hue, in this order, each clamped to [0, 1]. RGB only.

    The four operations are those of ``torchvision.transforms.v2.functional.adjust_*``; torchvision's jitter shuffles
    them, which the parameters would not record. ``brightness``, ``contrast`` and ``saturation`` are factors (1:
    unchanged), ``hue`` is a shift in turns (0: unchanged). An image that is not jittered has exactly these values.

    Args:
        brightness: a strength s draws a factor from [max(0, 1 - s), 1 + s].
        contrast: likewise.
        saturation: likewise.
        hue: a strength s <= 0.5 draws a shift from [-s, s] turns.
        probability: of an image to be jittered at all.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    probability: float = 0.8

    names = ("brightness", "contrast", "saturation", "hue")

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be a strength of at least 0, got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must be a strength in [0, 0.5] turns, got {self.hue}")
        check_probability("probability", self.probability)

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        jittered = bernoulli(count, self.probability, generator) > 0.5
        parameters = {}
        for name, strength in zip(self.names[:3], (self.brightness, self.contrast, self.saturation), strict=True):
            factor = uniform(count, max(0.0, 1 - strength), 1 + strength, generator)
            parameters[name] = torch.where(jittered, factor, 1.0)
        parameters["hue"] = torch.where(jittered, uniform(count, -self.hue, self.hue, generator), 0.0)
        return parameters

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        check_rgb(images, "ColorJitter")
        brightness, contrast, saturation, hue = (per_image(parameters[name], images) for name in self.names)
        jittered = (images * brightness).clamp_(0, 1)
        # Luminance is linear, so its mean over an image follows from the three channel means.
        mean_luminance = luminance(jittered.mean((-2, -1), keepdim=True))
        jittered.mul_(contrast).add_(mean_luminance * (1 - contrast)).clamp_(0, 1)
        grey = luminance(jittered)
        jittered.mul_(saturation).add_(grey.mul_(1 - saturation)).clamp_(0, 1)
        return shift_hue_(jittered, hue)


@dataclass(frozen=True)
class RandomGrayscale(AugmentationPolicy):
    """Random grayscale: all channels replaced by the luminance, with some probability; ``grey`` is 0 or 1. RGB only."""

    probability: float = 0.2

    names = ("grey",)

    def __post_init__(self) -> None:
        check_probability("probability", self.probability)

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        return {"grey": bernoulli(count, self.probability, generator)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        check_rgb(images, "RandomGrayscale")
        return torch.where(per_image(parameters["grey"], images) > 0.5, luminance(images), images)


def luminance(images: Tensor) -> Tensor:
    """ITU-R 601 luma with torchvision's digits; (n, 3, height, width) to (n, 1, height, width)."""
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def shift_hue_(images: Tensor, shift: Tensor) -> Tensor:
    """Hue turned by ``shift`` turns, shape (n, 1, 1, 1), with HSV's value and saturation kept; in place.

    HSV is never built: with chroma C = max - min and hue h in [0, 6), a channel is min + C clamp(t, 0, 1), where
    t is |h - 3| - 1 for red, 2 - |h - 2| for green and 2 - |h - 4| for blue. Fresh memory costs more than the
    arithmetic on a CPU, so the steps reuse what they can.
    """
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    highest = torch.maximum(red, green)
    torch.maximum(highest, blue, out=highest)
    lowest = torch.minimum(red, green)
    torch.minimum(lowest, blue, out=lowest)
    chroma = highest - lowest
    # Sixths of a turn times chroma, about the corner of the highest channel: red at 0, green at 2, blue at 4.
    hue = (red - green).add_(chroma, alpha=4)
    corner = (blue - red).add_(chroma, alpha=2)
    torch.where(green == highest, corner, hue, out=hue)
    torch.where(red == highest, torch.sub(green, blue, out=corner), hue, out=hue)
    # Gray pixels have no hue; any finite one will do, because it is multiplied by a chroma of 0.
    hue.div_(torch.clamp_min(chroma, 1e-12, out=corner)).add_(shift * 6)
    hue.sub_(torch.div(hue, 6, out=corner).floor_(), alpha=6)
    torch.sub(hue, 3, out=red).abs_().sub_(1)
    torch.sub(hue, 2, out=green).abs_().neg_().add_(2)
    torch.sub(hue, 4, out=blue).abs_().neg_().add_(2)
    return images.clamp_(0, 1).mul_(chroma).add_(lowest).clamp_(0, 1)


def check_rgb(images: Tensor, what: str) -> None:
    """Raises ValueError unless these are float images with three channels."""
    check_images(images)
    if images.shape[1] != 3:
        raise ValueError(f"{what} needs RGB images, 3 channels, got {images.shape[1]} (shape {tuple(images.shape)})")

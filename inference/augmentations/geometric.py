"""Geometric augmentations: affine maps, resized crops, flips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from pp_simve.inference.augmentations.base import (
    AugmentationPolicy,
    ImageShape,
    Parameters,
    bernoulli,
    check_image_shape,
    check_images,
    check_probability,
    check_range,
    per_image,
    uniform,
)

Range = tuple[float, float]


@dataclass(frozen=True)
class RandomAffine(AugmentationPolicy):
    """Random affine map: rotation, scale, shift and shear about the image's center; bilinear, zeros outside.

    The map and its conventions are those of ``torchvision.transforms.v2.functional.affine``: shear, then scale, then
    rotation, then shift.

    A range of a single number fixes that parameter: it is then the same in every view, and none of ``names``.

    Args:
        rotation: range in degrees, clockwise.
        scale: range of the factor; above 1 the content grows.
        shift: range of both shifts as a fraction of the image's side; positive is right and down.
        shear: range in degrees; positive moves the top to the right (before the rotation). Fixed at 0 unless given,
            because a small shear and a small rotation look alike.
    """

    rotation: Range = (-25.0, 25.0)
    scale: Range = (0.75, 1.25)
    shift: Range = (-0.125, 0.125)
    shear: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        check_range("rotation", self.rotation, -180, 180)
        check_range("scale", self.scale, 1e-3)
        check_range("shift", self.shift, -1, 1)
        check_range("shear", self.shear, -89, 89)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, (low, high) in self._ranges.items() if low < high)

    @property
    def _ranges(self) -> dict[str, Range]:
        return {
            "rotation": self.rotation,
            "scale": self.scale,
            "shift_x": self.shift,
            "shift_y": self.shift,
            "shear": self.shear,
        }

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        return {name: uniform(count, *self._ranges[name], generator) for name in self.names}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        check_images(images)
        height, width = images.shape[-2:]
        rotation, scale, shift_x, shift_y, shear = (
            per_image(parameters[name], images)[:, 0] if low < high else images.new_full((1, 1, 1), low)
            for name, (low, high) in self._ranges.items()
        )
        cos, sin = torch.cos(rotation * (math.pi / 180)), torch.sin(rotation * (math.pi / 180))
        tan = torch.tan(shear * (math.pi / 180))
        # Pixel coordinates about the center, then the inverse of shift, rotation and scale, and shear, in that order.
        x = _centred(width, images).view(1, 1, -1) - shift_x * width
        y = _centred(height, images).view(1, -1, 1) - shift_y * height
        cos, sin = cos / scale, sin / scale
        source_y = y * cos - x * sin
        source_x = x * cos + y * sin + tan * source_y
        # grid_sample (align_corners=False) has -1 and 1 at the outer edges of the image.
        grid = torch.stack((source_x * (2 / width), source_y * (2 / height)), -1)
        return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@dataclass(frozen=True)
class RandomResizedCrop(AugmentationPolicy):
    """Random resized crop: a random box of the image, resized to the whole image; bilinear.

    The box is drawn without a rejection loop: area and log aspect ratio are uniform, height and width are rounded and
    then clamped to the image, and the position is uniform over the pixels that keep the box inside. (torchvision draws
    again instead of clamping, up to ten times.) The parameters are the box in pixels, whole numbers; ``apply`` accepts
    fractions too.

    Args:
        image_shape: ``(channel, height, width)``.
        area: range of the box's area as a fraction of the image's, within (0, 1].
        ratio: range of width / height.
    """

    image_shape: ImageShape
    area: Range = (0.4, 1.0)
    ratio: Range = (3 / 4, 4 / 3)

    names = ("crop_top", "crop_left", "crop_height", "crop_width")

    def __post_init__(self) -> None:
        check_image_shape(self.image_shape)
        check_range("area", self.area, high=1)
        if self.area[0] <= 0:
            raise ValueError(f"area must be above 0, got {self.area}")
        check_range("ratio", self.ratio)
        if self.ratio[0] <= 0:
            raise ValueError(f"ratio must be above 0, got {self.ratio}")

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        _, height, width = self.image_shape
        area = uniform(count, *self.area, generator) * (height * width)
        root_ratio = torch.exp(uniform(count, math.log(self.ratio[0]), math.log(self.ratio[1]), generator) / 2)
        side = torch.sqrt(area)
        crop_height = torch.round(side / root_ratio).clamp_(1, height)
        crop_width = torch.round(side * root_ratio).clamp_(1, width)
        return {
            "crop_top": _corner(height - crop_height, generator),
            "crop_left": _corner(width - crop_width, generator),
            "crop_height": crop_height,
            "crop_width": crop_width,
        }

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        check_images(images, self.image_shape)
        _, height, width = self.image_shape
        top, left, box_height, box_width = (parameters[name].to(images.dtype).unsqueeze(-1) for name in self.names)
        # Clamped to the centres of the box's own outer pixels: nothing outside the box is seen.
        y = _box_coordinates(top, box_height, height)
        x = _box_coordinates(left, box_width, width)
        shape = (len(images), height, width)
        grid = torch.stack((x.unsqueeze(1).expand(shape), y.unsqueeze(2).expand(shape)), -1)
        return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class RandomFlip(AugmentationPolicy):
    """Random flip, left to right (``horizontal``) or upside down (``vertical``), with some probability."""

    direction: Literal["horizontal", "vertical"] = "horizontal"
    probability: float = 0.5

    def __post_init__(self) -> None:
        if self.direction not in ("horizontal", "vertical"):
            raise ValueError(f"direction must be 'horizontal' or 'vertical', got {self.direction!r}")
        check_probability("probability", self.probability)

    @property
    def names(self) -> tuple[str, ...]:
        return (f"{self.direction}_flip",)

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        return {self.names[0]: bernoulli(count, self.probability, generator)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        check_images(images)
        dim = -1 if self.direction == "horizontal" else -2
        forward = torch.arange(images.shape[dim], device=images.device)
        # One gather of the chosen order costs a tenth of mirroring every image and selecting.
        order = torch.where(parameters[self.names[0]].unsqueeze(-1) > 0.5, forward.flip(0), forward)
        shape = [len(images), 1, 1, 1]
        shape[dim] = -1
        return images.gather(dim, order.view(shape).expand_as(images))


def _centred(size: int, like: Tensor) -> Tensor:
    """Coordinates of pixel centres about the middle of a side."""
    return torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2


def _corner(room: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform over the whole numbers 0..room, for each ``room``."""
    position = torch.floor(uniform(len(room), 0, 1, generator) * (room + 1))
    return torch.minimum(position, room)  # a product that rounds up to room + 1 would leave the image


def _box_coordinates(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where the ``size`` pixels of a side look within a box, for grid_sample: (n, 1) and (n, 1) to (n, size)."""
    centres = torch.arange(size, dtype=start.dtype, device=start.device) + 0.5
    inside = torch.minimum((centres * (length / size)).clamp_(min=0.5), length - 0.5)
    return (start + inside) * (2 / size) - 1

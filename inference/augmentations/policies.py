"""The named augmentation policies."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from pp_simve.inference.augmentations.base import AugmentationPolicy, Compose, ImageShape, check_image_shape
from pp_simve.inference.augmentations.color import ColorJitter, RandomGrayscale
from pp_simve.inference.augmentations.geometric import RandomAffine, RandomFlip, RandomResizedCrop


def affine(image_shape: ImageShape) -> AugmentationPolicy:
    """For digits and other symbols: small affine maps, no flips, and rotations too small to turn a 6 into a 9."""
    return Compose([RandomAffine()], image_shape)


def crop(image_shape: ImageShape) -> AugmentationPolicy:
    """For grayscale photographs: a resized crop of 40 % of the area or more, and a horizontal flip."""
    return Compose([RandomResizedCrop(image_shape), RandomFlip()], image_shape)


def crop_color(image_shape: ImageShape) -> AugmentationPolicy:
    """For color photographs: crop, flip, jitter and grayscale.

    SimCLR's for CIFAR-10 (Chen et al. 2020, https://arxiv.org/abs/2002.05709, appendix B.9: jitter of strength 0.5)
    with milder crops: 30 % of the area or more instead of 8 %.
    """
    if image_shape[0] != 3:
        raise ValueError(
            f"view policy 'crop+colour' needs RGB images, 3 channels, got image_shape {image_shape}; use 'crop' instead"
        )
    return Compose(
        [RandomResizedCrop(image_shape, area=(0.3, 1.0)), RandomFlip(), ColorJitter(), RandomGrayscale()], image_shape
    )


def paper(image_shape: ImageShape) -> AugmentationPolicy:
    """The views of the code released with SimVE's paper, for comparison only.

    Grey images: crop and flip. RGB images: a strong jitter of every image, then crop and flip. The flip is vertical:
    as in the released code, perhaps meant to be horizontal. That code also enlarges CIFAR-10 to 256×256
    before it crops, and jitters in a random order; neither is done here.
    """
    ratio = (0.75, 1.3)
    if image_shape[0] == 3:
        jitter = ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, probability=1.0)
        cropped = RandomResizedCrop(image_shape, area=(0.6, 1.0), ratio=ratio)
        return Compose([jitter, cropped, RandomFlip("vertical")], image_shape)
    return Compose([RandomResizedCrop(image_shape, area=(0.4, 1.0), ratio=ratio), RandomFlip("vertical")], image_shape)


POLICIES: dict[str, Callable[[ImageShape], AugmentationPolicy]] = {
    "affine": affine,
    "crop": crop,
    "crop+colour": crop_color,
    "paper": paper,
}
"""Named policies: each makes a policy for images of a shape ``(channel, height, width)``."""

PARAMETER_GROUPS: dict[str, tuple[str, ...]] = {
    "crop": RandomResizedCrop.names,
    "color": (*ColorJitter.names, *RandomGrayscale.names),
    "flip": (*RandomFlip("horizontal").names, *RandomFlip("vertical").names),
}
"""Parameters that the literature scores by their mean; any other stands for itself."""


def augmentation_policy(name: str, image_shape: ImageShape) -> AugmentationPolicy:
    """Augmentation policy by name, for images of shape ``(channel, height, width)``.

    Raises:
        ValueError: for an unknown name, an impossible shape, or a color policy for images that are not RGB.
    """
    if name not in POLICIES:
        near = get_close_matches(name, POLICIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown view policy {name!r}{hint} Known: {', '.join(POLICIES)}")
    check_image_shape(image_shape)
    return POLICIES[name](image_shape)


def default_policy(image_shape: ImageShape) -> str:
    """The name of the policy for photographs of this shape: ``crop+colour`` for RGB images, otherwise ``crop``."""
    return "crop+colour" if image_shape[0] == 3 else "crop"

"""Augmentations: batched on the images' device, returning each view's parameters, the labels of the style tasks.

No data sets, no command lines, no networks.
"""

from pp_simve.inference.augmentations.base import AugmentationPolicy, Compose, ImageShape, Parameters, draw_views
from pp_simve.inference.augmentations.color import ColorJitter, RandomGrayscale
from pp_simve.inference.augmentations.geometric import RandomAffine, RandomFlip, RandomResizedCrop
from pp_simve.inference.augmentations.policies import (
    PARAMETER_GROUPS,
    POLICIES,
    augmentation_policy,
    default_policy,
)
from pp_simve.inference.augmentations.transforms import FromTransforms

__all__ = [
    "PARAMETER_GROUPS",
    "POLICIES",
    "AugmentationPolicy",
    "ColorJitter",
    "Compose",
    "FromTransforms",
    "ImageShape",
    "Parameters",
    "RandomAffine",
    "RandomFlip",
    "RandomGrayscale",
    "RandomResizedCrop",
    "augmentation_policy",
    "default_policy",
    "draw_views",
]

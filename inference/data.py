"""What a fit draws its views from: images of one modality, or of several, resident on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pp_simve.inference.augmentations import AugmentationPolicy, draw_views
from pp_simve.inference.tools import unit_range
from pp_simve.models import Views


class Source(Protocol):
    """Images by their place in the data."""

    def __len__(self) -> int: ...

    @property
    def views(self) -> int:
        """Views of each image in a batch, of all modalities together."""

    @property
    def device(self) -> torch.device:
        """Where the images are."""

    def to(self, device: torch.device) -> Source:
        """The same on a device."""

    def draw(self, index: Tensor, generator: torch.Generator) -> Views:
        """Views of the images at those places, without reading from the device."""


@dataclass(frozen=True)
class Images:
    """Views that a policy draws of images of one modality.

    Attributes:
        images: uint8, shape ``(image, channel, height, width)``.
        policy: draws the views.
        views: of each image.
        original_first: whether the first of them is the image itself.
    """

    images: Tensor
    policy: AugmentationPolicy
    views: int
    original_first: bool = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device) -> Images:
        return Images(self.images.to(device), self.policy, self.views, self.original_first)

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        chosen = self.images[index]
        views, _ = draw_views(self.policy, chosen, self.views - self.original_first, generator=generator)
        return torch.cat([unit_range(chosen)[None], views]) if self.original_first else views


@dataclass(frozen=True)
class MultimodalImages:
    """Views of several modalities of the same things, `Images` each."""

    modalities: Mapping[str, Images]

    def __len__(self) -> int:
        return len(next(iter(self.modalities.values())))

    @property
    def views(self) -> int:
        return sum(part.views for part in self.modalities.values())

    @property
    def device(self) -> torch.device:
        return next(iter(self.modalities.values())).device

    def to(self, device: torch.device) -> MultimodalImages:
        return MultimodalImages({modality: part.to(device) for modality, part in self.modalities.items()})

    def draw(self, index: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {modality: part.draw(index, generator) for modality, part in self.modalities.items()}

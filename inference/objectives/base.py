"""The interface of objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from pp_simve.models import ViewsLike


class Objective(nn.Module, ABC):
    """Objective: called with views, returns named terms, ``loss`` among them; owns weights, schedules and scale.

    Terms are scalars, means per image, and only ``loss`` has a gradient. Nothing may be read back from the device.
    Numbers that change over a fit are `pp_simve.models.schedules.Annealed` parts, which the loop sets.

    Attributes:
        original_first: whether the first view must be the image itself, as stored; the others are drawn as usual.
        indexed: whether it is called with views and ``index``, the images' places in the data, int64 of shape
            ``(image,)``.
        known_images: number of images an indexed objective was built for; None for any number.
    """

    original_first: ClassVar[bool] = False
    indexed: ClassVar[bool] = False
    known_images: int | None = None

    @abstractmethod
    def forward(self, views: ViewsLike) -> dict[str, Tensor]:
        """Terms of ``views`` of shape ``(view, image, channel, height, width)``, one per modality, values in [0, 1]."""

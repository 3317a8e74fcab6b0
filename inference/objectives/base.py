"""The interface of objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from pp_simve.models import Views


class Objective(nn.Module, ABC):
    """Called with views, returns named terms, ``loss`` among them; owns weights, schedules and the data-size scale.

    Terms are scalars, means per image, and only ``loss`` has a gradient. Nothing may be read back from the device.
    Numbers that change over a fit are `pp_simve.inference.annealing.Annealed` parts: the loop moves them.

    Attributes:
        original_first: whether the first view must be the image itself, as stored; the others are drawn as usual.
        indexed: whether it must know which of the data's images these are; it is then called with views and ``index``,
            their places in the data, int64 of shape ``(image,)``.
        known_images: how many images an indexed objective can tell apart; None for any number.
    """

    original_first: ClassVar[bool] = False
    indexed: ClassVar[bool] = False
    known_images: int | None = None

    @abstractmethod
    def forward(self, views: Views) -> dict[str, Tensor]:
        """Terms of ``views`` of shape ``(view, image, channel, height, width)``, one per modality, values in [0, 1]."""

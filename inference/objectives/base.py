"""The interface of objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Objective(nn.Module, ABC):
    """Called with views, returns named terms, ``loss`` among them; owns weights, schedules and the data-size scale.

    Terms are scalars, means per image, and only ``loss`` has a gradient. Nothing may be read back from the device.
    Numbers that change over a fit are `pp_simve.inference.annealing.Annealed` parts: the loop moves them.

    Attributes:
        original_first: whether the first view must be the image itself, as stored; the others are drawn as usual.
    """

    original_first: ClassVar[bool] = False

    @abstractmethod
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Terms for ``views`` of shape ``(view, image, channel, height, width)``, values in [0, 1]."""

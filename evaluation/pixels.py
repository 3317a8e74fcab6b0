"""Principal components of pixels: a baseline that no network is needed for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from pp_simve.inference.tools import random_state_kept, unit_range

SIDE = 32
"""Pixels a side at most; larger images are averaged over areas first, which changes leading components little."""


@dataclass(frozen=True)
class PixelComponents:
    """Images in the leading principal components of train images.

    Attributes:
        mean: shape ``(pixel,)``.
        axes: orthonormal columns, ``(pixel, component)``.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, images: Tensor, width: int, seed: int) -> Self:
        """The components by randomized SVD (Halko, Martinsson and Tropp 2011, arXiv 0909.4061).

        Args:
            images: uint8 ``(image, channel, height, width)``.
            width: how many, as far as there are as many images and pixels.
            seed: of the algorithm; torch's global generators are not changed.
        """
        x = _reduced(images)
        mean = x.mean(0)
        with random_state_kept(x.device):
            torch.manual_seed(seed)
            # Some more than wanted make the leading ones exact.
            axes = torch.svd_lowrank(x - mean, q=min(width + 8, *x.shape), niter=4)[2]
        return cls(mean, axes[:, :width])

    def __call__(self, images: Tensor) -> Tensor:
        """Components of images, uint8 or float in [0, 1], ``(image, component)``."""
        return (_reduced(images) - self.mean) @ self.axes


def _reduced(images: Tensor) -> Tensor:
    height, width = (min(SIDE, length) for length in images.shape[2:])
    return torch.cat([adaptive_avg_pool2d(unit_range(part), (height, width)).flatten(1) for part in images.split(512)])

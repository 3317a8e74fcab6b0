"""Pictures whose class is lit among their first pixels, and a guide that sees certain pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.data import Split
from pp_simve.inference.guides.base import Guide, Representation

CLASSES = 4
CLASS_PIXELS = [0, 1, 2, 3]
TINT_PIXELS = [6, 7, 8]
EVERY = slice(None)


def pictures(count: int, seed: int) -> Split:
    """3×3 images: the class is lit among the first four pixels, the last three are dark, noise everywhere."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    images = torch.randint(60, (count, 9), generator=generator)
    images[torch.arange(count), labels] += 150
    return Split(images.to(torch.uint8).view(count, 1, 3, 3), labels, None)


class PixelGuide(Guide):
    """z and content are certain pixels, read in evaluation mode without gradients."""

    def __init__(self, z: Sequence[int] | slice = TINT_PIXELS, content: Sequence[int] | slice = CLASS_PIXELS) -> None:
        super().__init__()
        self.z_pixels, self.content_pixels = (of if isinstance(of, slice) else list(of) for of in (z, content))
        self.seen: list[tuple[int, torch.dtype]] = []

    def posterior(self, views: Tensor) -> Representation:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append((views.shape[0] * views.shape[1], views.dtype))
        pixels = views.flatten(2)
        z, content = pixels[..., self.z_pixels], pixels[..., self.content_pixels].mean(0)
        return Representation(backbone=pixels, z=z, content=content, style=z[..., :1])

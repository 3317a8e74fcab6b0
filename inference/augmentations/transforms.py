"""A user's own image transform as an augmentation policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.inference.augmentations.base import HIDDEN, AugmentationPolicy, Parameters
from pp_simve.inference.tools import random_state_kept

OVERSHOOT = 0.25
"""Bicubic resizing overshoots [0, 1] by less; such values are clipped."""


@dataclass(frozen=True)
class FromTransforms(AugmentationPolicy):
    """Augmentation policy of any transform, such as a pipeline of ``torchvision.transforms.v2``.

    Its parameters are unknown, so ``names`` is empty: evaluations leave out the rows of view parameters, with a note.
    Torch's global random state is seeded for each image from the policy's generator, and put back; transforms that
    draw from elsewhere (NumPy, ``random``) are not reproducible. Images are transformed in this process, one after the
    other; on an accelerator the seeds are read from it in every batch.

    Args:
        transform: maps a float image in [0, 1], ``(channel, height, width)``, to one of the same shape and range.
        batched: the transform takes ``(n, channel, height, width)`` and draws for each image by itself, as kornia's do.
            Those of torchvision draw once for all images of a batch, so that views of a batch are then alike. The
            images of a batch come in parts, whose size depends on the number of threads.

    Raises:
        ValueError: when applied, a result of another shape, type or range.

    Example:
        >>> from torchvision.transforms import v2
        >>> policy = FromTransforms(v2.Compose([v2.RandomResizedCrop(8), v2.GaussianBlur(3)]))
        >>> policy.apply(torch.rand(5, 3, 8, 8), policy.sample(5, generator=torch.Generator())).shape
        torch.Size([5, 3, 8, 8])
    """

    transform: Callable[[Tensor], Tensor]
    batched: bool = False

    names = ()

    @property
    def _seed(self) -> str:
        return f"{HIDDEN}seed of {id(self)}"  # two in one `Compose` have seeds of their own

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        return {self._seed: torch.randint(2**62, (count,), generator=generator, device=generator.device)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        if not len(images):
            return images
        seeds = parameters[self._seed].tolist()
        with random_state_kept(images.device):
            if self.batched:
                torch.manual_seed(seeds[0])
                return self._checked(self.transform(images.clone()), images)
            views = torch.empty_like(images)
            for place, (image, seed) in enumerate(zip(images, seeds, strict=True)):
                torch.manual_seed(seed)
                views[place] = self._checked(self.transform(image.clone()), image)
            return views

    def _checked(self, view: object, image: Tensor) -> Tensor:
        expected = f"transform must return a float tensor in [0, 1] of shape {tuple(image.shape)}"
        if not isinstance(view, Tensor) or not view.is_floating_point():
            found = view.dtype if isinstance(view, Tensor) else type(view).__name__
            raise ValueError(f"{expected}, got {found}; end it with v2.ToDtype(torch.float32, scale=True)")
        if view.shape != image.shape:
            raise ValueError(f"{expected}, got {tuple(view.shape)}; end it with v2.Resize({tuple(image.shape[-2:])})")
        low, high = (float(bound) for bound in view.aminmax())
        if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
            raise ValueError(
                f"{expected}, got values in [{low:g}, {high:g}]; leave out Normalize, and other changes of range"
            )
        return view.clamp(0, 1)

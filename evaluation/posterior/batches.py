"""Images some at a time, so that what is kept of their draws stays small."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pp_simve.models.modalities import PlainViews as Views
from pp_simve.models.modalities import some_images, view_and_image_counts

NUMBERS_AT_ONCE = 2**22
"""Latents, and pixels of views, that are kept at once, of each modality: 16 MiB in float32."""


def images_at_once(views: Views, latent_dim: int, draws: int) -> int:
    """How many images have room for their views and draws.

    Args:
        views: ``(view, image, channel, height, width)``, or one such tensor per modality.
        latent: dimensions of z.
        draws: that are to be made of each image.
    """
    count, images = view_and_image_counts(views)
    pixels = sum(batch.numel() for batch in _tensors(views)) // max(1, images)
    return max(1, NUMBERS_AT_ONCE // max(1, pixels, draws * count * latent_dim))


def image_batches(views: Views, latent_dim: int, draws: int) -> Iterator[tuple[int, Views]]:
    """The views of some images after another, and the place of the first of them; arguments as `images_at_once`.

    Raises:
        ValueError: no images, or views that are no floating point numbers.
    """
    _, images = view_and_image_counts(views)
    if not images or not all(batch.is_floating_point() for batch in _tensors(views)):
        modalities = ", ".join(f"{batch.dtype} of shape {tuple(batch.shape)}" for batch in _tensors(views))
        raise ValueError(
            "views must be floating point numbers in [0, 1] of shape (view, image, channel, height, width), of one "
            f"image at least, got {modalities}; draw them with pp_simve.inference.augmentations.draw_views"
        )
    size = images_at_once(views, latent_dim, draws)
    for start in range(0, images, size):
        yield start, some_images(views, slice(start, start + size))


def seeds(seed: int) -> Iterator[int]:
    """A seed for each batch, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield int(torch.randint(2**62, (1,), generator=generator))


def _tensors(views: Views) -> list[Tensor]:
    return [views] if isinstance(views, Tensor) else list(views.values())

"""Views of some images at a time, so that memory does not grow with their number, and a seed for each batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pp_simve.inference.augmentations import AugmentationPolicy, Parameters, draw_views
from pp_simve.inference.data import Pixels
from pp_simve.inference.tools import unit_range
from pp_simve.models import PlainViews, Views

NUMBERS_AT_ONCE = 2**22
"""Latents, and pixels of views, held at once, of each modality: 16 MiB in float32."""

BLOCK = 64
"""Images whose views are drawn at once; fixed, so that views do not depend on what is computed from them."""

_SHOWN_IMAGES = 8


def images_at_once(views: PlainViews, latent_dim: int, draws: int) -> int:
    """Number of images whose views and draws fit into `NUMBERS_AT_ONCE`.

    Args:
        views: ``(view, image, channel, height, width)``, or one such tensor per modality.
        latent_dim: dimensions of z.
        draws: of each image.
    """
    count, images = Views.of(views).n_views, Views.of(views).n_images
    pixels = sum(batch.numel() for batch in Views.of(views).tensors()) // max(1, images)
    return max(1, NUMBERS_AT_ONCE // max(1, pixels, draws * count * latent_dim))


def image_batches(views: PlainViews, latent_dim: int, draws: int) -> Iterator[tuple[int, PlainViews]]:
    """Place of the first image of each batch, and the batch's views; arguments as `images_at_once`.

    Raises:
        ValueError: no images, or views that are not floating point.
    """
    images = Views.of(views).n_images
    batches = Views.of(views).tensors()
    if not images or not all(batch.is_floating_point() for batch in batches):
        given = ", ".join(f"{batch.dtype} of shape {tuple(batch.shape)}" for batch in batches)
        raise ValueError(
            "views must be floating point numbers in [0, 1] of shape (view, image, channel, height, width), of one "
            f"image at least, got {given}; draw them with pp_simve.inference.augmentations.draw_views"
        )
    size = images_at_once(views, latent_dim, draws)
    for start in range(0, images, size):
        yield start, Views.of(views)[slice(start, start + size)].plain


def seeds(seed: int) -> Iterator[int]:
    """An endless sequence of seeds, one per batch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield int(torch.randint(2**62, (1,), generator=generator))


@dataclass(frozen=True)
class ViewBlock:
    """Views of up to `BLOCK` images.

    Attributes:
        start: place of the first image.
        views: float in [0, 1], ``(view, image, channel, height, width)``, or one such tensor per modality.
        parameters: of the policy's augmentations, ``(view, image)`` each, by modality and name.
    """

    start: int
    views: PlainViews
    parameters: dict[str | None, Parameters]


@dataclass(frozen=True)
class ViewSource:
    """Images and the policies that augment them, by modality (None where there is but one).

    Unlike the sources of a fit it keeps the augmentations' parameters, and takes views that were drawn already.

    Attributes:
        images: ``(image, channel, height, width)``, or views, ``(view, image, channel, height, width)``.
        policies: None where the image itself is the only view.
        views: number of views of each image.
        seed: of the views.
    """

    images: dict[str | None, Tensor]
    policies: dict[str | None, AugmentationPolicy | None]
    views: dict[str | None, int]
    seed: int

    @classmethod
    def of(
        cls,
        images: Pixels | Mapping[str, Pixels],
        policy: AugmentationPolicy | Mapping[str, AugmentationPolicy] | None,
        views: int | None,
        *,
        seed: int,
    ) -> ViewSource:
        """Validates the arguments of `posterior`.

        Args:
            images: uint8, or float in [0, 1], of four dimensions, or of five if they are views; by modality if several.
            policy: by modality if images are; a modality without a policy has the image itself as its only view.
            views: of each image and modality; by default 2, or 1 without a policy or with several modalities.

        Raises:
            ValueError: no images; NaN or infinite pixels; another type or shape; modalities that differ in their number
                of images; a policy or a number of views for given views; several views without a policy.
        """
        given = {**images} if isinstance(images, Mapping) else {None: images}
        pixels: dict[str | None, Tensor] = {modality: torch.as_tensor(value) for modality, value in given.items()}
        if not pixels:
            raise ValueError("images of several modalities need at least one modality")
        if policy is not None and isinstance(policy, Mapping) != isinstance(images, Mapping):
            raise ValueError(
                "policies by modality and images by modality go together: {modality: policy} with {modality: images}"
            )
        known: Mapping[Any, AugmentationPolicy] = (
            policy if isinstance(policy, Mapping) else {None: policy} if policy else {}
        )
        if unknown := [str(modality) for modality in known if modality not in pixels]:
            raise ValueError(f"there are policies of {', '.join(unknown)}, but no images of that modality")
        policies = {modality: known.get(modality) for modality in pixels}
        default = 1 if isinstance(images, Mapping) else 2
        counts = {
            modality: _view_count(modality, value, policies[modality], views, default)
            for modality, value in pixels.items()
        }
        numbers = {str(modality): value.shape[-4] for modality, value in pixels.items()}
        if len(set(numbers.values())) != 1:
            raise ValueError(f"images of every modality must be of the same things, got numbers of images {numbers}")
        return cls(pixels, policies, counts, seed)

    def __len__(self) -> int:
        return next(iter(self.images.values())).shape[-4]

    def blocks(self, device: torch.device) -> Iterator[ViewBlock]:
        """Views of all images on a device, `BLOCK` images after another."""
        for start, seed in zip(range(0, len(self), BLOCK), seeds(self.seed), strict=False):
            views: dict[str | None, Tensor] = {}
            parameters: dict[str | None, Parameters] = {}
            generator = torch.Generator(device).manual_seed(seed)
            for modality, pixels in self.images.items():
                policy, chosen = self.policies[modality], pixels[..., start : start + BLOCK, :, :, :].to(device)
                if policy is not None:
                    drawn = draw_views(policy, chosen, self.views[modality], generator=generator)
                    views[modality], parameters[modality] = drawn
                else:
                    views[modality] = unit_range(chosen if chosen.ndim == 5 else chosen[None])
            yield ViewBlock(start, Views.by_modality(views).plain, parameters)


def _view_count(
    modality: str | None, pixels: Tensor, policy: AugmentationPolicy | None, views: int | None, default: int
) -> int:
    """Number of views of each image, after checks of the pixels and of what was asked for."""
    what = "images" if modality is None else f"images of modality {modality}"
    if pixels.ndim not in (4, 5) or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise ValueError(
            f"{what} must be uint8, or float in [0, 1], of shape (image, channel, height, width), or views of them, "
            f"(view, image, channel, height, width); got {pixels.dtype} of shape {tuple(pixels.shape)}"
        )
    if 0 in pixels.shape:
        raise ValueError(f"there are no {what} to draw from: their shape is {tuple(pixels.shape)}")
    if pixels.is_floating_point() and (bad := (~pixels.isfinite()).flatten(-3).any(-1)).any():
        places = (bad if pixels.ndim == 4 else bad.any(0)).nonzero().flatten().tolist()
        shown = ", ".join(map(str, places[:_SHOWN_IMAGES])) + (", …" if len(places) > _SHOWN_IMAGES else "")
        raise ValueError(f"pixels are NaN or infinite in {len(places)} of {pixels.shape[-4]} {what} ({shown})")
    if pixels.ndim == 5:
        if policy is not None or views not in (None, len(pixels)):
            raise ValueError(f"{what} of five dimensions are {len(pixels)} views already: give no policy or views")
        return len(pixels)
    if views is not None and views < 1:
        raise ValueError(f"views must be at least 1, got {views}")
    if policy is not None:
        return default if views is None else views
    if views not in (None, 1):
        raise ValueError(
            f"{views} views of the same pixels would count each of the {what} {views} times; "
            "give a policy that draws them, or views=1"
        )
    return 1

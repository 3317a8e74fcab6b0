"""Views and draws of some images at a time, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pp_simve.inference import Draws, Guide, draw
from pp_simve.inference.augmentations import AugmentationPolicy, Parameters, draw_views
from pp_simve.inference.data import Pixels
from pp_simve.inference.tools import seeds, unit_range
from pp_simve.models import PlainViews, SimVE, Views, ViewsLike

NUMBERS_AT_ONCE = 2**22
"""Latents, and pixels of views, held at once, of each modality: 16 MiB in float32."""

BLOCK = 64
"""Images whose views are drawn at once; fixed, so that views do not depend on what is computed from them."""

GuideFor = Callable[[PlainViews], Guide]
"""Makes a guide for given views, such as a refined one."""


def images_at_once(views: ViewsLike, latent_dim: int, draws: int) -> int:
    """Number of images whose views, and so many draws of each, fit into `NUMBERS_AT_ONCE`."""
    views = Views.of(views)
    pixels = sum(batch.numel() for batch in views.tensors()) // max(1, views.n_images)
    return max(1, NUMBERS_AT_ONCE // max(1, pixels, draws * views.n_views * latent_dim))


def batches_of_draws(
    model: SimVE,
    guide: Guide,
    views: PlainViews,
    draws: int,
    of_batch: Iterator[int],
    guide_for: GuideFor | None = None,
) -> Iterator[tuple[int, PlainViews, Draws]]:
    """Place of the first image of each batch, the batch's views, and draws of its guide by the next seed."""
    images = Views.of(views).n_images
    if not images:
        raise ValueError("views must be of one image at least, got none")
    size = images_at_once(views, model.prior.latent_dim, draws)
    for start in range(0, images, size):
        batch = Views.of(views)[start : start + size].plain
        of = guide if guide_for is None else guide_for(batch)
        yield start, batch, draw(model, of, batch, draws, seed=next(of_batch))


def one_view_each(values: Tensor, start: int) -> Tensor:
    """One view of each image, views in turn: ``(..., image, axis)`` of ``(..., view, image, axis)``."""
    image = torch.arange(values.shape[-2], device=values.device)
    return values[..., (image + start) % values.shape[-3], image, :]


class ImageSource(NamedTuple):
    """Images or views of one modality, the policy that draws views, if any, and the number of views of each image."""

    pixels: Tensor
    policy: AugmentationPolicy | None
    views: int


def image_sources(
    images: Pixels | Mapping[str, Pixels],
    policy: AugmentationPolicy | Mapping[str, AugmentationPolicy] | None,
    views: int | None,
) -> dict[str | None, ImageSource]:
    """Validates the arguments of `posterior`: its sources, by modality (None where there is but one)."""
    given: dict[Any, Any] = {**images} if isinstance(images, Mapping) else {None: images}
    policies: dict[Any, Any] = {**policy} if isinstance(policy, Mapping) else {None: policy} if policy else {}
    if not given:
        raise ValueError("images of several modalities need at least one modality")
    if policy is not None and isinstance(policy, Mapping) != isinstance(images, Mapping):
        raise ValueError(
            "policies by modality and images by modality go together: {modality: policy} with {modality: images}"
        )
    if unknown := [str(modality) for modality in policies if modality not in given]:
        raise ValueError(f"there are policies of {', '.join(unknown)}, but no images of that modality")
    sources = {}
    for modality, value in given.items():
        pixels, of_modality = torch.as_tensor(value), policies.get(modality)
        _check_pixels(pixels, "images" if modality is None else f"images of modality {modality}")
        drawn_already = pixels.ndim == 5
        if drawn_already and (of_modality is not None or views not in (None, len(pixels))):
            raise ValueError(f"images of five dimensions are {len(pixels)} views already: give no policy or views")
        if views is not None and views < 1:
            raise ValueError(f"views must be at least 1, got {views}")
        if not drawn_already and of_modality is None and views not in (None, 1):
            raise ValueError(
                f"{views} views of the same pixels would count each image {views} times; "
                "give a policy that draws them, or views=1"
            )
        default = len(pixels) if drawn_already else 2 if of_modality is not None and modality is None else 1
        sources[modality] = ImageSource(pixels, of_modality, default if views is None else views)
    numbers = {str(modality): source.pixels.shape[-4] for modality, source in sources.items()}
    if len(set(numbers.values())) != 1:
        raise ValueError(f"images of every modality must be of the same things, got numbers of images {numbers}")
    return sources


def _check_pixels(pixels: Tensor, what: str) -> None:
    if pixels.ndim not in (4, 5) or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise ValueError(
            f"{what} must be uint8, or float in [0, 1], of shape (image, channel, height, width), or views of them, "
            f"(view, image, channel, height, width); got {pixels.dtype} of shape {tuple(pixels.shape)}"
        )
    if 0 in pixels.shape:
        raise ValueError(f"there are no {what} to draw from: their shape is {tuple(pixels.shape)}")
    bad = (~pixels.isfinite()).flatten(-3).any(-1)
    bad = bad.any(0) if pixels.ndim == 5 else bad
    if bad.any():
        raise ValueError(f"pixels are NaN or infinite in {which(bad.numpy(force=True), what)}")


def which(bad: np.ndarray[Any, Any], what: str = "images") -> str:
    """How many of the images a mask marks, and the first of them."""
    places = np.flatnonzero(bad).tolist()
    shown = ", ".join(map(str, places[:8])) + (", …" if len(places) > 8 else "")
    return f"{len(places)} of {len(bad)} {what} ({shown})"


def view_blocks(
    sources: Mapping[str | None, ImageSource], seed: int, device: torch.device
) -> Iterator[tuple[int, PlainViews, dict[str | None, Parameters]]]:
    """Place of the first image, views and augmentation parameters ``(view, image)`` of `BLOCK` images after another."""
    images = next(iter(sources.values())).pixels.shape[-4]
    for start, of_block in zip(range(0, images, BLOCK), seeds(seed), strict=False):
        views: dict[str | None, Tensor] = {}
        parameters: dict[str | None, Parameters] = {}
        generator = torch.Generator(device).manual_seed(of_block)
        for modality, source in sources.items():
            chosen = source.pixels[..., start : start + BLOCK, :, :, :].to(device)
            if source.policy is None:
                views[modality] = unit_range(chosen if chosen.ndim == 5 else chosen[None])
            else:
                drawn = draw_views(source.policy, chosen, source.views, generator=generator)
                views[modality], parameters[modality] = drawn
        yield start, Views.by_modality(views).plain, parameters

"""What draws are conditioned on: images and a policy that draws their views, or views that were drawn already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pp_simve.evaluation.posterior.batches import seeds
from pp_simve.inference.augmentations import AugmentationPolicy, Parameters, draw_views
from pp_simve.inference.data import Pixels
from pp_simve.inference.tools import unit_range
from pp_simve.models.modalities import PlainViews as Views

IMAGES_A_BLOCK = 64
"""Images whose views are drawn at once. Fixed, so that views do not depend on what else is computed from them."""

_SHOWN_IMAGES = 8


@dataclass(frozen=True)
class Block:
    """Views of some images.

    Attributes:
        start: place of the first of them.
        views: float in [0, 1], ``(view, image, channel, height, width)``, or one such tensor per modality.
        parameters: of the views that a policy drew, each ``(view, image)``, by modality and name.
    """

    start: int
    views: Views
    parameters: dict[str | None, Parameters]


@dataclass(frozen=True)
class Viewing:
    """Images by modality, and how they become views; the only modality of images that are of one is called None.

    Attributes:
        images: ``(image, channel, height, width)``, or ``(view, image, channel, height, width)`` if drawn already.
        policies: by modality; None where images are taken as they are.
        views: of each image, of each modality.
        seed: decides the views, whatever is done with them.
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
    ) -> Viewing:
        """Checks them.

        Args:
            images: uint8, or float in [0, 1], by modality where views are of several; of four dimensions, or of five
                where they are views already.
            policy: draws the views; by modality where images are, and a modality without one is taken as it is.
            views: of each image and modality; by default 2, and 1 where images are taken as they are or are of several
                modalities.

        Raises:
            ValueError: no images, pixels that are NaN or infinite, another type or shape, modalities that differ in
                their
                number of images, a policy or a number of views for what are views already, or several views without a
                policy to tell them apart.
        """
        by_modality: dict[str | None, Tensor] = (
            {modality: torch.as_tensor(pixels) for modality, pixels in images.items()}
            if isinstance(images, Mapping)
            else {None: torch.as_tensor(images)}
        )
        if not by_modality:
            raise ValueError("images of several modalities need at least one modality")
        if policy is not None and isinstance(policy, Mapping) != isinstance(images, Mapping):
            raise ValueError(
                "policies by modality and images by modality go together: {modality: policy} with {modality: images}"
            )
        given: Mapping[Any, AugmentationPolicy] = (
            policy if isinstance(policy, Mapping) else {None: policy} if policy else {}
        )
        if unknown := [str(modality) for modality in given if modality not in by_modality]:
            raise ValueError(f"there are policies of {', '.join(unknown)}, but no images of that modality")
        policies = {modality: given.get(modality) for modality in by_modality}
        default = 1 if isinstance(images, Mapping) else 2
        counts = {
            modality: _checked(modality, pixels, policies[modality], views, default)
            for modality, pixels in by_modality.items()
        }
        numbers = {str(modality): _images(pixels) for modality, pixels in by_modality.items()}
        if len(set(numbers.values())) != 1:
            raise ValueError(f"images of every modality must be of the same things, got numbers of images {numbers}")
        return cls(by_modality, policies, counts, seed)

    def __len__(self) -> int:
        return _images(next(iter(self.images.values())))

    def blocks(self, device: torch.device) -> Iterator[Block]:
        """Views of all images on a device, some after another."""
        for start, seed in zip(range(0, len(self), IMAGES_A_BLOCK), seeds(self.seed), strict=False):
            here = slice(start, start + IMAGES_A_BLOCK)
            views: dict[str | None, Tensor] = {}
            parameters: dict[str | None, Parameters] = {}
            generator = torch.Generator(device).manual_seed(seed)
            for modality, pixels in self.images.items():
                policy = self.policies[modality]
                if pixels.ndim == 5:
                    views[modality] = unit_range(pixels[:, here].to(device))
                elif policy is None:
                    views[modality] = unit_range(pixels[here].to(device)).unsqueeze(0)
                else:
                    drawn = draw_views(policy, pixels[here].to(device), self.views[modality], generator=generator)
                    views[modality], parameters[modality] = drawn
            yield Block(start, alone_or_by_modality(views), parameters)


def modalities(views: Views) -> Iterator[tuple[str | None, Tensor]]:
    """Views by modality; the only modality of those that are of one is called None."""
    if isinstance(views, Tensor):
        yield None, views
    else:
        yield from views.items()


def alone_or_by_modality(views: Mapping[str | None, Tensor]) -> Views:
    """What `modalities` was given: the tensor itself where there is but the one modality without a name."""
    return views[None] if None in views else {str(modality): batch for modality, batch in views.items()}


def _images(pixels: Tensor) -> int:
    return pixels.shape[-4]


def _checked(
    modality: str | None, pixels: Tensor, policy: AugmentationPolicy | None, views: int | None, default: int
) -> int:
    """How many views of each image there are, or are to be drawn."""
    what = "images" if modality is None else f"images of modality {modality}"
    if pixels.ndim not in (4, 5) or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise ValueError(
            f"{what} must be uint8, or float in [0, 1], of shape (image, channel, height, width), or views of them, "
            f"(view, image, channel, height, width); got {pixels.dtype} of shape {tuple(pixels.shape)}"
        )
    if 0 in pixels.shape:
        raise ValueError(f"there are no {what} to draw from: their shape is {tuple(pixels.shape)}")
    if pixels.is_floating_point():
        finite = pixels.isfinite().flatten(-3).all(-1)
        bad = (~finite if pixels.ndim == 4 else ~finite.all(0)).nonzero().flatten().tolist()
        if bad:
            shown = ", ".join(map(str, bad[:_SHOWN_IMAGES])) + (", …" if len(bad) > _SHOWN_IMAGES else "")
            raise ValueError(f"pixels are NaN or infinite in {len(bad)} of {_images(pixels)} {what} ({shown})")
    if pixels.ndim == 5:
        if policy is not None or views not in (None, len(pixels)):
            raise ValueError(f"{what} of five dimensions are {len(pixels)} views already: give no policy or views")
        return len(pixels)
    if views is not None and views < 1:
        raise ValueError(f"views must be at least 1, got {views}")
    if policy is None:
        if views not in (None, 1):
            raise ValueError(
                f"{views} views of the same pixels would count each of the {what} {views} times; "
                "give a policy that draws them, or views=1"
            )
        return 1
    return default if views is None else views

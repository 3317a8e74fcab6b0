"""What draws are conditioned on: images and a policy that draws their views, or views that were drawn already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pp_simve.evaluation.diagnostics.batches import seeds
from pp_simve.inference.guides.base import unit_range
from pp_simve.inference.svi import Pixels
from pp_simve.inference.views import Parameters, ViewPolicy, draw_views
from pp_simve.models import Views

IMAGES_A_BLOCK = 64
"""Images whose views are drawn at once. Fixed, so that views do not depend on what else is computed from them."""

_SHOWN_IMAGES = 8


@dataclass(frozen=True)
class Block:
    """Views of some images.

    Attributes:
        start: place of the first of them.
        views: float in [0, 1], ``(view, image, channel, height, width)``, or such a tensor a kind.
        parameters: of the views that a policy drew, each ``(view, image)``, by kind and name.
    """

    start: int
    views: Views
    parameters: dict[str | None, Parameters]


@dataclass(frozen=True)
class Viewing:
    """Images by kind, and how they become views; the only kind of images that are of one is called None.

    Attributes:
        images: ``(image, channel, height, width)``, or ``(view, image, channel, height, width)`` if drawn already.
        policies: by kind; None where images are taken as they are.
        views: of each image, of each kind.
        seed: decides the views, whatever is done with them.
    """

    images: dict[str | None, Tensor]
    policies: dict[str | None, ViewPolicy | None]
    views: dict[str | None, int]
    seed: int

    @classmethod
    def of(
        cls,
        images: Pixels | Mapping[str, Pixels],
        policy: ViewPolicy | Mapping[str, ViewPolicy] | None,
        views: int | None,
        *,
        seed: int,
    ) -> Viewing:
        """Checks them.

        Args:
            images: uint8, or float in [0, 1], by kind where views are of several; of four dimensions, or of five where
                they are views already.
            policy: draws the views; by kind where images are, and a kind without one is taken as it is.
            views: of each image and kind; by default 2, and 1 where images are taken as they are or are of several
                kinds.

        Raises:
            ValueError: no images, pixels that are NaN or infinite, another type or shape, kinds that differ in their
                number of images, a policy or a number of views for what are views already, or several views without a
                policy to tell them apart.
        """
        by_kind: dict[str | None, Tensor] = (
            {kind: torch.as_tensor(pixels) for kind, pixels in images.items()}
            if isinstance(images, Mapping)
            else {None: torch.as_tensor(images)}
        )
        if not by_kind:
            raise ValueError("images of several kinds need at least one kind")
        if policy is not None and isinstance(policy, Mapping) != isinstance(images, Mapping):
            raise ValueError("policies by kind and images by kind go together: {kind: policy} with {kind: images}")
        given: Mapping[Any, ViewPolicy] = policy if isinstance(policy, Mapping) else {None: policy} if policy else {}
        if unknown := [str(kind) for kind in given if kind not in by_kind]:
            raise ValueError(f"there are policies of {', '.join(unknown)}, but no images of that kind")
        policies = {kind: given.get(kind) for kind in by_kind}
        default = 1 if isinstance(images, Mapping) else 2
        counts = {kind: _checked(kind, pixels, policies[kind], views, default) for kind, pixels in by_kind.items()}
        numbers = {str(kind): _images(pixels) for kind, pixels in by_kind.items()}
        if len(set(numbers.values())) != 1:
            raise ValueError(f"images of every kind must be of the same things, got numbers of images {numbers}")
        return cls(by_kind, policies, counts, seed)

    def __len__(self) -> int:
        return _images(next(iter(self.images.values())))

    def blocks(self, device: torch.device) -> Iterator[Block]:
        """Views of all images on a device, some after another."""
        for start, seed in zip(range(0, len(self), IMAGES_A_BLOCK), seeds(self.seed), strict=False):
            here = slice(start, start + IMAGES_A_BLOCK)
            views: dict[str | None, Tensor] = {}
            parameters: dict[str | None, Parameters] = {}
            generator = torch.Generator(device).manual_seed(seed)
            for kind, pixels in self.images.items():
                policy = self.policies[kind]
                if pixels.ndim == 5:
                    views[kind] = unit_range(pixels[:, here].to(device))
                elif policy is None:
                    views[kind] = unit_range(pixels[here].to(device)).unsqueeze(0)
                else:
                    drawn = draw_views(policy, pixels[here].to(device), self.views[kind], generator=generator)
                    views[kind], parameters[kind] = drawn
            yield Block(start, alone_or_by_kind(views), parameters)


def kinds(views: Views) -> Iterator[tuple[str | None, Tensor]]:
    """Views by kind; the only kind of those that are of one is called None."""
    if isinstance(views, Tensor):
        yield None, views
    else:
        yield from views.items()


def alone_or_by_kind(views: Mapping[str | None, Tensor]) -> Views:
    """What `kinds` was given: the tensor itself where there is but the one kind without a name."""
    return views[None] if None in views else {str(kind): batch for kind, batch in views.items()}


def _images(pixels: Tensor) -> int:
    return pixels.shape[-4]


def _checked(kind: str | None, pixels: Tensor, policy: ViewPolicy | None, views: int | None, default: int) -> int:
    """How many views of each image there are, or are to be drawn."""
    what = "images" if kind is None else f"images of kind {kind}"
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

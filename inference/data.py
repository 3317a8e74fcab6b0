"""Sources of views: images of one modality or several, on a device or in a file, and the policies that draw views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pp_simve.inference.augmentations import (
    AugmentationPolicy,
    Compose,
    ImageShape,
    Parameters,
    augmentation_policy,
    default_policy,
    draw_views,
)
from pp_simve.inference.images import ImagesError, ImagesWithPolicy, PlainImages, as_images, check_modalities
from pp_simve.inference.mapped import MappedImages, is_mapped
from pp_simve.inference.plan import FitError
from pp_simve.inference.tools import default_float, unit_range
from pp_simve.models import PlainViews

Pixels = Tensor | np.ndarray[Any, Any]
FitImages = PlainImages | ImagesWithPolicy | Mapping[str, PlainImages]
"""What `fit` takes: images, images with their default policy, or images by modality."""
FitPolicy = AugmentationPolicy | str | Mapping[str, AugmentationPolicy | str] | None
"""How `fit` draws views: a policy, its name, or one of them for each modality."""


class Source(ABC):
    """Images by their place in the data, as batches of views; the base is of those that any place can be drawn from."""

    n_views: int
    """Views of each image in a batch, of all modalities together."""
    policy: AugmentationPolicy | Any | None
    """What draws the views; by modality where there are several. None where they are taken as they are."""
    images: Tensor | Any
    """Images, by modality where there are several; of a stream, a batch of them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the images."""

    @abstractmethod
    def to(self, device: torch.device) -> Source:
        """The same source on a device."""

    @abstractmethod
    def draw(self, index: Tensor, generator: torch.Generator) -> PlainViews:
        """Views of the images at those places, float32 in [0, 1], without reading from the device."""

    def order(self, generator: torch.Generator) -> Tensor:
        """The places of an epoch's images, in the order in which they are drawn."""
        return torch.randperm(len(self), generator=generator, device=generator.device).to(self.device)

    def expect(self, index: Tensor) -> None:
        """Is told the places of the batch that is drawn next; none after the last one of an epoch."""
        return

    def state(self) -> Any:
        """What `restore` needs to go on with the next batch, beside the order."""
        return None

    def restore(self, state: Any) -> None:
        """Goes on after a `state`."""
        return


@dataclass(frozen=True)
class Images(Source):
    """Images of one modality, with the policy that draws their views.

    Attributes:
        images: uint8 or float in [0, 1], shape ``(image, channel, height, width)``; or ``(view, image, channel, height,
            width)``, views drawn before, which are taken as they are.
        policy: draws the views; None takes images as they are.
        n_views: of each image.
        original_first: whether the first view is the image itself.

    Raises:
        ValueError: several views without a policy to draw them, or a policy for views drawn before.
    """

    images: Tensor
    policy: AugmentationPolicy | None
    n_views: int
    original_first: bool = False

    def __post_init__(self) -> None:
        drawn_before = len(self.images) if self.images.ndim == 5 else 1
        if self.policy is None and self.n_views != drawn_before:
            raise ValueError(f"without a policy there are {drawn_before} views of each image, got {self.n_views}")
        if self.policy is not None and self.images.ndim == 5:
            raise ValueError("images of five dimensions are views already, so they take no policy")

    def __len__(self) -> int:
        return self.images.shape[-4]

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device) -> Images:
        return replace(self, images=self.images.to(device))

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        return self.draw_with_parameters(index, generator)[0]

    def draw_with_parameters(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Parameters]:
        """As `draw`, with the parameters of the views that the policy drew, each ``(view, image)``."""
        chosen = self.images[..., index, :, :, :]
        return views_of(chosen, self.policy, self.n_views, self.original_first, generator)


DEVICE_SHARE = 0.5
"""Of the free memory of a GPU, up to which images of a file are held on it."""


@dataclass
class ImagesOfFile(Source):
    """Images of one modality that stay in their file; a thread reads the next batch while the fit computes.

    Views are those of `Images`, and so are all of its attributes.
    """

    mapped: MappedImages
    policy: AugmentationPolicy
    n_views: int
    original_first: bool = False
    target: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.images = self.mapped.batch(torch.tensor([0]))
        self._reader = ThreadPoolExecutor(1)
        self._expected: tuple[Tensor, Future[Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.mapped)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, device: torch.device) -> Source:
        if device.type == "cuda" and self.mapped.images.nbytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            data = default_float(as_images(self.mapped.images)).to(device)
            return Images(data, self.policy, self.n_views, self.original_first)
        return replace(self, target=device)

    def expect(self, index: Tensor) -> None:
        self._expected = (index, self._reader.submit(self._read, index)) if len(index) else None

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        expected, self._expected = self._expected, None
        read = expected is not None and torch.equal(expected[0], index)
        batch = expected[1].result() if expected is not None and read else self._read(index)
        batch = default_float(batch.to(self.target, non_blocking=True))
        return views_of(batch, self.policy, self.n_views, self.original_first, generator)[0]

    def _read(self, index: Tensor) -> Tensor:
        batch = self.mapped.batch(index)
        return batch.pin_memory() if self.target.type == "cuda" else batch


def views_of(
    images: Tensor, policy: AugmentationPolicy | None, n_views: int, original_first: bool, generator: torch.Generator
) -> tuple[Tensor, Parameters]:
    """Views of a batch, ``(view, image, channel, height, width)``, and their parameters; see `Images`."""
    if policy is None:
        return unit_range(images if images.ndim == 5 else images[None]), {}
    views, parameters = draw_views(policy, images, n_views - original_first, generator=generator)
    return torch.cat([unit_range(images)[None], views]) if original_first else views, parameters


@dataclass(frozen=True)
class MultimodalImages(Source):
    """Images of several modalities of the same things, `Images` each."""

    modalities: Mapping[str, Images]

    def __len__(self) -> int:
        return len(next(iter(self.modalities.values())))

    @property
    def n_views(self) -> int:  # type: ignore[override]  # attributes of other sources
        return sum(part.n_views for part in self.modalities.values())

    @property
    def policy(self) -> dict[str, AugmentationPolicy]:  # type: ignore[override]  # likewise
        """The policies that draw views."""
        return {modality: part.policy for modality, part in self.modalities.items() if part.policy is not None}

    @property
    def images(self) -> dict[str, Tensor]:  # type: ignore[override]  # likewise
        """The images by modality."""
        return {modality: part.images for modality, part in self.modalities.items()}

    @property
    def device(self) -> torch.device:
        return next(iter(self.modalities.values())).device

    def to(self, device: torch.device) -> MultimodalImages:
        return MultimodalImages({modality: part.to(device) for modality, part in self.modalities.items()})

    def draw(self, index: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {modality: part.draw(index, generator) for modality, part in self.modalities.items()}


def training_source(
    images: FitImages,
    policy: FitPolicy,
    views: int,
    *,
    original_first: bool = False,
) -> Images | ImagesOfFile | MultimodalImages:
    """The source of views that `fit` trains on; its arguments are those of `fit`.

    Raises:
        FitError: images, policies or numbers of views out of range, modalities that do not match.
    """
    if isinstance(images, Mapping) and original_first:
        raise FitError("an objective that compares views with the original image needs images of one modality")
    least = 1 + original_first
    if views < least:
        why = ": the objective takes the original image as the first of them" if original_first else ""
        raise FitError(f"views must be at least {least}, got {views}{why}")
    if not isinstance(images, Mapping):
        if isinstance(policy, Mapping):
            raise FitError(f"policies by modality ({', '.join(policy)}) need images by modality")
        given = images.images if isinstance(images, ImagesWithPolicy) else images
        given = MappedImages(given) if is_mapped(given) else given
        data = _to_fit(given.images[:1] if isinstance(given, MappedImages) else given)
        shape = image_shape(data)
        default = images.default_policy if isinstance(images, ImagesWithPolicy) else default_policy(shape)
        drawn_by = named_policy(default if policy is None else policy, shape)
        if isinstance(given, MappedImages):
            return ImagesOfFile(given, drawn_by, views, original_first)
        return Images(data, drawn_by, views, original_first)
    if policy is not None and (not isinstance(policy, Mapping) or set(policy) - set(images)):
        raise FitError(
            f"images are by modality ({', '.join(images)}), so the policy must be, too: {{modality: policy}}"
        )
    modalities = {}
    for modality, pixels in images.items():
        data = _to_fit(pixels, f"images of {modality}")
        shape = image_shape(data)
        drawing = (policy or {}).get(modality)
        modalities[modality] = Images(
            data, Compose([], shape) if drawing is None else named_policy(drawing, shape), views
        )
    check_modalities(modalities)
    return MultimodalImages(modalities)


def image_shape(images: Tensor) -> ImageShape:
    """``(channel, height, width)`` of a batch of images."""
    channels, height, width = images.shape[-3:]
    return channels, height, width


def named_policy(policy: AugmentationPolicy | str, shape: ImageShape) -> AugmentationPolicy:
    """A policy, or the one of that name.

    Raises:
        FitError: there is none of that name, or not for images of this shape.
    """
    try:
        return augmentation_policy(policy, shape) if isinstance(policy, str) else policy
    except ValueError as error:
        raise FitError(str(error)) from None


def _to_fit(images: PlainImages, where: str = "images") -> Tensor:
    """uint8, or float of the default type, at least one."""
    data = as_images(images, where)
    if not len(data):
        raise ImagesError(f"there are no {where} to fit, got shape {tuple(data.shape)}")
    return default_float(data)

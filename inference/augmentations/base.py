"""The interface of augmentation policies, their composition, and the drawing of several views of each image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
"""Augmentation parameters by name, each float32 of shape ``(n,)``; flips and grayscale are 0 or 1."""

HIDDEN = "_"
"""Parameters whose name starts so are passed from ``sample`` to ``apply`` and not recorded."""

ImageShape = tuple[int, int, int]
"""``(channel, height, width)``."""


CPU_PART = 2**18
"""Values (pixels times channels) per CPU thread and part: about 85 color images of 32×32."""


class AugmentationPolicy(ABC):
    """Augmentation policy: ``sample`` draws parameters, ``apply`` computes the views of images with them.

    Two methods and a tuple of names make a policy. Neither method may read a value back from the device (``.item()``,
    ``bool(tensor)``, ``.tolist()``): that would stall the accelerator in every batch.

    Examples:
        >>> class Dim(AugmentationPolicy):
        ...     names = ("dimming",)
        ...
        ...     def sample(self, count, *, generator):
        ...         return {"dimming": torch.rand(count, generator=generator, device=generator.device)}
        ...
        ...     def apply(self, images, parameters):
        ...         return images * (1 - parameters["dimming"]).view(-1, 1, 1, 1)
        >>> views, parameters = draw_views(Dim(), torch.ones(5, 1, 8, 8), 2, generator=torch.Generator())
        >>> views.shape, parameters["dimming"].shape
        (torch.Size([2, 5, 1, 8, 8]), torch.Size([2, 5]))
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order. A subclass may set a plain class attribute."""

    @abstractmethod
    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        """Parameters of ``count`` views, each ``(count,)`` on the generator's device, from this generator only."""

    @abstractmethod
    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Views of ``images``, float in [0, 1] of shape ``(n, channel, height, width)``; the same shape and range.

        A view must depend on its own image and parameters alone, so that a batch can be split anywhere. ``images`` must
        not be changed.
        """


@dataclass(frozen=True)
class Compose(AugmentationPolicy):
    """Composition of policies, on images of one shape; itself a policy.

    Args:
        transforms: the policies, in order of application; no two may share a parameter's name.
        image_shape: ``(channel, height, width)``, checked by ``apply``.
    """

    transforms: Sequence[AugmentationPolicy]
    image_shape: ImageShape

    def __post_init__(self) -> None:
        check_image_shape(self.image_shape)
        object.__setattr__(self, "transforms", tuple(self.transforms))
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"parameter names must differ between transforms, but {', '.join(twice)} appears twice")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for transform in self.transforms for name in transform.names)

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        parameters: Parameters = {}
        for transform in self.transforms:
            parameters |= transform.sample(count, generator=generator)
        return parameters

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        check_images(images, self.image_shape)
        for transform in self.transforms:
            images = transform.apply(images, parameters)
        return images


@torch.no_grad()
def draw_views(
    policy: AugmentationPolicy, images: Tensor, views: int, *, generator: torch.Generator
) -> tuple[Tensor, Parameters]:
    """Independent views of each image, and their parameters.

    Args:
        policy: the augmentation policy.
        images: uint8, or float in [0, 1], shape ``(image, channel, height, width)``.
        views: views of each image, at least 1.
        generator: the only source of randomness, on the images' device.

    Returns:
        Views of torch's default type (float32) and shape ``(view, image, channel, height, width)`` and, for each of
        ``policy.names``, float32 parameters of shape ``(view, image)``.

    Raises:
        ValueError: for ``views`` below 1, a generator on another device, images of another shape or type than the
            policy expects, or a policy that breaks its contract.
    """
    if views < 1:
        raise ValueError(f"views must be at least 1, got {views}")
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ValueError(
            "images must be uint8, or float in [0, 1], of shape (image, channel, height, width), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    if generator.device.type != images.device.type:
        raise ValueError(
            f"the generator is on {generator.device} and the images on {images.device}: "
            f"make it with torch.Generator(device={images.device.type!r})"
        )
    # Converted before it is repeated: once per image, however many views it has.
    pixels = images.float()
    if images.dtype == torch.uint8:
        pixels.div_(255)
    batch = len(images)
    count = views * batch
    flat = policy.sample(count, generator=generator)
    shapes = {name: tuple(value.shape) for name, value in flat.items() if not name.startswith(HIDDEN)}
    if shapes != dict.fromkeys(policy.names, (count,)):
        raise ValueError(
            f"{type(policy).__name__}.sample({count}) must return {', '.join(policy.names) or 'nothing'}, "
            f"each of shape ({count},), got {shapes}"
        )
    parameters = {name: flat[name].float().view(views, batch) for name in policy.names}
    of_views = parameters | {name: flat[name].view(views, batch) for name in flat.keys() - parameters.keys()}

    if images.device.type != "cpu":
        repeated = pixels.expand(views, *pixels.shape).reshape(count, *pixels.shape[1:])
        return _apply(policy, repeated, flat).reshape(views, *pixels.shape), parameters
    # A CPU is fastest on parts whose temporaries fit its caches, and in memory used before.
    part = max(1, CPU_PART * torch.get_num_threads() // max(1, pixels[:1].numel()))
    drawn = torch.empty(views, *pixels.shape)
    for view in range(views):
        for start in range(0, batch, part):
            here = slice(start, start + part)
            drawn[view, here] = _apply(
                policy, pixels[here], {key: value[view, here] for key, value in of_views.items()}
            )
    return drawn, parameters


def _apply(policy: AugmentationPolicy, images: Tensor, parameters: Parameters) -> Tensor:
    drawn = policy.apply(images, parameters)
    if drawn.shape != images.shape:
        raise ValueError(
            f"{type(policy).__name__}.apply must keep the shape {tuple(images.shape)}, got {tuple(drawn.shape)}"
        )
    return drawn.to(torch.get_default_dtype())


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """``count`` uniform draws from [low, high], float32, on the generator's device."""
    return torch.empty(count, device=generator.device).uniform_(low, high, generator=generator)


def bernoulli(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """``count`` draws of 1 (with this probability) or 0, float32, on the generator's device."""
    return torch.empty(count, device=generator.device).bernoulli_(probability, generator=generator)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """One value per image, ``(n,)``, shaped ``(n, 1, 1, 1)`` and typed so that it broadcasts over ``images``."""
    return values.to(images.dtype).view(-1, 1, 1, 1)


def check_images(images: Tensor, image_shape: ImageShape | None = None) -> None:
    """Raises ValueError unless these are float32 or float64 images ``(n, channel, height, width)`` of that shape."""
    expected = ", ".join(str(size) for size in image_shape or ("channel", "height", "width"))
    if images.ndim != 4 or (image_shape is not None and tuple(images.shape[1:]) != tuple(image_shape)):
        raise ValueError(f"images must have shape (n, {expected}), got {tuple(images.shape)}")
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"images must be float32 or float64 in [0, 1], got {images.dtype}; draw_views converts uint8")


def check_image_shape(image_shape: ImageShape) -> None:
    """Raises ValueError unless this is (channel, height, width), all positive."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape must be (channel, height, width), all at least 1, got {image_shape}")


def check_range(name: str, values: tuple[float, float], low: float = -float("inf"), high: float = float("inf")) -> None:
    """Raises ValueError unless ``values`` is (lower, upper), in that order and within [low, high]."""
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        limits = "" if low == -high == -float("inf") else f", within [{low:g}, {high:g}]"
        raise ValueError(f"{name} must be (lower, upper), lower first{limits}, got {values}")


def check_probability(name: str, value: float) -> None:
    """Raises ValueError unless 0 <= value <= 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability in [0, 1], got {value}")

"""Images as users have them (arrays, tensors, data sets), checked once and made one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pp_simve.inference.plan import FitError

ROUNDING = 1e-3
"""Floats this far outside [0, 1] are clipped: resizing and compression leave such."""

PlainImages = Tensor | np.ndarray[Any, Any] | Dataset[Any]
"""uint8 in 0..255 or float in [0, 1], ``(image, channel, height, width)``; or a data set of images of one size."""


class ImagesError(FitError):
    """Images that cannot be used. The message says what was seen, what was expected and how to convert them."""


@runtime_checkable
class ImagesWithPolicy(Protocol):
    """Images that come with the name of their default augmentation policy, such as `load_data` returns."""

    @property
    def images(self) -> PlainImages: ...  # uint8, (image, channel, height, width)

    @property
    def default_policy(self) -> str: ...


def as_images(data: object, where: str = "images", *, values: bool = True) -> Tensor:
    """Images as one tensor, uint8 or float in [0, 1], ``(image, channel, height, width)``.

    Arrays share their memory with the tensor where they can: read-only ones (such as ``np.memmap``), those not
    contiguous and the items of a data set are copied into main memory. Of items that are tuples the first entry is the
    image. A data set is read once, so its own random transforms are drawn once.

    Args:
        data: `PlainImages`.
        where: their name in errors.
        values: whether the values of a tensor are checked, which reads from its device; those of arrays always are.

    Raises:
        ImagesError: another type, shape, layout or range.
    """
    if isinstance(data, Dataset):
        data = data.tensors[0] if isinstance(data, TensorDataset) else _stacked(data, where)
    array = isinstance(data, np.ndarray)
    images = _from_array(data, where) if isinstance(data, np.ndarray) else data
    if not isinstance(images, Tensor):
        mends = {DataLoader: "give its dataset, loader.dataset", list: f"stack them: torch.stack({where})"}
        hint = next((f"; {text}" for kind, text in mends.items() if isinstance(images, kind)), "")
        if isinstance(images, ImagesWithPolicy):
            hint = "; give the images of one split: data.test.images"
        raise ImagesError(f"{where} must be a tensor, an array or a torch Dataset, got {_a(images)}{hint}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        _wrong_type(images.dtype, where, array=array)
    shape = tuple(images.shape)
    expected = f"{where} must have shape (image, channel, height, width), got {shape}"
    if images.ndim == 3:
        raise ImagesError(
            f"{expected}; add a batch dimension to a single image, image[None], or the channel to gray images, "
            "images[:, None]"
        )
    if images.ndim != 4:
        raise ImagesError(f"{expected}; reshape them: images.reshape(count, channels, height, width)")
    # Vectors are images of one pixel, so several channels are only odd where there are several pixels.
    if shape[3] in (1, 3, 4) and min(shape[1:3]) > 4:
        mend = "np.moveaxis(images, -1, 1)" if array else "images.movedim(-1, 1)"
        raise ImagesError(f"{expected}, which has the channel last; move it: {mend}")
    if 0 in shape[1:]:
        raise ImagesError(f"{expected}, which has no pixels")
    if (values or array) and images.is_floating_point() and images.numel():
        low, high = (float(bound) for bound in images.aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            _wrong_range(low, high, where)
        if low < 0 or high > 1:
            images = images.clamp(0, 1)
    return images


def check_modalities(images: Mapping[str, Sized]) -> int:
    """The number of images of every modality.

    Raises:
        ImagesError: modalities have different numbers.
    """
    counts = {modality: len(part) for modality, part in images.items()}
    if len(set(counts.values())) != 1:
        raise ImagesError(f"images of every modality must be of the same things, got numbers of images {counts}")
    return next(iter(counts.values()))


def describes_shapes(error: RuntimeError) -> bool:
    """Whether an error of torch is one of tensors whose shapes do not match."""
    return any(word in str(error) for word in ("shape", "size", "channels")) and "memory" not in str(error)


def mismatch(program: str, images: Tensor | Mapping[str, Tensor], encoders: nn.Module, error: RuntimeError) -> str:
    """The message where networks do not take images of a shape: which they were given, and which they are built for."""
    of = {"": images} if isinstance(images, Tensor) else images
    given = ", ".join(f"{tuple(batch.shape[-3:])} {modality}".strip() for modality, batch in of.items())
    shapes = [getattr(part, "image_shape", None) for part in encoders.modules()]
    built = ", ".join(str(tuple(shape)) for shape in shapes if shape is not None)
    return (
        f"{program} images of shape {given}{f'; the encoder is built for {built}' if built else ''} "
        f"({str(error).splitlines()[0]}). Build encoder and decoder for these images, the decoder for the prior's "
        "latents, or resize or convert the images"
    )


def _from_array(data: np.ndarray[Any, Any], where: str) -> Tensor:
    native = data.astype(data.dtype.newbyteorder("="), copy=False)
    try:
        held = np.require(native, requirements=["C", "W", "E"])
        # Axes of length 1 count as contiguous whatever their stride, which torch refuses below zero.
        return torch.from_numpy(held.copy() if min(held.strides, default=0) < 0 else held)
    except TypeError:
        _wrong_type(data.dtype, where, array=True)


def _stacked(dataset: Dataset[Any], where: str) -> Tensor:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ImagesError(
            f"{where} must have a length, {type(dataset).__name__} has none; fit it as a stream, "
            "DataLoader(dataset, batch_size), with steps, or stack its images into a tensor"
        )
    stacked, count = torch.empty(0), len(dataset)
    for place in range(count):
        item = dataset[place]
        image = _item(item[0] if isinstance(item, tuple | list) and len(item) else item, f"item {place} of {where}")
        if place == 0:
            stacked = image.new_empty(count, *image.shape)
        elif (image.shape, image.dtype) != (stacked.shape[1:], stacked.dtype):
            raise ImagesError(
                f"item {place} of {where} is {image.dtype} of shape {tuple(image.shape)}, but item 0 is "
                f"{stacked.dtype} of shape {tuple(stacked.shape[1:])}; give all one size and mode, for example by "
                "torchvision.transforms.v2.Resize((height, width)) in the data set's transform"
            )
        stacked[place] = image
    return stacked


def _item(item: object, where: str) -> Tensor:
    """An image of a data set, ``(channel, height, width)``."""
    from PIL import Image  # here: only data sets of files need it

    if isinstance(item, Image.Image):
        if item.mode not in ("L", "RGB"):
            raise ImagesError(f"{where} has mode {item.mode}, expected RGB or L; convert it: image.convert('RGB')")
        pixels = np.array(item)
        return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels).movedim(-1 if pixels.ndim == 3 else 0, 0)
    image = _from_array(item, where) if isinstance(item, np.ndarray) else item
    if not isinstance(image, Tensor):
        raise ImagesError(f"{where} is {_a(item)}, expected an image, or a tuple whose first entry is one")
    if image.ndim != 3:
        raise ImagesError(f"{where} must have shape (channel, height, width), got {tuple(image.shape)}")
    return image


def _a(thing: object) -> str:
    return f"an object of type {type(thing).__name__}"


def _wrong_type(dtype: object, where: str, *, array: bool) -> NoReturn:
    name = str(dtype).removeprefix("torch.")
    as_float, as_bytes = (
        ("astype(np.float32)", "astype(np.uint8)") if array else ("to(torch.float32)", "to(torch.uint8)")
    )
    mend = {"bool": f"images.{as_float}", "uint16": f"images.{as_float} / 65535"}.get(name, f"images.{as_bytes}")
    raise ImagesError(f"{where} must be uint8 in 0..255 or float in [0, 1], got {name}; convert them: {mend}")


def _wrong_range(low: float, high: float, where: str) -> NoReturn:
    if low != low:
        mend = "replace what is not a number"
    elif low < -ROUNDING:
        mend = "leave out a normalization, or undo it: images * std + mean"
    else:
        mend = f"divide them by their largest possible value: images / {255 if 2 < high <= 255 else f'{high:g}'}"
    raise ImagesError(f"{where} must be float in [0, 1], got values in [{low:g}, {high:g}]; {mend}")

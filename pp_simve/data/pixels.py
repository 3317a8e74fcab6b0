"""How values become pixels, for files and arrays alike: range, layout, size and background."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageColor
from torch import Tensor
from torch.nn.functional import interpolate

from pp_simve.data.types import DataError

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
Resize = Literal["auto", "squash", "crop", "pad"]
Range = tuple[float, float]

SIXTEEN_BITS = (0.0, 65535.0)
IMPLIED: dict[str, Range] = {
    **{"bool": (0, 1), "uint8": (0, 255), "uint16": SIXTEEN_BITS},
    **dict.fromkeys(("float16", "float32", "float64"), (0.0, 1.0)),
}
"""Values of black and white by dtype."""
TOLERANCE = 1e-3  # of the range, by which values may leave it: what interpolation and rounding do
CHUNK = 2**20  # values converted at once


@dataclass(frozen=True)
class Reading:
    """How images are read; `of` takes it as it is typed.

    size:        (height, width) to resize to; None: as the images are
    resize:      squash to that size, crop the largest central part of its shape, or pad to its shape; auto is squash,
                 and crop for CelebA
    background:  RGB behind transparent pixels and in padding; grey images take its luminance
    range:       values of black and white; auto: as `IMPLIED` by the type; 16bit: 0 to 65,535 above 8 bits
    layout:      of arrays: chw or hwc where both are possible, or the shape of flattened images
    skip_bad:    leave out files that cannot be decoded
    """

    size: Size | None = None
    resize: Resize = "auto"
    background: tuple[int, int, int] = (255, 255, 255)
    range: Range | Literal["auto", "16bit"] = "auto"
    layout: Literal["auto", "chw", "hwc"] | tuple[int, ...] = "auto"
    skip_bad: bool = False

    @classmethod
    def of(
        cls,
        image_size: int | str | Size | None = None,
        resize: str = "auto",
        background: str = "white",
        range: str = "auto",
        layout: str = "auto",
        skip_bad: bool = False,
    ) -> Self:
        """From texts of the command line; raises DataError where one of them is not possible."""

        def refuse(what: str, given: object, expected: str) -> DataError:
            return DataError(f"{what} {given!r} is not possible. Expected {expected}.")

        size = _sides(image_size) if isinstance(image_size, str) else image_size
        size = (size, size) if isinstance(size, int) else size and (size * 2 if len(size) == 1 else size)
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise refuse("an image size of", image_size, "a side in pixels, such as 32, or HEIGHTxWIDTH, such as 48x64")
        if resize not in get_args(Resize):
            raise refuse("resizing by", resize, f"one of {', '.join(get_args(Resize))}")
        try:
            colour = ImageColor.getcolor(background, "RGB")
        except ValueError:
            raise refuse("a background of", background, "a colour, such as white, black or #808080") from None
        limits: Any = range
        if range not in ("auto", "16bit"):
            try:
                limits = tuple(float(limit) for limit in range.split(","))
            except ValueError:
                limits = ()
            if not (len(limits) == 2 and -math.inf < limits[0] < limits[1] < math.inf):
                raise refuse("a range of", range, "auto, 16bit or MIN,MAX: the values of black and white, as 0,4095")
        order: Any = layout if layout in ("auto", "chw", "hwc") else _sides(layout)
        if len(order) < 2:
            raise refuse(
                "a layout of", layout, "auto, chw, hwc, or the shape of a flattened image, as 28x28 or 3x32x32"
            )
        return cls(size, resize, colour, limits, order, skip_bad)  # type: ignore[arg-type]

    def fill(self, channels: int) -> Tensor:
        """The background of images with 1 or 3 channels, uint8 (channel, 1, 1)."""
        red, green, blue = self.background
        values = self.background if channels == 3 else (round(0.299 * red + 0.587 * green + 0.114 * blue),)
        return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1)

    def placement(self, height: int, width: int) -> tuple[tuple[int, int, int, int], Size]:
        """Which part (top, left, height, width) of an image is resized, and to what (height, width).

        Where that is not `size`, the rest of it is background, half on each side.
        """
        rows, columns = self.size or (height, width)
        if self.resize == "crop":
            high, wide = min(height, max(1, width * rows // columns)), min(width, max(1, height * columns // rows))
            return ((height - high) // 2, (width - wide) // 2, high, wide), (rows, columns)
        if self.resize == "pad":
            scale = min(rows / height, columns / width)
            return (0, 0, height, width), (max(1, round(scale * height)), max(1, round(scale * width)))
        return (0, 0, height, width), (rows, columns)


def _sides(text: str) -> tuple[int, ...]:
    """(48, 64) of 48x64; () of anything else."""
    return tuple(int(side) for side in text.split("x")) if re.fullmatch(r"\d{1,6}(x\d{1,6}){0,2}", text) else ()


def to_uint8(values: NDArray[Any], limits: Range | Literal["auto", "16bit"]) -> Pixels:
    """Values scaled from their range to 0..255, in pieces, so that hardly more memory is taken than for the result.

    Values outside a given range are clipped. Raises ValueError where values are NaN, leave the range of their type by
    more than `TOLERANCE` of it, or are of a type without one.
    """
    kind = values.dtype
    if limits == "16bit" and kind.itemsize > 1:
        limits = SIXTEEN_BITS
    given = isinstance(limits, tuple)
    if kind == np.uint8 and not given:
        return values
    if kind.kind not in "buif":
        raise ValueError(f"has dtype {kind}, expected numbers")
    low, high = limits if isinstance(limits, tuple) else IMPLIED.get(kind.name, (0.0, 0.0))
    pixels = np.empty(values.shape, dtype=np.uint8)
    least, most = math.inf, -math.inf
    single = np.float32 if kind.name in ("float16", "float32") else np.float64
    step = max(1, CHUNK // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values) if values.size else 0, step):
        part: NDArray[np.floating[Any]] = values[start : start + step].astype(single)
        if not np.isfinite(part).all():
            wrong = np.argwhere(~np.isfinite(values))
            axes = ", ".join(("image", "channel", "row", "column")[-values.ndim :])
            raise ValueError(
                f"has {len(wrong)} NaN or infinite values, the first at ({axes}) {tuple(wrong[0].tolist())}: remove "
                "those images or repair them"
            )
        least, most = min(least, float(part.min())), max(most, float(part.max()))
        with np.errstate(over="ignore"):
            part = (part - low) * (255 / (high - low) if low < high else 0)
        pixels[start : start + step] = part.round().clip(0, 255)
    slack = TOLERANCE * (high - low)
    if not given and values.size and not low - slack <= least <= most <= high + slack:
        expected = f"expected [{low:g}, {high:g}]" if low < high else "a type without a usual range"
        pairs = ((0.0, 255.0), SIXTEEN_BITS, (min(0.0, least), most))
        likely = next(pair for pair in pairs if pair[0] <= least and most <= pair[1])
        raise ValueError(
            f"has {kind} values from {least:g} to {most:g}, {expected}: give the values of black and white, such as "
            f"`--range {likely[0]:g},{likely[1]:g}`, or save it as uint8"
        )
    return pixels


def arrange(array: NDArray[Any], layout: str | tuple[int, ...]) -> NDArray[Any]:
    """An array as (image, channel, height, width), without a copy; raises ValueError where that is not its layout."""
    if isinstance(layout, tuple):
        if math.prod(layout) != math.prod(array.shape[1:]):
            raise ValueError(f"has shape {array.shape}, which is not made of images of {'x'.join(map(str, layout))}")
        array = array.reshape(len(array), *layout)
    if array.ndim == 3:
        return array[:, None]
    possible = [order for order, axis in (("chw", 1), ("hwc", 3)) if array.ndim == 4 and array.shape[axis] in (1, 3)]
    if len(possible) == 2 and layout not in possible:
        raise ValueError(f"has shape {array.shape}, channels first or last: add `--layout chw` or `--layout hwc`")
    if not possible or (isinstance(layout, str) and layout not in ("auto", *possible)):
        square = math.isqrt(array.shape[1]) if array.ndim == 2 else 0
        hint = f". Flattened images need their shape, such as `--layout {square}x{square}`" if square > 1 else ""
        raise ValueError(f"has shape {array.shape}{hint}")
    return array.transpose(0, 3, 1, 2) if (layout if layout in possible else possible[0]) == "hwc" else array


def resize(images: Tensor, reading: Reading, *, chunk: int = 4096) -> Tensor:
    """Antialiased bilinear resize of (image, channel, height, width), uint8 or float in [0, 255], to uint8.

    It works in chunks, because the floats of a whole collection would take four times its memory.
    """
    (top, left, height, width), inner = reading.placement(*images.shape[2:])
    target = reading.size or inner
    if images.dtype == torch.uint8 and images.shape[2:] == target:
        return images
    channels = images.shape[1]
    resized = reading.fill(channels).expand(channels, *target).repeat(len(images), 1, 1, 1)
    down, right = (target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk, :, top : top + height, left : left + width].float()
        part = interpolate(part, size=inner, mode="bilinear", antialias=True, align_corners=False)
        place = resized[start : start + chunk, :, down : down + inner[0], right : right + inner[1]]
        place.copy_(part.round().clamp(0, 255))
    return resized

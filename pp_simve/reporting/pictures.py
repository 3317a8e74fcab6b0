"""Pictures small enough to lie inside a page: figures, and thumbnails side by side in one file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

SIDES = (48, 32, 24, 16, 8)
"""Pixels a thumbnail may have on its longer side; pictures smaller than that stay as they are."""

_PICTURES_IN_MEMORY = 256


def shrunk(picture: bytes, limit: int) -> bytes:
    """A PNG file of at most ``limit`` bytes: the file itself, or with 256 colours, or with ever fewer pixels."""
    image = Image.open(io.BytesIO(picture), formats=("PNG",)).convert("RGB")
    while len(picture) > limit and min(image.size) > 1:
        picture = _png(image)
        image = image.resize((max(1, image.width * 4 // 5), max(1, image.height * 4 // 5)), Image.Resampling.LANCZOS)
    return picture


def thumbnails(pictures: Tensor, side: int = SIDES[0]) -> Tensor:
    """The same pictures with at most ``side`` pixels on the longer side, means over the pixels that were there.

    Args:
        pictures: uint8, shape ``(picture, channel, height, width)``.
        side: pixels; pictures smaller than that stay as they are.
    """
    height, width = pictures.shape[-2:]
    scale = side / max(height, width)
    if scale >= 1:
        return pictures
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    parts = pictures.split(_PICTURES_IN_MEMORY)  # as float they take four times the memory
    return torch.cat([functional.interpolate(part.float(), size, mode="area").round().byte() for part in parts])


def of_one_size(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures of all kinds, as many channels and pixels each: the smaller ones in a black frame."""
    channels, height, width = (max(part.shape[axis] for part in pictures) for axis in (1, 2, 3))
    padded = [functional.pad(part, (0, width - part.shape[3], 0, height - part.shape[2])) for part in pictures]
    return torch.cat([part.expand(-1, channels, -1, -1) for part in padded])


def sprites(pictures: Tensor, limit: int) -> tuple[bytes, int]:
    """Thumbnails in reading order, in a grid as near to a square as they fill.

    Args:
        pictures: uint8, shape ``(picture, channel, height, width)``, 1 or 3 channels.
        limit: bytes; thumbnails get smaller until they fit.

    Returns:
        The PNG file, and the grid's columns.
    """
    columns = math.ceil(math.sqrt(len(pictures)))
    lines = math.ceil(len(pictures) / columns)
    for side in SIDES:
        small = thumbnails(pictures, side)
        height, width = small.shape[-2:]
        whole = functional.pad(small.expand(-1, 3, -1, -1), (0, 0, 0, 0, 0, 0, 0, columns * lines - len(small)))
        sheet = whole.reshape(lines, columns, 3, height, width).permute(0, 3, 1, 4, 2)
        colours = sheet.reshape(lines * height, columns * width, 3).cpu().numpy()
        picture = _png(Image.fromarray(np.ascontiguousarray(colours)))
        if len(picture) <= limit:
            break
    return picture, columns


def _png(image: Image.Image) -> bytes:
    """With 256 colours: a third of the size, and hardly a difference to the eye."""
    file = io.BytesIO()
    image.quantize(256).save(file, format="PNG", optimize=True)
    return file.getvalue()

"""Pictures small enough to lie inside a page: figures, and thumbnails side by side in one file."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image
from torch import Tensor

SIDES = (48, 32, 24, 16, 8)
"""Pixels a thumbnail may have on its longer side; pictures smaller than that stay as they are."""


def shrunk(picture: bytes, limit: int) -> bytes:
    """A PNG file of at most ``limit`` bytes: the file itself, or with 256 colours, or with ever fewer pixels."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    while len(picture) > limit and min(image.size) > 1:
        picture = _png(image)
        image = image.resize((max(1, image.width * 4 // 5), max(1, image.height * 4 // 5)), Image.Resampling.LANCZOS)
    return picture


def sprites(pictures: Tensor, limit: int) -> tuple[bytes, int]:
    """Thumbnails in reading order, in a grid as near to a square as they fill.

    Args:
        pictures: uint8, shape ``(picture, channel, height, width)``, 1 or 3 channels.
        limit: bytes; thumbnails get smaller until they fit.

    Returns:
        The PNG file, and the grid's columns.
    """
    height, width = pictures.shape[-2:]
    columns = math.ceil(math.sqrt(len(pictures)))
    colours = pictures.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
    for side in SIDES:
        scale = min(1.0, side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        sheet = Image.new("RGB", (columns * size[0], math.ceil(len(colours) / columns) * size[1]))
        for place, array in enumerate(colours):
            thumbnail = Image.fromarray(np.ascontiguousarray(array))
            if scale < 1:
                thumbnail = thumbnail.resize(size, Image.Resampling.BOX)
            sheet.paste(thumbnail, (place % columns * size[0], place // columns * size[1]))
        picture = _png(sheet)
        if len(picture) <= limit:
            break
    return picture, columns


def _png(image: Image.Image) -> bytes:
    """With 256 colours: a third of the size, and hardly a difference to the eye."""
    file = io.BytesIO()
    image.quantize(256).save(file, format="PNG", optimize=True)
    return file.getvalue()

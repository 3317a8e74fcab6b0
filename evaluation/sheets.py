"""Contact sheets: pictures placed in cells of a figure, every picture pixel a whole number of screen pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

Pictures = Tensor | NDArray[Any]
"""Float in [0, 1], shape ``(..., channel, height, width)``, 1 or 3 channels."""

RGB = NDArray[np.float64]
"""Colours in [0, 1], shape ``(..., height, width, 3)``."""

_DPI = 150
_CELL_INCHES = 0.8
_MARGIN_INCHES = 0.32
_MIN_INCHES = 2.4
_NOT_FINITE = (1.0, 0.0, 1.0)


def rgb(pictures: Pictures, dimensions: int, name: str) -> RGB:
    """Pictures as colours: grey is repeated, values are clipped to [0, 1], what is not finite becomes magenta.

    Args:
        pictures: shape ``(..., channel, height, width)``.
        dimensions: how many dimensions it must have.
        name: how the error message calls it.

    Raises:
        ValueError: for a wrong number of dimensions or channels, integers, or no pictures at all.
    """
    array = pictures.detach().cpu().double().numpy() if isinstance(pictures, Tensor) else np.asarray(pictures)
    floating = pictures.is_floating_point() if isinstance(pictures, Tensor) else array.dtype.kind == "f"
    if array.ndim != dimensions or array.shape[-3] not in (1, 3) or array.size == 0:
        leading = {4: "image", 5: "·, ·"}[dimensions]
        raise ValueError(f"{name} must have shape ({leading}, 1 or 3, height, width) and hold some, got {array.shape}")
    if not floating:
        raise ValueError(f"{name} must be floating point in [0, 1], got {pictures.dtype}")
    colours = np.moveaxis(array.astype(np.float64), -3, -1)
    colours = np.repeat(colours, 3 // colours.shape[-1], axis=-1)
    broken = ~np.isfinite(colours).all(axis=-1, keepdims=True)
    return np.where(broken, _NOT_FINITE, np.clip(np.nan_to_num(colours), 0.0, 1.0))


class Sheet:
    """A figure measured in cells, each a picture of one size with a white gutter around it.

    Args:
        width, height: of the sheet, in cells; fractions leave gaps.
        pictures: any of the pictures to come, shape ``(..., height, width, 3)``.

    Attributes:
        figure: the figure, a margin for titles around the cells.
    """

    def __init__(self, width: float, height: float, pictures: RGB) -> None:
        rows, columns = pictures.shape[-3:-1]
        self._half_gutter = max(1, round(0.03 * columns))
        scale = max(1, round(_CELL_INCHES * _DPI / columns))
        self._cell = scale * (columns + 2 * self._half_gutter), scale * (rows + 2 * self._half_gutter)
        margin = round(_MARGIN_INCHES * _DPI)
        across, down = round(width * self._cell[0]) + 2 * margin, round(height * self._cell[1]) + 2 * margin
        across_all = max(across, round(_MIN_INCHES * _DPI))
        self._size = across_all, down
        self._origin = margin + (across_all - across) // 2, margin
        self.figure = Figure(figsize=(across_all / _DPI, down / _DPI), dpi=_DPI)

    def show(self, grid: RGB, x: float, y: float) -> Axes:
        """Pictures side by side in axes of their own.

        Args:
            grid: shape ``(row, column, height, width, 3)``.
            x, y: cell of the upper left picture, from the sheet's upper left corner.
        """
        rows, columns = grid.shape[:2]
        left, top = self._origin[0] + round(x * self._cell[0]), self._origin[1] + round(y * self._cell[1])
        width, height = columns * self._cell[0], rows * self._cell[1]
        bottom = self._size[1] - top - height
        corner, size = (left / self._size[0], bottom / self._size[1]), (width / self._size[0], height / self._size[1])
        axes = self.figure.add_axes((*corner, *size))
        around = (self._half_gutter, self._half_gutter)
        padded = np.pad(grid, ((0, 0), (0, 0), around, around, (0, 0)), constant_values=1.0)
        canvas = padded.transpose(0, 2, 1, 3, 4).reshape(rows * padded.shape[2], columns * padded.shape[3], 3)
        axes.imshow(canvas, aspect="auto", interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        return axes

"""Figures of a run: terms of the loss, and grids of images decoded by the program. Nothing is written to disk.

Every figure is a `matplotlib.figure.Figure` without pyplot: no global state, no window, no display. Images are float in
[0, 1] with 1 or 3 channels; values outside are clipped, and pixels that are not finite are magenta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

Pictures = Tensor | NDArray[Any]
"""Float in [0, 1], shape ``(..., channel, height, width)``, 1 or 3 channels."""

_INK = "#1b4f72"
_DPI = 150
_CELL = round(0.8 * _DPI)
"""Width of a cell, screen pixels."""
_MARGINS = round(0.6 * _DPI), round(0.1 * _DPI), round(0.1 * _DPI), round(0.4 * _DPI)
"""Left, right, bottom and top, screen pixels."""


def loss_figure(history: Sequence[Mapping[str, float]], unit: str = "nats per image") -> Figure:
    """The terms of the loss over the steps, a panel a term: faint as logged, dark as a moving average.

    After the first tenth of the steps the vertical axis spans the moving average and the middle 96 % of the values, so
    that the drop at the start does not flatten the rest. Values that are not finite leave gaps. ``history`` holds a
    mapping a logged step, with ``"step"`` and any terms, or raises `ValueError` where there are none.
    """
    terms = list(dict.fromkeys(name for row in history for name in row if name != "step"))
    if not terms:
        raise ValueError("history holds no loss terms: expected mappings with 'step' and one or more terms")
    steps = np.array([row["step"] for row in history], dtype=np.float64)
    columns = min(3, len(terms))
    rows = math.ceil(len(terms) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.3 * rows), dpi=_DPI, layout="constrained")
    for place, term in enumerate(terms):
        axes = figure.add_subplot(rows, columns, place + 1)
        values = np.array([row.get(term, math.nan) for row in history], dtype=np.float64)
        values[~np.isfinite(values)] = np.nan
        _draw_term(axes, steps, values)
        axes.set_title(term, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("step" if place + columns >= len(terms) else "")
        axes.set_ylabel(unit if place % columns == 0 else "")
    return figure


def reconstruction_figure(originals: Pictures, views: Pictures, reconstructions: Pictures) -> Figure:
    """Images, their views, and the decoded mean of each view: a row an image.

    Originals are of shape ``(image, …)``, views and reconstructions ``(view, image, …)``.
    """
    shown, seen = rgb(originals, 4, "originals"), rgb(views, 5, "views")
    decoded = _like(rgb(reconstructions, 5, "reconstructions"), "reconstructions", len(seen), *shown.shape)
    _like(seen, "views", len(seen), *shown.shape)
    pairs = [part for pair in zip(seen, decoded, strict=True) for part in pair]
    titles = [title for view in range(len(seen)) for title in (f"view {view + 1}", "decoded")]
    return _grid(np.stack([shown, *pairs], axis=1), ["image", *titles])


def swap_figure(content_images: Pictures, style_images: Pictures, swaps: Pictures) -> Figure:
    """Content of the row's image, ``(row, …)``, with the style of the column's view, ``(column, …)``, decoded."""
    contents, styles = rgb(content_images, 4, "content_images"), rgb(style_images, 4, "style_images")
    grid = _like(rgb(swaps, 5, "swaps"), "swaps", len(contents), len(styles), *contents.shape[1:])
    header = np.concatenate([_blank(contents, 1), _like(styles, "style_images", len(styles), *contents.shape[1:])])
    cells = np.concatenate([header[None], np.concatenate([contents[:, None], grid], axis=1)])
    return _grid(cells, ["content of", *["style of"] * len(styles)])


def interpolation_figure(first: Pictures, second: Pictures, ways: Mapping[str, Pictures]) -> Figure:
    """Interpolations from one image to another, decoded: a row for each pair and each way, between the two images.

    Images are of shape ``(pair, …)``, the ways, by what moves, ``(pair, step, …)``; `ValueError` if there are none.
    """
    if not ways:
        raise ValueError("a figure of interpolations needs at least one way")
    starts = rgb(first, 4, "first")
    ends = _like(rgb(second, 4, "second"), "second", *starts.shape)
    steps = next(iter(ways.values())).shape[1]
    blocks = [_like(rgb(way, 5, name), name, len(starts), steps, *starts.shape[1:]) for name, way in ways.items()]
    rows = [np.concatenate([starts[:, None], block, ends[:, None]], axis=1) for block in blocks]
    cells = np.stack(rows, axis=1).reshape(-1, steps + 2, *starts.shape[1:])
    return _grid(cells, ["from", *[""] * steps, "to"], list(ways) * len(starts))


def traversal_figure(images: Pictures, pictures: Pictures, axes: Sequence[int], deviations: Sequence[float]) -> Figure:
    """Latent traversals: a row an axis of z, a block of columns an image, below the image itself.

    Pictures are of shape ``(image, axis, step, …)``: axes by their numbers, steps by the standard deviations from the
    mean.
    """
    shown, steps = rgb(images, 4, "images"), len(deviations)
    moved = _like(rgb(pictures, 6, "pictures"), "pictures", len(shown), len(axes), steps, *shown.shape[1:])
    columns, titles = [], []
    for image, block in zip(shown, moved, strict=True):
        header = np.stack([image if step == steps // 2 else _blank(shown, 1)[0] for step in range(steps)])
        columns += [np.concatenate([header[None], block]), _blank(shown, len(axes) + 1, 1)]
        titles += [f"{value:+g} sd".replace("-", "−") if value else "mean" for value in deviations] + [""]
    labels = ["image", *(f"axis {axis}" for axis in axes)]
    return _grid(np.concatenate(columns[:-1], axis=1), titles[:-1], labels)


def columns_figure(columns: Mapping[str, Pictures]) -> Figure:
    """Pictures ``(image, …)`` of the same things side by side: a row a thing, a titled column a way to get pictures."""
    if not columns:
        raise ValueError("a figure of columns needs at least one")
    shown = [rgb(pictures, 4, title) for title, pictures in columns.items()]
    shown = [_like(part, title, *shown[0].shape) for title, part in zip(columns, shown, strict=True)]
    return _grid(np.stack(shown, axis=1), list(columns))


def samples_figure(samples: Pictures, title: str) -> Figure:
    """Pictures ``(sample, …)`` in a grid as near to a square as they fill, in reading order."""
    pictures = rgb(samples, 4, "samples")
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    filled = np.concatenate([pictures, _blank(pictures, rows * columns - len(pictures))])
    figure = _grid(filled.reshape(rows, columns, *pictures.shape[1:]), [""] * columns)
    figure.axes[0].set_title(title, fontsize=9)
    return figure


def rgb(pictures: Pictures, dimensions: int, name: str) -> NDArray[np.float64]:
    """Pictures as colors in [0, 1], ``(..., height, width, 3)``: gray is repeated, what is not finite is magenta.

    Raises:
        ValueError: a wrong number of ``dimensions`` or channels, integers, or no pictures at all.
    """
    tensor = torch.as_tensor(pictures).detach().cpu()
    if tensor.ndim != dimensions or tensor.shape[-3] not in (1, 3) or not tensor.numel():
        leading = "·, " * (dimensions - 3)
        raise ValueError(
            f"{name} must have shape ({leading}1 or 3, height, width) and hold some, got {tuple(tensor.shape)}"
        )
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point in [0, 1], got {tensor.dtype}")
    colors = tensor.double().movedim(-3, -1).expand(*tensor.shape[:-3], *tensor.shape[-2:], 3).numpy()
    broken = ~np.isfinite(colors).all(axis=-1, keepdims=True)
    return np.where(broken, (1.0, 0.0, 1.0), np.clip(np.nan_to_num(colors), 0.0, 1.0))


def _like(pictures: NDArray[np.float64], name: str, *shape: int) -> NDArray[np.float64]:
    if pictures.shape != shape:
        raise ValueError(f"{name} must be {shape[:-3]} pictures of {shape[-3:-1]} pixels, got {pictures.shape}")
    return pictures


def _blank(like: NDArray[np.float64], *leading: int) -> NDArray[np.float64]:
    return np.ones((*leading, *like.shape[-3:]))


def _grid(cells: NDArray[np.float64], titles: Sequence[str], labels: Sequence[str] = ()) -> Figure:
    """Pictures ``(row, column, height, width, 3)`` under titles and beside labels, in whole screen pixels."""
    rows, columns, height, width = cells.shape[:4]
    gap = max(1, round(0.05 * width))
    padded = np.pad(cells, ((0, 0), (0, 0), (gap, 0), (gap, 0), (0, 0)), constant_values=1.0)
    canvas = padded.transpose(0, 2, 1, 3, 4).reshape(rows * (height + gap), columns * (width + gap), 3)
    scale = max(1, round(_CELL / width))
    left, right, bottom, top = _MARGINS
    size = scale * canvas.shape[1], scale * canvas.shape[0]
    whole = size[0] + left + right, size[1] + bottom + top
    figure = Figure(figsize=(whole[0] / _DPI, whole[1] / _DPI), dpi=_DPI)
    corner, share = (left / whole[0], bottom / whole[1]), (size[0] / whole[0], size[1] / whole[1])
    axes = figure.add_axes((*corner, *share))
    axes.imshow(canvas, aspect="auto", interpolation="nearest")
    axes.set_xticks(gap + (width - 1) / 2 + np.arange(columns) * (width + gap), titles)
    axes.set_yticks(gap + (height - 1) / 2 + np.arange(rows) * (height + gap), labels or [""] * rows)
    axes.tick_params(length=0, labelsize=8, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure


def _draw_term(axes: Axes, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    smooth = _moving_average(values, width=max(1, len(values) // 60))
    axes.plot(steps, values, color=_INK, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth, color=_INK, linewidth=1.4, marker="." if np.isfinite(values).sum() < 2 else "")
    late = slice(len(values) // 10, None)
    settled = smooth[late][np.isfinite(smooth[late])]
    if len(settled):
        bulk = np.quantile(values[late][np.isfinite(values[late])], [0.02, 0.98])
        low, high = min(float(settled.min()), float(bulk[0])), max(float(settled.max()), float(bulk[1]))
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
        axes.set_ylim(low - margin, high + margin)
    else:
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center", va="center", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _moving_average(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean of the finite values up to ``width`` places either side; NaN where ``values`` is."""
    mean = pd.Series(values).rolling(2 * width + 1, center=True, min_periods=1).mean()
    return np.where(np.isfinite(values), mean, np.nan)

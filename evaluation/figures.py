"""Figures of a run: losses, and what the program draws of images. Nothing is written to disk.

Every figure is a `matplotlib.figure.Figure` of its own, without pyplot: no global state, no window, no display.
Pictures are float in [0, 1] with 1 or 3 channels; values outside are clipped and pixels that
are not finite are painted magenta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pp_simve.evaluation.sheets import Pictures, Sheet, rgb

_INK = "#1b4f72"
_PAIR_GAP = 0.2  # cells between a view's pair of columns and the next
_HEADER_GAP = 0.35  # cells between the images that are mixed and their mixtures
_LABEL_GAP = 0.3  # cells that a line of words beside pictures takes


def loss_figure(history: Sequence[Mapping[str, float]], unit: str = "nats per image") -> Figure:
    """The terms of the loss over the steps, a panel a term: faint as logged, dark as a moving average.

    After the first tenth of the steps the vertical axis spans the moving average and the middle 96 % of
    the values, so that the drop at the start does not flatten the rest. Values that are not finite leave gaps.

    Args:
        history: one mapping a logged step, with ``"step"`` and any terms; a term may be missing from some.
        unit: label of the vertical axes.

    Raises:
        ValueError: if there is nothing to draw.
    """
    terms = list(dict.fromkeys(name for row in history for name in row if name != "step"))
    if not terms:
        raise ValueError("history holds no loss terms: expected mappings with 'step' and one or more terms")
    steps = np.array([row["step"] for row in history], dtype=np.float64)
    columns = min(3, len(terms))
    rows = math.ceil(len(terms) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.3 * rows), dpi=150, layout="constrained")
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
    """Images, their views, and what the decoder makes of each view: a row an image.

    Args:
        originals: shape ``(image, channel, height, width)``.
        views: shape ``(view, image, channel, height, width)``.
        reconstructions: means of the likelihood given each view, same shape as ``views``.
    """
    shown, seen = rgb(originals, 4, "originals"), rgb(views, 5, "views")
    decoded = rgb(reconstructions, 5, "reconstructions")
    if seen.shape != decoded.shape or seen.shape[1:] != shown.shape:
        raise ValueError(
            f"views {views.shape} and reconstructions {reconstructions.shape} must both be (view, *originals), "
            f"got originals {originals.shape}"
        )
    sheet = Sheet(1 + len(seen) * (2 + _PAIR_GAP), len(shown), shown)
    sheet.show(shown[:, None], 0, 0).set_title("image", fontsize=8)
    for index, (view, reconstruction) in enumerate(zip(seen, decoded, strict=True)):
        left = 1 + index * (2 + _PAIR_GAP) + _PAIR_GAP
        sheet.show(view[:, None], left, 0).set_title(f"view {index + 1}", fontsize=8)
        sheet.show(reconstruction[:, None], left + 1, 0).set_title("decoded", fontsize=8)
    return sheet.figure


def swap_figure(content_images: Pictures, style_images: Pictures, swaps: Pictures) -> Figure:
    """Content of the row's image with the style of the column's view, decoded.

    Args:
        content_images: images the contents are taken from, shape ``(row, channel, height, width)``.
        style_images: views the styles are taken from, shape ``(column, channel, height, width)``.
        swaps: shape ``(row, column, channel, height, width)``.
    """
    contents, styles = rgb(content_images, 4, "content_images"), rgb(style_images, 4, "style_images")
    grid = rgb(swaps, 5, "swaps")
    if grid.shape != (len(contents), *styles.shape) or contents.shape[1:] != styles.shape[1:]:
        raise ValueError(
            f"swaps must be {len(contents)} rows by {len(styles)} columns of pictures of one size, got {swaps.shape} "
            f"for content_images {content_images.shape} and style_images {style_images.shape}"
        )
    offset = 1 + _HEADER_GAP
    sheet = Sheet(offset + len(styles), offset + len(contents), contents)
    sheet.show(styles[None], offset, 0).set_title("style of", fontsize=8)
    sheet.show(contents[:, None], 0, offset).set_ylabel("content of", fontsize=8)
    sheet.show(grid, offset, offset)
    return sheet.figure


def interpolation_figure(first: Pictures, second: Pictures, ways: Mapping[str, Pictures]) -> Figure:
    """Ways from one image to another, decoded: for each pair a row a way, between the two images.

    Args:
        first: images the ways start from, shape ``(pair, channel, height, width)``.
        second: images they lead to, same shape.
        ways: by what moves, shape ``(pair, step, channel, height, width)``; steps as many in each.

    Raises:
        ValueError: there are no ways, or shapes that do not agree.
    """
    starts, ends = rgb(first, 4, "first"), rgb(second, 4, "second")
    rows = {name: rgb(pictures, 5, name) for name, pictures in ways.items()}
    if not rows:
        raise ValueError("a figure of interpolations needs at least one way")
    steps = next(iter(rows.values())).shape[1]
    of_pairs = {(len(starts), steps, *starts.shape[1:])}
    if starts.shape != ends.shape or {pictures.shape for pictures in rows.values()} != of_pairs:
        shapes = {name: tuple(pictures.shape) for name, pictures in ways.items()}
        raise ValueError(
            f"first, second and ways must show as many pairs in pictures of one size, ways in as many steps, got "
            f"{tuple(first.shape)}, {tuple(second.shape)} and {shapes}"
        )
    left = 1 + _HEADER_GAP + _LABEL_GAP
    right = left + steps + _HEADER_GAP
    pair_height = len(rows) + _HEADER_GAP
    sheet = Sheet(right + 1, len(starts) * pair_height - _HEADER_GAP, starts)
    for pair, (start, end) in enumerate(zip(starts, ends, strict=True)):
        top = pair * pair_height
        for place, picture, title in ((0, start, "from"), (right, end, "to")):
            sheet.show(picture[None, None], place, top + (len(rows) - 1) / 2).set_title(title, fontsize=8)
        for row, (name, pictures) in enumerate(rows.items()):
            sheet.show(pictures[pair][None], left, top + row).set_ylabel(name, fontsize=8)
    return sheet.figure


def traversal_figure(images: Pictures, pictures: Pictures, axes: Sequence[int], deviations: Sequence[float]) -> Figure:
    """One axis of z after the other moved from where each image lies: a block an image, a row an axis.

    Args:
        images: what is moved away from, shape ``(image, channel, height, width)``.
        pictures: decoded, shape ``(image, axis, step, channel, height, width)``.
        axes: the number of each row's axis.
        deviations: where each step sets the axis to, in standard deviations from its mean.

    Raises:
        ValueError: shapes that do not agree.
    """
    shown = rgb(images, 4, "images")
    if len(pictures) != len(shown):
        raise ValueError(f"pictures must be of {len(shown)} images, as images are, got {tuple(pictures.shape)}")
    blocks = [rgb(block, 5, "pictures of an image") for block in pictures]
    if blocks[0].shape != (len(axes), len(deviations), *shown.shape[1:]):
        raise ValueError(
            f"pictures must be of {len(axes)} axes in {len(deviations)} steps, as large as images are, "
            f"got {tuple(pictures.shape)} for images {tuple(images.shape)}"
        )
    width = len(deviations) + _HEADER_GAP
    top = 1 + 2 * _LABEL_GAP
    sheet = Sheet(2 * _LABEL_GAP + len(shown) * width - _HEADER_GAP, top + len(axes), shown)
    for place, (image, block) in enumerate(zip(shown, blocks, strict=True)):
        left = 2 * _LABEL_GAP + place * width
        sheet.show(image[None, None], left + (len(deviations) - 1) / 2, 0).set_title("image", fontsize=8)
        grid = sheet.show(block, left, top)
        _label(grid.xaxis, [f"{value:+g} sd".replace("-", "−") if value else "mean" for value in deviations])
        grid.xaxis.tick_top()
        if place == 0:
            _label(grid.yaxis, [str(axis) for axis in axes])
            grid.set_ylabel("axis of z", fontsize=8)
    return sheet.figure


def columns_figure(columns: Mapping[str, Pictures]) -> Figure:
    """Pictures of the same things side by side: a row a thing, a titled column each way to get its picture.

    Args:
        columns: pictures of shape ``(image, channel, height, width)`` by title.

    Raises:
        ValueError: there are no columns, or they differ in shape.
    """
    if not columns:
        raise ValueError("a figure of columns needs at least one")
    shown = {title: rgb(pictures, 4, title) for title, pictures in columns.items()}
    if len({pictures.shape for pictures in shown.values()}) != 1:
        shapes = {title: tuple(pictures.shape) for title, pictures in columns.items()}
        raise ValueError(f"columns must show the same number of pictures of one size, got {shapes}")
    first = next(iter(shown.values()))
    sheet = Sheet(len(shown) * (1 + _PAIR_GAP), len(first), first)
    for place, (title, pictures) in enumerate(shown.items()):
        sheet.show(pictures[:, None], place * (1 + _PAIR_GAP), 0).set_title(title, fontsize=8)
    return sheet.figure


def samples_figure(samples: Pictures, title: str) -> Figure:
    """Pictures in a grid as near to a square as they fill, in reading order.

    Args:
        samples: shape ``(sample, channel, height, width)``.
        title: above the grid.
    """
    pictures = rgb(samples, 4, "samples")
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    blank = np.ones((rows * columns - len(pictures), *pictures.shape[1:]))
    sheet = Sheet(columns, rows, pictures)
    grid = np.concatenate([pictures, blank]).reshape(rows, columns, *pictures.shape[1:])
    sheet.show(grid, 0, 0).set_title(title, fontsize=9)
    return sheet.figure


def _label(axis: Axis, labels: Sequence[str]) -> None:
    """Words at the middles of as many equal parts of an axis of pictures."""
    start, end = axis.get_view_interval()
    middles = (np.arange(len(labels)) + 0.5) / len(labels)
    axis.set_ticks(start + middles * (end - start), list(labels))
    axis.set_tick_params(length=0, labelsize=8)


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
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    place = np.arange(len(values))
    start, stop = np.maximum(place - width, 0), np.minimum(place + width + 1, len(values))
    mean = (total[stop] - total[start]) / np.maximum(count[stop] - count[start], 1)
    return np.where(finite, mean, np.nan)

"""Figures of the checks: k̂ and gaps, ranks in their bands, axes, predictive statistics. Nothing is written to disk.

Every figure is a `matplotlib.figure.Figure` of its own, without pyplot, as in `evaluation.figures`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pp_simve.evaluation.posterior.contraction import AxesCheck, AxisCheck
from pp_simve.evaluation.posterior.importance import WeightCheck
from pp_simve.evaluation.posterior.predictive import PredictiveCheck
from pp_simve.evaluation.posterior.ranks import Uniformity
from pp_simve.evaluation.sheets import Pictures, rgb

_INK = "#1b4f72"
_FAINT = "#aebfcb"
_ALARM = "#b03a2e"
_COUNTED = ("images", "views")
_DPI = 150


def weights_figure(check: WeightCheck, images: Pictures | None = None, worst: int = 8) -> Figure:
    """k̂ of all images with its threshold, the gap of the bound beside it, and the images with the largest k̂.

    Args:
        images: of the check, shape ``(image, channel, height, width)``, float in [0, 1]; None shows none.
        worst: how many to show.
    """
    shown = min(worst, len(check.khat)) if images is not None else 0
    figure = Figure(figsize=(7.6, 2.9 + 1.35 * bool(shown)), dpi=_DPI, layout="constrained")
    rows = figure.add_gridspec(2 if shown else 1, 1, height_ratios=(2.9, 1.35) if shown else (1,))
    histogram, scatter = figure.add_subfigure(rows[0]).subplots(1, 2)
    khat, gap = check.khat.numpy(), check.gap.numpy()
    finite = np.isfinite(khat)
    low, high = _limits(khat[finite], check.threshold)
    edges = np.linspace(low, high, 31)
    # What has no place on the axis stands at its ends, and is said below.
    placed = np.clip(khat, low, high)
    above = khat > check.threshold
    histogram.hist([placed[~above], placed[above]], bins=list(edges), stacked=True, color=[_INK, _ALARM])
    for axes in (histogram, scatter):
        axes.axvline(check.threshold, color="0.3", linewidth=1, linestyle="--")
        axes.set_xlim(low, high)
        axes.set_xlabel("k̂ of an image" + _unplaced(khat))
    _title(histogram, f"{check.share_above:.0%} of images above {check.threshold:.2f}", check.khat_alarm)
    histogram.set_ylabel("images")
    scatter.scatter(placed, gap, s=9, color=np.where(above, _ALARM, _INK), alpha=0.6, linewidths=0)
    mean, error = check.mean_gap
    _title(scatter, f"the bound's gap: {mean:.2f} ± {error:.2f} nats", check.gap_alarm)
    scatter.set_ylabel("bound − ELBO, nats")
    if images is not None and shown:
        _show_worst(figure.add_subfigure(rows[1]), check, images, shown)
    _tidy(figure)
    return figure


def ranks_figure(uniformities: Mapping[str, Uniformity], bins: int = 20) -> Figure:
    """Ranks in a column a group: differences of distribution functions in their band above, histograms below.

    All curves that share a band stay in it all along with the probability it was made for; those that leave it are red.
    Histograms are means over the columns of a group, where uniform ranks would give the dashed line.

    Args:
        uniformities: by title; ``Calibration.ranks``, ``Calibration.pooled`` or ``LeaveOneOut.pit``.
        bins: of the histograms.

    Raises:
        ValueError: there are none.
    """
    if not uniformities:
        raise ValueError("a figure of ranks needs at least one group of them")
    columns = len(uniformities)
    figure = Figure(figsize=(max(3.6, 2.6 * columns), 4.4), dpi=_DPI, layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False, gridspec_kw={"height_ratios": (1.6, 1)})
    for place, (title, uniformity) in enumerate(uniformities.items()):
        _draw_differences(grid[0, place], title, uniformity)
        _draw_histogram(grid[1, place], uniformity, bins)
    grid[0, 0].set_ylabel("share of ranks below − expected")
    grid[1, 0].set_ylabel("ranks")
    _tidy(figure)
    return figure


def axes_figure(check: AxesCheck) -> Figure:
    """Contraction of each axis, most first, and how its aggregated posterior departs from the prior.

    Raises:
        ValueError: there are no axes to compare.
    """
    if not check.latents:
        raise ValueError("a figure of axes needs a latent with a proper prior, and the check has none")
    columns = len(check.latents)
    figure = Figure(figsize=(max(3.6, 3.0 * columns), 4.4), dpi=_DPI, layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False, sharex="col")
    for place, (name, axis_check) in enumerate(check.latents.items()):
        _draw_axes(grid[0, place], grid[1, place], name, axis_check)
    grid[0, 0].set_ylabel("prior–posterior contraction")
    grid[1, 0].set_ylabel("aggregate posterior,\nprior sd units")
    marks = [Line2D([], [], color=_INK, marker=marker, linestyle="", markersize=4) for marker in ("o", "_")]
    grid[1, 0].legend(marks, ["sd", "mean shift"], fontsize=7, frameon=False, loc="upper right", ncols=2)
    _tidy(figure)
    return figure


def predictive_figure(check: PredictiveCheck) -> Figure:
    """A panel a statistic: that of each view against the mean of its replicates, and the p-values' histogram inside."""
    names = list(check.statistics)
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2.6 * columns, 4.2 * rows), dpi=_DPI, layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": (1.6, 1) * rows})
    for axes in grid.flat:
        axes.set_visible(False)
    for place, name in enumerate(names):
        statistic = check.statistics[name]
        row, column = 2 * (place // columns), place % columns
        scatter, histogram = grid[row, column], grid[row + 1, column]
        for axes in (scatter, histogram):
            axes.set_visible(True)
        observed, replicated = statistic.observed.flatten().numpy(), statistic.replicated.flatten().numpy()
        colour = _ALARM if statistic.alarm else _INK
        scatter.scatter(observed, replicated, s=6, color=colour, alpha=0.4, linewidths=0)
        scatter.axline((float(observed.mean()),) * 2, slope=1, color="0.3", linewidth=1, linestyle="--")
        _title(scatter, f"{name}: p = {statistic.overall:.2g}", statistic.alarm)
        scatter.set_xlabel("of a view")
        histogram.hist(statistic.p_values.flatten().numpy(), bins=list(np.linspace(0, 1, 21)), color=colour)
        histogram.set_xlabel("p-value of a view")
        if column == 0:
            scatter.set_ylabel("mean of its replicates")
            histogram.set_ylabel("views")
        scatter.xaxis.set_major_locator(MaxNLocator(4))
    _tidy(figure)
    return figure


def _show_worst(figure: SubFigure, check: WeightCheck, images: Pictures, shown: int) -> None:
    pictures = rgb(images, 4, "images")
    if len(pictures) != len(check.khat):
        raise ValueError(f"images must be those of the check, {len(check.khat)}, got {len(pictures)}")
    grid = figure.subplots(1, shown, squeeze=False)[0]
    for axes, image in zip(grid, check.worst(shown).tolist(), strict=True):
        axes.imshow(pictures[image], interpolation="nearest")
        axes.set_title(f"k̂ {float(check.khat[image]):.2f}".replace("inf", "∞").replace("-", "−"), fontsize=8)
        axes.set_xlabel(f"image {image}", fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)


def _limits(finite: NDArray[np.float64], threshold: float) -> tuple[float, float]:
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return min(low, -0.1) - 0.05, max(high, threshold, 0.9) + 0.05


def _unplaced(khat: NDArray[np.float64]) -> str:
    words = {"all weights equal": int(np.isneginf(khat).sum()), "no tail fits": int(np.isposinf(khat).sum())}
    said = ", ".join(f"{count} {what}" for what, count in words.items() if count)
    return f" ({said}, at the end)" if said else ""


def _draw_differences(axes: Axes, title: str, uniformity: Uniformity) -> None:
    places, differences = uniformity.places.numpy(), uniformity.differences().numpy()
    low, high = (edge.numpy() for edge in uniformity.band())
    ends = np.concatenate([[0.0], places, [1.0]])

    def whole(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([[0.0], values, [0.0]])  # distribution functions agree at 0 and 1

    axes.fill_between(ends, whole(low), whole(high), color=_FAINT, alpha=0.5, linewidth=0)
    failing = set(uniformity.failing)
    for name, curve in zip(uniformity.names, differences, strict=True):
        colour, width = (_ALARM, 1.2) if name in failing else (_INK, 0.7)
        axes.plot(ends, whole(curve), color=colour, linewidth=width, alpha=0.9 if name in failing else 0.6)
    axes.axhline(0, color="0.3", linewidth=0.6)
    reach = 1.15 * max(float(np.abs(differences).max()), float(high.max()), -float(low.min()))
    axes.set_ylim(-reach, reach)
    axes.set_xlim(0, 1)
    axes.set_xlabel("rank / draws")
    alone = len(uniformity.names) == 1
    words = uniformity.names[0] if alone else f"{title}: {len(failing)} of {len(uniformity.names)} out"
    _title(axes, words, uniformity.alarm)


def _draw_histogram(axes: Axes, uniformity: Uniformity, bins: int) -> None:
    counts = uniformity.histogram(bins).double().mean(0).numpy()
    edges = np.linspace(0, 1, len(counts) + 1)
    axes.stairs(counts, edges, fill=True, color=_ALARM if uniformity.alarm else _INK, alpha=0.85)
    axes.axhline(float(counts.mean()), color="0.3", linewidth=1, linestyle="--")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.set_xlabel("rank / draws")


def _draw_axes(above: Axes, below: Axes, name: str, check: AxisCheck) -> None:
    contraction = check.contraction.numpy()
    order = np.argsort(-contraction, kind="stable")
    place = np.arange(len(order))
    failing = np.isin(order, check.failing)
    words = {"not the prior": check.failing, "wider than prior": check.wider, "empty": check.empty}
    said = ", ".join(f"{len(axes)} {what}" for what, axes in words.items() if axes) or "all fill the prior"
    colours = np.where(np.isin(order, check.empty), _FAINT, np.where(np.isin(order, check.wider), _ALARM, _INK))
    above.bar(place, contraction[order], width=0.8, color=colours)
    above.axhline(0, color="0.3", linewidth=0.6)
    above.set_ylim(min(0.0, 1.1 * float(contraction.min())), 1.05)
    _title(above, f"{name}: {said}", check.alarm)
    colours = np.where(failing, _ALARM, _INK)
    below.axhline(1, color="0.3", linewidth=0.6, linestyle="--")
    below.axhline(0, color="0.3", linewidth=0.6)
    for values, marker in ((check.spread, "o"), (check.shift, "_")):
        below.scatter(place, values.numpy()[order], s=14, marker=marker, c=colours)
    low, high = below.get_ylim()
    below.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    below.set_xlabel("axis, most contracted first")
    if len(order) <= 16:
        below.set_xticks(place, [str(axis) for axis in order])
    else:
        below.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _title(axes: Axes, words: str, alarm: bool) -> None:
    axes.set_title(words, loc="left", fontsize=9, fontweight="bold", color=_ALARM if alarm else "black")


def _tidy(figure: Figure) -> None:
    for axes in figure.axes:
        if axes.images:
            continue
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
        counts = axes.get_ylabel() in _COUNTED
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=counts))

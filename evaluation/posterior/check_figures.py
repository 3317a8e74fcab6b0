"""Figures of the checks: k̂ and gaps, rank ECDFs in their bands, contraction, predictive statistics.

Every function returns a `matplotlib.figure.Figure` without pyplot; nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pp_simve.evaluation.matplotlib_figures import Pictures, rgb
from pp_simve.evaluation.posterior.contraction import AxesCheck
from pp_simve.evaluation.posterior.predictive import PredictiveCheck
from pp_simve.evaluation.posterior.psis import WeightCheck
from pp_simve.evaluation.posterior.ranks import Uniformity

_INK, _FAINT, _ALARM = "#1b4f72", "#aebfcb", "#b03a2e"
_DPI = 150
_PAIRS_A_ROW = 4


def weights_figure(check: WeightCheck, images: Pictures | None = None, worst: int = 8) -> Figure:
    """Histogram of k̂ with its threshold, the gap of the bound against k̂, and the images with the largest k̂."""
    shown = min(worst, len(check.khat)) if images is not None else 0
    figure = Figure(figsize=(7.6, 2.9 + 1.35 * bool(shown)), dpi=_DPI, layout="constrained")
    rows = figure.add_gridspec(2 if shown else 1, 1, height_ratios=(2.9, 1.35) if shown else (1,))
    histogram, scatter = figure.add_subfigure(rows[0]).subplots(1, 2)
    khat = check.khat.numpy()
    finite = khat[np.isfinite(khat)]
    low = min(float(finite.min(initial=0.0)), -0.1) - 0.05
    high = max(float(finite.max(initial=0.0)), check.threshold, 0.9) + 0.05
    placed = np.clip(khat, low, high)  # infinite values are drawn at the ends, and named in the label
    ends = {"all weights equal": int(np.isneginf(khat).sum()), "no tail fits": int(np.isposinf(khat).sum())}
    at_end = ", ".join(f"{count} {what}" for what, count in ends.items() if count)
    above = khat > check.threshold
    histogram.hist(
        [placed[~above], placed[above]], bins=list(np.linspace(low, high, 31)), stacked=True, color=[_INK, _ALARM]
    )
    scatter.scatter(placed, check.gap.numpy(), s=9, color=np.where(above, _ALARM, _INK), alpha=0.6, linewidths=0)
    for axes in (histogram, scatter):
        axes.axvline(check.threshold, color="0.3", linewidth=1, linestyle="--")
        axes.set(xlim=(low, high), xlabel="k̂ of an image" + (f" ({at_end}, at the end)" if at_end else ""))
    histogram.set_ylabel("images")
    scatter.set_ylabel("bound − ELBO, nats")
    _title(histogram, f"{check.share_above:.0%} of images above {check.threshold:.2f}", check.khat_alarm)
    mean, error = check.mean_gap
    _title(scatter, f"the bound's gap: {mean:.2f} ± {error:.2f} nats", check.gap_alarm)
    if images is not None and shown:
        pictures = rgb(images, 4, "images")
        if len(pictures) != len(khat):
            raise ValueError(f"images must be those of the check, {len(khat)}, got {len(pictures)}")
        panels = figure.add_subfigure(rows[1]).subplots(1, shown, squeeze=False)[0]
        for axes, image in zip(panels, check.worst(shown).tolist(), strict=True):
            axes.imshow(pictures[image], interpolation="nearest")
            axes.set_title(f"k̂ {khat[image]:.2f}".replace("inf", "∞").replace("-", "−"), fontsize=8)
            axes.set_xlabel(f"image {image}", fontsize=7)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    return _tidy(figure)


def ranks_figure(uniformities: Mapping[str, Uniformity], bins: int = 20) -> Figure:
    """Differences of rank ECDFs from the uniform one in their simultaneous band, and rank histograms below.

    Curves that leave the band are red. Histograms are means over the columns of a group; the dashed line is uniform.
    Groups are by title: ``Calibration.ranks``, ``Calibration.pooled`` or ``LeaveOneOut.pit``; `ValueError` for none.
    """
    if not uniformities:
        raise ValueError("a figure of ranks needs at least one group of them")
    figure, grid = _pairs_of_panels(len(uniformities), 2.6)
    for (above, below), (title, of) in zip(grid.T, uniformities.items(), strict=True):
        low, high = (np.pad(edge.numpy(), 1) for edge in of.band())  # distribution functions agree at 0 and 1
        differences = np.pad(of.differences().numpy(), ((0, 0), (1, 1)))
        places = np.concatenate([[0.0], of.places.numpy(), [1.0]])
        above.fill_between(places, low, high, color=_FAINT, alpha=0.5, linewidth=0)
        for name, curve in zip(of.names, differences, strict=True):
            color, width, alpha = (_ALARM, 1.2, 0.9) if name in of.failing else (_INK, 0.7, 0.6)
            above.plot(places, curve, color=color, linewidth=width, alpha=alpha)
        above.axhline(0, color="0.3", linewidth=0.6)
        reach = 1.15 * max(float(np.abs(differences).max()), float(high.max()), -float(low.min()))
        above.set(xlim=(0, 1), ylim=(-reach, reach), xlabel="rank / draws")
        several = f"{title}: {len(of.failing)} of {len(of.names)} out"
        _title(above, several if len(of.names) > 1 else of.names[0], of.alarm)
        counts = of.histogram(bins).double().mean(0).numpy()
        color = _ALARM if of.alarm else _INK
        below.stairs(counts, np.linspace(0, 1, len(counts) + 1), fill=True, color=color, alpha=0.85)
        below.axhline(float(counts.mean()), color="0.3", linewidth=1, linestyle="--")
        below.set(xlim=(0, 1), ylim=(0, None), xlabel="rank / draws")
    grid[0, 0].set_ylabel("share of ranks below − expected")
    grid[1, 0].set_ylabel("ranks")
    return _tidy(figure)


def axes_figure(check: AxesCheck) -> Figure:
    """Posterior contraction of each axis, largest first, and the aggregated posterior's sd and mean shift."""
    if not check.latents:
        raise ValueError("a figure of axes needs a latent with a proper prior, and the check has none")
    figure, grid = _pairs_of_panels(len(check.latents), 3.0, sharex="col")
    for (above, below), (name, of) in zip(grid.T, check.latents.items(), strict=True):
        contraction = of.contraction.numpy()
        order = np.argsort(-contraction, kind="stable")
        place = np.arange(len(order))
        found = {"not the prior": of.failing, "wider than prior": of.wider, "empty": of.empty}
        words = ", ".join(f"{len(axes)} {what}" for what, axes in found.items() if axes) or "all fill the prior"
        colors = np.where(np.isin(order, of.empty), _FAINT, np.where(np.isin(order, of.wider), _ALARM, _INK))
        above.bar(place, contraction[order], width=0.8, color=colors)
        above.set_ylim(min(0.0, 1.1 * float(contraction.min())), 1.05)
        _title(above, f"{name}: {words}", of.alarm)
        below.axhline(1, color="0.3", linewidth=0.6, linestyle="--")
        colors = np.where(np.isin(order, of.failing), _ALARM, _INK)
        for values, marker in ((of.spread, "o"), (of.shift, "_")):
            below.scatter(place, values.numpy()[order], s=14, marker=marker, c=colors)
        for axes in (above, below):
            axes.axhline(0, color="0.3", linewidth=0.6)
        below.margins(y=0.15)  # room for the legend
        below.set_xlabel("axis, most contracted first")
        below.set_xticks(place, map(str, order)) if len(order) <= 16 else below.xaxis.set_major_locator(MaxNLocator(5))
    grid[0, 0].set_ylabel("prior–posterior contraction")
    grid[1, 0].set_ylabel("aggregate posterior,\nprior sd units")
    marks = [Line2D([], [], color=_INK, marker=marker, linestyle="", markersize=4) for marker in ("o", "_")]
    grid[1, 0].legend(marks, ["sd", "mean shift"], fontsize=7, frameon=False, loc="upper right", ncols=2)
    return _tidy(figure)


def predictive_figure(check: PredictiveCheck) -> Figure:
    """Each statistic of a view against the mean of its replicates, and a histogram of the views' p-values below."""
    figure, grid = _pairs_of_panels(len(check.statistics), 2.6)
    for (scatter, histogram), (name, of) in zip(grid.T, check.statistics.items(), strict=True):
        observed, color = of.observed.flatten().numpy(), _ALARM if of.alarm else _INK
        scatter.scatter(observed, of.replicated.flatten().numpy(), s=6, color=color, alpha=0.4, linewidths=0)
        scatter.axline((float(observed.mean()),) * 2, slope=1, color="0.3", linewidth=1, linestyle="--")
        scatter.xaxis.set_major_locator(MaxNLocator(4))
        scatter.set_xlabel("of a view")
        _title(scatter, f"{name}: p = {of.overall:.2g}", of.alarm)
        histogram.hist(of.p_values.flatten().numpy(), bins=list(np.linspace(0, 1, 21)), color=color)
        histogram.set_xlabel("p-value of a view")
    grid[0, 0].set_ylabel("mean of its replicates")
    grid[1, 0].set_ylabel("views")
    return _tidy(figure)


def _pairs_of_panels(count: int, width: float, **settings: Any) -> tuple[Figure, NDArray[Any]]:
    """A figure of pairs of panels, the upper ones higher, at most `_PAIRS_A_ROW` a row; axes ``(2, count)``."""
    rows, columns = math.ceil(count / _PAIRS_A_ROW), min(count, _PAIRS_A_ROW)
    figure = Figure(figsize=(max(3.6, width * columns), 4.4 * rows), dpi=_DPI, layout="constrained")
    heights = {"height_ratios": (1.6, 1) * rows}
    grid = figure.subplots(2 * rows, columns, squeeze=False, gridspec_kw=heights, **settings)
    pairs = grid.reshape(rows, 2, columns).swapaxes(0, 1).reshape(2, rows * columns)
    for axes in pairs[:, count:].flat:
        axes.remove()
    return figure, pairs[:, :count]


def _title(axes: Axes, words: str, alarm: bool) -> None:
    axes.set_title(words, loc="left", fontsize=9, fontweight="bold", color=_ALARM if alarm else "black")


def _tidy(figure: Figure) -> Figure:
    for axes in (axes for axes in figure.axes if not axes.images):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=axes.get_ylabel() in ("images", "views")))
    return figure

"""The terms of the loss over the steps, drawn as SVG: a panel a term, however many steps there were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pp_simve.reporting import words
from pp_simve.reporting.markup import Markup, tag
from pp_simve.reporting.tables import plain

PARTS = 90
"""Parts the steps are cut into: a point of the line is the mean of a part."""
WIDTH, HEIGHT = 300.0, 120.0

Array = NDArray[np.float64]


def loss_panels(history: Sequence[Mapping[str, float]]) -> list[Markup]:
    """A figure a term: the line is the mean of a few steps, the band their range; gaps are values that are not finite.

    After the first tenth of the steps the vertical axis spans what is drawn, so that the drop at the start does not
    flatten the rest.

    Args:
        history: a mapping a logged step, with ``"step"`` and any terms; a term may be missing from some.
    """
    terms = dict.fromkeys(name for row in history for name in row if name != "step")
    steps = np.array([row["step"] for row in history], dtype=np.float64)
    return [
        _panel(term, steps, np.array([row.get(term, math.nan) for row in history], dtype=np.float64)) for term in terms
    ]


def thinned(steps: Array, values: Array, parts: int = PARTS) -> tuple[Array, Array, Array, Array]:
    """Mean step, and mean, least and greatest finite value of each of at most ``parts`` parts, empty ones left out."""
    found = []
    for places in np.array_split(np.arange(len(steps)), min(parts, len(steps))):
        finite = places[np.isfinite(values[places])]
        if len(finite):
            part = values[finite]
            found.append((steps[finite].mean(), part.mean(), part.min(), part.max()))
        else:
            found.append((steps[places].mean(), math.nan, math.nan, math.nan))
    at, mean, low, high = np.array(found, dtype=np.float64).T
    return at, mean, low, high


def ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers within a range."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = max(step * factor for factor in (1, 2, 5) if (high - low) / (step * factor) >= 2)
    first = math.ceil(low / step - 1e-9)
    return [step * place for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _panel(term: str, steps: Array, values: Array) -> Markup:
    heading = tag("h3", term)
    hint = tag("small", words.TERMS.get(term, "a term of this objective"))
    at, mean, low, high = thinned(steps, values)
    finite = np.isfinite(mean)
    if not finite.any():
        return tag("figure", tag("figcaption", heading, hint), tag("p", "No finite values."), class_="panel")
    settled = finite & (np.arange(len(at)) >= len(at) // 10)
    settled = settled if settled.any() else finite
    bottom, top = float(low[settled].min()), float(high[settled].max())
    margin = 0.06 * (top - bottom) or 0.05 * abs(top) or 0.05
    bottom, top = bottom - margin, top + margin

    left, span = float(steps[0]), float(steps[-1] - steps[0]) or 1.0
    x = WIDTH * (at - left) / span
    y = {name: HEIGHT * (top - line) / (top - bottom) for name, line in (("mean", mean), ("low", low), ("high", high))}
    bands, lines = [], []
    for run in _runs(finite):
        upper = [f"{x[place]:.1f},{y['high'][place]:.1f}" for place in run]
        lower = [f"{x[place]:.1f},{y['low'][place]:.1f}" for place in run[::-1]]
        bands.append("M" + "L".join([*upper, *lower]) + "Z")
        lines.append("M" + "L".join(f"{x[place]:.1f},{y['mean'][place]:.1f}" for place in run) + "h.01")
    at_ticks = [(tick, HEIGHT * (top - tick) / (top - bottom)) for tick in ticks(bottom, top)]
    first, last = float(mean[finite][0]), float(mean[finite][-1])
    drawing = tag(
        "svg",
        tag("path", class_="grid", d="".join(f"M0,{height:.1f}H{WIDTH:g}" for _, height in at_ticks)),
        tag("path", class_="band", d="".join(bands)),
        tag("path", class_="line", d="".join(lines)),
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{term} over steps {left:g} to {left + span:g}: from {plain(first)} to {plain(last)}",
    )
    labels = [
        tag("span", f"{tick:g}".replace("-", "−"), class_="tick", style=f"top:{100 * height / HEIGHT:.1f}%")
        for tick, height in at_ticks
    ]
    ends = tag("div", tag("span", f"step {steps[0]:,.0f}"), tag("span", f"{steps[-1]:,.0f}"), class_="ends")
    plot = tag("div", drawing, *labels, class_="curve")
    now = tag("span", f"ends at {plain(last)}", class_="now")
    return tag("figure", tag("figcaption", heading, now, hint), plot, ends, class_="panel")


def _runs(finite: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Places that follow one another without a gap."""
    places = np.flatnonzero(finite)
    return [run for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(run)]

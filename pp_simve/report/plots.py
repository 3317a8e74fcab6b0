"""Interactive plots of a report by Bokeh: the map of z, and the terms of the loss over the steps.

Bokeh, because of the plotting libraries that write self-contained HTML it alone meets all needs. A page with a map of
1,000 points is 1.5 MB with Bokeh 3.9 (1.3 MB of it the library), 5.0 MB with Plotly 7.1, whose labels show no images,
and 1.1 MB with Altair 6.3, which needs a wheel of 33 MB to write it and evaluates text as code in the reader's browser.
A plot of Bokeh shows an image and escaped text where it is pointed at, without network or evaluation.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter, Range1d
from bokeh.palettes import Category10, Viridis
from bokeh.plotting import figure
from bokeh.resources import Resources
from numpy.typing import NDArray
from PIL import Image

from pp_simve.report import words
from pp_simve.report.embedding import Embedding, principal_axes
from pp_simve.run.numbers import plain

CLASS_COLORS: tuple[str, ...] = Category10[10]
"""Of the most frequent classes; the others share `GRAY`."""
SHADES: tuple[str, ...] = Viridis[7]
"""Of view parameters, in equal ranges."""
GRAY = "#b9bcc0"
PARTS = 300
"""Parts that the steps are divided into: a point of a curve is the mean of a part."""
ACCENT = "#3a87c2"
"""Of curves: visible on light and on dark."""

# Constant: names from the data are values of columns, which Bokeh escapes, and never part of this text.
TOOLTIP = """<div style="width: 150px; font-size: 13px">
<img src="@picture" alt="" style="width: 96px; image-rendering: pixelated">
<div style="white-space: pre-line">@words</div>
</div>"""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Coloring:
    """Colors of the points of a map by one property of the views.

    Attributes:
        name: of the property.
        colors: of each row.
        values: of each row, as text; empty where it has none.
        legend: colors and what they mean.
    """

    name: str
    colors: Sequence[str]
    values: Sequence[str]
    legend: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Map:
    """The map of z, as the page's template shows it.

    Attributes:
        layouts: coordinates by name, with how to read them.
        colorings: what the points can be colored by.
        rows: views shown.
        left_out: views that are not, because z is not finite.
        item: of `library`, for ``Bokeh.embed.embed_item``.
    """

    layouts: Mapping[str, str]
    colorings: Sequence[Coloring]
    rows: int
    left_out: int
    item: dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """One term of the loss over the steps; `item` is None where no value is finite."""

    term: str
    hint: str
    label: str
    last: str
    item: dict[str, Any] | None


def library() -> str:
    """Bokeh's script for plots without widgets."""
    return Resources(mode="inline", components=["bokeh"]).js_raw[0]


def map_of(embedding: Embedding) -> Map | None:
    """The map of an embedding; None where z is the same for all views, or not finite."""
    shown = embedding.at(
        torch.stack([torch.isfinite(points).all(1) for points in (embedding.z, *embedding.placed.values())]).all(0)
    )
    points, shares = principal_axes(shown.z) if len(shown.z) > 2 else (shown.z, [0.0])
    if not shares[0] > 0:
        return None
    read = f"Across {100 * shares[0]:.0f} %, up {100 * shares[1]:.0f} % of the variance; two axes show only part of z."
    layouts, places = {"principal axes": read}, [points, *shown.placed.values()]
    for name in shown.placed:
        layouts[name] = "Neighbors are neighbors in z; distances between clusters and their sizes mean little."
    colorings = colorings_of(shown)
    columns: dict[str, Sequence[Any]] = {
        "picture": [_picture(picture) for picture in shown.pictures.cpu().numpy()],
        "words": [
            "\n".join(f"{coloring.name} {coloring.values[row]}" for coloring in colorings if coloring.values[row])
            for row in range(len(shown.z))
        ],
    }
    for place, coloring in enumerate(colorings):
        columns[f"color{place}"] = coloring.colors
    for layout, at in enumerate(places):
        columns |= {f"x{layout}": at[:, 0].tolist(), f"y{layout}": at[:, 1].tolist()}
    spans = points.amax(0) - points.amin(0)
    plot: Any = figure(
        name="map",
        sizing_mode="scale_width",
        width=900,
        height=int(min(max(float(900 * spans[1] / spans[0]), 450), 800)),
        match_aspect=True,
        tools="pan,wheel_zoom,box_zoom,reset",
        active_drag=None,
        toolbar_location="above",
    )
    source = ColumnDataSource(columns)
    color = "color0" if colorings else ACCENT
    for layout in range(len(places)):
        x, y = f"x{layout}", f"y{layout}"
        plot.scatter(
            x, y, source=source, size=9, fill_color=color, line_color="#80808080", visible=layout == 0, name="views"
        )
    plot.x_range.only_visible = plot.y_range.only_visible = True
    plot.add_tools(HoverTool(tooltips=TOOLTIP, limit=1, point_policy="snap_to_data"))
    return Map(layouts, colorings, len(shown.z), len(embedding.z) - len(shown.z), _item(plot))


def colorings_of(embedding: Embedding) -> list[Coloring]:
    """By class, by modality and by each view parameter, as far as they are known."""
    found = []
    if embedding.labels is not None:
        names = dict(enumerate(embedding.classes))
        found.append(_by_name("class", [names.get(label, str(label)) for label in embedding.labels.tolist()]))
    if embedding.modalities:
        found.append(_by_name("modality", embedding.modalities))
    return found + [_by_number(name, values.cpu().double().numpy()) for name, values in embedding.parameters.items()]


def curves_of(history: Sequence[Mapping[str, float]]) -> list[Curve]:
    """A curve per term of the loss, means over parts of the steps, with the range of each part as a band.

    Args:
        history: a mapping per logged step, with ``"step"`` and any terms; a term may be missing from some.
    """
    steps = np.array([row["step"] for row in history], dtype=np.float64)
    curves = []
    for term in dict.fromkeys(name for row in history for name in row if name != "step"):
        values = np.array([row.get(term, math.nan) for row in history], dtype=np.float64)
        at, mean, low, high = thinned(steps, values)
        finite = np.flatnonzero(np.isfinite(mean))
        hint = words.TERMS.get(term, "a term of this objective")
        if not len(finite):
            curves.append(Curve(term, hint, "No finite values.", "–", None))
            continue
        first, last = plain(float(mean[finite[0]])), plain(float(mean[finite[-1]]))
        label = f"{term} over steps {steps[0]:,.0f} to {steps[-1]:,.0f}: from {first} to {last}"
        # The drop in the first tenth would flatten the rest.
        settled = finite[finite >= len(at) // 10] if (finite >= len(at) // 10).any() else finite
        bottom, top = float(low[settled].min()), float(high[settled].max())
        margin = 0.06 * (top - bottom) or 0.05 * abs(top) or 0.05
        plot: Any = figure(
            sizing_mode="stretch_width",
            height=170,
            tools="",
            toolbar_location=None,
            y_range=Range1d(start=bottom - margin, end=top + margin),
        )
        source = ColumnDataSource(
            {"step": at.tolist(), "mean": mean.tolist(), "low": low.tolist(), "high": high.tolist()}
        )
        plot.varea("step", "low", "high", source=source, fill_color=ACCENT, fill_alpha=0.25)
        line = plot.line("step", "mean", source=source, line_color=ACCENT, line_width=2)
        plot.scatter("step", "mean", source=source, color=ACCENT, size=6 if len(finite) == 1 else 0)
        plot.xaxis[0].formatter, plot.xaxis[0].ticker.desired_num_ticks = NumeralTickFormatter(format="0,0"), 4
        plot.yaxis[0].ticker.desired_num_ticks = 4
        tooltips = [("step", "@step{0,0}"), ("mean", "@mean{0,0.000}")]
        plot.add_tools(HoverTool(tooltips=tooltips, mode="vline", renderers=[line]))
        curves.append(Curve(term, hint, label, last, _item(plot)))
    return curves


def thinned(steps: Array, values: Array, parts: int = PARTS) -> tuple[Array, Array, Array, Array]:
    """Mean step, and mean, least and greatest finite value of each of at most ``parts`` parts; NaN where none is."""
    found = []
    for places in np.array_split(np.arange(len(steps)), min(parts, len(steps))):
        finite = places[np.isfinite(values[places])]
        part = values[finite] if len(finite) else np.array([math.nan])
        found.append((steps[finite if len(finite) else places].mean(), part.mean(), part.min(), part.max()))
    at, mean, low, high = np.array(found, dtype=np.float64).T
    return at, mean, low, high


def _by_name(name: str, values: Sequence[str]) -> Coloring:
    counts = Counter(values)
    known = [value for value, _ in counts.most_common(len(CLASS_COLORS))]
    known.sort(key=lambda value: (0, int(value), "") if value.isdecimal() else (1, 0, value))
    colors = dict(zip(known, CLASS_COLORS, strict=False))
    rest = [(GRAY, f"{len(counts) - len(known)} more")] if len(counts) > len(known) else []
    legend = [*((color, value) for value, color in colors.items()), *rest]
    return Coloring(name, [colors.get(value, GRAY) for value in values], list(values), legend)


def _by_number(name: str, values: Array) -> Coloring:
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    shades = np.clip((values - low) / ((high - low) or 1.0) * len(SHADES), 0, len(SHADES) - 1)
    colors = [SHADES[int(shade)] if finite else GRAY for shade, finite in zip(shades, known, strict=True)]
    texts = [plain(float(value)) if finite else "" for value, finite in zip(values, known, strict=True)]
    ends = {0: plain(low), len(SHADES) - 1: plain(high)} if high > low else {0: f"always {plain(low)}"}
    legend = [(color, ends.get(place, "")) for place, color in enumerate(SHADES) if high > low or place in ends]
    rest = [] if known.all() else [(GRAY, "not defined")]
    return Coloring(name, colors, texts, [*(legend if known.any() else []), *rest])


def _picture(picture: NDArray[np.uint8]) -> str:
    """A thumbnail, uint8 ``(channel, height, width)``, as an address that holds it."""
    image = Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _item(plot: Any) -> dict[str, Any]:
    """A plot without a background, so that it has that of the page, as JSON."""
    plot.background_fill_color = plot.border_fill_color = plot.outline_line_color = None
    plot.toolbar.logo = None
    for axis in plot.axis:
        axis.minor_tick_line_color = None
        axis.major_label_text_font_size = "12px"
    return dict(json_item(plot))

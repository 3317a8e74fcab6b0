"""The map of the latents: views of test images at the two principal axes of their z."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pp_simve.reporting.markup import Markup, joined, png_uri, tag
from pp_simve.reporting.pictures import sprites
from pp_simve.reporting.tables import plain

COLOURED = 10
"""Classes with a colour of their own; the rarer ones share grey."""
SHADES = 7
"""Shades of a view parameter."""
SPRITE_BYTES = 700_000
WIDTH = 640.0
EDGE = 14.0


@dataclass(frozen=True)
class Embedding:
    """Latents of views of test images, a row a view.

    Attributes:
        z: shape ``(row, latent)``.
        pictures: what was embedded, uint8 ``(row, channel, height, width)``, 1 or 3 channels.
        labels: int64 ``(row,)``, places in ``classes``; None where the data have none.
        classes: names of the classes.
        kinds: the row's kind of view, where there are several.
        parameters: of the views by name, each ``(row,)``; NaN for a row whose kind of view has no such parameter.

    Raises:
        ValueError: they differ in their number of rows.
    """

    z: Tensor
    pictures: Tensor
    labels: Tensor | None = None
    classes: Sequence[str] = ()
    kinds: Sequence[str] = ()
    parameters: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = {"pictures": len(self.pictures)} | {name: len(values) for name, values in self.parameters.items()}
        rows |= {} if self.labels is None else {"labels": len(self.labels)}
        rows |= {"kinds": len(self.kinds)} if self.kinds else {}
        if wrong := {name: count for name, count in rows.items() if count != len(self.z)}:
            raise ValueError(f"an embedding of {len(self.z)} rows needs as many of everything, got {wrong}")


@dataclass(frozen=True)
class Colouring:
    """A way to colour the map: a colour a row, and what the colours mean.

    Attributes:
        name: what is coloured by.
        places: of each row, its place among the colours; -1 is grey.
        legend: colours (names of CSS variables) and words, by place.
        grey: what grey means; None where no row is.
        values: of each row, in words.
        labels: words to stand at the middle of the rows of a place.
    """

    name: str
    places: NDArray[np.int64]
    legend: list[tuple[str, str]]
    grey: str | None
    values: list[str]
    labels: bool


def principal_axes(z: Tensor) -> tuple[Tensor, list[float]]:
    """Rows at the two axes of most variance, float64 ``(row, 2)``, and the share of the variance each has.

    Of one latent the second axis is zero. An axis' sign is the one that makes its largest weight positive.
    """
    centred = z.detach().cpu().double()
    centred = centred - centred.mean(0)
    if z.shape[1] < 2:
        centred = torch.nn.functional.pad(centred, (0, 2 - z.shape[1]))
    variances, axes = torch.linalg.eigh(centred.mT @ centred)
    axes, variances = axes[:, [-1, -2]], variances.clamp_min(0)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    total = float(variances.sum())
    return centred @ (axes * largest.sign()), [float(value) / total if total else 0.0 for value in variances[[-1, -2]]]


def colourings(embedding: Embedding) -> list[Colouring]:
    """By class, by kind of view and by each view parameter, as far as they are known."""
    found = []
    if embedding.labels is not None:
        names = [
            embedding.classes[label] if 0 <= label < len(embedding.classes) else str(label)
            for label in embedding.labels.tolist()
        ]
        found.append(_by_name("class", names))
    if embedding.kinds:
        found.append(_by_name("kind of view", embedding.kinds))
    found.extend(_by_number(name, values.cpu().double().numpy()) for name, values in embedding.parameters.items())
    return found


def map_section(embedding: Embedding) -> tuple[list[Markup], Markup]:
    """The map, and the style sheet that colours it. Without colours to choose from it is drawn in one.

    A page holds one map.
    """
    finite = torch.isfinite(embedding.z).all(1).cpu()
    points, shares = principal_axes(embedding.z[finite.to(embedding.z.device)])
    if len(points) < 3 or not shares[0] > 0:
        return [tag("p", "No map: z of all views shown is the same, or not finite.", class_="missing")], Markup()
    rows = finite.nonzero()[:, 0].tolist()
    at, height = _placed(points.numpy())
    ways = colourings(embedding)
    dots = []
    for place, row in enumerate(rows):
        classes = " ".join(f"c{way}-{colouring.places[row]}" for way, colouring in enumerate(ways))
        words = [f"{colouring.name} {colouring.values[row]}" for colouring in ways if colouring.values[row]]
        title = tag("title", " · ".join(words)) if words else None
        where = {"cx": f"{at[place, 0]:.1f}", "cy": f"{at[place, 1]:.1f}"}
        dots.append(tag("g", tag("circle", **where, r="4.5"), title, class_=classes, data_row=row))
    summary = f"{len(rows):,} views of test images at the two principal axes of their z"
    drawing = tag("svg", *dots, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=summary, tabindex=0)
    marks = [mark for way, colouring in enumerate(ways) for mark in _labels(way, colouring, rows, at, height)]
    tip = tag("div", tag("div", class_="thumb"), tag("p", ""), class_="tip", hidden=True, aria_live="polite")
    axes = f"across {100 * shares[0]:.0f} %, up {100 * shares[1]:.0f} % of the variance"
    left_out = len(embedding.z) - len(rows)
    caption = tag(
        "figcaption",
        f"{summary} ({axes}). ",
        f"{left_out} view{' is' if left_out == 1 else 's are'} left out, z not finite. " if left_out else None,
        tag("span", "Point, tap, or use the arrow keys to see a view.", class_="with-script"),
    )
    choice = _choice(ways) if ways else tag("p", "There are no labels and no view parameters to colour by.")
    legends = [_legend(way, colouring) for way, colouring in enumerate(ways)]
    plot = tag("figure", tag("div", drawing, *marks, tip, class_="plot"), *legends, caption)
    return [choice, plot], _style(embedding, ways)


def _by_name(name: str, values: Sequence[str]) -> Colouring:
    counted = {value: values.count(value) for value in dict.fromkeys(values)}
    known = sorted(counted, key=lambda value: (-counted[value], value))[:COLOURED]
    known.sort(key=lambda value: (len(value), value) if value.isdigit() else (0, value))
    places = {value: place for place, value in enumerate(known)}
    rare = len(counted) - len(known)
    return Colouring(
        name=name,
        places=np.array([places.get(value, -1) for value in values], dtype=np.int64),
        legend=[(f"--k{place}", value) for place, value in enumerate(known)],
        grey=f"{rare} more" if rare else None,
        values=list(values),
        labels=True,
    )


def _by_number(name: str, values: NDArray[np.float64]) -> Colouring:
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    span = high - low or 1.0
    places = np.full(len(values), -1, dtype=np.int64)
    places[known] = np.minimum((values[known] - low) / span * SHADES, SHADES - 1).astype(np.int64)
    edges = {0: plain(low), SHADES - 1: plain(high)} if high > low else {0: f"always {plain(low)}"}
    two = len(np.unique(values[known])) <= 2
    shown = sorted(edges) if two else range(SHADES)
    return Colouring(
        name=name,
        places=places,
        legend=[(f"--s{place}" if place in shown else "", edges.get(place, "")) for place in range(SHADES)],
        grey=None if known.all() else "has none",
        values=[plain(float(value)) if finite else "" for value, finite in zip(values, known, strict=True)],
        labels=False,
    )


def _placed(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Places in the drawing, and its height: both axes have one scale, as far as the drawing's shape allows."""
    low, span = points.min(0), np.ptp(points, axis=0)
    height = float(np.clip(WIDTH * span[1] / span[0], 0.5 * WIDTH, 0.9 * WIDTH))
    scale = min((WIDTH - 2 * EDGE) / span[0], (height - 2 * EDGE) / (span[1] or span[0]))
    centred = (points - low - span / 2) * scale
    return np.stack([WIDTH / 2 + centred[:, 0], height / 2 - centred[:, 1]], 1), round(height, 1)


def _labels(way: int, colouring: Colouring, rows: list[int], at: NDArray[np.float64], height: float) -> list[Markup]:
    """The words of a colour at the median of its points, in per cent of the drawing: text that does not scale."""
    if not colouring.labels:
        return []
    places = colouring.places[rows]
    marks = []
    for place, (_, words) in enumerate(colouring.legend):
        here = at[places == place]
        if len(here):
            x, y = np.median(here, axis=0)
            where = f"left:{100 * x / WIDTH:.1f}%;top:{100 * y / height:.1f}%"
            marks.append(tag("span", words, class_=f"mark of-{way}", style=where, aria_hidden="true"))
    return marks


def _choice(ways: list[Colouring]) -> Markup:
    radios = [
        tag(
            "label",
            tag("input", type="radio", name="colouring", id=f"by-{way}", checked=way == 0),
            tag("span", colouring.name),
        )
        for way, colouring in enumerate(ways)
    ]
    return tag("fieldset", tag("legend", "Colour by"), *radios)


def _legend(way: int, colouring: Colouring) -> Markup:
    entries = [
        tag("li", tag("i", style=f"background:var({colour})", class_="swatch"), words or None)
        for colour, words in colouring.legend
        if colour
    ]
    if colouring.grey:
        entries.append(tag("li", tag("i", style="background:var(--none)", class_="swatch"), colouring.grey))
    shape = "names" if colouring.labels else "shades"
    return tag("ul", *entries, class_=f"legend {shape} of-{way}", aria_label=f"colours of {colouring.name}")


def _style(embedding: Embedding, ways: list[Colouring]) -> Markup:
    """Which radio button shows what, and where a row's thumbnail lies."""
    picture, columns = sprites(embedding.pictures, SPRITE_BYTES)
    lines = math.ceil(len(embedding.pictures) / columns)
    height, width = embedding.pictures.shape[-2:]
    side = 96 / max(height, width)
    rules = [
        f".thumb{{width:{side * width:.0f}px;height:{side * height:.0f}px;--columns:{columns};"
        f"background-size:{100 * columns}% {100 * lines}%;background-image:url({png_uri(picture)})}}"
    ]
    for way, colouring in enumerate(ways):
        chosen = f"#map:has(#by-{way}:checked)"
        rules.append(f"{chosen} .of-{way}{{display:flex}}")
        rules.extend(
            f"{chosen} .c{way}-{place}{{fill:var({colour})}}"
            for place, (colour, _) in enumerate(colouring.legend)
            if colour
        )
    return joined(*(Markup(rule) for rule in rules))

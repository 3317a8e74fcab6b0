"""The map of the latents: views of test images at the principal axes of their z, or where another method puts them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pp_simve.reporting.embedding import Embedding, principal_axes
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
LETTER = (13.0, 32.0)
"""Width and height of a letter over the map where a phone draws it."""


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


@dataclass(frozen=True)
class Layout:
    """Where a method puts the rows.

    Attributes:
        name: of the method.
        at: places in the drawing, ``(row, 2)``.
        caption: how to read it.
    """

    name: str
    at: NDArray[np.float64]
    caption: str


def layouts(embedding: Embedding, rows: Sequence[int]) -> tuple[list[Layout], float]:
    """Maps of the chosen rows, that of their principal axes first, and the height of the drawing that holds them."""
    points, shares = principal_axes(embedding.z[list(rows)])
    axes = f"across {100 * shares[0]:.0f} %, up {100 * shares[1]:.0f} % of the variance"
    maps = {"PCA": (points.numpy(), f"at the two principal axes of their z ({axes}).")}
    for name, placed in embedding.placed.items():
        caption = (
            f"placed by {name} of their z: near ones were near; how far clumps lie apart, and how wide, says little."
        )
        maps[name] = (placed[list(rows)].double().numpy(), caption)
    spans = [np.ptp(points, axis=0) for points, _ in maps.values()]
    height = max(float(np.clip(WIDTH * span[1] / (span[0] or 1.0), 0.5 * WIDTH, 0.9 * WIDTH)) for span in spans)
    found = [Layout(name, _placed(points, height), caption) for name, (points, caption) in maps.items()]
    return found, round(height, 1)


def map_section(embedding: Embedding) -> tuple[list[Markup], Markup]:
    """The map, and the style sheet that colours it. Without colours to choose from it is drawn in one.

    A page holds one map.
    """
    finite = torch.isfinite(embedding.z).all(1).cpu()
    for points in embedding.placed.values():
        finite &= torch.isfinite(points).all(1).cpu()
    rows = finite.nonzero()[:, 0].tolist()
    if len(rows) < 3 or not principal_axes(embedding.z[rows])[1][0] > 0:
        return [tag("p", "No map: z of all views shown is the same, or not finite.", class_="missing")], Markup()
    maps, height = layouts(embedding, rows)
    ways = colourings(embedding)
    dots = [_dot(place, row, maps, ways) for place, row in enumerate(rows)]
    summary = f"{len(rows):,} views of test images"
    label = f"{summary} {maps[0].caption}"
    drawing = tag("svg", *dots, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=label, tabindex=0)
    marks = [
        mark
        for way, colouring in enumerate(ways)
        for layout, drawn in enumerate(maps)
        for mark in _labels(way, colouring, rows, layout, drawn.at, height)
    ]
    tip = tag("div", tag("div", class_="thumb"), tag("p", ""), class_="tip", hidden=True, aria_live="polite")
    left_out = len(embedding.z) - len(rows)
    caption = tag(
        "figcaption",
        *(tag("span", f"{summary} {drawn.caption} ", class_=f"at-{layout}") for layout, drawn in enumerate(maps)),
        f"{left_out} view{' is' if left_out == 1 else 's are'} left out, z not finite. " if left_out else None,
        tag("span", "Point, tap, or use the arrow keys to see a view.", class_="with-script"),
    )
    choices = [_choice("Placed by", "layout", "at", [drawn.name for drawn in maps])] if len(maps) > 1 else []
    if ways:
        choices.append(_choice("Colour by", "colouring", "by", [colouring.name for colouring in ways]))
    else:
        choices.append(tag("p", "There are no labels and no view parameters to colour by."))
    legends = [_legend(way, colouring) for way, colouring in enumerate(ways)]
    plot = tag("figure", tag("div", drawing, *marks, tip, class_="plot"), *legends, caption)
    return [*choices, plot], _style(embedding, ways, len(maps))


def _dot(place: int, row: int, maps: Sequence[Layout], ways: Sequence[Colouring]) -> Markup:
    """A row at its place on the first map, with how far it moves for each of the others."""
    classes = " ".join(f"c{way}-{colouring.places[row]}" for way, colouring in enumerate(ways))
    words = [f"{colouring.name} {colouring.values[row]}" for colouring in ways if colouring.values[row]]
    title = tag("title", " · ".join(words)) if words else None
    x, y = maps[0].at[place]
    moves = [(layout, drawn.at[place] - maps[0].at[place]) for layout, drawn in enumerate(maps) if layout]
    style = ";".join(f"--x{layout}:{move[0]:.1f}px;--y{layout}:{move[1]:.1f}px" for layout, move in moves)
    circle = tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="4.5")
    return tag("g", circle, title, class_=classes, data_row=row, style=style or None)


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


def _placed(points: NDArray[np.float64], height: float) -> NDArray[np.float64]:
    """Places in the middle of the drawing; both axes have one scale."""
    low, span = points.min(0), np.ptp(points, axis=0)
    scale = min((WIDTH - 2 * EDGE) / (span[0] or 1.0), (height - 2 * EDGE) / (span[1] or span[0] or 1.0))
    centred = (points - low - span / 2) * scale
    return np.stack([WIDTH / 2 + centred[:, 0], height / 2 - centred[:, 1]], 1)


def _labels(
    way: int, colouring: Colouring, rows: list[int], layout: int, at: NDArray[np.float64], height: float
) -> list[Markup]:
    """The words of a colour at the median of its points, in per cent of the drawing: text that does not scale.

    Where those of two would lie over one another on a narrow screen, the colour of more points keeps them; the legend
    has all.
    """
    if not colouring.labels:
        return []
    of_place = [at[colouring.places[rows] == place] for place in range(len(colouring.legend))]
    marks: list[Markup] = []
    taken: list[tuple[float, float, float]] = []
    for place in sorted(range(len(of_place)), key=lambda place: -len(of_place[place])):
        here, words = of_place[place], colouring.legend[place][1]
        if len(here):
            x, y = np.median(here, axis=0)
            half = LETTER[0] * (len(words) + 1) / 2
            if any(abs(x - left) < half + other and abs(y - top) < LETTER[1] for left, top, other in taken):
                continue
            taken.append((x, y, half))
            where = f"left:{100 * x / WIDTH:.1f}%;top:{100 * y / height:.1f}%"
            marks.append(tag("span", words, class_=f"mark of-{way} at-{layout}", style=where, aria_hidden="true"))
    return marks


def _choice(heading: str, name: str, id_: str, options: Sequence[str]) -> Markup:
    """Radio buttons, the first of them chosen."""
    radios = [
        tag(
            "label",
            tag("input", type="radio", name=name, id=f"{id_}-{place}", value=place, checked=place == 0),
            tag("span", option),
        )
        for place, option in enumerate(options)
    ]
    return tag("fieldset", tag("legend", heading), *radios)


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


def _style(embedding: Embedding, ways: list[Colouring], maps: int) -> Markup:
    """Which radio buttons show what, and where a row's thumbnail lies."""
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
    for layout in range(maps if maps > 1 else 0):
        chosen = f"#map:has(#at-{layout}:checked)"
        others = ",".join(f"{chosen} .at-{other}.at-{other}.at-{other}" for other in range(maps) if other != layout)
        rules.append(f"{others}{{display:none}}")
        if layout:
            rules.append(f"{chosen} .plot g{{transform:translate(var(--x{layout}),var(--y{layout}))}}")
    return joined(*(Markup(rule) for rule in rules))

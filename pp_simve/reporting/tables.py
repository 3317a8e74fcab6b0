"""Tables of scores, costs and settings; each scrolls in its own box where it is wider than the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pp_simve.evaluation.posterior.check import Cell
from pp_simve.reporting import words
from pp_simve.reporting.markup import Markup, joined, number, tag

FRACTIONS = ("linear", "knn", "accuracy", "balanced_accuracy", "recall", "chance")


@dataclass(frozen=True)
class Row:
    """A row of numbers.

    Attributes:
        name: what they are.
        values: a column each.
        texts: the same as people read them.
        hint: how to read them, in a line of its own below.
        bars: whether a bar below each shows how much of 1 it is.
    """

    name: str
    values: Sequence[Any]
    texts: Sequence[str]
    hint: str = ""
    bars: bool = True


@dataclass(frozen=True)
class Group:
    """Rows under a heading, with how to read all of them."""

    title: str
    rows: Sequence[Row]
    hint: str = ""


def table(caption: str, head: Sequence[str], *bodies: Markup) -> Markup:
    """A table in a box that scrolls and that a keyboard reaches.

    Args:
        caption: what it shows.
        head: column headings, in words or as elements, the first that of the rows' names.
        bodies: ``tbody`` elements.
    """
    headings = tag(
        "thead", tag("tr", *(word if isinstance(word, Markup) else tag("th", word, scope="col") for word in head))
    )
    whole = tag("table", tag("caption", caption), headings, *bodies)
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def knowledge_table(caption: str, knows: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A row a measure, a column a representation: first the class, then the view's parameters."""
    columns = {name: scores for name, scores in knows.items() if name != "notes"}
    measures = list(dict.fromkeys(key for scores in columns.values() for key in scores))
    of_class = [key for key in measures if key in ("linear", "knn")]
    of_view = [key for key in measures if key not in (*of_class, "mean_r2")]
    mean = [key for key in measures if key == "mean_r2"]
    groups = {"Class: share of images named rightly": of_class, "View: R², 1 is known and 0 is not": [*of_view, *mean]}
    bodies = []
    for title, keys in groups.items():
        heading = tag("th", title, colspan=len(columns) + 1, scope="rowgroup")
        rows = [_row(key, [scores.get(key) for scores in columns.values()]) for key in keys]
        if rows:
            bodies.append(tag("tbody", tag("tr", heading, class_="group"), *rows))
    return table(caption, ["measure", *columns], *bodies)


def directions_table(caption: str, directions: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A group of rows a direction, such as ``upper to lower``; columns are the score and what chance scores."""
    bodies = []
    for direction, scores in directions.items():
        rows = [tag("tr", tag("th", direction, colspan=3, scope="rowgroup"), class_="group")]
        for key, score in scores.items():
            if not key.startswith("chance"):
                rows.append(_row(key, [score, scores.get(words.chance_key(key) or "")]))
        bodies.append(tag("tbody", *rows))
    return table(caption, ["measure", "score", "chance"], *bodies)


def grouped_table(caption: str, columns: Sequence[str], groups: Sequence[Group]) -> Markup:
    """Groups of rows, those without rows left out; the columns are for instance representations."""
    across = len(columns) + 1
    bodies = []
    for group in groups:
        if not group.rows:
            continue
        hint = tag("small", group.hint) if group.hint else None
        lines = [tag("tr", tag("th", group.title, hint, colspan=across, scope="rowgroup"), class_="group")]
        for row in group.rows:
            cells = [
                tag("td", number(value, text), style=_share(value) if row.bars else None)
                for value, text in zip(row.values, row.texts, strict=True)
            ]
            lines.append(tag("tr", tag("th", row.name, scope="row"), *cells, class_="read" if row.hint else None))
            if row.hint:
                lines.append(tag("tr", tag("td", tag("small", row.hint), colspan=across), class_="hint"))
        bodies.append(tag("tbody", *lines))
    return table(caption, ["measure", *columns], *bodies)


def terms_table(caption: str, terms: Mapping[str, Any]) -> Markup:
    """A row a term of the bound, in nats per image."""
    rows = [
        tag("tr", _named(name, words.TERMS.get(name, "")), tag("td", number(value, nats(value))))
        for name, value in terms.items()
    ]
    return table(caption, ["term", "nats an image"], tag("tbody", *rows))


def entries_table(caption: str, head: Sequence[str], entries: Mapping[str, tuple[str, str | Markup]]) -> Markup:
    """A row an entry: its name with what it is below, and its value."""
    rows = [tag("tr", _named(name, hint), tag("td", value)) for name, (hint, value) in entries.items()]
    return table(caption, head, tag("tbody", *rows))


def rows_table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, measures: bool = False
) -> Markup:
    """Any table: numbers to the right, words to the left; the first column names the rows.

    Args:
        caption: what it shows.
        columns: their headings.
        rows: as many cells each as there are columns.
        measures: whether each row is a measure of its own, whose numbers have as many digits as they need.
    """
    columns_of = [[row[place] for row in rows] for place in range(len(columns))]
    looks = ["word" if any(isinstance(cell, str | bool) for cell in cells) else None for cells in columns_of]
    by_column = [alike(cells) for cells in columns_of]
    texts = [alike(row) for row in rows] if measures else list(zip(*by_column, strict=True))
    shown = []
    for row, (first, *rest) in zip(rows, texts, strict=True):
        cells = zip(row[1:], rest, looks[1:], strict=True)
        named = tag("th", first, scope="row")
        shown.append(tag("tr", named, *(tag("td", number(value, text), class_=look) for value, text, look in cells)))
    headings = [tag("th", name, scope="col", class_=look) for name, look in zip(columns, looks, strict=True)]
    return table(caption, headings, tag("tbody", *shown))


def alike(values: Sequence[Cell]) -> list[str]:
    """Numbers of one column with as many decimals each: enough for four digits of the largest, three at most.

    Others are as by `plain`. One that would be written as zero, and is not, has digits of its own.
    """
    sizes = [abs(value) for value in values if isinstance(value, float) and math.isfinite(value)]
    decimals = max(0, 3 - math.floor(math.log10(max(sizes)))) if any(sizes) else 0
    decimals = min(decimals, 3)
    return [
        _minus(f"{value:,.{decimals}f}")
        if isinstance(value, float) and math.isfinite(value) and (value == 0 or abs(value) >= 10.0**-decimals)
        else plain(value)
        for value in values
    ]


def score(key: str, value: Any) -> str:
    """A score as people read it: fractions in per cent, R² to three places, what is undefined as a dash."""
    if not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if key.partition("@")[0].removesuffix("_balanced") in FRACTIONS:
        return f"{100 * value:.1f} %"
    return _minus(f"{value:g}" if key == "median_rank" else f"{value:.3f}")


def nats(value: float | None) -> str:
    """Nats, to a tenth."""
    return "–" if value is None else _minus(f"{value:,.1f}")


def plain(value: Any) -> str:
    """Any other number, not longer than it needs to be."""
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return _minus(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}")
    return _minus(f"{value:,}") if isinstance(value, int) else str(value)


def _row(key: str, values: Sequence[Any]) -> Markup:
    bar = key != "median_rank"
    cells = [tag("td", number(value, score(key, value)), style=_share(value) if bar else None) for value in values]
    return tag("tr", tag("th", words.measure(key)[0], scope="row"), *cells)


def _named(name: str, hint: str) -> Markup:
    return tag("th", joined(name, tag("small", hint) if hint else None), scope="row")


def _share(value: Any) -> str | None:
    return f"--share:{min(max(value, 0), 1):.3f}" if isinstance(value, int | float) else None


def _minus(text: str) -> str:
    return text.replace("-", "−")

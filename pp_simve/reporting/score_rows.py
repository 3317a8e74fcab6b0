"""Rows of numbers from nested scores, as they lie in evaluation.json, where some are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pp_simve.reporting.markup import Markup
from pp_simve.reporting.tables import Group, Row, grouped_table

Show = Callable[[float | None], str]
"""A number as people read it."""


def known_table(title: str, columns: Sequence[str], groups: Sequence[Group]) -> list[Markup]:
    """A table of the rows that have a number; none where none has."""
    known = [
        Group(group.title, [row for row in group.rows if any(value is not None for value in row.values)], group.hint)
        for group in groups
    ]
    return [grouped_table(title, columns, known)] if any(group.rows for group in known) else []


def row(of: Sequence[Any], place: Sequence[str], name: str, show: Show, hint: str = "") -> Row:
    """The number at a place, a column each of the scores; with a bar where no hint is below it."""
    values = [number_at(scores, *place) for scores in of]
    return Row(name.replace("mean_r2", "mean"), values, [show(value) for value in values], hint, bars=not hint)


def spread_row(of: Sequence[Any], place: Sequence[str], name: str) -> Row:
    """Mean ± sd of accuracies, in per cent."""
    means, sds = ([number_at(scores, *place, part) for scores in of] for part in ("mean", "sd"))
    texts = [
        "–" if mean is None else f"{100 * mean:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")
        for mean, sd in zip(means, sds, strict=True)
    ]
    return Row(name, means, texts)


def pair_row(of: Sequence[Any], place: Sequence[str], name: str) -> Row:
    """Balanced accuracy and AUC."""
    accuracies, areas = ([number_at(scores, *place, part) for scores in of] for part in ("balanced_accuracy", "auc"))
    texts = [f"{percent(one)} / {decimals(3)(two)}" for one, two in zip(accuracies, areas, strict=True)]
    return Row(name, areas, texts, bars=False)


def names_at(of: Sequence[Any], *place: str) -> list[str]:
    """Names at a place of any of the scores, of what has numbers, without the mean of attributes."""
    found = [scores_at(scores, *place) for scores in of]
    return [name for name in dict.fromkeys(name for names in found for name in names) if name != "mean"]


def entry_at(scores: Any, *place: str) -> Any:
    """Whatever is at a place; None where nothing is."""
    for key in place:
        scores = scores.get(key) if isinstance(scores, Mapping) else None
    return scores


def number_at(scores: Any, *place: str) -> float | None:
    """The number at a place; None where there is none."""
    found = entry_at(scores, *place)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def scores_at(scores: Any, *place: str) -> Mapping[str, Any]:
    """Scores by name at a place; empty where there are none."""
    found = entry_at(scores, *place)
    return found if isinstance(found, Mapping) and not {"skipped", "error"} & found.keys() else {}


def percent(score: float | None) -> str:
    return "–" if score is None else f"{100 * score:.1f} %"


def decimals(digits: int) -> Show:
    return lambda score: "–" if score is None else f"{score:,.{digits}f}".replace("-", "−")

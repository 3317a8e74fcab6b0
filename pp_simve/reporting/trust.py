"""Is the posterior to be trusted: what diagnostics.json holds, and the section that shows it, whatever it checks."""

from __future__ import annotations

from collections.abc import Mapping

from pp_simve.evaluation.posterior.check import FIGURES, Check, Diagnostics
from pp_simve.reporting import words
from pp_simve.reporting.markup import Markup, missing, number, tag
from pp_simve.reporting.sections import picture
from pp_simve.reporting.tables import entries_table, plain, rows_table


def trust_section(diagnostics: Diagnostics | None, figures: Mapping[str, bytes]) -> list[Markup]:
    """The checks in their order, each with its verdict, its table and its figures.

    Args:
        diagnostics: None where the run was not diagnosed.
        figures: PNG files of checks, by name.
    """
    if diagnostics is None:
        return []
    checks = diagnostics.get("checks", [])
    alarms = [check["title"] for check in checks if check.get("alarm")]
    judged = sum(check.get("alarm") is not None for check in checks)
    if alarms:
        lead = f"{len(alarms)} of {judged} checks with a verdict raise an alarm: {', '.join(alarms)}."
    else:
        lead = f"None of {judged} checks with a verdict raises an alarm; see their limitations."
    left = dict(figures)
    cards = [_card(check, _taken(left, f"{FIGURES}{check.get('name')}")) for check in checks]
    settings = {
        f"--{name.replace('_', '-')}": ("", str(value)) for name, value in diagnostics.get("settings", {}).items()
    }
    folded = tag(
        "details",
        tag("summary", "Settings of the checks"),
        tag("div", entries_table("What was drawn", ["setting", "value"], settings), class_="words"),
    )
    return [
        tag("p", lead),
        *(missing(note) for note in diagnostics.get("notes", [])),
        tag("div", *cards, class_="checks"),
        *([tag("div", *(picture(name, figure) for name, figure in left.items()), class_="pictures")] if left else []),
        *([folded] if settings else []),
    ]


def _card(check: Check, figures: Mapping[str, bytes]) -> Markup:
    alarm, rows, value = check.get("alarm"), check.get("rows"), check.get("value")
    verdict, look = {True: ("alarm", "bad"), False: ("no alarm", "good"), None: ("no verdict", "open")}[alarm]
    unit = check.get("unit")
    limitations = check.get("limitations", check.get("blind", "not stated"))  # "blind" in files of earlier versions
    shown = f"{plain(value)} {unit}" if unit and value is not None else "–" if value is None else plain(value)
    parts = [
        tag("h3", check.get("title", "a check")),
        tag("p", tag("span", verdict, class_=f"verdict {look}"), " ", number(value, shown), class_="found"),
        tag("p", check.get("how", ""), class_="how"),
        tag(
            "p",
            tag("strong", "Limitations: "),
            limitations,
            class_="how",
        ),
    ]
    if figures:
        parts.append(
            tag("div", *(picture(name, figure, level="h4") for name, figure in figures.items()), class_="pictures")
        )
    if rows:
        caption, measures = f"{check.get('title', 'A check')}, in numbers", rows.get("measures", False)
        parts.append(rows_table(caption, rows["columns"], rows["rows"], measures=measures))
    wide = bool(figures) or rows is not None
    return tag("article", *parts, class_="check wide" if wide else "check")


def _taken(figures: dict[str, bytes], name: str) -> dict[str, bytes]:
    """Takes the figures of that name, or whose names go on after it, from those that are left."""
    found = {key: figures[key] for key in words.in_order(figures) if key == name or key.startswith(f"{name}-")}
    for key in found:
        del figures[key]
    return found

"""Results of posterior checks: one entry per check, the content of diagnostics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

FIGURES = "diagnose-"
"""What the names of the checks' figures begin with."""


Cell = float | str | bool | None
"""A table entry; None is a dash."""


class Rows(TypedDict):
    """A table of a check.

    A column of numbers alone stands to the right, any other to the left; the first names its row. None is a dash.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    measures: NotRequired[bool]
    """Whether each row is a measure of its own; numbers then have the digits of their row, and else of their column."""


class Check(TypedDict):
    """What one check of a posterior found, and how far that goes. Any number that is not finite is None, as in JSON.

    The figures ``figures/diagnose-NAME.png`` and ``diagnose-NAME-*.png`` of the run are shown with it; their titles and
    captions are the report's.
    """

    name: str
    """Short, of lower-case letters and ``-``; no other check has it."""
    title: str
    """A few words above it."""
    value: float | str | None
    """Its one number, in ``unit``; or a word; None where it has none."""
    unit: str | None
    alarm: bool | None
    """Whether the posterior fails it; None where it gives no verdict."""
    how: str
    """How to read it: a line of plain text."""
    blind: str
    """What it cannot see: a line that goes on after "Cannot see:"."""
    rows: NotRequired[Rows | None]


class Diagnostics(TypedDict):
    """What diagnostics.json holds."""

    checks: Sequence[Check]
    notes: Sequence[str]
    """Sentences above the checks: such as which of them have no meaning for this guide."""
    settings: Mapping[str, Any]
    """Of the command, by name."""

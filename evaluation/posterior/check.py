"""Results of posterior checks: one entry per check, the content of diagnostics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

FIGURES = "diagnose-"
"""Prefix of the names of the checks' figures."""

Cell = float | str | bool | None
"""A table entry; None is a dash."""


class Rows(TypedDict):
    """A table of a check.

    Columns of numbers are aligned to the right, others to the left; the first names its row.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    measures: NotRequired[bool]
    """Whether each row is another measure; numbers are then rounded by row, and otherwise by column."""


class Check(TypedDict):
    """Result of one check of a posterior. A number that is not finite is None, as in JSON.

    The run's figures ``figures/diagnose-NAME.png`` and ``diagnose-NAME-*.png`` belong to it.
    """

    name: str
    """Unique; lower-case letters and ``-``."""
    title: str
    value: float | str | None
    """A number in ``unit``, a word, or None."""
    unit: str | None
    alarm: bool | None
    """Whether the posterior fails the check; None if it gives no verdict."""
    how: str
    """How to read it: one line."""
    limitations: str
    """What it misses: a line that goes on after "Limitations:"."""
    rows: NotRequired[Rows | None]


class Diagnostics(TypedDict):
    """Content of diagnostics.json."""

    checks: Sequence[Check]
    notes: Sequence[str]
    """Why a check has no result, a sentence each."""
    settings: Mapping[str, Any]
    """Options of the command, by name."""

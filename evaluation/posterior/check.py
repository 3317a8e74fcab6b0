"""Results of posterior checks: one entry per check, the content of diagnostics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

FIGURES = "diagnose-"
"""Prefix of the names of the checks' figures."""

Cell = float | str | bool | None
"""A table entry; None is a dash."""


class Rows(TypedDict):
    """A table of a check, whose first column names its row; numbers are aligned to the right.

    ``measures``: whether each row is another measure; numbers are then rounded by row, and otherwise by column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    measures: NotRequired[bool]


class Check(TypedDict):
    """Result of one check of a posterior. A number that is not finite is None, as in JSON.

    ``name`` is unique, of lower-case letters and ``-``: the run's figures ``figures/diagnose-NAME.png`` and
    ``diagnose-NAME-*.png`` belong to it. ``value`` is a number in ``unit``, a word, or None. ``alarm``: whether the
    posterior fails the check; None if it gives no verdict. ``how`` to read it is one line, and so are its
    ``limitations``, what it misses, which goes on after "Limitations:".
    """

    name: str
    title: str
    value: float | str | None
    unit: str | None
    alarm: bool | None
    how: str
    limitations: str
    rows: NotRequired[Rows | None]


class Diagnostics(TypedDict):
    """Content of diagnostics.json: checks, why one has no result (a sentence each), options of the command by name."""

    checks: Sequence[Check]
    notes: Sequence[str]
    settings: Mapping[str, Any]

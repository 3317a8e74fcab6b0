"""Tables of score records: one per task and modality, rows by probe, target and metric, columns by representation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pp_simve.errors import ConfigError
from pp_simve.evaluation.records import Record
from pp_simve.report import words
from pp_simve.run.numbers import score

LONG = 12
"""Rows of a group beyond which the page folds it."""


@dataclass
class Group:
    """Rows of a table that one probe and one metric share.

    Attributes:
        title: above the rows; empty for a group of one row, which has the title for its name.
        hint: how to read the metric.
        rows: names, and a cell a column: exact value (None for none) and the same as text.
    """

    title: str
    hint: str
    rows: list[tuple[str, list[tuple[float | None, str]]]]

    @property
    def long(self) -> bool:
        return len(self.rows) > LONG


@dataclass
class Table:
    """Scores of one task and one modality.

    Attributes:
        caption: what it shows.
        columns: the representations; ``score`` for those of the whole program.
        groups: its rows.
        notes: why scores are missing or how to read them, and which scores these are.
    """

    caption: str
    columns: list[str]
    groups: list[Group] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)


def read_records(entries: Mapping[str, Any] | None, file: str) -> list[Record] | None:
    """The score records of results.json or evaluation.json; None where it has none.

    Raises:
        ConfigError: they are damaged.
    """
    if entries is None or "records" not in entries:
        return None
    try:
        return [Record.from_json(entry) for entry in entries["records"]]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{file} is damaged ({error}); delete it, or run the command again that wrote it") from error


def by_task(records: Iterable[Record]) -> dict[str, list[Table]]:
    """Tables by task, in the order of `words.TASKS`, then tasks that it does not list."""
    parts: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        parts.setdefault((record.task, record.modality), []).append(record)
    tasks = dict.fromkeys([*words.TASKS, *(task for task, _ in parts)])
    tables = {
        task: [_table(task, modality, found) for (of, modality), found in parts.items() if of == task] for task in tasks
    }
    return {task: found for task, found in tables.items() if found}


def _table(task: str, modality: str, records: Sequence[Record]) -> Table:
    caption = f"{words.TASKS.get(task, (_spaced(task), ''))[0]}{f', from {modality} alone' if modality else ''}"
    representations = list(dict.fromkeys(record.representation for record in records))
    table = Table(caption, [name or "score" for name in representations])
    at = {(record.probe, record.metric, record.target, record.representation): record for record in records}
    for probe, metric in dict.fromkeys((record.probe, record.metric) for record in records if record.metric != "sd"):
        targets = dict.fromkeys(target for of, metric_of, target, _ in at if (of, metric_of) == (probe, metric))
        rows = []
        for target in targets:
            found = [at.get((probe, metric, target, name)) for name in representations]
            spreads = [at.get((probe, "sd", target, name)) for name in representations]
            cells = [_cell(record, spread) for record, spread in zip(found, spreads, strict=True)]
            if any(value is not None for value, _ in cells):
                rows.append((words.TARGETS.get(task, "{}").format(_spaced(target)), cells))
        name, hint = words.metric(metric)
        title = ", ".join(part for part in (words.PROBES.get(probe, _spaced(probe)), name) if part)
        if len(rows) == 1:
            rows = [(", ".join(part for part in (title, rows[0][0]) if part), rows[0][1])]
        if rows:
            table.groups.append(Group("" if len(rows) == 1 else title, hint, rows))
    for record in records:
        if record.note:
            place = (record.representation, words.PROBES.get(record.probe, record.probe), record.target)
            of = " ".join(_spaced(part) for part in (*place, words.metric(record.metric)[0]) if part)
            table.notes.setdefault(record.note, []).append(of)
    return table


def _cell(record: Record | None, spread: Record | None) -> tuple[float | None, str]:
    if record is None or record.value is None:
        return None, "–"
    text = score(record.metric, record.value)
    if spread is not None and spread.value is not None:
        text = f"{text.removesuffix(' %')} ± {score(record.metric, spread.value)}"
    return record.value, text


def _spaced(name: str) -> str:
    return name.replace("_", " ")

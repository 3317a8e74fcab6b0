"""Tables of score records: one per task, data set, modality and kind of images, with a column a representation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pp_simve.errors import ConfigError
from pp_simve.evaluation.records import CLEAN, Record, chance_of, distinct
from pp_simve.report import words
from pp_simve.run.numbers import COUNTS, plain, score

LONG = 12
"""Rows of a group beyond which the page folds it."""

UNREMARKABLE = {"converged": 1.0, "short_classes": 0.0}
"""Values of metrics that are rows only if some representation has another value."""


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
    """Scores of one task, on one data set, of one modality, of clean images or of augmented views.

    Attributes:
        caption: what it shows.
        columns: the representations; ``score`` for those of the whole program.
        groups: its rows.
        notes: why scores are missing or how to read them; for each, the scores and their representations.
    """

    caption: str
    columns: list[str]
    groups: list[Group] = field(default_factory=list)
    notes: dict[str, dict[str, list[str]]] = field(default_factory=dict)


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


def by_task(records: Sequence[Record], others: Mapping[str, Sequence[Record]] | None = None) -> dict[str, list[Table]]:
    """Tables by task, in the order of `words.TASKS`, then tasks that it does not list.

    Args:
        records: of the data of the fit.
        others: of other data, by their names.
    """
    parts: dict[tuple[str, str, str, str], list[Record]] = {}
    for on, of_data in {"": records, **(others or {})}.items():
        for record in distinct(of_data):
            parts.setdefault((record.task, on, record.modality, record.images), []).append(record)
    tasks = dict.fromkeys([*words.TASKS, *(task for task, *_ in parts)])
    tables = {task: [_table(*key, found) for key, found in parts.items() if key[0] == task] for task in tasks}
    return {task: found for task, found in tables.items() if found}


def tiles(results: Mapping[str, Any], records: Iterable[Record]) -> list[tuple[str, float | None, str, str]]:
    """The main scores: what each is, its value, the same as text, and how to read it."""
    found = []
    for part, target in (("content", "class"), ("style", "view")):
        scores = results.get(part) or {}
        for key in [key for key in ("linear", "knn", "mean_r2") if scores.get(key) is not None]:
            name, hint = words.metric(key)
            label = f"{target} from {scores.get('representation', part)}, {name}"
            found.append((label, scores[key], score(key, scores[key]), hint))
    for record in records:
        if record.task == "retrieval" and record.metric == "recall@1":
            hint = "share of images whose counterpart is the nearest"
            found.append((f"{record.target}, recall@1", record.value, score(record.metric, record.value), hint))
    if results.get("bound"):
        loss = results["bound"].get("loss")
        name = "ELBO" if results.get("is_bound") else "ELBO (not a bound)"
        bound = None if loss is None else -loss
        found.append((f"{name}, nats per image", bound, plain(bound), "of views of unseen images; higher is better"))
    return found


def _table(task: str, on: str, modality: str, images: str, records: Sequence[Record]) -> Table:
    heading = words.TASKS.get(task, (_spaced(task), ""))[0]
    of_images = "" if images == CLEAN else images
    caption = _joined(heading, of_images, on and f"on {on}", modality and f"from {modality} alone")
    representations = list(dict.fromkeys(record.representation for record in records))
    table = Table(caption, [name or "score" for name in representations])
    at = {(record.probe, record.metric, record.target, record.representation): record for record in records}
    # Standard deviations and chance levels stand beside the scores that they belong to.
    beside = {(probe, "sd") for probe, *_ in at}
    beside |= {(probe, chance_of(metric)) for probe, metric, *_ in at}
    for probe, metric in dict.fromkeys(key[:2] for key in at if key[:2] not in beside):
        rows = []
        for target in dict.fromkeys(key[2] for key in at if key[:2] == (probe, metric)):
            cells = [_cell(at, probe, metric, target, name) for name in representations]
            if any(value is not None and value != UNREMARKABLE.get(metric) for value, _ in cells):
                rows.append((words.TARGETS.get(task, "{}").format(_spaced(target)), cells))
        name, hint = words.metric(metric)
        title = _joined(words.PROBES.get(probe, _spaced(probe)), name)
        if len(rows) == 1:
            table.groups.append(Group("", hint, [(_joined(title, rows[0][0]), rows[0][1])]))
        elif rows:
            table.groups.append(Group(title, hint, rows))
    for record in records:
        if record.note:
            what = _joined(words.PROBES.get(record.probe, record.probe), words.metric(record.metric)[0], record.target)
            table.notes.setdefault(record.note, {}).setdefault(_spaced(what), []).append(record.representation)
    return table


def _cell(
    at: Mapping[tuple[str, str, str, str], Record], probe: str, metric: str, target: str, representation: str
) -> tuple[float | None, str]:
    def value(of: str) -> float | None:
        record = at.get((probe, of, target, representation))
        return None if record is None else record.value

    found, spread, chance = value(metric), None if metric in COUNTS else value("sd"), value(chance_of(metric))
    text = score(metric, found)
    if found is not None and spread is not None:
        text = f"{text.removesuffix(' %')} ± {score(metric, spread)}"
    if found is not None and chance is not None:
        text = f"{text} (chance {score(metric, chance)})"
    return found, text


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _spaced(name: str) -> str:
    return name.replace("_", " ")

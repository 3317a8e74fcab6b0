"""The table of a comparison: a row a method, mean and spread over the seeds of its run folders."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pp_simve.run.config import read_config

Spread = dict[str, float | None]
"""Mean over seeds, and sd with n − 1; None where it is undefined."""

MEASURED = {
    "linear": "class, linear",
    "knn": "class, k-NN",
    "mean_r2": "views, mean R²",
    "bound": "bound, nats a view",
    "seconds_per_epoch": "s an epoch",
    "peak_memory_mb": "peak MB",
}
"""Headings of what varies with the seed."""
EVALUATED = {
    "class_mlp": "class, MLP",
    "class_10_labels": "class, 10 labels",
    "clusters": "clusters",
    "views_mlp_r2": "views, MLP R²",
    "views_auc": "views, AUC",
    "attributes_auc": "attributes, AUC",
    "writing_r2": "writing, R²",
    "content_lacks_views": "content lacks view",
    "style_lacks_class": "style lacks class",
    "effective_rank": "rank of z",
    "infonce": "I(z; z') ≥, nats",
    "bits_per_dim": "bits/dim ≤",
}
"""Headings of what `python -m pp_simve.evaluate` adds, by the names of its headline."""
DIGITS = {"linear": 3, "knn": 3, "mean_r2": 3, "bound": 2, "seconds_per_epoch": 2, "peak_memory_mb": 0}
DIGITS |= dict.fromkeys(EVALUATED, 3) | {"effective_rank": 1, "infonce": 2}
HEADINGS = {
    "label": "",
    "representation": "class from",
    **MEASURED,
    "epochs": "epochs",
    "batch_size": "batch",
    "parameters": "parameters",
    "seeds": "seeds",
    "commit": "commit",
}


def row(label: str, finished: Sequence[Path], *, evaluated: bool = False) -> dict[str, Any]:
    """A row of the table, of finished run folders: entries as in ``HEADINGS``, measured ones a `Spread`.

    The bound is None for what is no bound. A measure that is undefined for one seed is undefined.

    Args:
        label: of the row.
        finished: run folders.
        evaluated: adds entries as in ``EVALUATED``, of evaluation.json where a run has one.
    """
    results = [read_config(path / "results.json") for path in finished]
    measured = [_measures(entries) for entries in results]
    more = [_headline(path) for path in finished] if evaluated else []
    commits = sorted({str(read_config(path / "config.json").get("commit") or "unknown") for path in finished})

    def same(name: str, among: Iterable[Mapping[str, Any]]) -> Any:
        values = list(dict.fromkeys(entries[name] for entries in among))
        return values[0] if len(values) == 1 else ", ".join(map(str, values)) or None

    return {
        "label": label,
        "representation": same("representation", measured),
        **{name: spread([entries[name] for entries in measured]) for name in MEASURED},
        **({name: spread([entries.get(name) for entries in more]) for name in EVALUATED} if evaluated else {}),
        **{name: same(name, results) for name in ("epochs", "batch_size", "parameters")},
        "seeds": len(finished),
        "commit": ", ".join(commits) or None,
    }


def _measures(results: Mapping[str, Any]) -> dict[str, Any]:
    """What a results.json says, by the names of the table."""
    kinds = results.get("kinds")
    if kinds is None:
        content, style = results["content"], results["style"]
    else:
        # What several kinds of view know together; the parameters of views are each kind's own.
        content = {"representation": "content of all kinds", **results.get("together", {}).get("content", {})}
        style = {}
    bound = results["bound"]["loss"] if results["is_bound"] else None
    return {
        "representation": content["representation"],
        "linear": content.get("linear"),
        "knn": content.get("knn"),
        "mean_r2": style.get("mean_r2"),
        "bound": None if bound is None else -bound / (results["views"] * len(kinds or [None])),
        "seconds_per_epoch": results["seconds_per_epoch"],
        "peak_memory_mb": results["peak_memory_mb"],
    }


def is_evaluated(path: Path) -> bool:
    """Whether a run folder has an evaluation that this version can tabulate."""
    return bool(_headline(path))


def _headline(path: Path) -> dict[str, Any]:
    """The headline of a run's evaluation.json; nothing where there is none."""
    if not (path / "evaluation.json").exists():
        return {}
    headline = read_config(path / "evaluation.json").get("headline")
    return headline if isinstance(headline, dict) else {}


def headings(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Columns of a table by name: of what evaluations add, those that some row has, behind what is measured."""
    found = {name: words for name, words in EVALUATED.items() if any(_mean(row, name) is not None for row in rows)}
    columns: dict[str, str] = {}
    for name, words in HEADINGS.items():
        columns[name] = words
        if name == "bound":
            columns |= found
    return columns


def _mean(row: Mapping[str, Any], name: str) -> float | None:
    mean: float | None = row.get(name, {}).get("mean")
    return mean


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and standard deviation (n − 1) over seeds; None where there are too few or one is undefined."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return {"mean": None, "sd": None}
    return {"mean": statistics.fmean(known), "sd": statistics.stdev(known) if len(known) > 1 else None}


def markdown(rows: Sequence[Mapping[str, Any]], title: str, notes: Sequence[str]) -> str:
    """The table as text with aligned columns, between its title and its notes."""
    columns = headings(rows)
    cells = [list(columns.values()), *([_shown(name, row[name]) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in cells]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join([title, "", *lines, *(["", *(f"- {note}" for note in notes)] if notes else [])]) + "\n"


def _shown(name: str, value: Any) -> str:
    if name in DIGITS:
        mean, sd = value["mean"], value["sd"]
        if mean is None:
            return "–"
        digits = DIGITS[name]
        return f"{mean:,.{digits}f}" + ("" if sd is None else f" ± {sd:,.{digits}f}")
    if value is None:
        return "–"
    if isinstance(value, int | float):
        return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
    return str(value).replace("|", "\\|")


def comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as CSV: measured columns twice, ``NAME_mean`` and ``NAME_sd``; what is undefined is empty."""
    text = io.StringIO()
    columns = headings(rows)
    names = [part for name in columns for part in ((f"{name}_mean", f"{name}_sd") if name in DIGITS else (name,))]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for entries in rows:
        flat: dict[str, Any] = {}
        for name in columns:
            value = entries[name]
            flat |= {f"{name}_{part}": value[part] for part in value} if name in DIGITS else {name: value}
        writer.writerow(flat)
    return text.getvalue()

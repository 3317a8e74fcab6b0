"""The table of a comparison: a row a method, mean and standard deviation over the seeds of its run folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pp_simve.evaluation.records import MEAN, Record, score, select
from pp_simve.inference.tools import write_whole
from pp_simve.run.config import read_config
from pp_simve.run.scores import read_scores
from pp_simve.run.tables import UNDEFINED, digits

if TYPE_CHECKING:
    import pandas as pd


class Measure(NamedTuple):
    """A column that varies with the seed: its heading, its digits, and the score of evaluation.json that it holds."""

    heading: str
    digits: int = 3
    record: Mapping[str, str] | None = None


def _of(representation: str, task: str, metric: str, probe: str = "", target: str = "") -> dict[str, str]:
    return {"representation": representation, "task": task, "metric": metric, "probe": probe, "target": target}


PRIMARY = "PRIMARY"
"""Stands for content, or z where there is none."""
MEASURES = {
    "linear": Measure("class, linear"),
    "knn": Measure("class, k-NN"),
    "mean_r2": Measure("views, mean R²"),
    "bound": Measure("bound, nats a view", 2),
    "class_mlp": Measure("class, MLP", record=_of(PRIMARY, "class", "accuracy", "mlp")),
    "class_10_labels": Measure("class, 10 labels", record=_of(PRIMARY, "few_labels", "accuracy", "linear", "10")),
    "clusters": Measure("clusters", record=_of(PRIMARY, "class", "accuracy", "clusters_full")),
    "views_mlp_r2": Measure("views, MLP R²", record=_of("z", "view", "r2", "mlp", MEAN)),
    "views_auc": Measure("views, AUC", record=_of("z", "view", "auc", "logistic", MEAN)),
    "attributes_auc": Measure("attributes, AUC", record=_of("z", "attributes", "auc", "logistic", MEAN)),
    "handwriting_r2": Measure("handwriting, R²", record=_of("z", "handwriting", "r2", "ridge", MEAN)),
    "content_lacks_views": Measure("content lacks view", record=_of("", "disentanglement", "content_lacks_views")),
    "style_lacks_class": Measure("style lacks class", record=_of("", "disentanglement", "style_lacks_class")),
    "effective_rank": Measure("rank of z", 1, record=_of("z", "information", "effective_rank")),
    "infonce": Measure("I(z; z') ≥, nats", 2, record=_of("z", "information", "infonce_bound")),
    "bits_per_dim": Measure("bits/dim ≤", record=_of("", "generation", "bits_per_dim")),
    "seconds_per_epoch": Measure("s an epoch", 2),
    "peak_memory_mb": Measure("peak MB", 0),
}
"""What varies with the seed. Those with a record are of evaluation.json, and shown where some row has one."""
COSTS = ("seconds_per_epoch", "peak_memory_mb", "epochs", "batch_size", "parameters")
CONSTANT = {"representation": "class from", "epochs": "epochs", "batch_size": "batch", "parameters": "parameters"}
"""Headings of what does not."""


def write_table(
    out: Path, runs: Mapping[str, Sequence[Path]], title: str, notes: Sequence[str], *, evaluated: bool = False
) -> str:
    """Writes table.md, table.csv and table.json of finished run folders by label; the text of table.md.

    The bound is None for what is no bound. A measure that is undefined for one seed is undefined.

    Args:
        out: where to write.
        runs: run folders of each row by its label.
        title: above the table.
        notes: below it.
        evaluated: whether to add the scores of evaluation.json, of runs that have one.
    """
    import pandas as pd

    columns = ["label", *CONSTANT, "commit", *MEASURES]
    entries = [
        {"label": label, **_entries(path, evaluated=evaluated)} for label, paths in runs.items() for path in paths
    ]
    frame = pd.DataFrame(entries, columns=columns).astype(dict.fromkeys(MEASURES, float))
    by_label = frame.groupby("label", sort=False)
    mean = by_label[list(MEASURES)].agg(lambda values: values.mean(skipna=False)).reindex(list(runs))
    sd = by_label[list(MEASURES)].agg(lambda values: values.std(skipna=False)).reindex(list(runs))
    shown = [name for name, measure in MEASURES.items() if measure.record is None or mean[name].notna().any()]
    rows = []
    for label in runs:
        of_label = frame[frame["label"] == label]
        rows.append(
            {
                "label": label,
                "representation": _same(of_label["representation"]),
                **{name: {"mean": _number(mean[name][label]), "sd": _number(sd[name][label])} for name in shown},
                **{name: _same(of_label[name]) for name in ("epochs", "batch_size", "parameters")},
                "seeds": len(of_label),
                "commit": ", ".join(sorted(set(of_label["commit"]))) or None,
            }
        )
    text = _markdown(rows, title, notes)
    write_whole(out / "table.md", text.encode())
    # Measures become two columns each, NAME_mean and NAME_sd.
    write_whole(out / "table.csv", pd.json_normalize(rows, sep="_").convert_dtypes().to_csv(index=False).encode())
    whole = {"title": title, "notes": list(notes), "rows": rows}
    write_whole(out / "table.json", (json.dumps(whole, indent=2, allow_nan=False) + "\n").encode())
    return text


def is_evaluated(path: Path) -> bool:
    """Whether a run folder has an evaluation.json of this version."""
    return bool(_evaluation(path))


def _evaluation(path: Path) -> list[Record]:
    """The records of a run's evaluation.json; none where there is no such file, or one of another version."""
    file = path / "evaluation.json"
    return read_scores(file)[1] if file.exists() and "records" in read_config(file) else []


def _entries(path: Path, *, evaluated: bool) -> dict[str, Any]:
    """The columns of a finished run."""
    results, _ = read_scores(path / "results.json")
    more = _evaluation(path) if evaluated else []
    primary = "content" if select(more, representation="content") else "z"
    bound = results["bound"]["loss"] if results["is_bound"] else None
    return {
        "linear": results["content"]["linear"],
        "knn": results["content"]["knn"],
        "mean_r2": results["style"]["mean_r2"],
        "bound": None if bound is None else -bound / (results["views"] * max(1, len(results["modalities"]))),
        **{
            name: score(more, modality="", **{key: primary if text == PRIMARY else text for key, text in found.items()})
            for name, (_, _, found) in MEASURES.items()
            if found is not None
        },
        "representation": results["content"]["representation"],
        **{
            name: results[name]
            for name in ("seconds_per_epoch", "peak_memory_mb", "epochs", "batch_size", "parameters")
        },
        "commit": str(read_config(path / "config.json").get("commit") or "unknown"),
    }


def _same(values: pd.Series[Any]) -> Any:
    """The one value that all runs of a row have, or all of them in words."""
    found = values.drop_duplicates().tolist()
    return found[0] if len(found) == 1 else ", ".join(map(str, found)) or None


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def _markdown(rows: Sequence[Mapping[str, Any]], title: str, notes: Sequence[str]) -> str:
    """The table as text with aligned columns, between its title and its notes."""
    headings = {name: measure.heading for name, measure in MEASURES.items()} | CONSTANT | {"label": ""}
    cells = [[headings.get(name, name) for name in rows[0]]]
    cells += [[_shown(name, value) for name, value in row.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in cells]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join([title, "", *lines, *(["", *(f"- {note}" for note in notes)] if notes else [])]) + "\n"


def _shown(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        mean, sd = (digits(value[part], MEASURES[name].digits) for part in ("mean", "sd"))
        return mean if sd == UNDEFINED else f"{mean} ± {sd}"
    if value is None:
        return UNDEFINED
    if isinstance(value, int | float):
        return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
    return str(value).replace("|", "\\|")

"""The table of a comparison: a row a method, mean and standard deviation over the seeds of its run folders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pp_simve.errors import ConfigError
from pp_simve.evaluation.records import MEAN, by_name
from pp_simve.inference.augmentations import PARAMETER_GROUPS
from pp_simve.inference.tools import write_whole
from pp_simve.run.files import read_json
from pp_simve.run.numbers import plain
from pp_simve.run.scores import read_scores
from pp_simve.run.tables import UNDEFINED, digits


class Measure(NamedTuple):
    """A column that varies with the seed: its heading, its digits, and `by_name` of its score of evaluation.json."""

    heading: str
    digits: int = 3
    name: str = ""


MEASURES = {
    "linear": Measure("class, linear"),
    "knn": Measure("class, k-NN"),
    "mean_r2": Measure("views, mean R²"),
    "bound": Measure("bound, nats a view", 2),
    "class_mlp": Measure("class, MLP", name="PRIMARY/class/mlp/accuracy"),
    "class_20nn": Measure("backbone: class, 20-NN", name="backbone/class/knn_20_cosine/accuracy"),
    "class_200nn": Measure("backbone: class, 200-NN", name="backbone/class/knn_200_cosine/accuracy"),
    "class_10_labels": Measure("class, 10 labels", name="PRIMARY/few_labels/linear/10/accuracy"),
    "clusters": Measure("clusters", name="PRIMARY/class/clusters_full/accuracy"),
    "views_mlp_r2": Measure("views, MLP R²", name="z/view/mlp/mean/r2"),
    **{
        f"relative_{of}_r2": Measure(f"backbone: relative {of}, R²", name=f"backbone/relative_view/mlp/{of}/r2")
        for of in (MEAN, *PARAMETER_GROUPS)
    },
    "views_auc": Measure("views, AUC", name="z/view/logistic/mean/auc"),
    "attributes_auc": Measure("attributes, AUC", name="z/attributes/logistic/mean/auc"),
    "handwriting_r2": Measure("handwriting, R²", name="z/handwriting/ridge/mean/r2"),
    "content_lacks_views": Measure("content lacks view", name="disentanglement/content_lacks_views"),
    "style_lacks_class": Measure("style lacks class", name="disentanglement/style_lacks_class"),
    "effective_rank": Measure("rank of z", 1, "z/information/effective_rank"),
    "infonce": Measure("I(z; z') ≥, nats", 2, "z/information/infonce_bound"),
    "bits_per_dim": Measure("bits/dim ≤", name="generation/bits_per_dim"),
    "seconds_per_epoch": Measure("s an epoch", 2),
    "peak_memory_mb": Measure("peak MB", 0),
}
"""What varies with the seed. Those with a name are of evaluation.json, and shown where some row has one; PRIMARY stands
for content, or z where there is none."""
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

    frames = {}
    for label, paths in runs.items():
        entries = [_entries(path, evaluated=evaluated) for path in paths]
        frame = pd.DataFrame(entries, columns=[*MEASURES, *CONSTANT, "commit"])
        frames[label] = frame.astype(dict.fromkeys(MEASURES, float))
    moments = {label: frame[list(MEASURES)].agg(["mean", "std"], skipna=False) for label, frame in frames.items()}
    shown = [
        name
        for name, measure in MEASURES.items()
        if not measure.name
        or any(of_label.loc["mean", name] == of_label.loc["mean", name] for of_label in moments.values())
    ]
    rows = []
    for label, frame in frames.items():
        same = {name: _same(frame[name].drop_duplicates().tolist()) for name in CONSTANT}
        mean, sd = moments[label].astype(object).where(moments[label].notna(), None).to_dict("records")
        rows.append(
            {
                "label": label,
                "representation": same.pop("representation"),
                **{name: {"mean": mean[name], "sd": sd[name]} for name in shown},
                **same,
                "seeds": len(frame),
                "commit": ", ".join(sorted(set(frame["commit"]))) or None,
            }
        )
    warned = [f"{path}: {warning}" for paths in runs.values() for path in paths for warning in warnings(path)]
    text = _markdown(rows, title, notes := [*notes, *warned])
    write_whole(out / "table.md", text.encode(errors="backslashreplace"))
    # Measures become two columns each, NAME_mean and NAME_sd.
    write_whole(
        out / "table.csv",
        pd.json_normalize(rows, sep="_").convert_dtypes().to_csv(index=False).encode(errors="backslashreplace"),
    )
    whole = {"title": title, "notes": list(notes), "rows": rows}
    write_whole(out / "table.json", (json.dumps(whole, indent=2, allow_nan=False) + "\n").encode())
    return text


def evaluation(path: Path) -> dict[str, float]:
    """The scores of a run's evaluation.json by name; none where there is no such file, or one of another version."""
    file = path / "evaluation.json"
    return by_name(read_scores(file)[1]) if file.exists() and "records" in read_json(file) else {}


def warnings(path: Path) -> list[str]:
    """What is wrong with the fit of a finished run."""
    found: list[str] = read_json(path / "results.json").get("warnings", [])
    return found


def _entries(path: Path, *, evaluated: bool) -> dict[str, Any]:
    """The columns of a finished run."""
    results, _ = read_scores(path / "results.json")
    needed = {"views", "modalities", "content", "style", "bound", "is_bound"}
    if not needed <= results.keys() or (results["is_bound"] and "loss" not in (results["bound"] or {})):
        raise ConfigError(f"{path / 'results.json'} is damaged (scores or bound are missing); fit again")
    more = evaluation(path) if evaluated else {}
    primary = "content" if any(name.startswith("content/") for name in more) else "z"
    views = results["views"] * max(1, len(results["modalities"]))
    return {
        **{name: results.get(name) for name in (*MEASURES, *CONSTANT)},
        **results["content"],
        "mean_r2": results["style"].get("mean_r2"),
        "bound": -(results["bound"]["loss"] or math.nan) / max(1, views) if results["is_bound"] else None,
        **{key: more.get(one.name.replace("PRIMARY", primary)) for key, one in MEASURES.items() if one.name},
        "commit": str(read_json(path / "config.json").get("commit") or "unknown"),
    }


def _same(values: Sequence[Any]) -> Any:
    """The one value that all runs of a row have, or all of them in words."""
    return values[0] if len(values) == 1 else ", ".join(map(str, values)) or None


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
    return plain(value).replace("|", "\\|")

"""The table of a comparison: a row a method, mean and standard deviation over the seeds of its run folders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pp_simve.errors import ConfigError
from pp_simve.evaluation.records import AUGMENTED, CLEAN, MEAN, by_name
from pp_simve.inference.augmentations import PARAMETER_GROUPS
from pp_simve.inference.tools import write_whole
from pp_simve.run.files import read_json
from pp_simve.run.numbers import plain
from pp_simve.run.scores import read_scores
from pp_simve.run.tables import UNDEFINED, digits

if TYPE_CHECKING:  # takes half a second to import
    import pandas as pd

SUFFIXES = {"latex": "tex"}
Moments = dict[str, float | None]
"""``mean`` and ``sd``."""


class Measure(NamedTuple):
    """A column that varies with the seed: heading, digits, `by_name` of its score, whether it is of augmented views."""

    heading: str
    digits: int = 3
    name: str = ""
    of_views: bool = False


MEASURES = {
    "linear": Measure("class, linear"),
    "knn": Measure("class, k-NN"),
    "mean_r2": Measure("views, mean R²", of_views=True),
    "bound": Measure("bound, nats a view", 2, of_views=True),
    "chance": Measure("class, commonest", name="PRIMARY/class/linear/chance"),
    "pixels": Measure("pixels: class, linear", name="pixels/class/linear/accuracy"),
    "untrained": Measure("untrained: class, linear", name="untrained/class/linear/accuracy"),
    "class_mlp": Measure("class, MLP", name="PRIMARY/class/mlp/accuracy"),
    "class_20nn": Measure("backbone: class, 20-NN", name="backbone/class/knn_20_cosine/accuracy"),
    "class_200nn": Measure("backbone: class, 200-NN", name="backbone/class/knn_200_cosine/accuracy"),
    "class_10_labels": Measure("class, 10 labels", name="PRIMARY/few_labels/linear/10/accuracy"),
    "clusters": Measure("clusters", name="PRIMARY/class/clusters_full/accuracy"),
    "views_mlp_r2": Measure("views, MLP R²", name="z/view/mlp/mean/r2", of_views=True),
    **{
        f"relative_{of}_r2": Measure(
            f"backbone: relative {of}, R²", name=f"backbone/relative_view/mlp/{of}/r2", of_views=True
        )
        for of in (MEAN, *PARAMETER_GROUPS)
    },
    "views_auc": Measure("views, AUC", name="z/view/logistic/mean/auc", of_views=True),
    "attributes_auc": Measure("attributes, AUC", name="z/attributes/logistic/mean/auc"),
    "handwriting_r2": Measure("handwriting, R²", name="z/handwriting/ridge/mean/r2"),
    "content_lacks_views": Measure("content lacks view", name="disentanglement/content_lacks_views", of_views=True),
    "style_lacks_class": Measure("style lacks class", name="disentanglement/style_lacks_class"),
    "effective_rank": Measure("rank of z", 1, "z/information/effective_rank"),
    "infonce": Measure("I(z; z') ≥, nats", 2, "z/information/infonce_bound", of_views=True),
    "bits_per_dim": Measure("bits/dim ≤", name="generation/bits_per_dim"),
    "seconds_per_epoch": Measure("s an epoch", 2),
    "peak_memory_mb": Measure("peak MB", 0),
}
"""What varies with the seed. Those with a name are of score records, and shown where some row has one; PRIMARY stands
for content, or z where there is none."""
COSTS = ("seconds_per_epoch", "peak_memory_mb")
CONSTANT = {"representation": "class from", "epochs": "epochs", "batch_size": "batch", "parameters": "parameters"}
"""Headings of what does not."""


def run_scores(runs: Mapping[str, Sequence[Path | str]], *, evaluated: bool = True) -> pd.DataFrame:
    """Scores of finished run folders: a pandas ``DataFrame`` with a row a run and a column a measure.

    Args:
        runs: run folders by label, such as the method's name.
        evaluated: whether to add the scores of `pp_simve.evaluate`, of runs that have them.

    Returns:
        Columns ``label``, ``seed`` and ``run`` (the folder), then those of `pp_simve.compare`'s table.csv: scores as
        fractions, NaN where one is undefined.

    Raises:
        ConfigError: runs of another form, a folder that is no finished run, or a damaged file.
    """
    import pandas as pd

    if not isinstance(runs, Mapping) or any(isinstance(paths, (str, Path)) for paths in runs.values()):
        raise ConfigError(f'runs maps each label to a list of run folders, {{"simve": ["runs/simve-0"]}}, got {runs!r}')
    entries = [
        {"label": label, **_entries(Path(path), evaluated=evaluated)} for label, paths in runs.items() for path in paths
    ]
    columns = ["label", "seed", "run", *MEASURES, *CONSTANT, "commit"]
    return pd.DataFrame(entries, columns=columns).astype(dict.fromkeys(MEASURES, float))


def paired_differences(scores: pd.DataFrame, measures: Sequence[str]) -> dict[str, dict[str, Moments]]:
    """Mean and standard deviation over seeds of each label's difference from the first, where they share two seeds.

    A difference of two fits with one seed has less spread than either of them where the seed decides much of both
    (order of the images, weights at the start).
    """
    labels = scores["label"].drop_duplicates().tolist()
    by_seed = {label: scores[scores["label"] == label].set_index("seed")[list(measures)] for label in labels}
    found = {label: (by_seed[label] - by_seed[labels[0]]).dropna(how="all") for label in labels[1:]}
    return {label: _moments(of_label) for label, of_label in found.items() if len(of_label) > 1}


def write_table(
    out: Path, runs: Mapping[str, Sequence[Path]], title: str, notes: Sequence[str], *, evaluated: bool = False
) -> dict[str, str]:
    """Writes table.md, .tex, .csv and .json of finished run folders, and runs.csv with a row a run; texts by format.

    The bound is None for what is no bound. A measure that is undefined for one seed is undefined.

    Args:
        out: where to write.
        runs: run folders of each row by its label.
        title: above the table.
        notes: below it.
        evaluated: whether to add the scores of evaluation.json, of runs that have one.
    """
    import pandas as pd

    scores = run_scores(runs, evaluated=evaluated)
    shown = [name for name, measure in MEASURES.items() if not measure.name or scores[name].notna().any()]
    rows: list[dict[str, Any]] = []
    for label in runs:
        frame = scores[scores["label"] == label]
        same = {name: _same(frame[name].drop_duplicates().tolist()) for name in CONSTANT}
        rows.append(
            {
                "label": label,
                "representation": same.pop("representation"),
                **_moments(frame[shown]),
                **same,
                "seeds": len(frame),
                "commit": ", ".join(sorted(set(frame["commit"]))) or None,
            }
        )
    compared = paired_differences(scores, [name for name in shown if name not in COSTS])
    of_views = [MEASURES[name].heading for name in shown if MEASURES[name].of_views]
    notes = [
        f"of {AUGMENTED}: {'; '.join(of_views)}. Other scores are of {CLEAN}",
        *notes,
        *(f"{path}: {warning}" for path in scores["run"] for warning in warnings(Path(path))),
    ]
    cells, headings = _cells(rows)
    apart, of_apart = _cells([{"label": label, **moments} for label, moments in compared.items()])
    tables = [pd.DataFrame(cells, columns=headings)]
    if compared:
        tables.append(pd.DataFrame(apart, columns=[f"minus {rows[0]['label']}, seed by seed", *of_apart[1:]]))
    whole = {"title": title, "notes": notes, "rows": rows, "differences": compared}
    texts = {
        "md": _markdown(tables, title, notes),
        "latex": "\n".join(_latex(table) for table in tables),
        # Measures become two columns each, NAME_mean and NAME_sd.
        "csv": pd.json_normalize(rows, sep="_").convert_dtypes().to_csv(index=False),
        "json": json.dumps(whole, indent=2, allow_nan=False) + "\n",
    }
    for form, text in texts.items():
        write_whole(out / f"table.{SUFFIXES.get(form, form)}", text.encode(errors="backslashreplace"))
    write_whole(
        out / "runs.csv", scores[["label", "seed", "run", *shown, *CONSTANT, "commit"]].to_csv(index=False).encode()
    )
    return texts


def _moments(scores: pd.DataFrame) -> dict[str, Moments]:
    """Mean and standard deviation of each column; None where one of its values is undefined, or the only one."""
    moments = scores.agg(["mean", "std"], skipna=False).astype(object)
    mean, sd = moments.where(moments.notna(), None).to_dict("records")
    return {name: {"mean": mean[name], "sd": sd[name]} for name in scores.columns}


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
    results, records = read_scores(path / "results.json")
    needed = {"views", "modalities", "content", "style", "bound", "is_bound"}
    if not needed <= results.keys() or (results["is_bound"] and "loss" not in (results["bound"] or {})):
        raise ConfigError(f"{path / 'results.json'} is damaged (scores or bound are missing); fit again")
    more = by_name(records) | (evaluation(path) if evaluated else {})
    primary = "content" if any(name.startswith("content/") for name in more) else "z"
    views = results["views"] * max(1, len(results["modalities"]))
    config = read_json(path / "config.json")
    return {
        "run": str(path),
        "seed": config["config"]["seed"],
        **{name: results.get(name) for name in (*MEASURES, *CONSTANT)},
        **results["content"],
        "mean_r2": results["style"].get("mean_r2"),
        "bound": -(results["bound"]["loss"] or math.nan) / max(1, views) if results["is_bound"] else None,
        **{key: more.get(one.name.replace("PRIMARY", primary)) for key, one in MEASURES.items() if one.name},
        "commit": str(config.get("commit") or "unknown"),
    }


def _same(values: Sequence[Any]) -> Any:
    """The one value that all runs of a row have, or all of them in words."""
    return values[0] if len(values) == 1 else ", ".join(map(str, values)) or None


def _cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[list[str]], list[str]]:
    """Rows as texts, and the columns' headings."""
    headings = {name: measure.heading for name, measure in MEASURES.items()} | CONSTANT | {"label": ""}
    cells = [[_shown(name, value) for name, value in row.items()] for row in rows]
    return cells, [headings.get(name, name) for row in rows[:1] for name in row]


def _markdown(tables: Sequence[pd.DataFrame], title: str, notes: Sequence[str]) -> str:
    """Tables with aligned columns, between their title and notes."""
    parts = [title]
    for table in tables:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (list(table.columns), *table.values.tolist())]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rows = [f"| {' | '.join(cell.ljust(of) for cell, of in zip(row, widths, strict=True))} |" for row in cells]
        rows.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
        parts.append("\n".join(rows))
    return "\n\n".join([*parts, *(["\n".join(f"- {note}" for note in notes)] if notes else [])]) + "\n"


def _latex(table: pd.DataFrame) -> str:
    """A booktabs table."""
    style = table.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    text = str(style.to_latex(hrules=True))
    for character, command in {"±": r"$\pm$", "²": "$^2$", "≥": r"$\geq$", "−": "$-$"}.items():
        text = text.replace(character, command)  # pdflatex has no others than these of its own
    return text


def _shown(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        mean, sd = (digits(value[part], MEASURES[name].digits) for part in ("mean", "sd"))
        return mean if sd == UNDEFINED else f"{mean} ± {sd}"
    return plain(value)

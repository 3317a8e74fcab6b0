"""Score records as tables in a terminal, readable at 80 columns: rows are measures, columns representations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from pp_simve.evaluation.records import (
    BASELINES,
    MEAN,
    MULTIPLE,
    REPRESENTATIONS,
    Record,
    chance_of,
    distinct,
    score,
    select,
)
from pp_simve.inference.augmentations import PARAMETER_GROUPS

UNDEFINED = "–"
MOST_COLUMNS = 4
"""That fit into 80 characters."""


class Measure(NamedTuple):
    """A row of a table for each target.

    Attributes:
        words: what is measured, with the target in place of ``{}``.
        task, metric, probe: of the records.
        digits: behind the point; None for fractions that are shown in percent.
        sd: the metric of the standard deviation; empty for none.
        mean_only: whether only the mean over the targets is shown.
        hidden: targets that are not shown.
    """

    words: str
    task: str
    metric: str
    probe: str = ""
    digits: int | None = None
    sd: str = ""
    mean_only: bool = False
    hidden: Sequence[str] = ()

    def of(self, records: Iterable[Record]) -> list[Record]:
        """The records of the measure."""
        return select(records, task=self.task, metric=self.metric, probe=self.probe)

    def shown(self, records: Sequence[Record]) -> str:
        """The score among the records of one target, with its standard deviation where there is one."""
        value, sd = score(self.of(records)), score(self._replace(metric=self.sd).of(records))
        return digits(value, self.digits) if value is None or sd is None else f"{100 * value:.1f} ± {100 * sd:.1f}"

    def by_chance(self, records: Sequence[Record]) -> str:
        """The score by chance among the records of one target."""
        return self._replace(metric=chance_of(self.metric), sd="").shown(records)


MEASURES = (
    Measure("class, linear probe", "class", "accuracy", "linear"),
    Measure("class, MLP probe", "class", "accuracy", "mlp"),
    Measure("class, k-NN", "class", "accuracy", "knn"),
    *(
        Measure(f"class, {k}-NN, cosine{of}", "class", metric, f"knn_{k}_cosine")
        for k in (20, 200)
        for of, metric in (("", "accuracy"), (", top 5", "accuracy@5"))
    ),
    Measure("class, {} labels each, %", "few_labels", "accuracy", "linear", sd="sd"),
    *(
        Measure(f"clusters, {words}{of}", "class", metric, f"clusters_{words[:4]}", digits)
        for words in ("diagonal", "full")
        for of, metric, digits in (("", "accuracy", None), (", NMI", "nmi", 2), (", ARI", "ari", 2))
    ),
    Measure("view, {}, R², ridge", "view", "r2", "ridge", 3),
    Measure("view, {}, R², MLP", "view", "r2", "mlp", 3),
    Measure("relative, {}, R², MLP", "relative_view", "r2", "mlp", 3, hidden=sum(PARAMETER_GROUPS.values(), ())),
    Measure("view, {}, AUC", "view", "auc", "logistic", 3),
    Measure("view, {}, R² of angle", "view", "r2", "circular", 3),
    Measure("attributes, {}, AUC", "attributes", "auc", "logistic", 3, mean_only=True),
    Measure("attributes, {}, bal. acc.", "attributes", "balanced_accuracy", "logistic", 3, mean_only=True),
    Measure("handwriting, {}, R²", "handwriting", "r2", "ridge", 3),
    Measure("axes", "information", "width", digits=0),
    Measure("active axes", "information", "active_units", digits=0),
    Measure("effective rank", "information", "effective_rank", digits=1),
    Measure("alignment of two views", "information", "alignment", digits=3),
    Measure("uniformity", "information", "uniformity", digits=3),
    Measure("I(z; z') ≥, nats", "information", "infonce_bound", digits=2),
    Measure("  of at most", "information", "infonce_ceiling", digits=2),
    Measure("I(z; z') of prior, nats", "information", "prior_information", digits=2),
    Measure("KL of axes, {}, nats", "information", "kl_of_axes", digits=2),
)
"""Of representations, in the order of the rows."""

WHOLE = (
    Measure("class, content of {} views", "several_views", "accuracy", "linear"),
    Measure("class, fine-tuned", "fine_tuning", "accuracy"),
    Measure("content keeps of the class", "disentanglement", "content_keeps_class", digits=3),
    Measure("content lacks of the view", "disentanglement", "content_lacks_views", digits=3),
    Measure("style keeps of the view", "disentanglement", "style_keeps_views", digits=3),
    Measure("style lacks of the class", "disentanglement", "style_lacks_class", digits=3),
    Measure("disentanglement, the mean of these", "disentanglement", "mean", digits=3),
    Measure("reconstruction, MSE", "generation", "mse", digits=4),
    Measure("reconstruction, PSNR, dB", "generation", "psnr", digits=1),
    Measure("bits per dimension, at most", "generation", "bits_per_dim", digits=3),
    Measure("FID of samples", "generation", "fid", digits=1),
    *(Measure(f"retrieval, {{}}, recall@{k}", "retrieval", f"recall@{k}") for k in (1, 5, 10)),
    Measure("class, zero-shot, {}", "zero_shot", "accuracy"),
    Measure("class of all modalities, linear probe", "together", "accuracy", "linear"),
    Measure("class of all modalities, k-NN", "together", "accuracy", "knn"),
)
"""Of the whole program."""


def print_scores(records: Sequence[Record], console: Console) -> None:
    """Tables of the scores, then what has none and why."""
    records = distinct(records)
    for modality, images in dict.fromkeys((record.modality, record.images) for record in records):
        found = [record for record in select(records, modality=modality) if record.images == images]
        title = f"test split, {images}" + (f", from {modality} alone" if modality else "")
        for table in (*representation_tables(title, found), program_table(title, found)):
            if table.row_count:
                console.print(table, "", sep="\n")
    for line in notes(records):
        console.print(line, markup=False, soft_wrap=True)


def print_results(results: Mapping[str, Any], records: Sequence[Record], console: Console) -> None:
    """The scores of a results.json, the bound, what the fit cost, and what is wrong with it."""
    print_scores(records, console)
    if not records:
        console.print("not scored (--evaluate none); python -m pp_simve.evaluate RUN gives the scores", soft_wrap=True)
    if results["bound"] is not None:
        measure = f"ELBO of {results['views']} views" + (" of each modality" if results["modalities"] else "")
        no_bound = "" if results["is_bound"] else " (no bound)"
        console.print(f"{measure}{no_bound}: {-results['bound']['loss']:.1f} nats an image")
    evaluated = f", evaluated in {results['seconds_evaluating']:.1f} s" if records else ""
    console.print(
        f"{results['seconds_per_epoch']:.2f} s an epoch, {results['peak_memory_mb']:,.0f} MB at most{evaluated}",
        soft_wrap=True,
    )
    if scored := results.get("scored"):
        console.print(f"scored on {scored}", soft_wrap=True)
    for warning in results.get("warnings", []):
        console.print(f"warning: {warning}", style="red", markup=False, soft_wrap=True)


def representation_tables(title: str, records: Sequence[Record]) -> list[Table]:
    """A row a measure, a column a representation; baselines in a table of their own where there are many columns."""
    tasks = {measure.task for measure in MEASURES}
    records = [record for record in records if record.task in tasks and record.metric != MULTIPLE]
    kl = [record.value for record in select(records, metric="kl") if record.value is not None]
    if kl:
        summary = {"sum": sum(kl), "least": min(kl), "most": max(kl)}
        records += [Record("information", "kl_of_axes", value, "z", target=name) for name, value in summary.items()]
    columns = [name for name in (*REPRESENTATIONS, *BASELINES) if select(records, representation=name)]
    rows = []
    for measure, words, of_target in _rows(MEASURES, records):
        cells = [measure.shown(select(of_target, representation=name)) for name in columns]
        rows.append((words, [*cells, measure.by_chance(of_target)]))
    columns.append("chance")
    first = sum(name in REPRESENTATIONS for name in columns) if len(columns) > MOST_COLUMNS else len(columns)
    parts = {title: slice(first), f"{title}, to compare with": slice(first, None)}
    return [_table(of, columns[part], [(words, cells[part]) for words, cells in rows]) for of, part in parts.items()]


def program_table(title: str, records: Sequence[Record]) -> Table:
    """A row a measure, with the score by chance beside it where there is one."""
    rows = [
        (words, [measure.shown(of_target), measure.by_chance(of_target)])
        for measure, words, of_target in _rows(WHOLE, records)
    ]
    return _table(title, ["score", "chance"], rows)


def notes(records: Iterable[Record]) -> list[str]:
    """A line for each note, with all records that carry it."""
    carrying: dict[str, dict[str, dict[str, None]]] = {}
    for one in records:
        if one.note:
            source = () if one.metric == MULTIPLE else (one.task, one.probe or one.metric)  # that note is of no score
            what = " ".join(filter(None, (one.modality, *source))).replace("_", " ")
            carrying.setdefault(one.note, {}).setdefault(what, {})[one.representation] = None
    lines = []
    for note, found in carrying.items():
        groups: dict[str, list[str]] = {}
        for what, of in found.items():
            groups.setdefault(", ".join(filter(None, of)), []).append(what)
        places = [" of ".join(filter(None, (", ".join(whats), of))) for of, whats in groups.items()]
        lines.append(f"{'; '.join(places)}: {note}")
    return lines


def digits(value: float | None, count: int | None) -> str:
    """A number for a person: in percent where no number of digits is given."""
    if value is None:
        return UNDEFINED
    if count is None:
        return f"{100 * value:.1f} %"
    return f"{round(value, count) + 0.0:,.{count}f}".replace("-", "−")  # −0.00 is 0.00


def _rows(measures: Iterable[Measure], records: Sequence[Record]) -> Iterator[tuple[Measure, str, list[Record]]]:
    """Each measure and target, the mean over targets at the end: its words, and all records of the target."""
    for measure in measures:
        for target in sorted(dict.fromkeys(record.target for record in measure.of(records)), key=MEAN.__eq__):
            if target == MEAN or not (measure.mean_only or target in measure.hidden):
                words = measure.words.format(target).replace(" 1 labels", " 1 label").replace(" 1 views", " 1 view")
                yield measure, words, select(records, target=target)


def _table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> Table:
    """The rows in which anything is defined, and the column of chance levels if one is."""
    kept = [
        name != "chance" or any(cells[place] != UNDEFINED for _, cells in rows) for place, name in enumerate(columns)
    ]
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    table.add_column("", no_wrap=True)
    for column in compress(columns, kept):
        table.add_column(column, justify="right", no_wrap=True)
    for words, cells in rows:
        if any(cell != UNDEFINED for cell in cells):
            table.add_row(words, *compress(cells, kept))
    return table

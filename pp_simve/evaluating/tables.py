"""evaluation.json as tables that a person reads in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pp_simve.evaluation.judgement import REPRESENTATIONS
from pp_simve.judgement import modalities_table

PROBES = {"linear": "linear probe", "mlp": "MLP probe", "knn": "k-NN"}
CLUSTERS = {"clusters_diag": "clusters, diagonal", "clusters_full": "clusters, full"}
SPACE = {
    "axes": ("axes", 0),
    "active_units": ("active axes", 0),
    "effective_rank": ("effective rank", 1),
    "alignment": ("alignment of two views", 3),
    "uniformity": ("uniformity", 3),
}
SHARES = {
    "content_keeps_class": "content keeps of the class",
    "content_lacks_views": "content lacks of the view",
    "style_keeps_views": "style keeps of the view",
    "style_lacks_class": "style lacks of the class",
    "mean": "disentanglement, the mean of these",
}
UNDEFINED = "–"


def print_evaluation(found: Mapping[str, Any], console: Console) -> None:
    """Tables of the scores, then in words what has none."""
    for kind, scores in found.get("kinds", {None: found}).items():
        title = "test split" if kind is None else f"test split, from {kind} alone"
        for table in (
            knowledge_table(f"{title}: who knows what", scores["knows"]),
            information_table(f"{title}: information", scores["information"]),
            summary_table(f"{title}: as a whole", scores),
        ):
            if table.row_count:
                console.print(table)
    if "kinds" in found:
        across = {name: found.get(name, {}) for name in ("retrieval", "zero_shot", "together")}
        console.print(modalities_table({name: part for name, part in across.items() if "error" not in part}))
    for words, key in (("not judged", "skipped"), ("failed", "error")):
        where: dict[str, list[tuple[str, ...]]] = {}
        for place, reason in reasons(found, key):
            where.setdefault(reason, []).append(place)
        for reason, places in where.items():
            console.print(f"{words}: {', '.join(in_words(places))}: {reason}", markup=False, soft_wrap=True)
    for note in dict.fromkeys(_notes(found)):
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def knowledge_table(title: str, knows: Mapping[str, Any]) -> Table:
    """A row a measure, a column a representation."""
    table = _table(title, knows)

    def values(*place: str) -> list[float | None]:
        return [_at(scores, *place) for scores in knows.values()]

    def below(*place: str) -> list[str]:
        return _keys(_below(scores, *place) for scores in knows.values())

    for measure, words in PROBES.items():
        _add(table, f"class, {words}", map(_percent, values("class", measure)))
    for count in below("class", "few_labels"):
        spreads = map(_spread, *(values("class", "few_labels", count, part) for part in ("mean", "sd")))
        _add(table, f"class, {count} label{'s' * (count != '1')}", spreads)
    for measure, words in CLUSTERS.items():
        _add(table, words, map(_percent, values("class", measure, "accuracy")))
        _add(table, "  NMI/ARI", map(_pair, *(values("class", measure, part) for part in ("nmi", "ari"))))
    table.add_section()
    for name in sorted(below("views", "ridge"), key="mean_r2".__eq__):  # the mean at the end
        words = "view, mean" if name == "mean_r2" else f"view, {name}"
        pairs = map(_pair, *(values("views", probe, name) for probe in ("ridge", "mlp")))
        _add(table, words, pairs)
    for name in below("views", "binary"):
        if name != "mean":
            _add(table, f"view, {name}, AUC", map(_fraction, values("views", "binary", name, "auc")))
    for name in below("views", "angles"):
        _add(table, f"view, {name} ‡", map(_fraction, values("views", "angles", name, "r2")))
    table.add_section()
    attributes = len(below("attributes", "logistic")) - 1
    for part, words in {"auc": "AUC", "balanced_accuracy": "bal. acc."}.items():
        _add(table, f"{attributes} attributes, {words}", map(_fraction, values("attributes", "logistic", "mean", part)))
    for name in sorted(below("writing", "ridge"), key="mean_r2".__eq__):
        words = "mean" if name == "mean_r2" else name
        _add(table, f"writing, {words}", map(_fraction, values("writing", "ridge", name)))
    told = {
        "labels: of each class, accuracy ± sd over draws": below("class", "few_labels"),
        "view: R², ridge/MLP": below("views", "ridge"),
        "‡ R² of the point on a circle": below("views", "angles"),
        "writing: R², ridge": below("writing", "ridge"),
    }
    table.caption = "; ".join(words for words, there in told.items() if there) or None
    return table


def information_table(title: str, information: Mapping[str, Any]) -> Table:
    """How representations fill their space, and what two views share of it."""
    table = _table(title, information)

    def values(*place: str) -> list[float | None]:
        return [_at(scores, *place) for scores in information.values()]

    for measure, (words, digits) in SPACE.items():
        _add(table, words, (_digits(value, digits) for value in values(measure)))
    ceilings = [value for value in values("infonce", "ceiling") if value is not None]
    if ceilings:
        words = f"I(z; z') ≥, nats, of {max(ceilings):.2f}"
        _add(table, words, (_digits(value, 2) for value in values("infonce", "bound")))
    _add(table, "I(z; z') of the prior, nats", (_digits(value, 2) for value in values("prior_information")))
    divergences = [scores.get("kl_by_axis") for scores in information.values()]
    of_axes: dict[str, Callable[[list[float]], float]] = {"sum": sum, "least": min, "most": max}
    for words, of in of_axes.items():
        _add(
            table,
            f"KL of z's axes, {words}",
            (_digits(of(kl), 2) if isinstance(kl, list) else UNDEFINED for kl in divergences),
        )
    return table


def summary_table(title: str, scores: Mapping[str, Any]) -> Table:
    """What is asked of the guide and of the program as a whole."""
    table = _table(title, ("score",))
    for count in _keys([_below(scores, "several_views")]):
        words = f"class, content from {count} view{'s' * (count != '1')}"
        _add(table, words, [_percent(_at(scores, "several_views", count))])
    if (epoch := _at(scores, "fine_tuning", "epoch")) is not None:
        words = f"class, fine-tuned, epoch {epoch:.0f} of {scores['fine_tuning']['epochs']:.0f}"
        _add(table, words, [_percent(_at(scores, "fine_tuning", "accuracy"))])
    table.add_section()
    for name, words in SHARES.items():
        _add(table, words, [_fraction(_at(scores, "disentanglement", name))])
    table.add_section()
    rebuilt = _below(scores, "generation", "reconstruction")
    _add(table, "reconstruction, MSE", [_digits(_at(rebuilt, "mse"), 4)])
    _add(table, "reconstruction, PSNR, dB", [_digits(_at(rebuilt, "psnr"), 1)])
    _add(table, "bits per dimension, at most", [_digits(_at(rebuilt, "bits_per_dim"), 3)])
    made = _below(scores, "generation", "fid")
    _add(table, f"FID of {made.get('images', 0):,} samples", [_digits(_at(made, "distance"), 1)])
    return table


def reasons(found: Mapping[str, Any], key: str, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """What has no score, by its place in evaluation.json, and why."""
    for name, entry in found.items():
        if isinstance(entry, Mapping):
            if key in entry:
                yield (*place, name), entry[key]
            else:
                yield from reasons(entry, key, (*place, name))


def in_words(places: Sequence[tuple[str, ...]]) -> list[str]:
    """Places as a person says them: what is asked, and of which representations, of all where there are none."""
    asked: dict[str, list[str]] = {}
    for place in places:
        of = [word for word in place if word in REPRESENTATIONS]
        words = [word for word in place if word not in (*REPRESENTATIONS, "knows", "kinds")]
        asked.setdefault(" ".join(words).replace("_", " "), []).extend(of)
    return [
        words if len(of) in (0, len(REPRESENTATIONS)) else f"{words} of {' and '.join(dict.fromkeys(of))}"
        for words, of in asked.items()
    ]


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, caption_justify="left")
    table.pad_edge = False
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _add(table: Table, words: str, cells: Iterable[str]) -> None:
    """A row, unless nothing in it is defined."""
    shown = list(cells)
    if any(cell != UNDEFINED for cell in shown):
        table.add_row(words, *shown)


def _at(scores: Any, *place: str) -> float | None:
    """The number at a place; None where there is none."""
    for key in place:
        scores = scores.get(key) if isinstance(scores, Mapping) else None
    return float(scores) if isinstance(scores, int | float) else None


def _below(scores: Any, *place: str) -> Mapping[str, Any]:
    """The scores at a place; none where they are not."""
    for key in place:
        scores = scores.get(key) if isinstance(scores, Mapping) else None
    return {} if not isinstance(scores, Mapping) or {"skipped", "error"} & set(scores) else scores


def _keys(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for entry in entries for key in entry))


def _digits(value: float | None, digits: int) -> str:
    if value is None:
        return UNDEFINED
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # −0.00 is 0.00


def _fraction(score: float | None) -> str:
    return _digits(score, 3)


def _percent(score: float | None) -> str:
    return UNDEFINED if score is None else f"{100 * score:.1f} %"


def _spread(mean: float | None, sd: float | None) -> str:
    return _percent(mean) if mean is None or sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f}"


def _pair(first: float | None, second: float | None) -> str:
    """Two scores in a cell; a dash where neither is defined."""
    return UNDEFINED if first is None and second is None else f"{_digits(first, 2)}/{_digits(second, 2)}"


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in found.items():
        if name == "notes":
            yield from entry.values()
        elif isinstance(entry, Mapping):
            yield from _notes(entry)

"""Judges fitted runs again, in every respect: python -m pp_simve.evaluate runs/digits-simve-20261124-120000

Class and view parameters from backbone, z, content and style; how content and z fill their space, and how they cluster.
Each run gets an evaluation.json, beside the results.json of its fit.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

import pp_simve
from pp_simve.command import EXPECTED_ERRORS, WRONG_INPUT, exit_code, print_error
from pp_simve.config import Place
from pp_simve.data import ImageData, Split, load
from pp_simve.errors import ConfigError
from pp_simve.evaluation import active_units, alignment, cluster_scores, effective_rank, judge, judge_kinds, uniformity
from pp_simve.evaluation.judgement import REPRESENTATIONS
from pp_simve.evaluation.style import MEAN
from pp_simve.inference import Guide
from pp_simve.inference.checkpoint import write_whole
from pp_simve.inference.device import choose_device
from pp_simve.inference.views import Compose, ViewPolicy, draw_views
from pp_simve.judgement import JUDGEMENT_SEED, images_by_kind, kinds_alone, kinds_table, knowledge_table, on_device
from pp_simve.run_folder import RunFolder, source_commit
from pp_simve.viewing import Viewing

FILE = "evaluation.json"
CLASS = ("linear", "knn")
FAILURES = (ArithmeticError, RuntimeError, ValueError)
"""How an evaluator says that it cannot judge what it was given."""

_IMAGES_IN_MEMORY = 512

Splits = tuple[Split, Split, Split]
"""Train, validation, test."""

Load = Callable[[str, Path, int | None, bool], ImageData]


@dataclass(frozen=True)
class EvaluateConfig:
    """What is evaluated, and where."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is a GPU where there is one."""
    data_root: Place = None
    """Folder of the data sets, if they are no longer where the run found them."""
    restarts: int = 1
    """Starts of the clustering, of which the likeliest is kept."""
    quiet: bool = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("there is nothing to evaluate; give the folders of one or more runs")
        if self.restarts < 1:
            raise ConfigError(f"--restarts must be at least 1, got {self.restarts}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = "python -m pp_simve.evaluate"
    return exit_code(lambda: evaluate_runs(tyro.cli(EvaluateConfig, args=given, prog=program, description=__doc__)))


def evaluate_runs(config: EvaluateConfig) -> int:
    """Evaluates one run after the other, whatever happens to those before; the exit code."""
    console = Console(quiet=config.quiet, highlight=False)
    device = torch.device(choose_device(config.device))

    @lru_cache(maxsize=1)  # runs that are evaluated together are mostly of the same images
    def images(data: str, data_root: Path, image_size: int | None, skip_bad: bool) -> ImageData:
        return load(data, data_root, image_size=image_size, skip_bad=skip_bad)

    code = 0
    for path in config.runs:
        try:
            found = evaluate(RunFolder(path), device, images, config.data_root, config.restarts)
        except EXPECTED_ERRORS as error:
            error.add_note(f"{path} was not evaluated")
            print_error(error)
            code = WRONG_INPUT
            continue
        console.print(f"{path}: {found['method']} on {found['data']}", markup=False, soft_wrap=True, style="bold")
        print_evaluation(found, console)
    return code


def evaluate(
    folder: RunFolder, device: torch.device, images: Load, data_root: Path | None = None, restarts: int = 1
) -> dict[str, Any]:
    """Judges a fitted run and writes its evaluation.json.

    Args:
        folder: of the run.
        device: where to compute.
        images: loads the data, from name, root, image size and whether bad images are left out.
        data_root: where the data are, if elsewhere than for the fit.
        restarts: starts of the clustering.

    Returns:
        What was written. Scores are those of `judge`; with one kind of view ``"knows"`` and ``"geometry"`` (see
        `geometry`), with several ``"kinds"`` and ``"geometry"`` by kind, and what `judge_kinds` finds across kinds.
        What failed is ``{"error": WHY}`` in its place.

    Raises:
        ConfigError: a run that is damaged or not finished, or other images than it was fitted to.
        DataError: the images cannot be loaded.
        OSError: the file cannot be written.
    """
    started = time.perf_counter()
    config, fingerprint = folder.read_settings()
    program = folder.program()
    data = images(config.data, data_root or config.data_root, config.image_size, config.skip_bad)
    if data.fingerprint != fingerprint:
        raise ConfigError(
            f"the images of {data.name} are not those {folder.path} was fitted to ({data.fingerprint}, expected "
            f"{fingerprint}); give back the old ones, or fit again"
        )
    program.objective.to(device)
    viewing = Viewing.of(config, data.shape)
    splits = (on_device(data.train, device), on_device(data.validation, device), on_device(data.test, device))
    evaluated = _evaluate_alone if viewing.modalities is None else _evaluate_kinds
    found = {
        "version": pp_simve.__version__,
        "commit": source_commit(),
        "method": config.method,
        "data": data.name,
        "data_fingerprint": fingerprint,
        **evaluated(program.guide, viewing, splits, restarts),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "seconds": time.perf_counter() - started,
    }
    write_whole(folder.path / FILE, (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())
    return found


def _evaluate_alone(guide: Guide, viewing: Viewing, splits: Splits, restarts: int) -> dict[str, Any]:
    """Views of one kind."""
    policy = viewing.policies[None]
    return {
        "knows": _attempt(_judge_parts, guide, policy, splits),
        "geometry": _attempt(geometry, guide, policy, splits, restarts),
    }


def _evaluate_kinds(guide: Guide, viewing: Viewing, splits: Splits, restarts: int) -> dict[str, Any]:
    """Views of several kinds: each alone, and across them."""
    images = images_by_kind(viewing, splits)
    kinds, shapes = {}, {}
    for name, alone, policy, of_kind in kinds_alone(guide, viewing, images, splits):
        kinds[name] = _attempt(_judge_parts, alone, policy, of_kind)
        shapes[name] = _attempt(geometry, alone, policy, of_kind, restarts)
    return {"kinds": kinds, "geometry": shapes, **_judge_across(guide, images, splits)}


def _judge_across(guide: Guide, images: Sequence[Mapping[str, Tensor]], splits: Splits) -> dict[str, Any]:
    """`judge_kinds`; where classes cannot be judged, what it finds without them."""
    train, validation, test = (split.labels for split in splits)
    of_classes = {}
    if train is not None and validation is not None and test is not None:
        whole = _attempt(judge_kinds, guide, *images, (train, validation, test))
        if "error" not in whole:
            return dict(whole)
        of_classes = {"zero_shot": whole, "together": whole}
    retrieval = _attempt(judge_kinds, guide, *images)
    return {"retrieval": retrieval.get("retrieval", retrieval), **of_classes}


def _judge_parts(guide: Guide, policy: ViewPolicy, splits: Splits) -> dict[str, Any]:
    """`judge`; where that fails, each representation and each task by itself, so that only what fails is lost."""
    seed = JUDGEMENT_SEED
    try:
        return dict(judge(guide, policy, *splits, seed=seed, representations=REPRESENTATIONS))
    except FAILURES:
        pass
    channels, height, width = splits[0].images.shape[1:]
    # What has no parameters, or no labels, is not judged by them.
    unvaried = Compose([], (channels, height, width))
    unlabelled = [Split(split.images, None, None) for split in splits]
    found: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    one = guide.embed_batches(splits[0].images[:1]).as_dict()
    for name in (name for name in REPRESENTATIONS if one[name].shape[-1]):
        classes = _attempt(judge, guide, unvaried, *splits, seed=seed, representations=[name])
        views = _attempt(judge, guide, policy, *unlabelled, seed=seed, representations=[name])
        found[name] = {measure: classes if "error" in classes else classes[name][measure] for measure in CLASS}
        if "error" in views:
            found[name][MEAN] = views
        else:
            found[name] |= {measure: score for measure, score in views[name].items() if measure not in CLASS}
        notes |= {
            task: said["notes"][task]
            for task, said in (("class", classes), ("views", views))
            if task in said.get("notes", {})
        }
    return {**found, "notes": notes} if notes else found


def geometry(guide: Guide, policy: ViewPolicy, splits: Splits, restarts: int = 1) -> dict[str, dict[str, Any]]:
    """How z, and content where there is any, fill their space.

    Of test images as they are: ``"effective_rank"``, ``"active_units"``. Of two fresh views of each, embedded one by
    one: ``"alignment"``, and ``"uniformity"`` of the first. ``"clusters"``: `cluster_scores` of a mixture of diagonal
    Gaussians fitted to train images; None where test has no labels. What fails is ``{"error": WHY}`` in its place.
    """
    train, _, test = splits
    fitted, clean = (guide.embed_batches(split.images).as_dict() for split in (train, test))
    first, second = two_views(guide, policy, test.images)
    found = {}
    for name in (name for name in ("z", "content") if clean[name].shape[-1]):
        clusters = None
        if test.labels is not None:
            labelled = (clean[name], test.labels)
            clusters = _attempt(cluster_scores, fitted[name], labelled, restarts=restarts, seed=JUDGEMENT_SEED)
        found[name] = {
            "effective_rank": _attempt(effective_rank, clean[name]),
            "active_units": _attempt(active_units, clean[name]),
            "axes": clean[name].shape[-1],
            "alignment": _attempt(alignment, first[name], second[name]),
            "uniformity": _attempt(uniformity, first[name]),
            "clusters": clusters,
        }
    return found


@torch.no_grad()
def two_views(guide: Guide, policy: ViewPolicy, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Representations of two fresh views of each image, each view embedded by itself; rows are images."""
    generator = torch.Generator(images.device).manual_seed(JUDGEMENT_SEED)
    embedded: list[list[dict[str, Tensor]]] = [[], []]
    for chunk in torch.split(images, _IMAGES_IN_MEMORY):
        views, _ = draw_views(policy, chunk, 2, generator=generator)
        for view, parts in zip(views, embedded, strict=True):
            parts.append(guide.embed_batches(view).as_dict())
    first, second = ({name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in embedded)
    return first, second


def _attempt(evaluator: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What an evaluator finds, or ``{"error": WHY}``."""
    try:
        return evaluator(*arguments, **options)
    except FAILURES as error:
        return {"error": str(error) or type(error).__name__}


def print_evaluation(found: Mapping[str, Any], console: Console) -> None:
    """Tables of the scores, then in words what has none."""
    shown = _without_errors(found)
    several = "kinds" in found
    of_kinds = shown["kinds"] if several else {None: shown["knows"]}
    shapes = shown["geometry"] if several else {None: shown["geometry"]}
    for kind, knows in of_kinds.items():
        title = "test split" if kind is None else f"test split, from {kind} alone"
        if knows:
            console.print(knowledge_table(title, knows))
        if shapes[kind]:
            console.print(_geometry_table(f"{title}: geometry", shapes[kind]))
    if several:
        console.print(kinds_table({name: part for name, part in shown.items() if part is not None}))
    said = [note for knows in of_kinds.values() for note in ((knows or {}).get("notes") or {}).values()]
    for note in dict.fromkeys(said):
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    where: dict[str, list[str]] = {}
    for place, error in _errors(found):
        where.setdefault(error, []).append(place)
    for error, places in where.items():
        console.print(f"no score for {', '.join(places)}: {error}", markup=False, soft_wrap=True)


def _geometry_table(title: str, shapes: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("measure")
    for name in shapes:
        table.add_column(name, justify="right")

    def add(words: str, name: str, digits: int = 3) -> None:
        values = [shape[name] for shape in shapes.values()]
        table.add_row(words, *("–" if value is None else f"{value:.{digits}f}" for value in values))

    add("effective rank", "effective_rank", 1)
    add("active axes", "active_units", 0)
    add("axes", "axes", 0)
    add("alignment of two views", "alignment")
    add("uniformity", "uniformity")
    table.add_section()
    for name, words in {"accuracy": "accuracy", "nmi": "NMI", "ari": "ARI"}.items():
        values = [(shape["clusters"] or {}).get(name) for shape in shapes.values()]
        table.add_row(f"clusters, {words}", *("–" if value is None else f"{value:.3f}" for value in values))
    return table


def _without_errors(found: Any) -> Any:
    """The same with None for what failed."""
    if not isinstance(found, Mapping):
        return found
    return None if "error" in found else {name: _without_errors(entry) for name, entry in found.items()}


def _errors(found: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """What failed, where, and why."""
    for name, entry in found.items():
        if isinstance(entry, Mapping):
            if "error" in entry:
                yield " ".join((*place, name)), entry["error"]
            else:
                yield from _errors(entry, (*place, name))


if __name__ == "__main__":
    sys.exit(main())

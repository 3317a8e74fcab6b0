"""Judges fitted runs again, in every respect: python -m pp_simve.evaluate runs/digits-simve-20261124-120000

Class, view parameters, attributes and writing from backbone, z, content and style; clusters; content from several
views; information and collapse; reconstruction. Each run gets an evaluation.json, beside the results.json of its fit.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from torch import Tensor

import pp_simve
from pp_simve.data import ImageData, Split
from pp_simve.errors import ConfigError
from pp_simve.evaluating.evaluators import GENERATION, KNOWS, WHOLE, asked_of_space, fid, fine_tuning
from pp_simve.evaluating.subject import Effort, NotJudgedError, Subject
from pp_simve.evaluating.tables import print_evaluation
from pp_simve.evaluation import evaluate_modalities
from pp_simve.evaluation.disentanglement import PARTS, disentanglement_scores
from pp_simve.evaluation.style import MEAN
from pp_simve.inference import Guide
from pp_simve.inference.device import choose_device, device_name
from pp_simve.inference.tools import write_whole
from pp_simve.judgement import images_by_modality, modalities_alone, on_device
from pp_simve.report import write_report
from pp_simve.run.config import Count, Place
from pp_simve.run.console import each_run, exit_code
from pp_simve.run.folder import Load, RunFolder, load_fitted, load_once, source_commit
from pp_simve.run.methods import Program
from pp_simve.run.trust import announce
from pp_simve.run.viewing import Viewing

FILE = "evaluation.json"
FAILURES = (ArithmeticError, ImportError, OSError, RuntimeError, ValueError)
"""How an evaluator says that it cannot judge what it was given."""
WRITING = ("digits", "mnist")
"""Data whose images are of writing."""

Splits = tuple[Split, Split, Split]
"""Train, validation, test."""


@dataclass(frozen=True)
class EvaluateConfig:
    """What is evaluated, and where."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is a GPU where there is one."""
    data_root: Place = None
    """Folder of the data sets, if they are no longer where the run found them."""
    rows: int = 10_000
    """Images, and views, of a split at most for what costs much: MLP probes, clusters, content from several views,
    alignment, uniformity, information, FID."""
    restarts: int = 3
    """Starts of the clustering, of which the likeliest is kept."""
    fine_tune: Count = None
    """Also train a copy of the encoder on the labels of train, for so many epochs at most (default: do not)."""
    fid_weights: Place = None
    """Also compute FID, with Inception's weights from this file; needs pp_simve[fid] installed (default: do not)."""
    trust_parts: bool = False
    """Import the parts of your own (package.module:Class) that the settings of a run name. Their code runs, so give it
    only for runs that you trust."""
    quiet: bool = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("there is nothing to evaluate; give the folders of one or more runs")
        for name in ("rows", "restarts", "fine_tune"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.fid_weights is not None and not self.fid_weights.is_file():
            raise ConfigError(f"--fid-weights {self.fid_weights} is no file")

    @property
    def effort(self) -> Effort:
        """How much each evaluation may cost."""
        return Effort(self.rows, self.restarts, self.fine_tune, self.fid_weights)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = "python -m pp_simve.evaluate"
    return exit_code(lambda: evaluate_runs(tyro.cli(EvaluateConfig, args=given, prog=program, description=__doc__)))


def evaluate_runs(config: EvaluateConfig) -> int:
    """Evaluates one run after the other, whatever happens to those before; the exit code."""
    console = Console(quiet=config.quiet, highlight=False)
    device = torch.device(choose_device(config.device))
    images = load_once()

    def carry_out(path: Path) -> None:
        folder = RunFolder(path)
        if config.trust_parts:
            announce(path, folder.read_settings(trust_parts=True)[0], console)
        found = evaluate(folder, device, images, config.data_root, config.effort, trust_parts=config.trust_parts)
        write_report(folder)
        console.print(f"{path}: {found['method']} on {found['data']}", markup=False, soft_wrap=True, style="bold")
        print_evaluation(found, console)
        console.print(
            f"evaluated in {found['seconds']:.1f} s, written to {path / FILE}\n", markup=False, soft_wrap=True
        )

    return each_run(config.runs, "evaluated", carry_out)


def evaluate(
    folder: RunFolder,
    device: torch.device,
    images: Load,
    data_root: Path | None = None,
    effort: Effort | None = None,
    *,
    trust_parts: bool = False,
) -> dict[str, Any]:
    """Judges a fitted run and writes its evaluation.json.

    Args:
        folder: of the run.
        device: where to compute.
        images: loads the data, from name, root, image size and whether bad images are left out.
        data_root: where the data are, if elsewhere than for the fit.
        effort: how much it may cost.
        trust_parts: allows the import of parts of a user's own that the run's settings name.

    Returns:
        What was written. With one kind of view ``"knows"``, by representation and by what is asked of it (the table
        `KNOWS`), ``"information"`` by representation, ``"disentanglement"``, ``"several_views"``, ``"generation"`` and,
        where asked for, ``"fine_tuning"``; with several, these but for generation under ``"kinds"`` by kind, and what
        `evaluate_modalities` finds across kinds. In the place of what there was nothing to ask about stands
        ``{"skipped": WHY}``, of what failed ``{"error": WHY}``.

    Raises:
        ConfigError: a run that is damaged or not finished, or other images than it was fitted to; parts that are not
            trusted.
        DataError: the images cannot be loaded.
        OSError: the file cannot be written.
    """
    started = time.perf_counter()
    effort = effort or Effort()
    fitted = load_fitted(folder, device, images, data_root, trust_parts=trust_parts)
    config, program, data, viewing = fitted.settings, fitted.program, fitted.data, fitted.viewing
    splits = (on_device(data.train, device), on_device(data.validation, device), on_device(data.test, device))
    evaluated = _evaluate_alone if viewing.modalities is None else _evaluate_kinds
    scores = evaluated(program, viewing, splits, data, effort)
    found = {
        "version": pp_simve.__version__,
        "commit": source_commit(),
        "method": config.method,
        "data": data.name,
        "data_fingerprint": data.fingerprint,
        "images": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "effort": {"rows": effort.rows, "restarts": effort.restarts, "fine_tune": effort.fine_tune},
        "headline": headline(scores),
        **scores,
        "device": device_name(device),
        "seconds": time.perf_counter() - started,
    }
    write_whole(folder.path / FILE, (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())
    return found


def _evaluate_alone(
    program: Program, viewing: Viewing, splits: Splits, data: ImageData, effort: Effort
) -> dict[str, Any]:
    """Views of one kind."""
    written = data.name in WRITING
    policy = viewing.policies[None]
    subject = Subject(program.guide, program.model, policy, splits, data.attribute_names, written, effort)
    asked = GENERATION if effort.fid_weights is None else {**GENERATION, "fid": fid}
    return {**evaluate_subject(subject), "generation": {name: attempt(ask, subject) for name, ask in asked.items()}}


def _evaluate_kinds(
    program: Program, viewing: Viewing, splits: Splits, data: ImageData, effort: Effort
) -> dict[str, Any]:
    """Views of several kinds: each alone, and across them."""
    images = images_by_modality(viewing, splits)
    kinds = {
        name: evaluate_subject(Subject(alone, None, policy, of_modality, data.attribute_names, False, effort))
        for name, alone, policy, of_modality in modalities_alone(program.guide, viewing, images, splits)
    }
    return {"kinds": kinds, **_judge_across(program.guide, images, splits)}


def _judge_across(guide: Guide, images: Sequence[Mapping[str, Tensor]], splits: Splits) -> dict[str, Any]:
    """`evaluate_modalities`; where classes cannot be judged, what it finds without them."""
    train, validation, test = (split.labels for split in splits)
    of_classes = {}
    if train is not None and validation is not None and test is not None:
        whole = attempt(evaluate_modalities, guide, *images, (train, validation, test))
        if "error" not in whole:
            return dict(whole)
        of_classes = {"zero_shot": whole, "together": whole}
    retrieval = attempt(evaluate_modalities, guide, *images)
    return {"retrieval": retrieval.get("retrieval", retrieval), **of_classes}


def evaluate_subject(subject: Subject) -> dict[str, Any]:
    """All that is asked of a guide of one kind of view."""
    names = subject.names
    knows = {
        name: {
            topic: {measure: attempt(ask, subject, name) for measure, ask in asked.items()}
            for topic, asked in KNOWS.items()
        }
        for name in names
    }
    asked_of_guide = WHOLE if subject.effort.fine_tune is None else {**WHOLE, "fine_tuning": fine_tuning}
    return {
        "knows": knows,
        "disentanglement": attempt(_disentanglement, subject, knows),
        "information": {
            name: {measure: attempt(ask, subject, name) for measure, ask in asked_of_space(name).items()}
            for name in names
        },
        **{name: attempt(ask, subject) for name, ask in asked_of_guide.items()},
    }


def _disentanglement(subject: Subject, knows: Mapping[str, Any]) -> dict[str, float | None]:
    """`disentanglement_scores` of the linear probes' accuracies and the ridge regressions' mean R²."""
    test = subject.labels[2]
    chance = int(torch.unique(test, return_counts=True)[1].max()) / len(test)
    classes, views = {}, {}
    for name in PARTS:
        accuracy, r2 = score_at(knows, name, "class", "linear"), score_at(knows, name, "views", "ridge", MEAN)
        if accuracy is None or r2 is None:
            raise NotJudgedError(f"{name} has no scores of both the class and the view")
        classes[name], views[name] = accuracy, r2
    return disentanglement_scores(classes, views, chance)


HEADLINE: Mapping[str, tuple[str, ...]] = {
    "class_linear": ("knows", "PRIMARY", "class", "linear"),
    "class_mlp": ("knows", "PRIMARY", "class", "mlp"),
    "class_knn": ("knows", "PRIMARY", "class", "knn"),
    "class_10_labels": ("knows", "PRIMARY", "class", "few_labels", "10", "mean"),
    "clusters": ("knows", "PRIMARY", "class", "clusters_full", "accuracy"),
    "views_r2": ("knows", "z", "views", "ridge", MEAN),
    "views_mlp_r2": ("knows", "z", "views", "mlp", MEAN),
    "views_auc": ("knows", "z", "views", "binary", "mean", "auc"),
    "attributes_auc": ("knows", "z", "attributes", "logistic", "mean", "auc"),
    "writing_r2": ("knows", "z", "writing", "ridge", MEAN),
    "content_lacks_views": ("disentanglement", "content_lacks_views"),
    "style_lacks_class": ("disentanglement", "style_lacks_class"),
    "effective_rank": ("information", "z", "effective_rank"),
    "infonce": ("information", "z", "infonce", "bound"),
    "mse": ("generation", "reconstruction", "mse"),
    "bits_per_dim": ("generation", "reconstruction", "bits_per_dim"),
    "fid": ("generation", "fid", "distance"),
    "fine_tuned": ("fine_tuning", "accuracy"),
}
"""Scores that a run is known by, and where they stand; PRIMARY is content, or z where there is none."""


def headline(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """The scores of `HEADLINE`, None for what has none; with several kinds of view, all are None."""
    primary = "content" if "content" in scores.get("knows", {}) else "z"
    return {
        name: score_at(scores, *(primary if key == "PRIMARY" else key for key in place))
        for name, place in HEADLINE.items()
    }


def score_at(scores: Any, *place: str) -> float | None:
    """The number at a place in nested scores; None where there is none."""
    for key in place:
        scores = scores.get(key) if isinstance(scores, Mapping) else None
    return float(scores) if isinstance(scores, int | float) else None


def attempt(evaluator: Callable[..., Any], *arguments: Any) -> Any:
    """What an evaluator finds, ``{"skipped": WHY}`` or ``{"error": WHY}``."""
    try:
        return evaluator(*arguments)
    except NotJudgedError as reason:
        return {"skipped": str(reason)}
    except FAILURES as error:
        return {"error": str(error) or type(error).__name__}


if __name__ == "__main__":
    sys.exit(main())

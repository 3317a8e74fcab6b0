"""Scores of a fitted run: the suite of evaluators on its splits, results.json, and reading what was written."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pp_simve.data import ImageData, Split
from pp_simve.errors import ConfigError
from pp_simve.evaluation.bound import bound_terms
from pp_simve.evaluation.records import MEAN, REPRESENTATIONS, Record, score, select
from pp_simve.evaluation.subject import EVALUATION_SEED, SPLITS, Effort
from pp_simve.evaluation.suite import Announce, Level, evaluate_modalities, evaluate_representations
from pp_simve.inference import ELBO, Guide, Run
from pp_simve.inference.device import device_name
from pp_simve.run.config import Settings
from pp_simve.run.files import read_json
from pp_simve.run.methods import Program
from pp_simve.run.viewing import Viewing

QUICK = Effort()
PIXELS = 2**22
"""Of the images of a split, and of views of them, that any fit is scored on, however short: 4,096 of 32 pixels a side,
455 of 96, 83 of 224. Without a GPU it takes half a minute."""
QUICK_REPRESENTATIONS = ("backbone", "z", "content", "pixels")
"""Those evaluated at the end of a fit: style of a single view is what content leaves of z."""
HANDWRITING = ("digits", "mnist")
"""Data sets whose images are of handwriting."""
ALL_MODALITIES = "content of all modalities"
MEAN_R2 = "mean_r2"


def most_scored(settings: Settings, data: ImageData) -> int:
    """Images of a split, or views of them, that a fit is scored on at most: as many as it saw, or `PIXELS` of them.

    Sizes and counts alone decide, so that scores can be reproduced; scoring then takes no longer than fitting.
    """
    _, height, width = data.image_shape
    seen = settings.steps * settings.batch_size * settings.accumulate or round(settings.epochs * len(data.train))
    return max(1, PIXELS // (height * width), seen)


def scored_images(data: ImageData, most: int) -> ImageData:
    """The first images of every split, those with a label, as many at most."""
    return replace(data, **{name: getattr(data, name).labeled().first(most) for name in SPLITS})


def evaluate_run(
    program: Program,
    viewing: Viewing,
    data: ImageData,
    level: Level,
    effort: Effort | None = None,
    announce: Announce = nullcontext,
    untrained: Guide | None = None,
) -> list[Record]:
    """The records of a fitted program: of its representations, or of each of its modalities and across them.

    Args:
        program: fitted.
        viewing: how views are drawn.
        data: whose splits are used.
        level: of the suite.
        effort: the one of the end of a fit by default.
        announce: called with what is evaluated next, which is done in the context that it returns.
        untrained: the guide before the fit, for the full level.
    """
    device = next(program.objective.parameters()).device
    options: dict[str, Any] = {
        "level": level,
        "representations": QUICK_REPRESENTATIONS if level == "quick" else (*REPRESENTATIONS, "pixels"),
        "effort": effort or QUICK,
        "attribute_names": data.attribute_names,
        "announce": announce,
    }
    if untrained is not None:
        options["representations"] += ("untrained",)
        options["untrained"] = untrained
    splits = [on_device(getattr(data, name).labeled(), device) for name in SPLITS]
    if not isinstance(viewing.policy, dict):
        options |= {"model": program.model, "handwriting": data.name in HANDWRITING}
        return evaluate_representations(program.guide, viewing.policy, *splits, **options)
    assert viewing.modalities is not None  # as there are policies by modality
    of_modality: dict[str, list[Split]] = {}
    for split in splits:
        for name, images in viewing.modalities.images(split).items():
            of_modality.setdefault(name, []).append(Split(images, split.labels, split.attributes))
    return evaluate_modalities(program.guide, viewing.policy, of_modality, **options)


def run_results(
    run: Run,
    program: Program,
    viewing: Viewing,
    data: ImageData,
    config: Settings,
    most: int,
    *,
    scored: bool = True,
    announce: Announce = nullcontext,
) -> dict[str, Any]:
    """The entries of results.json: scores on test as fractions, the bound in nats per image, and what the fit cost.

    Args:
        run: the fit.
        program: fitted.
        viewing: how views are drawn.
        data: the `scored_images`.
        config: settings of the fit.
        most: views of a split at most.
        scored: whether there are records, and values of headline and bound.
        announce: as in `evaluate_run`.
    """
    started = time.perf_counter()
    device = next(program.objective.parameters()).device
    records = evaluate_run(program, viewing, data, "quick", QUICK.at_most(most), announce) if scored else []
    bound = None
    if scored and program.model.likelihood is not None:
        # The same bound for all, whatever they were fitted by: a weighted or importance-weighted one would not compare.
        elbo = ELBO(program.model, program.guide, alpha=0.0)
        with announce("bound"):
            bound = bound_terms(elbo, viewing.source(on_device(data.test, device)), seed=EVALUATION_SEED)
        bound.pop("group", None)  # of the batches it was computed in, and no part of this bound
    return {
        **headline(records),
        "bound": bound,
        "is_bound": bound is not None and program.guide.has_density,
        "seconds_per_epoch": run.seconds_per_epoch,
        "peak_memory_mb": run.peak_memory_mb,
        "epochs": run.epochs,
        "steps": run.steps,
        "batch_size": config.batch_size * config.accumulate,
        "views": config.views,
        "modalities": viewing.names,
        "parameters": sum(parameter.numel() for parameter in program.objective.parameters()),
        "seed": config.seed,
        "device": device_name(device),
        "seconds_evaluating": time.perf_counter() - started,
        "records": [record.to_json() for record in records],
    }


def images_in_words(data: ImageData, part: ImageData, most: int) -> str:
    """How many images and views the scores of the `scored_images` are of."""
    effort, words = QUICK.at_most(most), []
    for name in SPLITS:
        images, of = len(getattr(part, name)), len(getattr(data, name).labeled())
        some = f"{images:,}" + (f" of {of:,}" if images < of else "")
        words.append(f"{some} {name} images ({min(images, effort.max_views) * effort.views_of(images):,} views)")
    return ", ".join(words)


def headline(records: list[Record]) -> dict[str, dict[str, Any]]:
    """The scores a method is compared by: the class from content (z where it has none), the views from z.

    Of several modalities: the class from content of all of them; view parameters are those of each alone.
    """
    together = select(records, task="together")
    primary = "content" if together or select(records, representation="content") else "z"
    of_class = together or select(records, task="class", representation=primary)
    content = {probe: score(of_class, probe=probe) for probe in ("linear", "knn")}
    of_views = select(records, task="view", probe="ridge", representation="z", modality="")
    style = {MEAN_R2 if one.target in (MEAN, "") else one.target: one.value for one in of_views}
    return {
        "content": {**content, "representation": ALL_MODALITIES if together else primary},
        "style": {MEAN_R2: None, **style, "representation": "z"},
    }


def read_scores(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """The entries and the records of a results.json or evaluation.json.

    Raises:
        ConfigError: the file is missing or damaged, or of a version without score records.
    """
    entries = read_json(path)
    if "records" not in entries:
        command = "fit" if path.name == "results.json" else "evaluate"
        raise ConfigError(f"{path} has no score records: another version wrote it; {command} again")
    try:
        return entries, [Record.from_json(one) for one in entries["records"]]
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error})") from None


def on_device(split: Split, device: torch.device) -> Split:
    """The split with its tensors on a device: attributes, too, which may be views of a modality."""
    labels, attributes = (None if part is None else part.to(device) for part in (split.labels, split.attributes))
    return Split(split.images.to(device), labels, attributes)

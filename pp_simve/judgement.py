"""The first judgement at the end of a fit: scores on the test split, a table of them, and figures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pp_simve.data import ImageData, Split
from pp_simve.evaluation import (
    columns_figure,
    evaluate_modalities,
    judge,
    loss_figure,
    reconstruction_figure,
    samples_figure,
    swap_figure,
)
from pp_simve.evaluation.bound import bound_terms
from pp_simve.evaluation.figures import interpolation_figure, traversal_figure
from pp_simve.evaluation.generation import interpolate, reconstruct, sample, swap, traverse
from pp_simve.evaluation.multimodal import SingleModality
from pp_simve.inference import ELBO, Guide, Run
from pp_simve.inference.augmentations import AugmentationPolicy, draw_views
from pp_simve.inference.device import device_name
from pp_simve.inference.tools import unit_range
from pp_simve.run.config import Settings
from pp_simve.run.folder import RunFolder
from pp_simve.run.methods import Program
from pp_simve.run.viewing import Viewing, is_vector

JUDGEMENT_SEED = 1_000_000  # the same views for every run, whatever its own seed
JUDGED = ("backbone", "z", "content")  # of a single view, style is what content leaves of z
IMAGES_SHOWN = 8
VIEWS_OF_CONTENT = 16
PAIRS_SHOWN = 4
IMAGES_MOVED = 2
DEVIATIONS = (-2.0, -1.0, 0.0, 1.0, 2.0)
IMAGES_IN_RANGE = 1000  # whose views say over which range an axis of z moves


def judge_run(run: Run, program: Program, viewing: Viewing, data: ImageData, config: Settings) -> dict[str, Any]:
    """What results.json holds: scores on test as fractions, the bound in nats per image, and what the fit cost."""
    started = time.perf_counter()
    device = next(program.objective.parameters()).device
    splits = [on_device(split, device) for split in (data.train, data.validation, data.test)]
    judged = _judge_alone if viewing.modalities is None else _judge_kinds
    bound = None
    if program.model.likelihood is not None:
        # The same bound for all, whatever they were fitted by: a weighted or importance-weighted one would not compare.
        elbo = ELBO(program.model, program.guide, alpha=0.0)
        bound = bound_terms(elbo, viewing.source(splits[-1]), seed=JUDGEMENT_SEED)
        bound.pop("group", None)  # of the batches it was computed in, and no part of this bound
    return {
        **judged(program, viewing, splits),
        "bound": bound,
        "is_bound": bound is not None and program.guide.has_density,
        "seconds_per_epoch": run.seconds_per_epoch,
        "peak_memory_mb": run.peak_memory_mb,
        "epochs": run.steps * config.batch_size / len(data.train),
        "steps": run.steps,
        "batch_size": config.batch_size,
        "views": config.views,
        "parameters": sum(parameter.numel() for parameter in program.objective.parameters()),
        "seed": config.seed,
        "device": device_name(device),
        "seconds_judging": time.perf_counter() - started,
    }


def _judge_alone(program: Program, viewing: Viewing, splits: Sequence[Split]) -> dict[str, Any]:
    """Views of one kind: what each representation knows."""
    knows = judge(program.guide, viewing.policies[None], *splits, seed=JUDGEMENT_SEED, representations=JUDGED)
    return {**headline(knows), "knows": knows}


def _judge_kinds(program: Program, viewing: Viewing, splits: Sequence[Split]) -> dict[str, Any]:
    """Views of several kinds: what each knows alone, what they know together, and how they find one another."""
    images = images_by_modality(viewing, splits)
    kinds = {
        kind: judge(alone, policy, *of_modality, seed=JUDGEMENT_SEED, representations=JUDGED)
        for kind, alone, policy, of_modality in modalities_alone(program.guide, viewing, images, splits)
    }
    train, validation, test = (split.labels for split in splits)
    labels = None if train is None or validation is None or test is None else (train, validation, test)
    return {"kinds": kinds, **evaluate_modalities(program.guide, images[0], images[1], images[2], labels)}


def images_by_modality(viewing: Viewing, splits: Sequence[Split]) -> list[dict[str, Tensor]]:
    """The images of each split by kind, where views are of several."""
    return [{str(kind): part for kind, part in viewing.images(split).items()} for split in splits]


def modalities_alone(
    guide: Guide, viewing: Viewing, images: Sequence[Mapping[str, Tensor]], splits: Sequence[Split]
) -> Iterator[tuple[str, Guide, AugmentationPolicy, tuple[Split, Split, Split]]]:
    """Each kind as if it were the only one: its name, the guide without the others, its policy and its splits."""
    for kind, policy in viewing.policies.items():
        name = str(kind)
        train, validation, test = (
            Split(part[name], split.labels, split.attributes) for part, split in zip(images, splits, strict=True)
        )
        yield name, SingleModality(guide, name), policy, (train, validation, test)


def headline(knows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a method is known by: the class from its content (z where it has none), the views from its z."""
    primary = "content" if "content" in knows else "z"
    content = {name: knows[primary][name] for name in ("linear", "knn")}
    style = {name: score for name, score in knows["z"].items() if name not in content}
    return {"content": {**content, "representation": primary}, "style": {**style, "representation": "z"}}


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """The scores as tables: a row a measure, a column a representation; and what the fit cost."""
    judged = results["kinds"] if "kinds" in results else {None: results["knows"]}
    for kind, knows in judged.items():
        console.print(knowledge_table("test split" if kind is None else f"test split, from {kind} alone", knows))
    if "kinds" in results:
        console.print(modalities_table(results))
    if results["bound"] is not None:
        measure = f"ELBO of {results['views']} views" + (" of each kind" if "kinds" in results else "")
        no_bound = "" if results["is_bound"] else " (no bound)"
        console.print(f"{measure}{no_bound}: {-results['bound']['loss']:.1f} nats an image")
    for note in dict.fromkeys(note for knows in judged.values() for note in knows.get("notes", {}).values()):
        console.print(f"note: {note}", markup=False)
    console.print(
        f"{results['seconds_per_epoch']:.2f} s an epoch, {results['peak_memory_mb']:,.0f} MB at most, "
        f"judged in {results['seconds_judging']:.1f} s",
        soft_wrap=True,
    )


def knowledge_table(title: str, scores_and_notes: Mapping[str, Any]) -> Table:
    """What `judge` found: a row a measure, a column a representation."""
    knows = {name: scores for name, scores in scores_and_notes.items() if name != "notes"}
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("knows")
    table.add_column("measure")
    for representation in knows:
        table.add_column(representation, justify="right")
    for measure, words in {"linear": "linear probe, accuracy", "knn": "k-NN, accuracy"}.items():
        table.add_row("class", words, *(_percent(scores[measure]) for scores in knows.values()))
    table.add_section()
    names = dict.fromkeys(name for scores in knows.values() for name in scores)
    for name in [*(name for name in names if name not in ("linear", "knn", "mean_r2")), "mean_r2"]:
        shown = "views, mean" if name == "mean_r2" else name
        table.add_row(shown, "ridge, R²", *(_fraction(scores.get(name)) for scores in knows.values()))
    return table


def modalities_table(results: Mapping[str, Any]) -> Table:
    """Retrieval of one kind by another, and classes from prompts of another."""
    table = Table(title="test split, across kinds", title_justify="left", title_style="bold")
    for heading in ("from, to", "measure"):
        table.add_column(heading)
    for heading in ("score", "chance"):
        table.add_column(heading, justify="right")
    for direction, scores in results.get("retrieval", {}).items():
        for name in scores:
            if name.startswith("recall@"):
                chance = scores[name.replace("recall", "chance")]
                table.add_row(direction, f"retrieval, {name}", _percent(scores[name]), _percent(chance))
    for direction, scores in results.get("zero_shot", {}).items():
        table.add_row(direction, "class, zero-shot", _percent(scores["accuracy"]), _percent(scores["chance"]))
    if "together" in results:
        for name, words in {"linear": "linear probe", "knn": "k-NN"}.items():
            table.add_row("all kinds", f"class, {words}", _percent(results["together"]["content"][name]), "")
    return table


@torch.no_grad()
def write_figures(program: Program, viewing: Viewing, data: ImageData, folder: RunFolder) -> None:
    """Loss terms and, where pixels are modelled, what the program draws, as PNG files."""
    folder.write_figure("loss", loss_figure(folder.read_metrics()))
    if program.model.likelihood is None:
        return  # nothing to decode
    device = next(program.objective.parameters()).device
    if viewing.modalities is None:
        _write_pictures(program, viewing, viewing.images(data.test)[None][:IMAGES_IN_RANGE].to(device), folder)
        return
    images = {kind: part[:IMAGES_SHOWN].to(device) for kind, part in viewing.images(data.test).items()}
    for kind, shown in images.items():
        if not is_vector((shown.shape[1], shown.shape[2], shown.shape[3])):
            columns = {str(kind): _shown(unit_range(shown))}
            for given in images:
                view = {str(given): unit_range(images[given])[None]}
                content = program.guide.posterior(view)
                drawn = program.model.likelihood_of(str(kind))(content.z[0]).mean
                columns[f"from {given}"] = _shown(drawn)
            folder.write_figure(f"{kind}-from-each-kind", columns_figure(columns))


def _write_pictures(program: Program, viewing: Viewing, images: Tensor, folder: RunFolder) -> None:
    """Reconstructions, swaps, samples from the prior, interpolations and traversals."""
    model, guide = program.model, program.guide
    policy, device = viewing.policies[None], images.device
    shown = images[:IMAGES_SHOWN]
    generator = torch.Generator(device).manual_seed(JUDGEMENT_SEED)
    views, _ = draw_views(policy, shown, max(viewing.views, 2), generator=generator)
    rebuilt = reconstruct(model, guide, views)
    folder.write_figure(
        "reconstructions", reconstruction_figure(_shown(unit_range(shown)), _shown(views), _shown(rebuilt))
    )

    # Rows and columns are different images; the last half of them lends its style.
    content_views, _ = draw_views(policy, shown, VIEWS_OF_CONTENT, generator=generator)
    style_images = images[: 2 * IMAGES_SHOWN][-IMAGES_SHOWN:]
    style_views, _ = draw_views(policy, style_images, VIEWS_OF_CONTENT, generator=generator)
    swapped = swap(model, guide, content_views, style_views)
    folder.write_figure("swaps", swap_figure(_shown(unit_range(shown)), _shown(style_views[0]), _shown(swapped)))

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(JUDGEMENT_SEED)
        samples, title = sample(model, guide, content_views, 64)
    folder.write_figure("samples", samples_figure(_shown(samples), title))

    # The images themselves, placed by their views, too: content needs several.
    originals = unit_range(shown)
    whole = torch.cat([originals[None], content_views])
    pairs = min(PAIRS_SHOWN, len(shown))
    ways = interpolate(model, guide, whole[:, :pairs], whole[:, -pairs:])
    ways = {name: _shown(pictures) for name, pictures in ways.items()}
    folder.write_figure(
        "interpolation", interpolation_figure(_shown(originals[:pairs]), _shown(originals[-pairs:]), ways)
    )

    if len(images) > 1:  # of a single one, no axis has a range
        (in_range,), _ = draw_views(policy, images, 1, generator=generator)
        moved = originals[:IMAGES_MOVED]
        found = traverse(model, guide, moved, in_range, deviations=DEVIATIONS)
        figure = traversal_figure(_shown(moved), _shown(found.pictures), found.axes.tolist(), DEVIATIONS)
        folder.write_figure("traversals", figure)


def on_device(split: Split, device: torch.device) -> Split:
    """The split with its tensors on a device: attributes, too, which may be views of a kind."""
    labels, attributes = (None if part is None else part.to(device) for part in (split.labels, split.attributes))
    return Split(split.images.to(device), labels, attributes)


def _shown(images: Tensor) -> Tensor:
    return images.float().clamp(0, 1).cpu()


def _percent(score: float | None) -> str:
    return "–" if score is None else f"{100 * score:.1f} %"


def _fraction(score: float | None) -> str:
    return "–" if score is None else f"{score:.3f}"

"""The page of a run: report.html, which needs nothing beside itself, and what it says of what lies in the folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pp_simve.config import read_config
from pp_simve.data import ImageData
from pp_simve.evaluation.kinds import OneKind
from pp_simve.inference.checkpoint import write_whole
from pp_simve.inference.views import draw_views
from pp_simve.judgement import JUDGEMENT_SEED
from pp_simve.recipes import Program
from pp_simve.reporting import words
from pp_simve.reporting.curves import loss_panels
from pp_simve.reporting.embedding import Embedding, map_section
from pp_simve.reporting.looks import SCRIPT, STYLE
from pp_simve.reporting.markup import Markup, joined, number, png_uri, tag
from pp_simve.reporting.pictures import shrunk
from pp_simve.reporting.tables import directions_table, entries_table, knowledge_table, nats, plain, score, terms_table
from pp_simve.run_folder import RunFolder
from pp_simve.viewing import Viewing, is_vector

FIGURE_BYTES = 1_200_000
"""Of all figures together, before base64 makes a third more of them."""

ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What a browser may load: nothing that is not in the page."""


def write_report(folder: RunFolder, embedding: Embedding | None = None) -> Path:
    """Writes report.html of a run from what lies in its folder; what is not there is said to be missing.

    Args:
        folder: has a config.json at least.
        embedding: what to draw a map of, see `embed_test`.

    Returns:
        The file.

    Raises:
        ConfigError: no run folder, or its config.json is damaged.
        ValueError: results.json is damaged.
    """
    results = folder.path / "results.json"
    figures = {path.stem: path.read_bytes() for path in sorted((folder.path / "figures").glob("*.png"))}
    html = page(
        read_config(folder.path / "config.json"),
        json.loads(results.read_text()) if results.exists() else None,
        folder.read_metrics(),
        figures,
        embedding,
    )
    path = folder.path / "report.html"
    write_whole(path, html.encode())
    return path


@torch.no_grad()
def embed_test(program: Program, viewing: Viewing, data: ImageData, count: int = 1000) -> Embedding:
    """z of a view of each of the first test images, of each kind, for the map of a report.

    Args:
        program: fitted.
        viewing: how views are drawn.
        data: its test images are a fair sample, however many are taken.
        count: views at most, over all kinds.
    """
    device = next(program.objective.parameters()).device
    images = {
        kind: of_kind[: max(1, count // len(viewing.policies))] for kind, of_kind in viewing.images(data.test).items()
    }
    shown = len(next(iter(images.values())))
    found: dict[str, list[Tensor]] = {"z": [], "pictures": []}
    parameters: list[Mapping[str, Tensor]] = []
    for kind, of_kind in images.items():
        generator = torch.Generator(device).manual_seed(JUDGEMENT_SEED)
        views, drawn = draw_views(viewing.policies[kind], of_kind.to(device), 1, generator=generator)
        guide = program.guide if kind is None else OneKind(program.guide, str(kind))
        found["z"].append(guide.embed_batches(views[0]).z.float().cpu())
        # A vector is no picture: the image that it belongs to stands for it.
        vector = is_vector((of_kind.shape[1], of_kind.shape[2], of_kind.shape[3]))
        found["pictures"].append(data.test.images[:shown] if vector else (255 * views[0]).round().byte().cpu())
        parameters.append({name: values[0].cpu() for name, values in drawn.items()})
    names = list(dict.fromkeys(name for drawn in parameters for name in drawn))
    absent = torch.full((shown,), torch.nan)
    labels = data.test.labels
    return Embedding(
        z=torch.cat(found["z"]),
        pictures=_of_one_size(found["pictures"]),
        labels=None if labels is None else labels[:shown].cpu().repeat(len(images)),
        classes=data.classes,
        kinds=[] if viewing.modalities is None else [str(kind) for kind in images for _ in range(shown)],
        parameters={name: torch.cat([drawn.get(name, absent) for drawn in parameters]) for name in names},
    )


def page(
    settings: Mapping[str, Any],
    results: Mapping[str, Any] | None,
    history: Sequence[Mapping[str, float]],
    figures: Mapping[str, bytes],
    embedding: Embedding | None = None,
) -> Markup:
    """The whole page.

    Args:
        settings: the entries of config.json.
        results: those of results.json; None where the run was not judged.
        history: those of metrics.jsonl, a mapping a step.
        figures: PNG files by name.
        embedding: what to draw a map of.
    """
    config = settings.get("config", {})
    title = f"{config.get('method', 'a fit')} on {config.get('data', 'unknown data')}"
    drawn, colours = ([], Markup()) if embedding is None else map_section(embedding)
    sections = {
        "scores": ("Scores", _scores(results)),
        "map": ("Map of z", _map(drawn)),
        "knows": ("Who knows what", _knows(results)),
        "kinds": ("Across kinds of view", _across(results)),
        "pictures": ("Pictures", _pictures(figures, results, drawn_loss=bool(history))),
        "bound": ("Bound", _bound(results)),
        "curves": ("Curves", _curves(history)),
        "costs": ("Costs", _costs(results)),
        "settings": ("Settings", _settings(settings)),
    }
    sections = {name: section for name, section in sections.items() if section[1]}
    contents = [tag("li", tag("a", heading, href=f"#{name}")) for name, (heading, _) in sections.items()]
    header = tag(
        "header",
        tag("h1", title),
        tag("p", _introduction(settings), class_="lead"),
        tag("nav", tag("ul", *contents), aria_label="Contents"),
    )
    body = [
        tag("section", tag("h2", heading, id=f"{name}-heading"), *parts, id=name, aria_labelledby=f"{name}-heading")
        for name, (heading, parts) in sections.items()
    ]
    version = settings.get("version", "of an unknown version")
    footer = tag("footer", tag("p", f"Written by pp_simve {version}. Everything on this page is in this one file."))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=ALLOWED),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", STYLE, colours),
    )
    whole = tag("html", head, tag("body", header, tag("main", *body), footer, tag("script", SCRIPT)), lang="en")
    return Markup(f"<!doctype html>\n{whole}\n")


def _introduction(settings: Mapping[str, Any]) -> str:
    config, shape = settings.get("config", {}), settings.get("data_shape", {})
    size = "×".join(str(length) for length in shape.get("image", []))
    length = f"{plain(config['steps'])} steps" if config.get("steps") else f"{plain(config.get('epochs'))} epochs"
    kinds = f" of each kind ({config['modalities']})" if config.get("modalities") else ""
    views = "1 view" if config.get("views") == 1 else f"{config.get('views')} views"
    return (
        f"{plain(shape.get('images', 'unknown'))} training images of {size or 'unknown'} (channel×height×width), "
        f"{config.get('latent')} latents, {views}{kinds} drawn by {config.get('policy')}, {length}."
    )


def _scores(results: Mapping[str, Any] | None) -> list[Markup]:
    if results is None:
        return [_missing("No scores: results.json is missing, so the run is not finished or was never judged.")]
    tiles = []
    for name, of in (("content", "class"), ("style", "view")):
        for key in ("linear", "knn", "mean_r2"):
            scores = results.get(name, {})
            if key in scores:
                label = f"{of} from {scores.get('representation', name)}, {words.measure(key)[0]}"
                hint = (
                    "1: z tells how the view was drawn; 0: it does not" if key == "mean_r2" else words.measure(key)[1]
                )
                tiles.append(_tile(label, scores[key], score(key, scores[key]), hint))
    for key, value in results.get("together", {}).get("content", {}).items():
        tiles.append(
            _tile(f"class from all kinds, {words.measure(key)[0]}", value, score(key, value), words.measure(key)[1])
        )
    for direction, scores in results.get("retrieval", {}).items():
        value = scores.get("recall@1")
        tiles.append(_tile(f"{direction}, recall at 1", value, score("recall@1", value), words.measure("recall@1")[1]))
    if results.get("bound"):
        loss = results["bound"]["loss"]
        value = None if loss is None else -loss
        name = "ELBO" if results.get("is_bound") else "ELBO (no bound)"
        tiles.append(_tile(f"{name}, nats an image", value, nats(value), "of unseen images; higher is better"))
    return [
        tag("p", "On the test split; probes are fitted on train and chosen on validation.", class_="how"),
        tag("dl", *tiles, class_="tiles"),
    ]


def _map(drawn: list[Markup]) -> list[Markup]:
    if not drawn:
        return [_missing("No map: this page was written without the fitted program and its data.")]
    how = (
        "Every point is one view of a test image, placed by what the guide infers from this view alone. Clumps of one "
        "class are content; a parameter that shades the map from side to side is style that z holds. Two axes show "
        "only part of z."
    )
    return [tag("p", how, class_="how"), *drawn]


def _knows(results: Mapping[str, Any] | None) -> list[Markup]:
    if results is None:
        return []
    judged: dict[str, Any] = results["kinds"] if "kinds" in results else {"": results.get("knows", {})}
    tables = [
        knowledge_table(f"From {kind} alone" if kind else "What a representation tells of an image", knows)
        for kind, knows in judged.items()
    ]
    notes = dict.fromkeys(note for knows in judged.values() for note in knows.get("notes", {}).values())
    how = (
        "Columns are frozen representations: the encoder's backbone, the latent z, and content and style where they "
        "have a width. Class: a linear classifier and the nearest training images name it. View: ridge regression "
        "reads how it was drawn; R² is 1 if exactly, and 0 or below if not at all."
    )
    if "kinds" in results:
        how += " The other kinds of view are missing when one is judged alone."
    return [
        tag("p", how, class_="how"),
        *(_missing(f"A dash is a number that is not there: {note}.") for note in notes),
        tag("div", *tables, class_="pair"),
    ]


def _across(results: Mapping[str, Any] | None) -> list[Markup]:
    if results is None or "kinds" not in results:
        return []
    tables = []
    if results.get("retrieval"):
        tables.append(directions_table("Retrieval of one kind by another", results["retrieval"]))
    if results.get("zero_shot"):
        tables.append(directions_table("Classes from prompts of another kind", results["zero_shot"]))
    if results.get("together"):
        tables.append(knowledge_table("From all kinds together", results["together"]))
    how = (
        "Content inferred from the first kind is compared with contents inferred from the second, by cosine. Recall at "
        "k: share of test images whose other kind is among the k nearest. Median rank: its place, 1 is the best, the "
        "middle is chance. Balanced: the mean over classes."
    )
    parts = [tag("p", how, class_="how"), tag("div", *tables, class_="pair")]
    if not results.get("zero_shot"):
        parts.insert(1, _missing("No zero-shot classes: the data have no labels."))
    return parts


def _pictures(figures: Mapping[str, bytes], results: Mapping[str, Any] | None, *, drawn_loss: bool) -> list[Markup]:
    # The curves show the loss already, and in the page's colours.
    shown = {name: picture for name, picture in figures.items() if not (name == "loss" and drawn_loss)}
    if not shown:
        modelled = results is None or results.get("bound") is not None
        return [
            _missing(
                "No pictures: the folder holds no figures."
                if modelled
                else "No pictures: this method models no pixels, so there is no decoder to draw with."
            )
        ]
    order = [*(name for name in words.FIGURES if name in shown), *(name for name in shown if name not in words.FIGURES)]
    found = []
    for name in order:
        title, how = words.figure(name)
        picture = png_uri(shrunk(shown[name], FIGURE_BYTES // len(shown)))
        image = tag("img", src=picture, alt=f"{title}. {how}", loading="lazy")
        found.append(tag("figure", tag("h3", title), image, tag("figcaption", how)))
    return [tag("div", *found, class_="pictures")]


def _bound(results: Mapping[str, Any] | None) -> list[Markup]:
    if results is None:
        return []
    terms = results.get("bound")
    if terms is None:
        return [_missing("No bound: this method models no pixels, so there is no likelihood to bound.")]
    views = ("1 view" if results.get("views") == 1 else f"{results.get('views')} views") + (
        " of each kind" if "kinds" in results else ""
    )
    how = (
        f"The evidence lower bound of {views} of a test image, whatever objective it was fitted by: minus the loss "
        "below. Compare it between runs of the same data, likelihood and number of views only; under a flat prior it "
        "is improper."
    )
    parts = [tag("p", how, class_="how")]
    if not results.get("is_bound"):
        parts.append(_missing("This number is no bound: the guide answers by points, which have no density."))
    return [*parts, terms_table("Terms on the test split", terms)]


def _curves(history: Sequence[Mapping[str, float]]) -> list[Markup]:
    panels = loss_panels(history) if history else []
    if not panels:
        return [_missing("No curves: metrics.jsonl is missing or empty.")]
    how = (
        "Terms of the objective on training batches, means per image (nats, where a term is a log probability). The "
        "line is a mean over neighbouring steps, the band their range. The first tenth may run off the scale."
    )
    return [tag("p", how, class_="how"), tag("div", *panels, class_="panels")]


def _costs(results: Mapping[str, Any] | None) -> list[Markup]:
    if results is None:
        return []
    known = {
        name: (hint, joined(number(results[key], plain(results[key])), f" {unit}" if unit else None))
        for key, (name, unit, hint) in words.COSTS.items()
        if key in results
    }
    said = {"content", "style", "knows", "kinds", "retrieval", "zero_shot", "together", "bound", "is_bound"}
    other = {key: value for key, value in results.items() if key not in said and key not in words.COSTS}
    rest = {key: ("as it stands in results.json", json.dumps(value)) for key, value in other.items()}
    return [entries_table("What the fit took", ["what", "value"], known | rest)]


def _settings(settings: Mapping[str, Any]) -> list[Markup]:
    hints = words.settings()
    config = {
        f"--{name.replace('_', '-')}": (hints.get(name, ""), "not set" if value is None else str(value))
        for name, value in settings.get("config", {}).items()
    }
    shape = settings.get("data_shape", {})
    origin = {
        "commit": ("of the source; + where it was changed since", settings.get("commit") or "not a git checkout"),
        "version": ("of pp_simve", str(settings.get("version", "unknown"))),
        "torch": ("its version", str(settings.get("torch", "unknown"))),
        "data": ("fingerprint of all images, labels and attributes", str(settings.get("data_fingerprint", "unknown"))),
        "image": ("channel×height×width", "×".join(str(length) for length in shape.get("image", [])) or "unknown"),
        "training images": ("how many there are to fit", str(shape.get("images", "unknown"))),
        "attributes": ("of each image", str(shape.get("attributes") or "none")),
    }
    everything = tag("div", entries_table("Settings of the fit", ["setting", "value"], config), class_="words")
    return [
        tag("div", entries_table("Source and data", ["what", "value"], origin), class_="words"),
        tag("details", tag("summary", f"All {len(config)} settings"), everything),
    ]


def _tile(label: str, value: Any, shown: str, hint: str) -> Markup:
    return tag("div", tag("dt", label), tag("dd", number(value, shown)), tag("dd", tag("small", hint)))


def _missing(what: str) -> Markup:
    return tag("p", what, class_="missing")


def _of_one_size(pictures: list[Tensor]) -> Tensor:
    """Pictures of all kinds, as many channels and pixels each: the smaller ones in a black frame."""
    channels, height, width = (max(part.shape[axis] for part in pictures) for axis in (1, 2, 3))
    padded = [functional.pad(part, (0, width - part.shape[3], 0, height - part.shape[2])) for part in pictures]
    return torch.cat([part.expand(-1, channels, -1, -1) for part in padded])

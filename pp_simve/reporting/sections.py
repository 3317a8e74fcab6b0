"""Sections of the page of a run from what its fit left: results.json, metrics.jsonl, figures and config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pp_simve.reporting import words
from pp_simve.reporting.curves import loss_panels
from pp_simve.reporting.markup import Markup, joined, missing, number, png_uri, tag, tile
from pp_simve.reporting.pictures import shrunk
from pp_simve.reporting.tables import directions_table, entries_table, knowledge_table, nats, plain, score, terms_table

FIGURE_BYTES = 1_200_000
"""Of all figures together, before base64 makes a third more of them."""
PICTURE_BYTES = 150_000
"""Of one figure where there are not many."""


def scores_section(results: Mapping[str, Any] | None) -> list[Markup]:
    if results is None:
        return [missing("No scores: results.json is missing, so the run is not finished or was never judged.")]
    tiles = []
    for name, of in (("content", "class"), ("style", "view")):
        for key in ("linear", "knn", "mean_r2"):
            scores = results.get(name, {})
            if key in scores:
                label = f"{of} from {scores.get('representation', name)}, {words.measure(key)[0]}"
                hint = (
                    "1: z tells how the view was drawn; 0: it does not" if key == "mean_r2" else words.measure(key)[1]
                )
                tiles.append(tile(label, scores[key], score(key, scores[key]), hint))
    for key, value in results.get("together", {}).get("content", {}).items():
        tiles.append(
            tile(f"class from all kinds, {words.measure(key)[0]}", value, score(key, value), words.measure(key)[1])
        )
    for direction, scores in results.get("retrieval", {}).items():
        value = scores.get("recall@1")
        tiles.append(tile(f"{direction}, recall at 1", value, score("recall@1", value), words.measure("recall@1")[1]))
    if results.get("bound"):
        loss = results["bound"]["loss"]
        value = None if loss is None else -loss
        name = "ELBO" if results.get("is_bound") else "ELBO (no bound)"
        tiles.append(
            tile(
                f"{name}, nats an image",
                value,
                nats(value) if value is None or abs(value) < 1e4 else plain(float(value)),
                "of unseen images; higher is better",
            )
        )
    return [
        tag("p", "On the test split; probes are fitted on train and chosen on validation.", class_="how"),
        tag("dl", *tiles, class_="tiles"),
    ]


def map_section(drawn: list[Markup]) -> list[Markup]:
    if not drawn:
        return [missing("No map: this page was written without the fitted program and its data.")]
    how = (
        "Every point is one view of a test image, placed by what the guide infers from this view alone. Clumps of one "
        "class are content; a parameter that shades the map from side to side is style that z holds. Two axes show "
        "only part of z."
    )
    return [tag("p", how, class_="how"), *drawn]


def knows_section(results: Mapping[str, Any] | None) -> list[Markup]:
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
        *(missing(f"A dash is a number that is not there: {note}.") for note in notes),
        tag("div", *tables, class_="pair"),
    ]


def across_section(results: Mapping[str, Any] | None) -> list[Markup]:
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
        parts.insert(1, missing("No zero-shot classes: the data have no labels."))
    return parts


def pictures_section(
    figures: Mapping[str, bytes], results: Mapping[str, Any] | None, *, drawn_loss: bool
) -> list[Markup]:
    # The curves show the loss already, and in the page's colours.
    shown = {name: file for name, file in figures.items() if not (name == "loss" and drawn_loss)}
    if not shown:
        modelled = results is None or results.get("bound") is not None
        return [
            missing(
                "No pictures: the folder holds no figures."
                if modelled
                else "No pictures: this method models no pixels, so there is no decoder to draw with."
            )
        ]
    found = [picture(name, shown[name], FIGURE_BYTES // len(shown)) for name in words.in_order(shown)]
    return [tag("div", *found, class_="pictures")]


def picture(name: str, figure: bytes, limit: int = PICTURE_BYTES, level: str = "h3") -> Markup:
    """A figure of the run under its title, with how to read it.

    Args:
        name: of its file, without the ending.
        figure: a PNG file.
        limit: bytes; a larger one is shrunk.
        level: of the heading.
    """
    title, how = words.figure(name)
    image = tag("img", src=png_uri(shrunk(figure, limit)), alt=f"{title}. {how}")
    return tag("figure", tag(level, title), image, tag("figcaption", how))


def bound_section(results: Mapping[str, Any] | None) -> list[Markup]:
    if results is None:
        return []
    terms = results.get("bound")
    if terms is None:
        return [missing("No bound: this method models no pixels, so there is no likelihood to bound.")]
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
        parts.append(missing("This number is no bound: the guide answers by points, which have no density."))
    return [*parts, terms_table("Terms on the test split", terms)]


def curves_section(history: Sequence[Mapping[str, float]]) -> list[Markup]:
    panels = loss_panels(history) if history else []
    if not panels:
        return [missing("No curves: metrics.jsonl is missing or empty.")]
    how = (
        "Terms of the objective on training batches, means per image (nats, where a term is a log probability). The "
        "line is a mean over neighbouring steps, the band their range. The first tenth may run off the scale."
    )
    return [tag("p", how, class_="how"), tag("div", *panels, class_="panels")]


def costs_section(results: Mapping[str, Any] | None) -> list[Markup]:
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


def settings_section(settings: Mapping[str, Any]) -> list[Markup]:
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

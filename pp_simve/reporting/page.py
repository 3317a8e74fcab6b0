"""The page of a run, section by section; what is not there is left out, or said to be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pp_simve.evaluation.posterior.check import FIGURES as CHECKED
from pp_simve.evaluation.posterior.check import Diagnostics
from pp_simve.reporting import evaluated
from pp_simve.reporting import sections as of
from pp_simve.reporting.embedding import Embedding
from pp_simve.reporting.looks import SCRIPT, STYLE
from pp_simve.reporting.map import map_section
from pp_simve.reporting.markup import Markup, tag
from pp_simve.reporting.tables import plain
from pp_simve.reporting.trust import trust_section

ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What a browser may load: nothing that is not in the page."""


def page(
    settings: Mapping[str, Any],
    results: Mapping[str, Any] | None,
    history: Sequence[Mapping[str, float]],
    figures: Mapping[str, bytes],
    embedding: Embedding | None = None,
    evaluation: Mapping[str, Any] | None = None,
    diagnostics: Diagnostics | None = None,
) -> Markup:
    """The whole page.

    Args:
        settings: the entries of config.json.
        results: those of results.json; None where the run was not judged.
        history: those of metrics.jsonl, a mapping a step.
        figures: PNG files by name.
        embedding: what to draw a map of.
        evaluation: those of evaluation.json; None where the run was not evaluated.
        diagnostics: those of diagnostics.json; None where it was not diagnosed.
    """
    config = settings.get("config", {})
    title = f"{config.get('method', 'a fit')} on {config.get('data', 'unknown data')}"
    drawn, colours = ([], Markup()) if embedding is None else map_section(embedding)
    of_checks = {name: picture for name, picture in figures.items() if name.startswith(CHECKED)}
    of_fit = {name: picture for name, picture in figures.items() if name not in of_checks}
    of_evaluation = {
        "apart": ("Content and style", evaluated.apart_section),
        "information": ("Information", evaluated.information_section),
        "generation": ("Generation", evaluated.generation_section),
        "unjudged": ("Not judged", evaluated.unjudged_section),
    }
    judged = {
        name: (heading, [] if evaluation is None else of_it(evaluation))
        for name, (heading, of_it) in of_evaluation.items()
    }
    sections = {
        "scores": ("Scores", of.scores_section(results)),
        "map": ("Map of z", of.map_section(drawn)),
        "knows": (
            "Who knows what",
            of.knows_section(results) if evaluation is None else evaluated.knows_section(evaluation),
        ),
        "apart": judged["apart"],
        "information": judged["information"],
        "kinds": ("Across kinds of view", of.across_section(results)),
        "pictures": ("Pictures", of.pictures_section(of_fit, results, drawn_loss=bool(history))),
        "generation": judged["generation"],
        "bound": ("Bound", of.bound_section(results)),
        "trust": ("Is the posterior to be trusted", trust_section(diagnostics, of_checks)),
        "curves": ("Curves", of.curves_section(history)),
        "unjudged": judged["unjudged"],
        "costs": ("Costs", of.costs_section(results)),
        "settings": ("Settings", of.settings_section(settings)),
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

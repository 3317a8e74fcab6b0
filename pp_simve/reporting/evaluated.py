"""Sections of the page of a run from evaluation.json: every number with how to read it and what it cannot see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pp_simve.reporting.markup import Markup, missing, tag
from pp_simve.reporting.score_rows import (
    decimals,
    entry_at,
    known_table,
    names_at,
    number_at,
    pair_row,
    percent,
    row,
    scores_at,
    spread_row,
)
from pp_simve.reporting.tables import Group, Row, plain

PROBES = {"linear": "linear probe", "mlp": "MLP probe", "knn": "k-NN"}
CLUSTERS = {"clusters_diag": "diagonal", "clusters_full": "full"}
MEASURED = {"accuracy": "accuracy", "nmi": "NMI", "ari": "ARI"}
MEANS = ("mean", "mean_r2")

SHARES = {
    "content_keeps_class": (
        "content keeps of the class",
        "Knowledge of the class by the linear probe, above chance, over that of z.",
    ),
    "content_lacks_views": (
        "content lacks of the view",
        "One minus the mean R² of the view's parameters read from content, over that of z.",
    ),
    "style_keeps_views": ("style keeps of the view", "The mean R² read from style, over that of z."),
    "style_lacks_class": ("style lacks of the class", "One minus knowledge of the class from style, over that of z."),
    "mean": (
        "mean of the four",
        "1 is content and style wholly apart; copies of z, and parts that know nothing, both come to ½.",
    ),
}
"""Of disentanglement: a name and how to read it."""

SPACE = {
    "axes": ("axes", 0, "How many numbers the representation has."),
    "active_units": (
        "active axes",
        0,
        "Axes whose posterior mean differs between images; the others have collapsed to the prior. Cannot see whether "
        "an active axis is of any use.",
    ),
    "effective_rank": (
        "effective rank",
        1,
        "Number of directions used, by the entropy of the singular values (RankMe). Cannot see what they are used for.",
    ),
    "alignment": (
        "alignment of two views",
        3,
        "Mean squared distance of two views of an image on the unit sphere: 0 if they agree, 2 if unrelated. Also low "
        "where everything collapsed: read it with the next.",
    ),
    "uniformity": (
        "uniformity",
        3,
        "How evenly images cover the unit sphere; more negative is more even. Cannot see which images are neighbours.",
    ),
}
"""How a representation fills its space: a name, digits and how to read it."""

DRAWN = {
    "mse": (
        "mean squared error",
        4,
        "Of colours from 0 to 1, of test images as they are. Cannot see what a person sees.",
    ),
    "psnr": ("PSNR, dB", 1, "The same in decibels, a mean over images; higher is better."),
    "bits_per_dim": (
        "bits per dimension, at most",
        3,
        "What the model needs to tell a colour value, by its bound; lower is better. Comparable between models of the "
        "same images only, and blind to the looks of samples.",
    ),
}
"""Of reconstructions: a name, digits and how to read it."""


def knows_section(evaluation: Mapping[str, Any]) -> list[Markup]:
    """Who knows what: all tasks by all representations."""
    how = (
        "Columns are frozen representations: the encoder's backbone, the latent z, and content and style where they "
        "have a width. Probes are fitted on train, chosen on validation and judged once on test. A representation that "
        "lacks a score here may still hold what a probe of another kind would find."
    )
    parts: list[Markup] = [tag("p", how, class_="how")]
    for title, block in _blocks(evaluation, "What a representation tells of an image"):
        knows: Mapping[str, Any] = block.get("knows") or {}
        columns = list(knows)
        of = list(knows.values())
        parts.extend(known_table(title, columns, _tasks(of)))
        attributes = names_at(of, "attributes", "logistic")
        if attributes:
            rows = [pair_row(of, ("attributes", "logistic", name), name) for name in attributes]
            group = Group("Balanced accuracy / AUC", rows, "50 % and 0.5 are chance; a dash is constant in a split.")
            folded = known_table(f"{title}: each attribute", columns, [group])
            parts.append(tag("details", tag("summary", f"Each of {len(attributes)} attributes"), *folded))
    return parts


def apart_section(evaluation: Mapping[str, Any]) -> list[Markup]:
    """Content and style: how cleanly they are parted, and content of several views."""
    parts: list[Markup] = []
    for title, block in _blocks(evaluation, "How far they are parted"):
        groups = [
            Group(
                "Disentanglement: shares of what z knows",
                [
                    row([block], ("disentanglement", key), name, decimals(3), hint)
                    for key, (name, hint) in SHARES.items()
                ],
                "1 is the best, 0 the worst. Cannot see whether content and style share what neither task asks for.",
            ),
            Group(
                "Class from content of several views",
                [
                    row([block], ("several_views", count), f"{count} view{'s' * (count != '1')}", percent)
                    for count in names_at([block], "several_views")
                ],
                "A linear probe of content inferred from so many views of an image at once. It rises where one view "
                "hides what another shows; it cannot tell better content from a mean that is less noisy.",
            ),
            Group(
                "Class from the encoder trained with labels",
                [row([block], ("fine_tuning", "accuracy"), "fine-tuned", percent)],
                "What this network can do when all labels teach it: no score of the representation, but one to hold it "
                "against.",
            ),
        ]
        parts.extend(known_table(title, ["score"], groups))
    return parts


def information_section(evaluation: Mapping[str, Any]) -> list[Markup]:
    """How representations fill their space, and what two views of an image share of it."""
    parts: list[Markup] = []
    for title, block in _blocks(evaluation, "How representations fill their space"):
        found: Mapping[str, Any] = block.get("information") or {}
        of = list(found.values())
        ceilings = [value for scores in of if (value := number_at(scores, "infonce", "ceiling")) is not None]
        ceiling = f"at most {max(ceilings):.2f}" if ceilings else "at most log K"
        groups = [
            Group(
                "Space",
                [row(of, (key,), name, decimals(digits), hint) for key, (name, digits, hint) in SPACE.items()],
            ),
            Group(
                "Shared by two views of an image, nats",
                [
                    row(
                        of,
                        ("infonce", "bound"),
                        f"I by InfoNCE, {ceiling}",
                        decimals(2),
                        "A lower bound of their mutual information. It cannot pass its ceiling, log K of K test "
                        "images; near that, the information may be any amount more.",
                    ),
                    row(
                        of,
                        ("prior_information",),
                        "I under the fitted prior",
                        decimals(2),
                        "The closed form for z: what the program believes, not what the data show.",
                    ),
                ],
            ),
            Group("KL of the posterior from the prior an axis, nats", _divergences(of)),
        ]
        parts.extend(known_table(title, list(found), groups))
    return parts


def generation_section(evaluation: Mapping[str, Any]) -> list[Markup]:
    """Reconstruction and samples in numbers."""
    scores = evaluation.get("generation") or {}
    drawn = [
        row([scores], ("reconstruction", key), name, decimals(digits), hint)
        for key, (name, digits, hint) in DRAWN.items()
    ]
    images = number_at(scores, "fid", "images")
    hint = (
        f"Distance of {plain(int(images or 0))} samples and as many test images in features of Inception; lower is "
        "better. It falls with their number, so compare equal ones; blind to whether samples copy training images."
    )
    sampled = row([scores], ("fid", "distance"), "FID", decimals(1), hint)
    notes = [missing(f"{note[0].upper()}{note[1:]}.") for note in scores_at(scores, "reconstruction", "notes").values()]
    return [
        *known_table("Numbers of pictures", ["score"], [Group("Reconstruction", drawn), Group("Samples", [sampled])]),
        *notes,
    ]


def unjudged_section(evaluation: Mapping[str, Any]) -> list[Markup]:
    """What has no number, and why: failures in the open, what there was nothing to ask about folded."""
    failed, skipped = (
        [missing(f"{', '.join(places)}: {reason}.") for reason, places in _reasons(evaluation, key).items()]
        for key in ("error", "skipped")
    )
    parts = [tag("p", "Failed, so that there is no number:"), *failed] if failed else []
    if skipped:
        parts.append(tag("details", tag("summary", "What there was nothing to ask about"), *skipped))
    return parts


def _tasks(of: Sequence[Any]) -> list[Group]:
    """Groups of the matrix, from what each representation knows."""
    few, attributes = names_at(of, "class", "few_labels"), names_at(of, "attributes", "logistic")
    return [
        Group(
            "Class: share of images named rightly",
            [row(of, ("class", key), name, percent) for key, name in PROBES.items()],
            "By a linear classifier; by one with a hidden layer, which also finds what is folded; by the nearest "
            "training images, which is high where classes lie in clumps and blind to a class in few of many axes.",
        ),
        Group(
            "Class from few labels, mean ± sd over draws, %",
            [
                spread_row(of, ("class", "few_labels", count), f"{count} label{'s' * (count != '1')} a class")
                for count in few
            ],
            "The linear probe again. Cannot see what a method would make of the unlabelled images besides.",
        ),
        Group(
            "Clusters without labels",
            [
                row(of, ("class", kind, key), f"{name}, {measure}", percent if key == "accuracy" else decimals(3))
                for kind, name in CLUSTERS.items()
                for key, measure in MEASURED.items()
            ],
            "A Gaussian mixture, of diagonal or full covariances, matched to the classes; NMI and ARI need no match, "
            "ARI is 0 by chance. Blind to classes that are no single Gaussian.",
        ),
        *(
            Group(
                f"View by {by}: R²",
                [row(of, ("views", key, name), name, decimals(3)) for name in _last(of, key)],
                hint,
            )
            for key, by, hint in (
                (
                    "ridge",
                    "ridge regression",
                    "How one view of an unseen image was drawn: 1 is known exactly, 0 and below not at all. Blind to "
                    "what is not linear in the features.",
                ),
                ("mlp", "an MLP", "The same with a hidden layer; the gap is what the features hold, but bent."),
            )
        ),
        Group(
            "View, yes or no: AUC",
            [
                row(of, ("views", "binary", name, "auc"), name, decimals(3))
                for name in names_at(of, "views", "binary")
                if name not in MEANS
            ],
            "0.5 is chance, 1 perfect. Says nothing of where to draw the line.",
        ),
        Group(
            "View, angles: R² of the point on the circle",
            [row(of, ("views", "angles", name, "r2"), name, decimals(3)) for name in names_at(of, "views", "angles")],
            "As R², for what is the same after a full turn.",
        ),
        Group(
            "Attributes, mean: balanced accuracy / AUC",
            [pair_row(of, ("attributes", "logistic", "mean"), f"{len(attributes)} attributes")],
            "50 % and 0.5 are chance. A mean hides which attributes: each is below.",
        ),
        Group(
            "Writing: R²",
            [
                row(of, ("writing", "ridge", name), name.replace("_", " ").replace("mean r2", "mean R²"), decimals(3))
                for name in sorted(names_at(of, "writing", "ridge"), key=lambda name: name in MEANS)
            ],
            "What moments of the ink measure of the image itself, by ridge regression. Blind to style that moments do "
            "not hold.",
        ),
    ]


def _divergences(of: Sequence[Any]) -> list[Row]:
    """Least, median and most over the axes."""
    lists = [sorted(found) if isinstance(found := entry_at(scores, "kl_by_axis"), list) else [] for scores in of]
    places: dict[str, Callable[[list[float]], float]] = {
        "least": lambda values: values[0],
        "median": lambda values: values[len(values) // 2],
        "most": lambda values: values[-1],
    }
    hint = "Near 0 an axis says nothing of the image: it has collapsed. Cannot see what the others say."
    rows = []
    for name, at in places.items() if any(lists) else ():
        values = [at(divergences) if divergences else None for divergences in lists]
        texts = [decimals(2)(value) for value in values]
        rows.append(Row(name, values, texts, hint if name == "most" else "", bars=False))
    return rows


def _last(of: Sequence[Any], probe: str) -> list[str]:
    """Parameters of the view, then their mean where there are several."""
    names = names_at(of, "views", probe)
    parameters = [name for name in names if name not in MEANS]
    return [*parameters, *(name for name in names if name in MEANS and len(parameters) > 1)]


def _blocks(evaluation: Mapping[str, Any], title: str) -> list[tuple[str, Mapping[str, Any]]]:
    """What was asked of the guide, of each kind of view where there are several, and what to call it."""
    kinds: Mapping[str, Any] = evaluation.get("kinds") or {}
    return [(f"{title}, from {kind} alone", block) for kind, block in kinds.items()] or [(title, evaluation)]


def _reasons(found: Mapping[str, Any], key: str) -> dict[str, list[str]]:
    """What has no number, by reason."""

    def walk(entries: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for name, entry in entries.items():
            if isinstance(entry, Mapping):
                if key in entry:
                    yield str(entry[key]), " ".join((*place, name)).replace("_", " ")
                else:
                    yield from walk(entry, (*place, name))

    by_reason: dict[str, list[str]] = {}
    for reason, place in walk(found, ()):
        by_reason.setdefault(reason, []).append(place)
    return by_reason

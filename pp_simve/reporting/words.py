"""What the numbers of a run are and how to read them, a short line each."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable

from pp_simve.run.config import FitConfig

MEASURES = {
    "linear": ("linear probe", "share of test images whose class a linear classifier names; 100 % is perfect"),
    "knn": ("k-NN", "the same by the nearest training images; high where classes lie in clumps"),
    "mean_r2": ("mean R²", "over the view's parameters"),
    "accuracy": ("class, zero-shot", "share of test images whose class is named from the other kind's prompts"),
    "balanced_accuracy": ("the same, balanced", "mean over the classes, so that common ones do not outweigh rare ones"),
    "median_rank": ("median rank", "place of the right one among all; 1 is the best, the middle is chance"),
}
"""Measures by their key in results.json: a name and how to read it."""

TERMS = {
    "loss": "what is minimised; lower is better",
    "reconstruction": "log p(views | z): how well z explains the pixels; higher is better",
    "content": "log p(content) − log q(content): minus what content costs",
    "style": "log p(style | content), less log q(style) where style is sampled: how near views of an image stay",
    "entropy": "how far z spreads; keeps it from collapsing",
    "group": "log p(group | z): how surely a view's image is found; 0 is certain",
    "consistency": "how well posteriors of an image and its view agree; higher is better",
    "agreement": "how well views of an image agree; higher is better",
    "assignment": "log probability of the prototype another view was assigned to; 0 is certain",
    "instance": "log probability of the right image among all; 0 is certain",
    "invariance": "how far axes are from agreeing across views; lower is better",
    "redundancy": "how far different axes are from being uncorrelated; lower is better",
    "gain": "what several samples add to the bound of one",
}
"""Terms of objectives by name."""

COSTS = {
    "seconds_per_epoch": ("time an epoch", "s", "one pass over the training images"),
    "peak_memory_mb": ("memory at most", "MB", "on the GPU, or of the process on a CPU"),
    "epochs": ("epochs", "", "passes over the training images"),
    "steps": ("steps", "", "batches the parameters moved by"),
    "batch_size": ("batch", "images", "seen at once, over all devices"),
    "views": ("views", "", "of each image, and of each kind where there are several"),
    "parameters": ("parameters", "", "numbers in model, guide and objective"),
    "seconds_evaluating": ("evaluation", "s", "probes, scores and the bound"),
    "seed": ("seed", "", "decides initial parameters, batches, views and samples"),
    "device": ("device", "", "what the fit ran on"),
}
"""Costs by their key in results.json: a name, a unit and what it is."""

FIGURES = {
    "reconstructions": (
        "Reconstructions",
        "Test images, views of them, and what the decoder makes of each view's z. Good: the view comes back, its "
        "position and shape with it.",
    ),
    "swaps": (
        "Swaps",
        "Content of the row's image with the style of the column's view. Good: one class along a row, one pose down "
        "a column.",
    ),
    "interpolation": (
        "Interpolation",
        "The straight way in latent space from one test image to another, decoded: of all of z, and of content alone "
        "with the style of the first. Good: every step looks like an image of the data, and with content alone the "
        "pose stays.",
    ),
    "traversals": (
        "Traversals",
        "One axis of z moved at a time, over the range that it has in the data, all others kept as they are for the "
        "image on top; the axes whose means vary most come first. Good: a row changes one thing, the same in every "
        "image.",
    ),
    "samples": ("Samples", "Images decoded from latents the prior drew. Good: varied, and of the data's kind."),
    "diagnose-khat": (
        "k̂ and the bound's gap",
        "Left, images by k̂, red above the threshold; right, each image's gap between the ELBO and a bound by all its "
        "draws; below, the images with the largest k̂. Good: k̂ left of the line, gaps near 0.",
    ),
    "diagnose-calibration": (
        "Ranks of the truth, an axis each",
        "Above, each curve's departure from uniform ranks; red ones leave the band that all stay in where the guide is "
        "the posterior. Below, the ranks' histogram. Good: grey curves in the band, flat histograms.",
    ),
    "diagnose-calibration-pooled": (
        "Ranks of the truth, axes pooled",
        "The same with the axes of a latent taking turns, which shows a fault that all of them share.",
    ),
    "diagnose-predictions": (
        "Statistics of views and of their replicates",
        "A point a view: the statistic of the view, and its mean over views decoded and drawn from the guide's "
        "latents. Good: along the dashed line.",
    ),
    "diagnose-left-out": (
        "Ranks of a view among those predicted for it",
        "A view's statistic, ranked among views predicted from the content of the image's others. Good: in the band.",
    ),
    "diagnose-axes": (
        "Axes",
        "Above, how much narrower than the prior the posterior of each axis is; below, mean and spread of all images' "
        "posteriors together, in the prior's standard deviations. Good: below, mean 0 and spread 1; above there is no "
        "good or bad.",
    ),
    "diagnose-refined": (
        "k̂ and the bound's gap, refined",
        "As above, after each image's variational parameters were improved by themselves.",
    ),
    "loss": ("Loss", "The terms of the loss over the steps."),
}
"""Figures by file name: a title and how to read it."""


def measure(key: str) -> tuple[str, str]:
    """Name of a measure and how to read it; any other is a view parameter."""
    if found := re.fullmatch(r"recall@(\d+)", key):
        return f"recall at {found[1]}", f"share of queries whose right one is among the {found[1]} nearest"
    return MEASURES.get(key, (key, ""))


def chance_key(key: str) -> str | None:
    """Where results.json holds what guessing scores by a measure."""
    if key.startswith("recall@"):
        return key.replace("recall", "chance")
    return {"accuracy": "chance", "balanced_accuracy": "chance_balanced"}.get(key)


def figure(name: str) -> tuple[str, str]:
    """Title of a figure and how to read it."""
    if found := re.fullmatch(r"(.+)-from-each-(?:kind|modality)", name):
        return f"{found[1]}, from each kind", "The first column is real; the others decode it from one kind of view."
    return FIGURES.get(name, (name, "A figure of this run."))


def in_order(figures: Iterable[str]) -> list[str]:
    """Names of figures in the order of `FIGURES`, then the others as they come."""
    names = list(figures)
    return [*(name for name in FIGURES if name in names), *(name for name in names if name not in FIGURES)]


def settings() -> dict[str, str]:
    """What each setting of a fit is, from the class that defines it; empty where its source is not at hand."""
    try:
        body = ast.parse(inspect.getsource(FitConfig)).body[0]
    except OSError:
        return {}
    assert isinstance(body, ast.ClassDef)
    found = {}
    for entry, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(entry, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(entry.target)] = inspect.cleandoc(str(text.value.value))
    return found

"""The first judgement of a fitted guide: what its content knows of the class, and its z of the view."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from pp_simve.evaluation.content import content_scores
from pp_simve.evaluation.style import MEAN, style_scores
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.views import ViewPolicy, draw_views

Scores = dict[str, float | str | None]
"""Scores by name; None for what is undefined, never NaN, so that it can be written as JSON."""

_SPLITS = ("train", "validation", "test")
_VIEWS_IN_MEMORY = 1024


class LabelledImages(Protocol):
    """Images of one split, and their classes where they are known."""

    @property
    def images(self) -> Tensor:
        """uint8, shape ``(image, channel, height, width)``."""

    @property
    def labels(self) -> Tensor | None:
        """int64, shape ``(image,)``."""


def judge(
    guide: Guide,
    policy: ViewPolicy,
    train: LabelledImages,
    validation: LabelledImages,
    test: LabelledImages,
    *,
    seed: int,
    min_views: int = 4_000,
    max_views: int = 60_000,
) -> dict[str, Scores]:
    """Content and style scores of a frozen guide: probes fitted on train, chosen on validation, reported on test.

    Content is read from clean images, one view each, as if the guide had never heard of views. Style is read from views
    that ``policy`` draws afresh, embedded one by one; images of different splits share no view and no random stream.

    Args:
        guide: on the device of the images.
        policy: what draws the views; its parameters are the targets of the style probe.
        seed: decides the views. Torch's own generators are neither used nor moved.
        min_views: views a split at least, several an image where there are fewer images.
        max_views: views a split at most; of a larger split, as many images drawn at random.

    Returns:
        ``"content"``: ``"linear"`` and ``"knn"`` accuracy as fractions, and ``"representation"``, which is
        ``"content"``, or ``"z"`` under a prior that shares nothing between views. Without labels the scores are None
        and ``"note"`` says which split lacks them.
        ``"style"``: ``"mean_r2"`` and one R² a view parameter, None where it is undefined, and ``"representation"``.
        A policy without parameters leaves ``"mean_r2"`` None, with a ``"note"``.
    """
    splits = dict(zip(_SPLITS, (train, validation, test), strict=True))
    # One stream a split: the views of train do not depend on how many images test has.
    seeds = torch.randint(2**62, (len(splits),), generator=torch.Generator().manual_seed(seed)).tolist()
    return {
        "content": _judge_content(guide, splits),
        "style": _judge_style(guide, policy, splits, seeds, min_views, max_views),
    }


def _judge_content(guide: Guide, splits: Mapping[str, LabelledImages]) -> Scores:
    first = guide.embed_batches(splits["train"].images[:1])
    representation = "content" if first.content.shape[-1] else "z"
    labels = {name: split.labels for name, split in splits.items()}
    missing = [name for name, values in labels.items() if values is None]
    if missing:
        note = f"no labels in {', '.join(missing)}"
        return {"linear": None, "knn": None, "representation": representation, "note": note}
    features = {name: getattr(guide.embed_batches(split.images), representation) for name, split in splits.items()}
    scores = content_scores(*((features[name], values) for name, values in labels.items() if values is not None))
    return {**scores, "representation": representation}


def _judge_style(
    guide: Guide,
    policy: ViewPolicy,
    splits: Mapping[str, LabelledImages],
    seeds: list[int],
    min_views: int,
    max_views: int,
) -> Scores:
    if not policy.names:
        return {MEAN: None, "representation": "z", "note": "the view policy has no parameters"}
    embedded = []
    for split, seed in zip(splits.values(), seeds, strict=True):
        generator = torch.Generator(split.images.device).manual_seed(seed)
        embedded.append(embed_views(guide, policy, split.images, generator, min_views, max_views))
    scores = style_scores(*embedded)
    return {**{name: None if math.isnan(score) else score for name, score in scores.items()}, "representation": "z"}


def embed_views(
    guide: Guide, policy: ViewPolicy, images: Tensor, generator: torch.Generator, min_views: int, max_views: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """z and the parameters of fresh views of ``images``, each view embedded by itself.

    Args:
        images: shape ``(image, channel, height, width)``.
        generator: on the device of the images.
        min_views: views in all at least, as far as ``max_views`` allows.
        max_views: views in all at most.

    Returns:
        z of shape ``(view·image, latent)`` and the parameters by name, each of shape ``(view·image,)``.
    """
    if len(images) > max_views:
        order = torch.randperm(len(images), generator=generator, device=images.device)
        images = images[order[:max_views]]
    count = max(1, min(math.ceil(min_views / len(images)), max_views // len(images)))
    z: list[Tensor] = []
    parameters: dict[str, list[Tensor]] = {}
    for chunk in torch.split(images, max(1, _VIEWS_IN_MEMORY // count)):
        views, drawn = draw_views(policy, chunk, count, generator=generator)
        z.append(guide.embed_batches(views.flatten(0, 1)).z)
        for name, values in drawn.items():
            parameters.setdefault(name, []).append(values.flatten())
    return torch.cat(z), {name: torch.cat(values) for name, values in parameters.items()}

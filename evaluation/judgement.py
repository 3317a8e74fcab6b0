"""Who knows what: what each representation of a fitted guide says of the class, and of the view."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pp_simve.evaluation.content import content_scores
from pp_simve.evaluation.style import MEAN, style_scores
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.views import ViewPolicy, draw_views

Scores = dict[str, float | str | None]
"""Scores by name; None for what is undefined, never NaN, so that it can be written as JSON."""

REPRESENTATIONS = ("backbone", "z", "content", "style")
"""What a guide answers of an image, and a judgement is about."""

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
    representations: Sequence[str] = REPRESENTATIONS,
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
        representations: which of `Representation`'s parts are judged; those of no width are left out.
        min_views: views a split at least, several an image where there are fewer images.
        max_views: views a split at most; of a larger split, as many images drawn at random.

    Returns:
        For each representation that has any width, by its name: ``"linear"`` and ``"knn"`` accuracy as fractions,
        ``"mean_r2"`` and one R² a view parameter, None where it is undefined. Without labels the accuracies are None,
        and an entry ``"notes"`` says which split lacks them; without view parameters ``"mean_r2"`` is.

    Raises:
        ValueError: an unknown representation.
    """
    if unknown := set(representations) - set(REPRESENTATIONS):
        raise ValueError(f"unknown representations {sorted(unknown)}; known are {', '.join(REPRESENTATIONS)}")
    splits = dict(zip(_SPLITS, (train, validation, test), strict=True))
    # One stream a split: the views of train do not depend on how many images test has.
    seeds = torch.randint(2**62, (len(splits),), generator=torch.Generator().manual_seed(seed)).tolist()
    content, notes = _judge_content(guide, splits, representations)
    style, more = _judge_style(guide, policy, splits, seeds, representations, min_views, max_views)
    found: dict[str, Scores] = {name: {**scores, **style[name]} for name, scores in content.items()}
    if notes or more:
        found["notes"] = {**notes, **more}
    return found


def _judge_content(
    guide: Guide, splits: Mapping[str, LabelledImages], names: Sequence[str]
) -> tuple[dict[str, Scores], Scores]:
    missing = [name for name, split in splits.items() if split.labels is None]
    if missing:
        features = _parts(guide, splits["train"].images[:1], names)
        notes: Scores = {"class": f"no labels in {', '.join(missing)}"}
        return {name: {"linear": None, "knn": None} for name in features}, notes
    embedded = {name: _parts(guide, split.images, names) for name, split in splits.items()}
    labels = [split.labels for split in splits.values() if split.labels is not None]
    return {
        name: dict(
            content_scores(*((parts[name], classes) for parts, classes in zip(embedded.values(), labels, strict=True)))
        )
        for name in embedded["train"]
    }, {}


def _judge_style(
    guide: Guide,
    policy: ViewPolicy,
    splits: Mapping[str, LabelledImages],
    seeds: list[int],
    names: Sequence[str],
    min_views: int,
    max_views: int,
) -> tuple[dict[str, Scores], Scores]:
    if not policy.names:
        features = _parts(guide, splits["train"].images[:1], names)
        return {name: {MEAN: None} for name in features}, {"views": "the view policy has no parameters"}
    embedded = []
    for split, seed in zip(splits.values(), seeds, strict=True):
        generator = torch.Generator(split.images.device).manual_seed(seed)
        embedded.append(embed_views(guide, policy, split.images, generator, min_views, max_views, names))
    found: dict[str, Scores] = {}
    for name in embedded[0][0]:
        scores = style_scores(*((parts[name], parameters) for parts, parameters in embedded))
        found[name] = {key: None if math.isnan(score) else score for key, score in scores.items()}
    return found, {}


def _parts(guide: Guide, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The named representations of images that have any width."""
    parts = guide.embed_batches(images).as_dict()
    return {name: parts[name] for name in names if parts[name].shape[-1]}


def embed_views(
    guide: Guide,
    policy: ViewPolicy,
    images: Tensor,
    generator: torch.Generator,
    min_views: int,
    max_views: int,
    representations: Sequence[str] = ("z",),
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Representations and parameters of fresh views of ``images``, each view embedded by itself.

    Args:
        images: shape ``(image, channel, height, width)``.
        generator: on the device of the images.
        min_views: views in all at least, as far as ``max_views`` allows.
        max_views: views in all at most.
        representations: which of `Representation`'s parts.

    Returns:
        Each representation that has any width, ``(view·image, …)``, and the parameters by name, each ``(view·image,)``.
    """
    if len(images) > max_views:
        order = torch.randperm(len(images), generator=generator, device=images.device)
        images = images[order[:max_views]]
    count = max(1, min(math.ceil(min_views / len(images)), max_views // len(images)))
    embedded: dict[str, list[Tensor]] = {}
    parameters: dict[str, list[Tensor]] = {}
    for chunk in torch.split(images, max(1, _VIEWS_IN_MEMORY // count)):
        views, drawn = draw_views(policy, chunk, count, generator=generator)
        for name, values in _parts(guide, views.flatten(0, 1), representations).items():
            embedded.setdefault(name, []).append(values)
        for name, values in drawn.items():
            parameters.setdefault(name, []).append(values.flatten())
    return _joined(embedded), _joined(parameters)


def _joined(parts: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat(values) for name, values in parts.items()}

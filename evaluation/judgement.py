"""Who knows what: what each representation of a fitted guide says of the class, and of the view."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pp_simve.evaluation.tasks.classes import Labelled, content_scores
from pp_simve.evaluation.tasks.view_parameters import MEAN, Parametrised, style_scores
from pp_simve.inference.augmentations import AugmentationPolicy, draw_views
from pp_simve.inference.guides.base import Guide

Scores = dict[str, float | str | None]
"""Scores by name; None for what is undefined, never NaN, so that it can be written as JSON."""

Features = dict[str, Tensor]
"""Representations of the same rows by name."""

Viewed = tuple[Features, dict[str, Tensor]]
"""Representations of views, ``(row, …)``, and the views' parameters, ``(row,)``, each by name."""

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
    policy: AugmentationPolicy,
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
    embedded = embed_splits(
        guide,
        policy,
        train,
        validation,
        test,
        seed=seed,
        representations=representations,
        min_views=min_views,
        max_views=max_views,
    )
    found: dict[str, Scores] = {
        name: {**embedded.class_scores(name), **embedded.view_scores(name)} for name in embedded.names
    }
    return {**found, "notes": dict(embedded.notes)} if embedded.notes else found


@dataclass(frozen=True)
class Embedded:
    """Frozen representations of three splits, train, validation and test in this order, and what is to be read off.

    Attributes:
        clean: of images as they are, each split's by representation, ``(image, …)``.
        labels: of the splits, ``(image,)``; None where a split has none.
        views: of fresh views, each embedded by itself: by representation, ``(row, …)``, and the views' parameters by
            name, ``(row,)``. None where the policy has no parameters.
        notes: what cannot be judged, and why.
    """

    clean: tuple[Features, Features, Features]
    labels: tuple[Tensor, Tensor, Tensor] | None
    views: tuple[Viewed, Viewed, Viewed] | None
    notes: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """The representations."""
        return list(self.clean[0])

    def labelled(self, name: str) -> tuple[Labelled, Labelled, Labelled] | None:
        """A representation of the clean images and their classes; None without classes."""
        if self.labels is None:
            return None
        train, validation, test = ((parts[name], labels) for parts, labels in zip(self.clean, self.labels, strict=True))
        return train, validation, test

    def parametrised(self, name: str) -> tuple[Parametrised, Parametrised, Parametrised] | None:
        """A representation of the views and their parameters; None without parameters."""
        if self.views is None:
            return None
        train, validation, test = ((parts[name], parameters) for parts, parameters in self.views)
        return train, validation, test

    def class_scores(self, name: str) -> Scores:
        """`content_scores` of a representation; None for each without classes."""
        rows = self.labelled(name)
        return {"linear": None, "knn": None} if rows is None else dict(content_scores(*rows))

    def view_scores(self, name: str) -> Scores:
        """`style_scores` of a representation, None for what is undefined."""
        rows = self.parametrised(name)
        if rows is None:
            return {MEAN: None}
        return {key: None if math.isnan(score) else score for key, score in style_scores(*rows).items()}


def embed_splits(
    guide: Guide,
    policy: AugmentationPolicy,
    train: LabelledImages,
    validation: LabelledImages,
    test: LabelledImages,
    *,
    seed: int,
    representations: Sequence[str] = REPRESENTATIONS,
    min_views: int = 4_000,
    max_views: int = 60_000,
) -> Embedded:
    """What `judge` judges; the arguments are its."""
    if unknown := set(representations) - set(REPRESENTATIONS):
        raise ValueError(f"unknown representations {sorted(unknown)}; known are {', '.join(REPRESENTATIONS)}")
    splits = (train, validation, test)
    notes = {}
    missing = [name for name, split in zip(_SPLITS, splits, strict=True) if split.labels is None]
    if missing:
        notes["class"] = f"no labels in {', '.join(missing)}"
    # One stream a split: the views of train do not depend on how many images test has.
    seeds = torch.randint(2**62, (len(splits),), generator=torch.Generator().manual_seed(seed)).tolist()
    views = None
    if policy.names:
        drawn = []
        for split, of_split in zip(splits, seeds, strict=True):
            generator = torch.Generator(split.images.device).manual_seed(of_split)
            drawn.append(embed_views(guide, policy, split.images, generator, min_views, max_views, representations))
        views = (drawn[0], drawn[1], drawn[2])
    else:
        notes["views"] = "the view policy has no parameters"
    clean = [_parts(guide, split.images, representations) for split in splits]
    labels = [split.labels for split in splits if split.labels is not None]
    return Embedded(
        clean=(clean[0], clean[1], clean[2]),
        labels=None if missing else (labels[0], labels[1], labels[2]),
        views=views,
        notes=notes,
    )


def _parts(guide: Guide, images: Tensor, names: Sequence[str]) -> Features:
    """The named representations of images that have any width."""
    parts = guide.embed_batches(images).as_dict()
    return {name: parts[name] for name in names if parts[name].shape[-1]}


def embed_views(
    guide: Guide,
    policy: AugmentationPolicy,
    images: Tensor,
    generator: torch.Generator,
    min_views: int,
    max_views: int,
    representations: Sequence[str] = ("z",),
) -> Viewed:
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

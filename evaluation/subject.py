"""What is evaluated: a fitted guide and the images of three splits, with the representations computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pp_simve.evaluation.handwriting import handwriting_style
from pp_simve.evaluation.pixels import PixelComponents
from pp_simve.evaluation.probes.mlp import MLPTraining
from pp_simve.evaluation.records import BASELINES, MEAN, REPRESENTATIONS, NotApplicableError, Record
from pp_simve.evaluation.tasks.classes import Labelled, drawn_views
from pp_simve.evaluation.tasks.view_parameters import Parametrised
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import seeds
from pp_simve.models import SimVE

EVALUATION_SEED = 1_000_000
"""Default seed of evaluations: the same views for every run, whatever its own seed."""
SPLITS = ("train", "validation", "test")
COMPONENT_IMAGES = 10_000
"""Train images at most that the principal components of pixels are of."""
CLASS_MLP = MLPTraining(hidden=128, decays=(1.0, 0.1), learning_rate=1e-2, batch_size=256, epochs=100, patience=15)
"""A fifth of the default's cost, and no worse on four random splits of digits' training side (z of two fits: .958 and
.963 on average, the default .954 and .955)."""
VIEW_MLP = MLPTraining(hidden=128, decays=(1.0, 0.0), learning_rate=3e-3, batch_size=512, epochs=60, patience=8)
"""For view parameters, of which there are more rows."""

Features = dict[str, Tensor]
"""Representations of the same rows by name, each ``(row, feature)``."""


class LabelledImages(Protocol):
    """Images of one split, and their classes where they are known; attributes, bool ``(image, attribute)``, if any."""

    @property
    def images(self) -> Tensor: ...  # uint8, (image, channel, height, width)

    @property
    def labels(self) -> Tensor | None: ...  # int64, (image,)


@dataclass(frozen=True)
class Effort:
    """Effort: limits on the cost of an evaluation."""

    rows: int = 10_000
    """Of a split at most, for evaluators whose cost grows fast with them."""
    restarts: int = 3
    """Of the clustering."""
    fine_tune: int | None = None
    """Epochs of fine-tuning; None for none."""
    fid_weights: Path | None = None
    """File of Inception's weights; None for no FID."""
    min_views: int = 4_000
    """Views of a split at least: several of an image where there are fewer images."""
    max_views: int = 60_000
    """Views of a split at most: of a larger one, as many images drawn at random."""
    pairs: int = 4_000
    """Pairs of views of train at least, as far as `rows` allows; one of each image where there are more images."""
    class_mlp: MLPTraining = CLASS_MLP
    view_mlp: MLPTraining = VIEW_MLP

    def views_of(self, images: int) -> int:
        """Views of each image of a split of so many."""
        return max(1, min(math.ceil(self.min_views / images), self.max_views // images))

    def at_most(self, views: int) -> Effort:
        """The same without several views of an image beyond so many views of a split."""
        return replace(self, min_views=min(self.min_views, views), pairs=min(self.pairs, views))


@dataclass(frozen=True)
class Subject:
    """A guide of views of one modality, and the images that it is evaluated on.

    What the data or the program lack (classes, attributes, a decoder, ...) raises `NotApplicableError`.

    Attributes:
        guide, model: fitted, on the device of the images; no model where there is none of these views alone.
        policy: draws the views; its parameters are the targets of the view probes.
        splits: train, validation and test.
        seed: of views, draws and probes. Torch's own generators are neither used nor moved.
        representations: those evaluated, baselines among them; those of no width are left out.
        untrained: the guide before it was fitted, for the baseline of this name.
        handwriting: whether the images are of handwriting: gray, bright on a background of 0.
        found: the records of the evaluators so far.
    """

    guide: Guide
    model: SimVE | None
    policy: AugmentationPolicy
    splits: Sequence[LabelledImages]
    seed: int = EVALUATION_SEED
    effort: Effort = Effort()
    representations: Sequence[str] = REPRESENTATIONS
    untrained: Guide | None = None
    attribute_names: Sequence[str] = ()
    handwriting: bool = False
    modality: str = ""
    found: list[Record] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        known = (*REPRESENTATIONS, *BASELINES)
        if unknown := set(self.representations) - set(known):
            raise ValueError(f"unknown representations {sorted(unknown)}; known are {', '.join(known)}")
        if ("untrained" in self.representations) != (self.untrained is not None):
            raise ValueError("the baseline 'untrained' needs the guide before its fit, `untrained`, and only it does")

    @cached_property
    def clean(self) -> list[Features]:
        """Representations of the images as they are, one view each, of every split."""
        return [self._with_baselines(split.images) for split in self.splits]

    @property
    def names(self) -> list[str]:
        """The representations that have any width."""
        return list(self.clean[0])

    @cached_property
    def multiples(self) -> list[str]:
        """Content and style, as far as they are z times a number for single views: no score can tell them apart."""
        test = self.clean[2]
        return [
            name for name in ("content", "style") if name in test and "z" in test and _multiple(test[name], test["z"])
        ]

    @cached_property
    def views(self) -> list[tuple[Features, dict[str, Tensor]]]:
        """Representations of fresh views, each embedded by itself, and the views' parameters, of every split.

        Rows are views, ``(view·image, …)`` of a chunk of images after the other.
        """
        self.check_parameters()
        # One stream a split: the views of train do not depend on how many images test has.
        found = []
        for split, seed in zip(self.splits, seeds(self.seed), strict=False):
            images, most = split.images, self.effort.max_views
            generator = torch.Generator(images.device).manual_seed(seed)
            if len(images) > most:
                images = images[torch.randperm(len(images), generator=generator, device=images.device)[:most]]
            embedded, parameters = [], []
            for views, drawn in drawn_views(self.policy, images, self.effort.views_of(len(images)), generator):
                embedded.append(self._with_baselines(views.flatten(0, 1)))
                parameters.append({name: values.flatten() for name, values in drawn.items()})
            found.append((_joined(embedded), _joined(parameters)))
        return found

    @cached_property
    def two_views(self) -> list[tuple[list[Features], dict[str, Tensor]]]:
        """Representations of two fresh views of few images, and their parameters' difference, of every split.

        The difference is the second view's parameter less the first's. An image gives one pair, of train several where
        there are fewer images than pairs.
        """
        train, validation, test = (self.few(split.images) for split in self.splits)
        times = -(-min(self.effort.pairs, self.effort.rows) // len(train))
        found = []
        for place, images in ((1, train.repeat(times, 1, 1, 1)), (2, validation), (0, test)):
            generator = torch.Generator(images.device).manual_seed(self.seed + place)
            embedded, differences = [], []
            for views, drawn in drawn_views(self.policy, images, 2, generator):
                embedded.append([self._parts(view) for view in views])
                differences.append({name: second - first for name, (first, second) in drawn.items()})
            found.append(([_joined(parts) for parts in zip(*embedded, strict=True)], _joined(differences)))
        return found

    def check_parameters(self) -> None:
        """Raises `NotApplicableError` without view parameters, and ValueError if one has the name of their mean."""
        if not self.policy.names:
            raise NotApplicableError("the augmentation policy has no parameters")
        if MEAN in self.policy.names:
            raise ValueError(f"a view parameter may not be called {MEAN!r}: that is the mean over parameters")

    def few(self, values: Tensor) -> Tensor:
        """The first rows, as many as evaluators of high cost may use; splits are in random order."""
        return values[: self.effort.rows]

    @property
    def labels(self) -> list[Tensor]:
        """Classes of the splits."""
        return labels_of(self.splits)

    @property
    def classified(self) -> list[Labelled]:
        """Images and their classes, of every split."""
        return [(split.images, labels) for split, labels in zip(self.splits, self.labels, strict=True)]

    def labelled(self, name: str) -> list[Labelled]:
        """A representation of the clean images and their classes, of every split."""
        return [(parts[name], labels) for parts, labels in zip(self.clean, self.labels, strict=True)]

    def few_labelled(self, name: str) -> list[Labelled]:
        """The same of few images of train and validation, and of all of test."""
        *fitted, test = self.labelled(name)
        return [*((self.few(features), self.few(labels)) for features, labels in fitted), test]

    def parametrised(self, name: str) -> list[Parametrised]:
        """A representation of views and their parameters, of every split."""
        return [(parts[name], parameters) for parts, parameters in self.views]

    def attributed(self, name: str) -> list[tuple[Tensor, Tensor]]:
        """A representation of the clean images and their attributes, of every split."""
        attributes: list[Any] = [getattr(split, "attributes", None) for split in self.splits]
        if not self.attribute_names or any(values is None for values in attributes):
            raise NotApplicableError("the images have no attributes")
        return [(parts[name], values) for parts, values in zip(self.clean, attributes, strict=True)]

    @cached_property
    def ink(self) -> list[dict[str, Tensor]]:
        """Slant, size, thickness and place of each image's ink, of every split; NaN where there is none."""
        if not self.handwriting:
            raise NotApplicableError("the images are not known to be of handwriting")
        return [handwriting_style(split.images) for split in self.splits]

    @property
    def program(self) -> SimVE:
        """The model."""
        if self.model is None:
            raise NotApplicableError("there is no model of views of one modality")
        return self.model

    @property
    def decoder(self) -> SimVE:
        """The model, which has a likelihood."""
        if self.program.likelihood is None:
            raise NotApplicableError("the program does not model pixels")
        return self.program

    @property
    def chance(self) -> dict[str, float]:
        """Accuracy of always predicting the commonest class of test."""
        return commonest(self.labels[2])

    @cached_property
    def _pixels(self) -> PixelComponents:
        images = self.splits[0].images
        return PixelComponents.of(images[:COMPONENT_IMAGES], self.guide.embed_batches(images[:1]).z.shape[1], self.seed)

    def _parts(self, images: Tensor) -> Features:
        parts = self.guide.embed_batches(images).as_dict()
        return {name: parts[name] for name in self.representations if name in parts and parts[name].shape[-1]}

    def _with_baselines(self, images: Tensor) -> Features:
        found = self._parts(images)
        if "pixels" in self.representations:
            found["pixels"] = self._pixels(images)
        if self.untrained is not None:
            found["untrained"] = self.untrained.embed_batches(images).as_dict()["backbone"]
        return found


def labels_of(splits: Sequence[LabelledImages]) -> list[Tensor]:
    """Classes of train, validation and test; raises `NotApplicableError` where a split has none."""
    if missing := [name for name, split in zip(SPLITS, splits, strict=True) if split.labels is None]:
        raise NotApplicableError(f"no labels in {', '.join(missing)}")
    return [split.labels for split in splits if split.labels is not None]


def _multiple(part: Tensor, z: Tensor) -> bool:
    if part.shape != z.shape or not bool(part.any()):
        return False
    part, z = part.double(), z.double()
    factor = (part * z).sum() / z.square().sum()
    return bool((part - factor * z).norm() < 1e-5 * part.norm())


def commonest(labels: Tensor) -> dict[str, float]:
    """The share of the commonest class, as the ``"chance"`` level of an accuracy."""
    return {"chance": int(torch.unique(labels, return_counts=True)[1].max()) / len(labels)}


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

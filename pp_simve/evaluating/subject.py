"""What is evaluated: a fitted guide with its images, their representations computed once for all evaluators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pp_simve.data import Split
from pp_simve.evaluation.handwriting import handwriting_style
from pp_simve.evaluation.judgement import Embedded, Features, embed_splits
from pp_simve.evaluation.tasks.classes import Labelled
from pp_simve.evaluation.tasks.view_parameters import Parametrised
from pp_simve.inference import Guide
from pp_simve.inference.augmentations import AugmentationPolicy, draw_views
from pp_simve.judgement import JUDGEMENT_SEED
from pp_simve.models import SimVE

PAIRS = 4_000
"""Pairs of views of train at least, as far as the effort allows."""

_IMAGES_IN_MEMORY = 512

Three = tuple[Labelled, Labelled, Labelled]
ThreeParametrised = tuple[Parametrised, Parametrised, Parametrised]


class NotJudgedError(ValueError):
    """These data, or this program, hold nothing that an evaluator could ask about."""


@dataclass(frozen=True)
class Effort:
    """How much an evaluation may cost.

    Attributes:
        rows: of a split at most, for evaluators whose cost grows fast with them.
        restarts: of the clustering.
        fine_tune: epochs of fine-tuning; None for none.
        fid_weights: file of Inception's weights; None for no FID.
    """

    rows: int = 10_000
    restarts: int = 3
    fine_tune: int | None = None
    fid_weights: Path | None = None


@dataclass(frozen=True)
class Subject:
    """A guide of one kind of view, and the images it is judged on.

    Attributes:
        guide: fitted.
        model: fitted; None where it does not decode views of this kind alone.
        policy: what draws views.
        splits: train, validation and test.
        attribute_names: of the images' attributes.
        written: whether the images are of writing: grey, bright on a background of 0.
        effort: how much may be spent.
    """

    guide: Guide
    model: SimVE | None
    policy: AugmentationPolicy
    splits: tuple[Split, Split, Split]
    attribute_names: tuple[str, ...]
    written: bool
    effort: Effort

    @cached_property
    def embedded(self) -> Embedded:
        """All representations of all splits."""
        return embed_splits(self.guide, self.policy, *self.splits, seed=JUDGEMENT_SEED)

    @cached_property
    def names(self) -> list[str]:
        """The representations that have any width."""
        one = self.guide.embed_batches(self.splits[0].images[:1]).as_dict()
        return [name for name, values in one.items() if values.shape[-1]]

    def few(self, values: Tensor) -> Tensor:
        """The first rows, as many as may be judged by what costs much; splits are in random order."""
        return values[: self.effort.rows]

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Classes of the splits.

        Raises:
            NotJudgedError: there are none.
        """
        train, validation, test = (split.labels for split in self.splits)
        if train is None or validation is None or test is None:
            of = {"train": train, "validation": validation, "test": test}
            raise NotJudgedError(f"no labels in {', '.join(name for name, labels in of.items() if labels is None)}")
        return train, validation, test

    def labelled(self, name: str) -> Three:
        """A representation of the clean images, and their classes."""
        labels = self.labels
        train, validation, test = (part[name] for part in self.embedded.clean)
        return (train, labels[0]), (validation, labels[1]), (test, labels[2])

    def few_labelled(self, name: str) -> Three:
        """The same of few images of train and validation, and of all of test."""
        train, validation, test = self.labelled(name)
        return (self.few(train[0]), self.few(train[1])), (self.few(validation[0]), self.few(validation[1])), test

    def parametrised(self, name: str) -> ThreeParametrised:
        """A representation of views, and their parameters.

        Raises:
            NotJudgedError: views have no parameters.
        """
        found = self.embedded.parametrised(name)
        if found is None:
            raise NotJudgedError("the view policy has no parameters")
        return found

    def attributed(self, name: str) -> tuple[tuple[Tensor, Tensor], ...]:
        """A representation of the clean images, and their attributes, a split each.

        Raises:
            NotJudgedError: there are none.
        """
        found = []
        for part, split in zip(self.embedded.clean, self.splits, strict=True):
            if split.attributes is None or not self.attribute_names:
                raise NotJudgedError("the images have no attributes")
            found.append((part[name], split.attributes))
        return tuple(found)

    @cached_property
    def handwriting(self) -> tuple[dict[str, Tensor], ...]:
        """Slant, size, thickness and place of each image's ink, a split each; NaN where there is none.

        Raises:
            NotJudgedError: these are no images of writing.
        """
        if not self.written:
            raise NotJudgedError("the images are not known to be of writing")
        return tuple(handwriting_style(split.images) for split in self.splits)

    @cached_property
    def two_views(self) -> Mapping[str, tuple[Features, Features]]:
        """Representations of two fresh views of few images of ``"test"``, and of ``"train"``, there some times each."""
        train, test = self.few(self.splits[0].images), self.few(self.splits[2].images)
        times = -(-min(PAIRS, self.effort.rows) // len(train))
        return {
            "train": two_views(self.guide, self.policy, train.repeat(times, 1, 1, 1), JUDGEMENT_SEED + 1),
            "test": two_views(self.guide, self.policy, test, JUDGEMENT_SEED),
        }

    def decoder(self) -> SimVE:
        """The model.

        Raises:
            NotJudgedError: it decodes no images.
        """
        if self.model is None or self.model.likelihood is None:
            raise NotJudgedError("the program does not model pixels")
        return self.model


@torch.no_grad()
def two_views(guide: Guide, policy: AugmentationPolicy, images: Tensor, seed: int) -> tuple[Features, Features]:
    """Representations of two fresh views of each image, each view embedded by itself; rows are images."""
    generator = torch.Generator(images.device).manual_seed(seed)
    embedded: list[list[Features]] = [[], []]
    for chunk in torch.split(images, _IMAGES_IN_MEMORY):
        views, _ = draw_views(policy, chunk, 2, generator=generator)
        for view, parts in zip(views, embedded, strict=True):
            parts.append(guide.embed_batches(view).as_dict())
    first, second = ({name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in embedded)
    return first, second

"""Guides of several modalities: one modality alone, and what is evaluated across modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations

import torch
from torch import Tensor

from pp_simve.evaluation.records import Record
from pp_simve.evaluation.subject import LabelledImages, labels_of
from pp_simve.evaluation.tasks.classes import Labelled
from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.tools import evaluation_mode, unit_range
from pp_simve.models import PlainViews


class SingleModality(Guide):
    """A guide of several modalities restricted to one, the others missing.

    Args:
        guide: of several modalities.
        modality: the one that is there.
    """

    def __init__(self, guide: Guide, modality: str) -> None:
        super().__init__()
        self.guide = guide
        self.modality = modality

    def forward(self, views: PlainViews) -> None:
        assert isinstance(views, Tensor)
        self.guide({self.modality: views})

    def posterior(self, views: PlainViews) -> Representation:
        assert isinstance(views, Tensor)
        found = self.guide.posterior({self.modality: views})
        backbone = found.backbone if isinstance(found.backbone, Tensor) else found.backbone[self.modality]
        return Representation(backbone=backbone, z=found.z, content=found.content, style=found.style)


@torch.no_grad()
def content_of_modalities(guide: Guide, images: Mapping[str, Tensor], batch_size: int = 512) -> Tensor:
    """Posterior mean of content given a view of each modality there is, shape ``(image, content)``.

    Under a prior that shares nothing between views, the mean of the views' z.

    Args:
        guide: of several modalities, on the device of the images.
        images: by modality, uint8 ``(image, channel, height, width)``, of the same things.
        batch_size: images a pass.
    """
    parts = []
    with evaluation_mode(guide):
        for chunk in zip(*(torch.split(batch, batch_size) for batch in images.values()), strict=True):
            views = {modality: unit_range(batch)[None] for modality, batch in zip(images, chunk, strict=True)}
            found = guide.posterior(views)
            parts.append(found.content if found.content.shape[-1] else found.z.mean(0))
    return torch.cat(parts)


@dataclass(frozen=True)
class ModalitySubject:
    """A guide of several modalities, and the images that it is evaluated on across them.

    Attributes:
        guide: of several modalities, on the device of the images.
        splits: train, validation and test of each modality, of the same things.
        found: the records of the evaluators so far.
    """

    guide: Guide
    splits: Mapping[str, Sequence[LabelledImages]]
    found: list[Record] = field(default_factory=list, compare=False)
    names = ("content",)
    modality = ""

    @cached_property
    def directions(self) -> list[tuple[str, list[Tensor], list[Tensor]]]:
        """Ordered pairs of modalities: ``"upper to lower"``, and the contents from each alone, of every split."""
        contents = {
            name: [content_of_modalities(self.guide, {name: split.images}) for split in splits]
            for name, splits in self.splits.items()
        }
        return [(f"{one} to {other}", contents[one], contents[other]) for one, other in permutations(contents, 2)]

    @property
    def labels(self) -> list[Tensor]:
        """Classes of the splits; raises `NotApplicableError` where there are none."""
        return labels_of(next(iter(self.splits.values())))

    def labelled(self, name: str) -> list[Labelled]:
        """Content inferred from all modalities at once, and the classes, of every split."""
        whole = [{name: splits[place].images for name, splits in self.splits.items()} for place in range(3)]
        return [(content_of_modalities(self.guide, images), y) for images, y in zip(whole, self.labels, strict=True)]

"""What a guide of several kinds of view knows from one kind alone, and whether it finds the other kinds by it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Tensor

from pp_simve.evaluation.content import content_scores
from pp_simve.evaluation.retrieval import retrieval_scores
from pp_simve.evaluation.zero_shot import zero_shot_scores
from pp_simve.inference.guides.base import Guide, Representation, evaluation_mode, unit_range
from pp_simve.models import Views

KindImages = Mapping[str, Tensor]
"""Images by kind, uint8 ``(image, channel, height, width)``, of the same things."""


class OneKind(Guide):
    """A guide of several kinds of view as one of a single kind, the others missing.

    Args:
        guide: of several kinds.
        kind: the one that is there.
    """

    def __init__(self, guide: Guide, kind: str) -> None:
        super().__init__()
        self.guide = guide
        self.kind = kind

    def forward(self, views: Views) -> None:
        assert isinstance(views, Tensor)
        self.guide({self.kind: views})

    def posterior(self, views: Views) -> Representation:
        assert isinstance(views, Tensor)
        found = self.guide.posterior({self.kind: views})
        backbone = found.backbone if isinstance(found.backbone, Tensor) else found.backbone[self.kind]
        return Representation(backbone=backbone, z=found.z, content=found.content, style=found.style)


@torch.no_grad()
def content_of_kinds(guide: Guide, images: KindImages, batch_size: int = 512) -> Tensor:
    """Posterior mean of content given a view of each kind there is, shape ``(image, content)``.

    Under a prior that shares nothing between views, the mean of the views' z.
    """
    parts = []
    with evaluation_mode(guide):
        for chunk in zip(*(torch.split(batch, batch_size) for batch in images.values()), strict=True):
            views = {kind: unit_range(batch)[None] for kind, batch in zip(images, chunk, strict=True)}
            found = guide.posterior(views)
            parts.append(found.content if found.content.shape[-1] else found.z.mean(0))
    return torch.cat(parts)


def judge_kinds(
    guide: Guide,
    train: KindImages,
    validation: KindImages,
    test: KindImages,
    labels: tuple[Tensor, Tensor, Tensor] | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """How one kind of view finds the others, and what all of them know together.

    Args:
        guide: of several kinds of view, on the device of the images.
        train, validation, test: images of the splits by kind.
        labels: classes of the three splits, int64 ``(image,)``; None where they are not known.

    Returns:
        ``"retrieval"``: for each ordered pair of kinds, such as ``"upper to lower"``, the `retrieval_scores` on test of
        content inferred from the first among contents inferred from the second. With labels also ``"zero_shot"``: the
        `zero_shot_scores` of test contents from the first kind, the prompts being train contents from the second; and
        ``"together"``: `content_scores` of content inferred from all kinds at once.
    """
    splits = {"train": train, "validation": validation, "test": test}
    contents = {
        kind: {name: content_of_kinds(guide, {kind: split[kind]}) for name, split in splits.items()} for kind in train
    }
    found: dict[str, dict[str, dict[str, float]]] = {"retrieval": {}}
    for first, second in permutations(train, 2):
        found["retrieval"][f"{first} to {second}"] = retrieval_scores(contents[first]["test"], contents[second]["test"])
    if labels is None:
        return found
    found["zero_shot"] = {
        f"{first} to {second}": zero_shot_scores(
            contents[first]["test"], labels[2], contents[second]["train"], labels[0]
        )
        for first, second in permutations(train, 2)
    }
    whole = [content_of_kinds(guide, split) for split in splits.values()]
    found["together"] = {"content": content_scores(*zip(whole, labels, strict=True))}
    return found

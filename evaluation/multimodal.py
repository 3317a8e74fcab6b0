"""What a guide of several modalities knows from one modality alone, and whether it finds the other modalities by it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Tensor

from pp_simve.evaluation.content import content_scores
from pp_simve.evaluation.retrieval import retrieval_scores
from pp_simve.evaluation.zero_shot import zero_shot_scores
from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.tools import evaluation_mode, unit_range
from pp_simve.models.modalities import PlainViews as Views

ImagesByModality = Mapping[str, Tensor]
"""Images by modality, uint8 ``(image, channel, height, width)``, of the same things."""


class SingleModality(Guide):
    """A guide of several modalities as one of a single modality, the others missing.

    Args:
        guide: of several modalities.
        modality: the one that is there.
    """

    def __init__(self, guide: Guide, modality: str) -> None:
        super().__init__()
        self.guide = guide
        self.modality = modality

    def forward(self, views: Views) -> None:
        assert isinstance(views, Tensor)
        self.guide({self.modality: views})

    def posterior(self, views: Views) -> Representation:
        assert isinstance(views, Tensor)
        found = self.guide.posterior({self.modality: views})
        backbone = found.backbone if isinstance(found.backbone, Tensor) else found.backbone[self.modality]
        return Representation(backbone=backbone, z=found.z, content=found.content, style=found.style)


@torch.no_grad()
def content_of_modalities(guide: Guide, images: ImagesByModality, batch_size: int = 512) -> Tensor:
    """Posterior mean of content given a view of each modality there is, shape ``(image, content)``.

    Under a prior that shares nothing between views, the mean of the views' z.
    """
    parts = []
    with evaluation_mode(guide):
        for chunk in zip(*(torch.split(batch, batch_size) for batch in images.values()), strict=True):
            views = {modality: unit_range(batch)[None] for modality, batch in zip(images, chunk, strict=True)}
            found = guide.posterior(views)
            parts.append(found.content if found.content.shape[-1] else found.z.mean(0))
    return torch.cat(parts)


def evaluate_modalities(
    guide: Guide,
    train: ImagesByModality,
    validation: ImagesByModality,
    test: ImagesByModality,
    labels: tuple[Tensor, Tensor, Tensor] | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """How one modality finds the others, and what all of them know together.

    Args:
        guide: of several modalities, on the device of the images.
        train, validation, test: images of the splits by modality.
        labels: classes of the three splits, int64 ``(image,)``; None where they are not known.

    Returns:
        ``"retrieval"``: for each ordered pair of modalities, such as ``"upper to lower"``, the `retrieval_scores` on
        test of
        content inferred from the first among contents inferred from the second. With labels also ``"zero_shot"``: the
        `zero_shot_scores` of test contents from the first modality, the prompts being train contents from the second;
        and ``"together"``: `content_scores` of content inferred from all modalities at once.
    """
    splits = {"train": train, "validation": validation, "test": test}
    contents = {
        modality: {name: content_of_modalities(guide, {modality: split[modality]}) for name, split in splits.items()}
        for modality in train
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
    whole = [content_of_modalities(guide, split) for split in splits.values()]
    found["together"] = {"content": content_scores(*zip(whole, labels, strict=True))}
    return found

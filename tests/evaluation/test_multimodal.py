"""Guides of several modalities: each modality alone, and scores across them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from pp_simve.data import Split
from pp_simve.evaluation import Effort, content_scores, evaluate_modalities, evaluate_representations
from pp_simve.evaluation.multimodal import (
    SingleModality,
    content_of_modalities,
    retrieval_scores,
    zero_shot_scores,
)
from pp_simve.evaluation.records import NOT_APPLICABLE, Record, select
from pp_simve.inference import AmortizedGuide, MLPEncoder
from pp_simve.inference.augmentations import Compose
from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.tools import unit_range
from pp_simve.models import GaussianPrior, PlainViews, StandardPrior

CLASSES = 3
SHAPES = {"picture": (1, 2, 3), "vector": (4, 1, 1)}


def made(images: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """A picture and a vector of the same thing, its class in both."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    batch = {
        modality: torch.randint(40, (images, *shape), generator=generator, dtype=torch.uint8)
        for modality, shape in SHAPES.items()
    }
    for modality, part in batch.items():
        part.flatten(1)[torch.arange(images), labels] += 150 if modality == "picture" else 200
    return batch, labels


class FirstPixels(Guide):
    """Content is the mean, over the modalities there are, of each view's first three numbers."""

    def __init__(self, shared: bool = True) -> None:
        super().__init__()
        self.shared = shared

    def posterior(self, views: PlainViews) -> Representation:
        assert not self.training
        assert not isinstance(views, Tensor)
        z = torch.cat([batch.flatten(2)[..., :3] for batch in views.values()])
        content = z.mean(0) if self.shared else z[0, :, :0]
        backbone = {modality: batch.flatten(2) for modality, batch in views.items()}
        return Representation(backbone=backbone, z=z, content=content, style=z - z.mean(0))


BATCHES, LABELS = zip(made(300, 1), made(90, 2), made(100, 3), strict=True)
TEST = BATCHES[2]


def splits(modality: str, labels: bool = True) -> list[Split]:
    """One modality of the things, train, validation and test."""
    return [Split(part[modality], y if labels else None, None) for part, y in zip(BATCHES, LABELS, strict=True)]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("batch_size", [7, 100])
def test_content_is_inferred_from_the_modalities_there_are(shared: bool, batch_size: int) -> None:
    guide = FirstPixels(shared).train()
    pixels = {modality: unit_range(batch).flatten(1)[:, :3] for modality, batch in TEST.items()}
    for modalities in (["picture"], ["vector"], ["picture", "vector"]):
        found = content_of_modalities(guide, {modality: TEST[modality] for modality in modalities}, batch_size)
        torch.testing.assert_close(found, torch.stack([pixels[modality] for modality in modalities]).mean(0))
    assert guide.training


POLICIES = {modality: Compose([], shape) for modality, shape in SHAPES.items()}


def evaluated(labels: bool = True) -> list[Record]:
    """The quick suite on pictures and vectors of the same things."""
    given = {modality: splits(modality, labels) for modality in SHAPES}
    return evaluate_modalities(FirstPixels(), POLICIES, given, effort=Effort(min_views=100))


def test_the_scores_across_modalities_are_those_of_contents_by_hand() -> None:
    records = evaluated()
    train, validation, test = (
        {modality: unit_range(batch).flatten(1)[:, :3] for modality, batch in split.items()} for split in BATCHES
    )

    def found(task: str, first: str, second: str) -> dict[str, float | None]:
        return {one.metric: one.value for one in select(records, task=task, target=f"{first} to {second}")}

    for first, second in (("picture", "vector"), ("vector", "picture")):
        assert found("retrieval", first, second) == retrieval_scores(test[first], test[second])
        assert found("zero_shot", first, second) == zero_shot_scores(test[first], LABELS[2], train[second], LABELS[0])
    together = [(parts["picture"] + parts["vector"]) / 2 for parts in (train, validation, test)]
    expected = content_scores(*zip(together, LABELS, strict=True))
    assert {one.probe: one.value for one in select(records, task="together", metric="accuracy")} == expected
    assert found("zero_shot", "picture", "vector")["accuracy"] > 0.95
    assert found("retrieval", "picture", "vector")["recall@10"] > 2 * 10 / 100


def test_each_modality_is_evaluated_with_the_others_missing() -> None:
    records = evaluated()
    for modality, policy in POLICIES.items():
        alone = evaluate_representations(
            SingleModality(FirstPixels(), modality), policy, *splits(modality), effort=Effort(min_views=100)
        )
        of_modality = select(records, modality=modality)
        assert [dataclasses.replace(one, modality="") for one in of_modality] == alone


def test_without_labels_modalities_are_only_retrieved() -> None:
    records = evaluated(labels=False)
    assert all(one.value is not None for one in select(records, task="retrieval"))
    without = {(one.task, one.note) for one in records if one.modality == "" and one.value is None}
    note = f"{NOT_APPLICABLE}no labels in train, validation, test"
    assert without == {("zero_shot", note), ("together", note)}


@pytest.mark.parametrize("prior", [GaussianPrior, StandardPrior])
@pytest.mark.parametrize("modality", SHAPES)
def test_one_modality_is_the_guide_without_the_others(modality: str, prior: type[GaussianPrior]) -> None:
    torch.manual_seed(0)
    encoders = {name: MLPEncoder(shape, hidden=(5 + len(name),)) for name, shape in SHAPES.items()}
    guide = AmortizedGuide(encoders, prior(2))
    alone = SingleModality(guide, modality).embed_batches(TEST[modality], batch_size=30).as_dict()
    whole = guide.embed_batches({modality: TEST[modality]}, batch_size=100).as_dict()
    assert alone["backbone"].shape == (100, 5 + len(modality))
    for name, values in whole.items():
        torch.testing.assert_close(alone[name], values)

"""Views of several modalities: what one modality alone tells, and whether it finds the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation.content import content_scores
from pp_simve.evaluation.multimodal import SingleModality, content_of_modalities, evaluate_modalities
from pp_simve.evaluation.retrieval import retrieval_scores
from pp_simve.evaluation.zero_shot import zero_shot_scores
from pp_simve.inference import AmortizedGuide, MLPEncoder
from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.tools import unit_range
from pp_simve.models import GaussianPrior, StandardPrior
from pp_simve.models.modalities import PlainViews as Views

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

    def posterior(self, views: Views) -> Representation:
        assert not self.training
        assert not isinstance(views, Tensor)
        z = torch.cat([batch.flatten(2)[..., :3] for batch in views.values()])
        content = z.mean(0) if self.shared else z[0, :, :0]
        backbone = {modality: batch.flatten(2) for modality, batch in views.items()}
        return Representation(backbone=backbone, z=z, content=content, style=z - z.mean(0))


(TRAIN, TRAIN_Y), (VALIDATION, VALIDATION_Y), (TEST, TEST_Y) = made(300, 1), made(90, 2), made(100, 3)
LABELS = (TRAIN_Y, VALIDATION_Y, TEST_Y)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("batch_size", [7, 100])
def test_content_is_inferred_from_the_kinds_there_are(shared: bool, batch_size: int) -> None:
    guide = FirstPixels(shared).train()
    pixels = {modality: unit_range(batch).flatten(1)[:, :3] for modality, batch in TEST.items()}
    for modalities in (["picture"], ["vector"], ["picture", "vector"]):
        found = content_of_modalities(guide, {modality: TEST[modality] for modality in modalities}, batch_size)
        torch.testing.assert_close(found, torch.stack([pixels[modality] for modality in modalities]).mean(0))
    assert guide.training


def test_the_scores_are_those_of_contents_by_hand() -> None:
    found = evaluate_modalities(FirstPixels(), TRAIN, VALIDATION, TEST, LABELS)
    first = {
        name: {modality: unit_range(batch).flatten(1)[:, :3] for modality, batch in split.items()}
        for name, split in {"train": TRAIN, "validation": VALIDATION, "test": TEST}.items()
    }
    test = first["test"]
    assert found["retrieval"] == {
        "picture to vector": retrieval_scores(test["picture"], test["vector"]),
        "vector to picture": retrieval_scores(test["vector"], test["picture"]),
    }
    train = first["train"]
    assert found["zero_shot"] == {
        "picture to vector": zero_shot_scores(test["picture"], TEST_Y, train["vector"], TRAIN_Y),
        "vector to picture": zero_shot_scores(test["vector"], TEST_Y, train["picture"], TRAIN_Y),
    }
    together = [(parts["picture"] + parts["vector"]) / 2 for parts in first.values()]
    assert found["together"]["content"] == content_scores(*zip(together, LABELS, strict=True))
    assert found["zero_shot"]["picture to vector"]["accuracy"] > 0.95
    assert found["retrieval"]["picture to vector"]["recall@10"] > 2 * 10 / 100


def test_without_labels_kinds_are_only_retrieved() -> None:
    assert list(evaluate_modalities(FirstPixels(), TRAIN, VALIDATION, TEST)) == ["retrieval"]


@pytest.mark.parametrize("prior", [GaussianPrior, StandardPrior])
@pytest.mark.parametrize("modality", SHAPES)
def test_one_kind_is_the_guide_without_the_others(modality: str, prior: type[GaussianPrior]) -> None:
    torch.manual_seed(0)
    encoders = {name: MLPEncoder(shape, hidden=(5 + len(name),)) for name, shape in SHAPES.items()}
    guide = AmortizedGuide(encoders, prior(2))
    alone = SingleModality(guide, modality).embed_batches(TEST[modality], batch_size=30).as_dict()
    whole = guide.embed_batches({modality: TEST[modality]}, batch_size=100).as_dict()
    assert alone["backbone"].shape == (100, 5 + len(modality))
    for name, values in whole.items():
        torch.testing.assert_close(alone[name], values)

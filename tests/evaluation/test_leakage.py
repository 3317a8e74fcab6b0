"""Leakage: probes learn from train, are chosen on validation, and test is only scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pp_simve.data import Split, load_data
from pp_simve.data.splits import copies_note
from pp_simve.evaluation import Effort, KNNProbe, LinearProbe, RidgeProbe, evaluate_representations
from pp_simve.inference.augmentations import augmentation_policy

from .pictures import CLASSES, EVERY, PixelGuide


def split(images: int, seed: int) -> Split:
    """Pictures whose bright row is their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    pictures = torch.randint(100, (images, 1, CLASSES, CLASSES), generator=generator, dtype=torch.uint8)
    pictures[torch.arange(images), 0, labels] += 120
    return Split(pictures, labels, None)


TRAIN, VALIDATION, TEST = split(400, 1), split(150, 2), split(400, 3)
POLICY = augmentation_policy("affine", (1, CLASSES, CLASSES))


def evaluated(train: Split, validation: Split, test: Split) -> dict[str, float | None]:
    """Scores by probe."""
    options: dict[str, Any] = {"seed": 0, "effort": Effort(min_views=200), "representations": ("z",)}
    records = evaluate_representations(PixelGuide(EVERY, EVERY), POLICY, train, validation, test, **options)
    return {record.probe: record.value for record in records if record.metric != "chance"}


def shuffled(part: Split, seed: int) -> Split:
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    return Split(part.images, part.labels[order], None)


def test_labels_that_say_nothing_score_chance() -> None:
    whole = evaluated(TRAIN, VALIDATION, TEST)
    assert whole["linear"] > 0.95
    lied_to = evaluated(shuffled(TRAIN, 4), shuffled(VALIDATION, 5), TEST)
    for name in ("linear", "knn"):  # 400 test images: within four standard deviations
        assert abs(lied_to[name] - 1 / CLASSES) < 4 * (0.25 * 0.75 / 400) ** 0.5


@pytest.mark.parametrize("probe", [LinearProbe, KNNProbe, RidgeProbe])
def test_a_poisoned_test_split_changes_no_probe(probe: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Tensor]] = []
    plain: Callable[..., Any] = probe.fit

    def recording(self: Any, *arguments: Tensor) -> Any:
        seen.append([argument.clone() for argument in arguments])
        return plain(self, *arguments)

    monkeypatch.setattr(probe, "fit", recording)
    first = evaluated(TRAIN, VALIDATION, TEST)
    poisoned = Split(255 - TEST.images, shuffled(TEST, 6).labels, None)
    second = evaluated(TRAIN, VALIDATION, poisoned)
    assert len(seen) == 2
    for ours, theirs in zip(*seen, strict=True):
        assert torch.equal(ours, theirs)
    assert first["linear"] != second["linear"]


def test_copies_across_splits_are_reported() -> None:
    data = load_data("digits")
    assert copies_note(data) is None
    whole = (torch.cat([data.test.images, data.train.images[:3]]), torch.cat([data.test.labels, data.train.labels[:3]]))
    note = copies_note(dataclasses.replace(data, test=Split(*whole, None)))
    assert note.startswith("3 of 362 test images are exact copies")

"""Fine-tuning: an encoder that labels teach what its probe could not read, while the guide itself stays as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pp_simve.evaluation import LinearProbe
from pp_simve.evaluation.tasks.fine_tuning import fine_tuned_scores
from pp_simve.inference import AmortizedGuide
from pp_simve.models import StandardPrior


class Narrow(nn.Sequential):
    """Two layers to two features: too few for a probe, enough for a trained encoder of two classes."""

    features = 2

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))


def parity(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """2×2 images of noise, whose class (3 or 7) is whether the first two pixels are both dark or both bright."""
    images = torch.randint(256, (count, 1, 2, 2), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    bright = images[:, 0, 0] > 127
    return images, torch.where(bright[:, 0] == bright[:, 1], 3, 7)


TRAIN, VALIDATION, TEST = parity(600, 1), parity(200, 2), parity(300, 3)


@pytest.fixture
def guide() -> AmortizedGuide:
    torch.manual_seed(0)
    return AmortizedGuide(Narrow(), StandardPrior(2)).eval()


def probed(guide: AmortizedGuide) -> float:
    rows = [(guide.embed_batches(images).as_dict()["backbone"], labels) for images, labels in (TRAIN, VALIDATION, TEST)]
    return LinearProbe().fit(*rows[0], *rows[1]).score(*rows[2])


def test_it_learns_and_leaves_the_guide_alone(guide: AmortizedGuide) -> None:
    guide.requires_grad_(False)
    before, state = copy.deepcopy(guide.state_dict()), torch.get_rng_state()
    found = fine_tuned_scores(guide, TRAIN, VALIDATION, TEST, epochs=30, seed=0, lr=5e-3, batch_size=64)
    assert found["accuracy"] > 0.9 > 0.75 > probed(guide)
    assert 1 <= found["epoch"] <= found["epochs"] == 30
    assert found["validation"] > 0.9
    assert torch.equal(torch.get_rng_state(), state)
    after = guide.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in guide.parameters())
    assert not guide.training


def test_the_epoch_is_chosen_on_validation_and_0_is_the_probe(guide: AmortizedGuide) -> None:
    """A rate that breaks the encoder: no epoch is better than its start."""
    found = fine_tuned_scores(guide, TRAIN, VALIDATION, TEST, epochs=2, seed=0, lr=100.0)
    assert found["epoch"] == 0
    assert found["accuracy"] == pytest.approx(probed(guide), abs=1 / 300)


def test_test_labels_change_nothing_but_the_score(guide: AmortizedGuide) -> None:
    poisoned = TEST[0], 10 - TEST[1]  # 3 for 7 and 7 for 3
    one, other = (
        fine_tuned_scores(guide, TRAIN, VALIDATION, test, epochs=3, seed=0, lr=5e-3) for test in (TEST, poisoned)
    )
    assert one["accuracy"] == pytest.approx(1 - other["accuracy"])  # the same seed twice
    assert {**one, "accuracy": 0} == {**other, "accuracy": 0}


def test_a_batch_of_one_image_is_left_out(guide: AmortizedGuide) -> None:
    images, labels = TRAIN
    few = images[:65], labels[:65]
    assert fine_tuned_scores(guide, few, VALIDATION, TEST, epochs=1, seed=0, batch_size=64)["epochs"] == 1


def test_wrong_input_is_named(guide: AmortizedGuide) -> None:
    with pytest.raises(ValueError, match="epochs must be one or more numbers >= 1"):
        fine_tuned_scores(guide, TRAIN, VALIDATION, TEST, epochs=0, seed=0)
    with pytest.raises(ValueError, match="only class 7"):
        fine_tuned_scores(guide, (TRAIN[0], torch.full_like(TRAIN[1], 7)), VALIDATION, TEST, epochs=1, seed=0)

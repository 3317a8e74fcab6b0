"""Attribute scores: rare, noisy and hidden attributes, those that do not vary, and bad input."""

from __future__ import annotations

import pytest
from torch import Tensor

from pp_simve.evaluation import AttributeProbe, attribute_scores, roc_auc

from .test_logistic import attributes as split

NAMES = ["easy", "rare", "noisy", "hidden"]
KEYS = ("balanced_accuracy", "auc")
Split = tuple[Tensor, Tensor]


def test_a_rare_attribute_is_found_and_a_hidden_one_is_chance() -> None:
    train, validation, test = split(4000, 3), split(1000, 4), split(4000, 5)
    found = attribute_scores(train, validation, test, NAMES)
    assert list(found) == ["mean", *NAMES]
    assert train[1][:, 1].double().mean() < 0.07
    assert (found["easy"]["balanced_accuracy"] or 0) > 0.95
    assert (found["rare"]["balanced_accuracy"] or 0) > 0.85
    assert (found["rare"]["auc"] or 0) > 0.93
    for key in KEYS:
        assert found["hidden"][key] == pytest.approx(0.5, abs=0.03)
        assert found["mean"][key] == pytest.approx(sum(found[name][key] or 0 for name in NAMES) / 4)


def test_scores_are_those_of_the_probe_at_the_train_share() -> None:
    train, validation, test = split(150, 6), split(100, 7), split(200, 8)
    found = attribute_scores(train, validation, test, NAMES)
    log_odds = AttributeProbe().fit(*train, *validation).predict(test[0])
    area = roc_auc(log_odds, test[1])
    for column, name in enumerate(NAMES):
        predicted = log_odds[:, column].sigmoid() > train[1][:, column].double().mean()
        sides = [
            float((predicted == test[1][:, column])[test[1][:, column] == side].double().mean()) for side in (0, 1)
        ]
        assert found[name] == {"balanced_accuracy": pytest.approx(sum(sides) / 2), "auc": pytest.approx(area[column])}


def test_attributes_that_do_not_vary_have_no_scores_and_do_not_disturb_the_others() -> None:
    train, validation, test = split(100, 9), split(100, 10), split(100, 11)
    plain = attribute_scores(train, validation, test, NAMES)
    train[1][:, 1] = True
    test[1][:, 3] = False
    validation[1][:, 0] = True  # constant on validation is no obstacle
    found = attribute_scores(train, validation, test, NAMES)
    for name in ("rare", "hidden"):
        assert found[name] == {"balanced_accuracy": None, "auc": None}
    assert found["noisy"] == pytest.approx(plain["noisy"], abs=1e-3)
    for key in KEYS:
        assert found["mean"][key] == pytest.approx(((found["easy"][key] or 0) + (found["noisy"][key] or 0)) / 2)
    train[1][:] = True
    found = attribute_scores(train, validation, test, NAMES)
    assert all(value is None for row in found.values() for value in row.values())


GOOD = split(20, 18)


@pytest.mark.parametrize(
    ("message", "train", "validation", "test", "names"),
    [
        ("test features are NaN or infinite in 20 of 20 rows", GOOD, GOOD, (GOOD[0] / 0, GOOD[1]), NAMES),
        (r"validation features must have shape \(row, 7\)", GOOD, (GOOD[0][:, :2], GOOD[1]), GOOD, NAMES),
        (r"test features must have shape \(row, 7\)", GOOD, GOOD, (GOOD[0][:, :2], GOOD[1]), NAMES),
        ("train attributes must be bool, got torch.int64", (GOOD[0], GOOD[1].long()), GOOD, GOOD, NAMES),
        (r"validation attributes must have shape \(20, 4\)", GOOD, (GOOD[0], GOOD[1][:, :3]), GOOD, NAMES),
        ("attribute names must be given", GOOD, GOOD, GOOD, []),
        ("differ from one another and from 'mean'", GOOD, GOOD, GOOD, ["a", "b", "mean", "c"]),
    ],
)
def test_refuses(message: str, train: Split, validation: Split, test: Split, names: list[str]) -> None:
    with pytest.raises(ValueError, match=message):
        attribute_scores(train, validation, test, names)

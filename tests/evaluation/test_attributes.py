"""Attributes against scikit-learn's logistic regression and scores."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from torch import Tensor

from pp_simve.evaluation import attributes
from pp_simve.evaluation.probes.logistic import PENALTIES
from pp_simve.evaluation.tasks.attributes import attribute_scores, roc_auc

NAMES = ["easy", "rare", "noisy", "hidden"]
Split = tuple[Tensor, Tensor]


def split(rows: int, seed: int) -> Split:
    """Attributes linear in the features, from certain to not at all; columns of unlike scales, one of them constant."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    truth = torch.stack(
        [
            x[:, 0] - x[:, 1] + 0.1 * noise[:, 0] > 0,
            x[:, 2] + 0.7 * noise[:, 1] > 2,
            x[:, 3] + x[:, 0] + 2 * noise[:, 2] > -0.5,
            noise[:, 3] > 0.4,
        ],
        dim=1,
    )
    mixed = x * torch.logspace(-3, 3, 6, dtype=torch.float64) + 7
    return torch.cat([mixed, torch.full((rows, 1), 0.1, dtype=torch.float64)], dim=1), truth


def standardised(train: Tensor, x: Tensor) -> np.ndarray:
    scale = train.std(0, correction=0)
    scale[-1] = 1.0
    return ((x - train.mean(0)) / scale).numpy()


def test_equals_scikit_learn_attribute_by_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation, test = split(150, 0), split(200, 1), split(300, 2)
    seen: list[Tensor] = []

    def spy(scores: Tensor, positive: Tensor) -> Tensor:
        seen.append(scores)
        return roc_auc(scores, positive)

    monkeypatch.setattr(attributes, "roc_auc", spy)
    monkeypatch.setattr(attributes, "_TOLERANCE", 1e-8)
    monkeypatch.setattr(attributes, "_ITERATIONS", 2000)
    found = attribute_scores(train, validation, test, NAMES)
    x, validation_x, test_x = (standardised(train[0], part[0]) for part in (train, validation, test))
    chosen = set()
    for index, name in enumerate(NAMES):
        y, validation_y, test_y = (part[1][:, index].numpy() for part in (train, validation, test))
        losses = {}
        for penalty in PENALTIES:
            oracle = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-9, max_iter=10_000).fit(x, y)
            losses[penalty] = log_loss(validation_y, oracle.predict_proba(validation_x)), oracle
        penalty, (_, oracle) = min(losses.items(), key=lambda item: item[1][0])
        chosen.add(penalty)
        log_odds = oracle.decision_function(test_x)
        np.testing.assert_allclose(seen[0][:, index].numpy(), log_odds, atol=1e-4, rtol=1e-4)
        assert found[name]["auc"] == pytest.approx(roc_auc_score(test_y, log_odds), abs=1e-4)
        predicted = 1 / (1 + np.exp(-seen[0][:, index].numpy())) > y.mean()
        assert found[name]["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(test_y, predicted), abs=1e-12)
    assert len(chosen) > 1
    for key in ("balanced_accuracy", "auc"):
        assert found["mean"][key] == pytest.approx(np.mean([found[name][key] for name in NAMES]))


def test_a_rare_attribute_is_reached_and_a_hidden_one_is_chance() -> None:
    train, validation, test = split(4000, 3), split(1000, 4), split(4000, 5)
    found = attribute_scores(train, validation, test, NAMES)
    assert list(found) == ["mean", *NAMES]
    assert train[1][:, 1].double().mean() < 0.07
    assert (found["easy"]["balanced_accuracy"] or 0) > 0.95
    assert (found["rare"]["balanced_accuracy"] or 0) > 0.85
    assert (found["rare"]["auc"] or 0) > 0.93
    assert found["hidden"]["auc"] == pytest.approx(0.5, abs=0.03)
    assert found["hidden"]["balanced_accuracy"] == pytest.approx(0.5, abs=0.03)


def test_float32_agrees_with_float64() -> None:
    parts = [split(300, seed) for seed in (6, 7, 8)]
    wide = attribute_scores(*parts, NAMES)
    narrow = attribute_scores(*((x.float(), y) for x, y in parts), NAMES)
    for name in NAMES:
        assert narrow[name]["auc"] == pytest.approx(wide[name]["auc"], abs=5e-3)


@pytest.mark.parametrize("value", [False, True])
def test_attributes_constant_in_train_or_test_have_no_scores(value: bool) -> None:
    train, validation, test = split(300, 9), split(300, 10), split(300, 11)
    whole = attribute_scores(train, validation, test, NAMES)
    train[1][:, 0] = value
    test[1][:, 2] = value
    # Constant in validation only is no matter for the scores.
    validation[1][:, 3] = value
    found = attribute_scores(train, validation, test, NAMES)
    nothing = {"balanced_accuracy": None, "auc": None}
    assert found["easy"] == found["noisy"] == nothing
    for key in nothing:
        assert found["rare"][key] == pytest.approx(whole["rare"][key], abs=5e-3)
        assert found["hidden"][key] is not None
        defined = [found["rare"][key], found["hidden"][key]]
        assert found["mean"][key] == pytest.approx(np.mean(defined))


def test_where_nothing_varies_there_is_no_mean() -> None:
    train, validation, test = split(30, 12), split(30, 13), split(30, 14)
    train[1][:] = True
    found = attribute_scores(train, validation, test, NAMES)
    assert all(value is None for row in found.values() for value in row.values())


def test_test_rows_do_not_decide_each_others_fate() -> None:
    train, validation, test = split(100, 15), split(100, 16), split(100, 17)
    found = attribute_scores(train, validation, test, NAMES)
    turned = attribute_scores(train, validation, (test[0], ~test[1]), NAMES)
    for name in NAMES:
        for key in ("balanced_accuracy", "auc"):
            assert turned[name][key] == pytest.approx(1 - (found[name][key] or 0), abs=1e-12)


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_area_equals_scikit_learn_with_ties(levels: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (257, 5), generator=generator).to(dtype)
    positive = torch.rand(257, 5, generator=generator) < torch.linspace(0.02, 0.9, 5)
    expected = [roc_auc_score(positive[:, column], scores[:, column]) for column in range(5)]
    np.testing.assert_allclose(roc_auc(scores, positive).numpy(), expected, rtol=0, atol=1e-14)


def test_area_of_one_kind_only_is_undefined_and_closed_forms_hold() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0], [1.0, 2.0, 1.0], [2.0, 1.0, 1.0]])
    positive = torch.tensor([[False, False, True], [True, True, False], [True, True, False]])
    assert roc_auc(scores, positive).tolist() == [1.0, 0.0, 0.5]
    assert roc_auc(scores, torch.ones(3, 3, dtype=torch.bool)).isnan().all()
    assert roc_auc(scores, torch.zeros(3, 3, dtype=torch.bool)).isnan().all()


GOOD = split(20, 18)


@pytest.mark.parametrize(
    ("message", "train", "validation", "names"),
    [
        ("train features are NaN or infinite in 20 of 20 rows", (GOOD[0] / 0, GOOD[1]), GOOD, NAMES),
        ("validation features have 2 columns, but the train", GOOD, (GOOD[0][:, :2], GOOD[1]), NAMES),
        ("train attributes must be bool, got torch.int64", (GOOD[0], GOOD[1].long()), GOOD, NAMES),
        (r"train attributes must have shape \(20, attribute\), got \(5, 4\)", (GOOD[0], GOOD[1][:5]), GOOD, NAMES),
        (r"train attributes must have shape \(20, attribute\), got \(20,\)", (GOOD[0], GOOD[1][:, 0]), GOOD, NAMES),
        ("validation has 3 attributes, but there are 4 names", GOOD, (GOOD[0], GOOD[1][:, :3]), NAMES),
        ("there are no attributes to predict", GOOD, GOOD, []),
        ("must differ from one another and from 'mean'", GOOD, GOOD, ["a", "b", "a", "c"]),
        ("must differ from one another and from 'mean'", GOOD, GOOD, ["a", "b", "mean", "c"]),
    ],
)
def test_refuses(message: str, train: Split, validation: Split, names: list[str]) -> None:
    with pytest.raises(ValueError, match=message):
        attribute_scores(train, validation, GOOD, names)


def test_refuses_test_features_of_another_width() -> None:
    with pytest.raises(ValueError, match="test features have 2 columns, but the train features have 7"):
        attribute_scores(GOOD, GOOD, (GOOD[0][:, :2], GOOD[1]), NAMES)

"""Logistic probes against scikit-learn's logistic regression of the same objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from torch import Tensor

from pp_simve.evaluation import AttributeProbe, LinearProbe, roc_auc
from pp_simve.evaluation.probes import balanced_accuracy
from pp_simve.evaluation.probes.logistic import PENALTIES

CLASSES = 4


def blobs(rows: int, seed: int, width: int = 6, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    """Overlapping Gaussian classes, mixed and shifted so that the columns have unlike scales; one is constant."""
    fixed = torch.Generator().manual_seed(0)
    centers = torch.randn(CLASSES, width, generator=fixed, dtype=torch.float64)
    mixing = torch.randn(width, width, generator=fixed, dtype=torch.float64) * torch.logspace(-2, 2, width)
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (rows,), generator=generator)
    x = (centers[y] + spread * torch.randn(rows, width, generator=generator, dtype=torch.float64)) @ mixing + 30
    return torch.cat([x, torch.full((rows, 1), 0.1, dtype=torch.float64)], dim=1), y


def standardized(train: Tensor, x: Tensor) -> np.ndarray:
    scale = train.std(0, correction=0)
    scale[-1] = 1.0
    return ((x - train.mean(0)) / scale).numpy()


def objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, penalty: float) -> float:
    """Mean cross-entropy + penalty/2 ‖W‖², from its definition."""
    logits = x @ weight.T + bias
    log_normalizer = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return float((log_normalizer - logits[np.arange(len(y)), y]).mean() + penalty / 2 * (weight**2).sum())


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_the_linear_probe_is_scikit_learns(penalty: float) -> None:
    (x, y), (test_x, _) = blobs(400, seed=1), blobs(300, seed=2)
    probe = LinearProbe(penalties=[penalty], max_iterations=2000, tolerance=1e-7).fit(x, y, x[:50], y[:50])
    rows = standardized(x, x)
    oracle = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-10, max_iter=20_000).fit(rows, y.numpy())
    assert probe.weight.dtype == torch.float64
    np.testing.assert_allclose(probe.weight.numpy(), oracle.coef_, atol=1e-5)
    ours = objective(rows, y.numpy(), probe.weight.numpy(), probe.bias.numpy(), penalty)
    theirs = objective(rows, y.numpy(), oracle.coef_, oracle.intercept_, penalty)
    assert ours == pytest.approx(theirs, abs=1e-9)
    np.testing.assert_array_equal(probe.predict(test_x), oracle.predict(standardized(x, test_x)))


@pytest.mark.parametrize("penalty", [1e-2, 1e-4])
def test_float32_comes_within_3e_5_of_the_minimum(penalty: float) -> None:
    x, y = blobs(2000, seed=13)
    best = LinearProbe(penalties=[penalty], tolerance=1e-8, max_iterations=2000).fit(x, y, x[:50], y[:50])
    found = LinearProbe(penalties=[penalty]).fit(x.float(), y, x[:50].float(), y[:50])
    assert found.weight.dtype == torch.float32
    least, reached = (
        objective(standardized(x, x), y.numpy(), probe.weight.double().numpy(), probe.bias.double().numpy(), penalty)
        for probe in (best, found)
    )
    assert -1e-9 <= reached - least < 3e-5


def test_the_penalty_is_the_best_on_validation_and_ties_go_to_the_stronger() -> None:
    x, y = blobs(150, seed=4, spread=3.0)
    validation = blobs(400, seed=5, spread=3.0)
    grid = [10.0, 0.3, 1e-2, 1e-5]
    probe = LinearProbe(penalties=grid).fit(x, y, *validation)
    alone = {penalty: LinearProbe(penalties=[penalty]).fit(x, y, *validation).validation_score for penalty in grid}
    assert probe.validation_score == pytest.approx(max(alone.values()), abs=0.005)
    # Separable: every penalty classifies all rows correctly.
    x, y = torch.tensor([[-1.0], [1.0]]).repeat(10, 1), torch.tensor([0, 1]).repeat(10)
    assert LinearProbe(penalties=[1e-3, 1.0, 1e-5]).fit(x, y, x, y).penalty == 1.0


def attributes(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Attributes linear in the features, from certain to not at all; columns of unlike scales, one of them constant."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    easy = x[:, 0] - x[:, 1] + 0.1 * noise[:, 0] > 0
    rare = x[:, 2] + 0.7 * noise[:, 1] > 2
    noisy = x[:, 3] + x[:, 0] + 2 * noise[:, 2] > -0.5
    mixed = x * torch.logspace(-3, 3, 6, dtype=torch.float64) + 7
    constant = torch.full((rows, 1), 0.1, dtype=torch.float64)
    return torch.cat([mixed, constant], dim=1), torch.stack([easy, rare, noisy, noise[:, 3] > 0.4], dim=1)


def test_the_attribute_probe_is_scikit_learns_attribute_by_attribute() -> None:
    (x, y), (validation_x, validation_y), (test_x, test_y) = (attributes(n, s) for s, n in enumerate((150, 200, 300)))
    probe = AttributeProbe(PENALTIES[:5], max_iterations=2000, tolerance=1e-7).fit(x, y, validation_x, validation_y)
    log_odds = probe.predict(test_x).numpy()
    rows, validation_rows, test_rows = (standardized(x, part) for part in (x, validation_x, test_x))
    for column in range(4):
        losses = {}
        for penalty in PENALTIES[:5]:
            oracle = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-9, max_iter=10_000).fit(rows, y[:, column])
            losses[penalty] = log_loss(validation_y[:, column], oracle.predict_proba(validation_rows)), oracle
        penalty, (_, oracle) = min(losses.items(), key=lambda item: item[1][0])
        assert float(probe.penalty[column]) == penalty
        np.testing.assert_allclose(log_odds[:, column], oracle.decision_function(test_rows), atol=1e-4, rtol=1e-4)
    assert len(probe.penalty.unique()) > 1
    expected = [roc_auc_score(test_y[:, column], log_odds[:, column]) for column in range(4)]
    np.testing.assert_allclose(probe.score(test_x, test_y), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("levels", "dtype"), [(2, torch.int64), (5, torch.float32), (1000, torch.float64)])
def test_the_area_and_balanced_accuracy_are_scikit_learns(levels: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (257, 5), generator=generator).to(dtype)
    positive = torch.rand(257, 5, generator=generator) < torch.linspace(0.02, 0.9, 5)
    expected = [roc_auc_score(positive[:, column], scores[:, column]) for column in range(5)]
    np.testing.assert_allclose(roc_auc(scores, positive).numpy(), expected, rtol=0, atol=1e-14)
    predicted = scores > levels // 2
    expected = [balanced_accuracy_score(positive[:, column], predicted[:, column]) for column in range(5)]
    np.testing.assert_allclose(balanced_accuracy(predicted, positive).numpy(), expected, rtol=0, atol=1e-14)


def test_the_area_of_one_value_only_is_undefined_and_closed_forms_hold() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0], [1.0, 2.0, 1.0], [2.0, 1.0, 1.0]])
    positive = torch.tensor([[False, False, True], [True, True, False], [True, True, False]])
    assert roc_auc(scores, positive).tolist() == [1.0, 0.0, 0.5]
    assert roc_auc(scores, torch.ones(3, 3, dtype=torch.bool)).isnan().all()
    assert roc_auc(scores, torch.zeros(3, 3, dtype=torch.bool)).isnan().all()

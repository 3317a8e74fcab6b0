"""LinearProbe against scikit-learn's logistic regression of the same objective."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy

from pp_simve.evaluation import LinearProbe, linear

CLASSES = 4


def blobs(rows: int, seed: int, width: int = 6, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    """Overlapping Gaussian classes, mixed and shifted so that the columns have unlike scales; one is constant."""
    fixed = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, width, generator=fixed, dtype=torch.float64)
    mixing = torch.randn(width, width, generator=fixed, dtype=torch.float64) * torch.logspace(-2, 2, width)
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (rows,), generator=generator)
    x = (centres[y] + spread * torch.randn(rows, width, generator=generator, dtype=torch.float64)) @ mixing + 30
    return torch.cat([x, torch.full((rows, 1), 0.1, dtype=torch.float64)], dim=1), y


def objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, penalty: float) -> float:
    """Mean cross-entropy + penalty/2 ‖W‖², from its definition."""
    logits = x @ weight.T + bias
    log_normaliser = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return float((log_normaliser - logits[np.arange(len(y)), y]).mean() + penalty / 2 * (weight**2).sum())


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_equals_scikit_learn(penalty: float) -> None:
    x, y = blobs(400, seed=1)
    test_x, _ = blobs(300, seed=2)
    probe = LinearProbe(penalties=[penalty], tolerance=1e-7).fit(x, y, x[:50], y[:50])
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale[-1] = 1.0
    oracle = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-10, max_iter=20_000)
    standardised = ((x - mean) / scale).numpy()
    oracle.fit(standardised, y.numpy())
    assert probe.weight.dtype == torch.float64
    np.testing.assert_allclose(probe.weight.numpy(), oracle.coef_, atol=1e-5)
    ours = objective(standardised, y.numpy(), probe.weight.numpy(), probe.bias.numpy(), penalty)
    theirs = objective(standardised, y.numpy(), oracle.coef_, oracle.intercept_, penalty)
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert probe.gradient_norm <= 1e-7
    np.testing.assert_array_equal(probe.predict(test_x), oracle.predict(((test_x - mean) / scale).numpy()))


def test_float32_agrees_with_float64() -> None:
    x, y = blobs(600, seed=3)
    wide = LinearProbe().fit(x[:400], y[:400], x[400:], y[400:])
    narrow = LinearProbe().fit(x[:400].float(), y[:400], x[400:].float(), y[400:])
    assert narrow.weight.dtype == torch.float32
    assert abs(narrow.score(x[400:].float(), y[400:]) - wide.score(x[400:], y[400:])) <= 0.01


def test_loss_and_gradient_are_those_of_cross_entropy() -> None:
    x, y = blobs(80, seed=11)
    generator = torch.Generator().manual_seed(12)
    weight = torch.randn(CLASSES, x.shape[1], generator=generator, dtype=x.dtype).requires_grad_()
    bias = torch.randn(CLASSES, generator=generator, dtype=x.dtype).requires_grad_()
    expected = cross_entropy(x @ weight.T + bias, y)
    expected.backward()
    found = linear._SoftmaxRegression.of(x, y, CLASSES)(weight.detach(), bias.detach())
    for mine, theirs in zip(found, (expected.detach(), weight.grad, bias.grad), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("penalty", [1e-2, 1e-4])
def test_float32_comes_as_close_to_the_minimum_as_said(penalty: float) -> None:
    x, y = blobs(2000, seed=13)
    best = LinearProbe(penalties=[penalty], tolerance=1e-8, max_iterations=2000).fit(x, y, x[:50], y[:50])
    found = LinearProbe(penalties=[penalty]).fit(x.float(), y, x[:50].float(), y[:50])
    scale = x.std(0, correction=0)
    scale[-1] = 1.0
    standardised = ((x - x.mean(0)) / scale).numpy()
    least, reached = (
        objective(standardised, y.numpy(), probe.weight.double().numpy(), probe.bias.double().numpy(), penalty)
        for probe in (best, found)
    )
    assert -1e-9 <= reached - least < 3e-5
    assert found.gradient_norm <= found.tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_widened(dtype: torch.dtype) -> None:
    x = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    probe = LinearProbe().fit(x.to(dtype), y, x.to(dtype), y)
    assert probe.weight.dtype == torch.float32
    assert probe.score(x.to(dtype), y) > 0.95


def test_penalty_is_chosen_on_validation_and_ties_go_to_the_stronger() -> None:
    x, y = blobs(150, seed=4, spread=3.0)
    validation_x, validation_y = blobs(400, seed=5, spread=3.0)
    grid = [10.0, 0.3, 1e-2, 1e-5]
    probe = LinearProbe(penalties=grid).fit(x, y, validation_x, validation_y)
    scores = {
        penalty: LinearProbe(penalties=[penalty]).fit(x, y, validation_x, validation_y).validation_score
        for penalty in grid
    }
    assert probe.validation_score == pytest.approx(max(scores.values()), abs=0.005)
    # Separable: every penalty is right everywhere.
    x = torch.tensor([[-1.0], [1.0]]).repeat(10, 1)
    y = torch.tensor([0, 1]).repeat(10)
    assert LinearProbe(penalties=[1e-3, 1.0, 1e-5]).fit(x, y, x, y).penalty == 1.0


def test_test_rows_change_nothing_but_their_score() -> None:
    x, y = blobs(300, seed=6)
    probe = LinearProbe().fit(x[:200], y[:200], x[200:], y[200:])
    before = probe.penalty, probe.weight.clone()
    good = probe.score(x[:100], y[:100])
    poisoned = probe.score(x[:100], (y[:100] + 1) % CLASSES)
    assert poisoned < 0.4 < good
    assert probe.penalty == before[0]
    assert torch.equal(probe.weight, before[1])


def test_shuffled_labels_score_chance() -> None:
    x, _ = blobs(2000, seed=7)
    y = torch.randint(CLASSES, (2000,), generator=torch.Generator().manual_seed(8))
    score = LinearProbe().fit(x[:1000], y[:1000], x[1000:1400], y[1000:1400]).score(x[1400:], y[1400:])
    # Four standard deviations of a binomial with 600 rows.
    assert abs(score - 1 / CLASSES) < 4 * math.sqrt(0.25 * 0.75 / 600)


def test_labels_keep_their_values_and_unseen_ones_are_errors() -> None:
    x = torch.tensor([[-1.0], [1.0]]).repeat(20, 1)
    y = torch.tensor([-3, 70]).repeat(20)
    probe = LinearProbe().fit(x, y, x, y)
    assert probe.classes.tolist() == [-3, 70]
    assert probe.predict(torch.tensor([[-2.0], [2.0]])).tolist() == [-3, 70]
    assert probe.score(x, torch.full_like(y, 5)) == 0.0


def test_works_without_gradients_and_leaves_none() -> None:
    x, y = blobs(60, seed=9)
    x.requires_grad_()
    with torch.inference_mode():
        inside = LinearProbe().fit(x, y, x, y).score(x, y)
    probe = LinearProbe().fit(x, y, x, y)
    assert inside == probe.score(x, y)
    assert not probe.weight.requires_grad


def test_refuses_bad_penalties() -> None:
    with pytest.raises(ValueError, match="penalties must be one or more numbers >= 0"):
        LinearProbe(penalties=[])
    with pytest.raises(ValueError, match="penalties must be one or more numbers >= 0"):
        LinearProbe(penalties=[-1.0])

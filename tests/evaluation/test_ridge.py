"""RidgeProbe against scikit-learn's Ridge and r2_score."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import Tensor

from pp_simve.evaluation import RidgeProbe


def problem(rows: int, seed: int, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Three targets linear in eight mixed features of unlike scales, with noise."""
    fixed = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 8, generator=fixed, dtype=torch.float64) * torch.logspace(-3, 3, 8)
    weight = torch.randn(8, 3, generator=fixed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 8, generator=generator, dtype=torch.float64)
    return hidden @ mixing + 5, hidden @ weight + noise * torch.randn(rows, 3, generator=generator).double() - 2


@pytest.mark.parametrize("alpha", [10.0, 1e-2, 1e-5])
def test_equals_scikit_learn(alpha: float) -> None:
    x, y = problem(200, seed=1)
    test_x, test_y = problem(150, seed=2)
    probe = RidgeProbe(penalties=[alpha]).fit(x, y, x[:30], y[:30])
    mean, scale = x.mean(0), x.std(0, correction=0)
    oracle = Ridge(alpha=alpha * len(x)).fit(((x - mean) / scale).numpy(), y.numpy())
    predicted = oracle.predict(((test_x - mean) / scale).numpy())
    np.testing.assert_allclose(probe.predict(test_x).numpy(), predicted, rtol=1e-8, atol=1e-8)
    expected = r2_score(test_y.numpy(), predicted, multioutput="raw_values")
    np.testing.assert_allclose(probe.score(test_x, test_y).numpy(), expected, rtol=1e-8)


def test_alpha_is_chosen_for_each_target_by_validation_r2() -> None:
    x, y = problem(40, seed=3, noise=4.0)
    y[:, 0] = problem(40, seed=3, noise=0.0)[1][:, 0]
    validation_x, validation_y = problem(200, seed=4, noise=4.0)
    validation_y[:, 0] = problem(200, seed=4, noise=0.0)[1][:, 0]
    grid = [10.0, 1.0, 0.1, 1e-3, 1e-6]
    probe = RidgeProbe(penalties=grid).fit(x, y, validation_x, validation_y)
    scores = torch.stack(
        [RidgeProbe([alpha]).fit(x, y, x, y).score(validation_x, validation_y) for alpha in sorted(grid, reverse=True)]
    )
    expected = torch.tensor(sorted(grid, reverse=True), dtype=torch.float64)[scores.argmax(dim=0)]
    assert torch.equal(probe.alpha, expected)
    assert probe.alpha[0] < probe.alpha[1]


def test_ties_go_to_the_stronger_penalty() -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    constant = torch.full((50, 1), 3.0)
    assert RidgeProbe([1e-3, 1.0, 0.1]).fit(x, constant, x, constant).alpha.tolist() == [1.0]


def test_collinear_and_constant_features_are_harmless() -> None:
    x, y = problem(100, seed=6, noise=0.0)
    crowded = torch.cat([x, x, torch.full((100, 1), 0.1).double()], dim=1).float()
    scores = RidgeProbe().fit(crowded, y, crowded, y).score(crowded, y)
    assert (scores > 0.999).all()
    assert RidgeProbe().fit(crowded, y, crowded, y).predict(crowded).dtype == torch.float32

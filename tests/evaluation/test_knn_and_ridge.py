"""Closed-form and neighbor probes against scikit-learn's, and their rules for ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from pp_simve.evaluation import KNNProbe, RidgeProbe, WeightedKNNProbe
from pp_simve.evaluation.probes import knn


def two_classes(rows: int, seed: int, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Two overlapping classes: with an odd k no vote is tied."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (rows,), generator=generator)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64) + 0.8 * y.unsqueeze(1)
    return x + offset, y


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 7, 31])
def test_knn_equals_scikit_learn(k: int, metric: str) -> None:
    (x, y), (test_x, test_y) = two_classes(300, seed=1), two_classes(200, seed=2)
    probe = KNNProbe(neighbors=[k], metrics=[metric]).fit(x, y, x[:20], y[:20])
    oracle = KNeighborsClassifier(k, metric=metric).fit(x.numpy(), y.numpy())
    np.testing.assert_array_equal(probe.predict(test_x), oracle.predict(test_x.numpy()))
    assert probe.score(test_x, test_y) == pytest.approx(oracle.score(test_x.numpy(), test_y.numpy()))
    assert (probe.k, probe.metric) == (k, metric)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_chunks_change_nothing(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (x, _), (test_x, _) = two_classes(300, seed=3), two_classes(50, seed=4)
    whole = knn.nearest_rows(test_x, x, 9, metric)
    monkeypatch.setattr(knn, "_ENTRIES", 7 * 300)
    for part, expected in zip(knn.nearest_rows(test_x, x, 9, metric), whole, strict=True):
        torch.testing.assert_close(part, expected)


def test_far_from_the_origin_float32_still_resolves_neighbors() -> None:
    (x, y), (test_x, _) = two_classes(300, seed=5, offset=1000.0), two_classes(100, seed=6, offset=1000.0)
    probe = KNNProbe(neighbors=[5], metrics=["euclidean"]).fit(x.float(), y, x.float(), y)
    oracle = KNeighborsClassifier(5).fit(x.numpy(), y.numpy())
    assert (probe.predict(test_x.float()).numpy() == oracle.predict(test_x.numpy())).mean() >= 0.98


def test_a_tied_vote_goes_to_the_nearest_voter() -> None:
    x, y = torch.tensor([[0.0], [3.0], [4.0], [5.0]]), torch.tensor([9, 2, 2, 9])
    probe = KNNProbe(neighbors=[4], metrics=["euclidean"]).fit(x, y, x, y)
    assert probe.predict(torch.tensor([[1.0], [3.4]])).tolist() == [9, 2]


def test_k_and_metric_are_selected_on_validation() -> None:
    # The class is the direction, the length is noise: only the cosine separates them.
    generator = torch.Generator().manual_seed(7)
    y = torch.randint(2, (600,), generator=generator)
    angle = 0.6 * y + 0.1 * torch.randn(600, generator=generator)
    length = torch.logspace(-3, 3, 600)[torch.randperm(600, generator=generator)]
    x = torch.stack([angle.cos(), angle.sin()], dim=1) * length.unsqueeze(1)
    probe = KNNProbe().fit(x[:300], y[:300], x[300:450], y[300:450])
    assert probe.metric == "cosine"
    assert probe.score(x[450:], y[450:]) > 0.95
    # One mislabelled row per cluster: a single neighbor repeats the mistake.
    x = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    y = torch.tensor([0, 0, 1, 1, 1, 0])
    other = torch.tensor([[0.25], [5.25]]), torch.tensor([0, 1])
    assert KNNProbe(neighbors=[1, 3], metrics=["euclidean"]).fit(x, y, *other).k == 3


def test_equal_scores_go_to_the_larger_k_and_the_first_metric() -> None:
    x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
    for metrics in (("euclidean", "cosine"), ("cosine", "euclidean")):
        probe = KNNProbe(neighbors=[1, 2], metrics=metrics).fit(x, y, x, y)
        assert (probe.k, probe.metric) == (2, metrics[0])


def test_k_is_limited_to_the_train_rows_and_zero_rows_have_a_cosine() -> None:
    x, y = torch.tensor([[0.0], [1.0], [1.1]]), torch.tensor([0, 1, 1])
    probe = KNNProbe(neighbors=[50, 100]).fit(x, y, x, y)
    assert probe.k == 3
    assert probe.predict(x).tolist() == [1, 1, 1]
    x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 2])
    probe = KNNProbe(neighbors=[1], metrics=["cosine"]).fit(x, y, x, y)
    assert probe.predict(torch.tensor([[3.0, 0.1], [0.1, 3.0]])).tolist() == [1, 2]


def seven_classes(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(7, (rows,), generator=generator)
    centers = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return centers[y] + torch.randn(rows, 5, generator=generator, dtype=torch.float64), 10 * y - 4


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (200, 0.07), (20, 0.5), (500, 0.02)])
def test_weighted_votes_equal_a_loop(k: int, temperature: float) -> None:
    (x, y), (test_x, test_y) = seven_classes(300, seed=1), seven_classes(100, seed=2)
    probe = WeightedKNNProbe(k, temperature).fit(x, y, test_x[:30], test_y[:30])
    first, hits = [], dict.fromkeys((1, 3, 5, 9), 0)
    for row, label in zip(test_x, test_y.tolist(), strict=True):
        cosines = [float(row @ other / (row.norm() * other.norm())) for other in x]
        votes: dict[int, float] = {}
        for place in sorted(range(len(x)), key=cosines.__getitem__)[-k:]:
            votes[int(y[place])] = votes.get(int(y[place]), 0.0) + math.exp(cosines[place] / temperature)
        ranked = sorted(votes, key=votes.__getitem__, reverse=True)
        first.append(ranked[0])
        for count in hits:
            hits[count] += label in ranked[:count]
    assert probe.predict(test_x).tolist() == first
    assert probe.top_accuracies(test_x, test_y, [*hits]) == [found / 100 for found in hits.values()]
    assert probe.score(test_x, test_y) == hits[1] / 100 < hits[3] / 100
    assert probe.validation_score == probe.score(test_x[:30], test_y[:30])


def test_nearer_neighbors_weigh_more_and_a_class_without_a_vote_is_not_among_the_first() -> None:
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.2, 1.0], [-1.0, -1.0]]), torch.tensor([0, 1, 1, 2])
    row = torch.tensor([[1.0, 0.5]])
    assert WeightedKNNProbe(3).fit(x, y, x, y).predict(row).tolist() == [0]
    assert WeightedKNNProbe(3, temperature=100.0).fit(x, y, x, y).predict(row).tolist() == [1]
    assert WeightedKNNProbe(3).fit(x, y, x, y).top_accuracies(row, torch.tensor([2]), (1, 2, 3)) == [0.0, 0.0, 0.0]
    for given, message in (((0,), "k must be one or more numbers >= 1"), ((5, 0.0), "temperature must be .* > 0")):
        with pytest.raises(ValueError, match=message):
            WeightedKNNProbe(*given)
    with pytest.raises(RuntimeError, match="WeightedKNNProbe has not been fitted"):
        WeightedKNNProbe().top_accuracies(x, y)


def problem(rows: int, seed: int, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Three targets linear in eight mixed features of unlike scales, with noise."""
    fixed = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 8, generator=fixed, dtype=torch.float64) * torch.logspace(-3, 3, 8)
    weight = torch.randn(8, 3, generator=fixed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 8, generator=generator, dtype=torch.float64)
    return hidden @ mixing + 5, hidden @ weight + noise * torch.randn(rows, 3, generator=generator).double() - 2


@pytest.mark.parametrize("alpha", [10.0, 1e-2, 1e-5])
def test_ridge_equals_scikit_learn(alpha: float) -> None:
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

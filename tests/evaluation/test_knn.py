"""KNNProbe against scikit-learn's, and its rules for ties and for too few rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from pp_simve.evaluation import KNNProbe
from pp_simve.evaluation.probes import knn


def two_classes(rows: int, seed: int, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Two overlapping classes: with an odd k no vote is tied."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (rows,), generator=generator)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64) + 0.8 * y.unsqueeze(1)
    return x + offset, y


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 7, 31])
def test_equals_scikit_learn(k: int, metric: str) -> None:
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
    assert torch.equal(knn.nearest_rows(test_x, x, 9, metric), whole)


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


def test_k_is_limited_to_the_train_rows() -> None:
    x, y = torch.tensor([[0.0], [1.0], [1.1]]), torch.tensor([0, 1, 1])
    probe = KNNProbe(neighbors=[50, 100]).fit(x, y, x, y)
    assert probe.k == 3
    assert probe.predict(x).tolist() == [1, 1, 1]


def test_zero_rows_have_a_cosine() -> None:
    x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 2])
    probe = KNNProbe(neighbors=[1], metrics=["cosine"]).fit(x, y, x, y)
    assert probe.predict(torch.tensor([[3.0, 0.1], [0.1, 3.0]])).tolist() == [1, 2]

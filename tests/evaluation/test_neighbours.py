"""KNNProbe against scikit-learn's, and its rules for ties and for too few rows."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from pp_simve.evaluation import KNNProbe, neighbours


def two_classes(rows: int, seed: int, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Two overlapping classes: with an odd k no vote is tied."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (rows,), generator=generator)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64) + 0.8 * y.unsqueeze(1)
    return x + offset, y


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 7, 31])
def test_equals_scikit_learn(k: int, metric: str) -> None:
    x, y = two_classes(300, seed=1)
    test_x, test_y = two_classes(200, seed=2)
    probe = KNNProbe(neighbors=[k], metrics=[metric]).fit(x, y, x[:20], y[:20])
    oracle = KNeighborsClassifier(k, metric=metric).fit(x.numpy(), y.numpy())
    np.testing.assert_array_equal(probe.predict(test_x), oracle.predict(test_x.numpy()))
    assert probe.score(test_x, test_y) == pytest.approx(oracle.score(test_x.numpy(), test_y.numpy()))
    assert (probe.k, probe.metric) == (k, metric)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = two_classes(300, seed=3)
    test_x, _ = two_classes(50, seed=4)
    whole = KNNProbe().fit(x, y, x[:40], y[:40]).predict(test_x)
    for size in ("_QUERIES", "_ROWS", "_GATHERED"):
        monkeypatch.setattr(neighbours, size, 7)
    assert torch.equal(KNNProbe().fit(x, y, x[:40], y[:40]).predict(test_x), whole)


@pytest.mark.parametrize(("rows", "k"), [(1, 1), (5, 5), (50, 3), (1025, 1), (2600, 5), (2611, 7), (400, 399)])
def test_the_most_alike_are_those_of_a_full_sort(rows: int, k: int) -> None:
    # Products of small integers are exact, and most of them are tied.
    generator = torch.Generator().manual_seed(rows)
    modalities: list[tuple[int, torch.dtype]] = [(2, torch.float32), (1000, torch.float64)]
    for reach, dtype in modalities:
        among = torch.randint(-reach, reach + 1, (rows, 4), generator=generator).to(dtype)
        queries = torch.randint(-reach, reach + 1, (515, 4), generator=generator).to(dtype)
        found = neighbours.most_alike(queries, among, k)
        products = queries @ among.T
        assert torch.equal(products.gather(1, found), products.sort(dim=1, descending=True).values[:, :k])
        assert all(len(set(row)) == k for row in found.tolist())


def test_the_best_may_all_be_in_one_block_or_among_the_rows_left_over() -> None:
    for first in (0, 640, 2597):
        among = torch.zeros(2600, 2)
        among[first : first + 3, 0] = torch.tensor([3.0, 2.0, 1.0])
        assert neighbours.most_alike(torch.tensor([[1.0, 0.0]]), among, 3).tolist() == [[first, first + 1, first + 2]]


def test_far_from_the_origin_float32_still_tells_neighbours_apart() -> None:
    x, y = two_classes(300, seed=5, offset=1000.0)
    test_x, _ = two_classes(100, seed=6, offset=1000.0)
    probe = KNNProbe(neighbors=[5], metrics=["euclidean"]).fit(x.float(), y, x.float(), y)
    oracle = KNeighborsClassifier(5).fit(x.numpy(), y.numpy())
    assert (probe.predict(test_x.float()).numpy() == oracle.predict(test_x.numpy())).mean() >= 0.98


def test_a_tied_vote_goes_to_the_nearest_voter() -> None:
    x = torch.tensor([[0.0], [3.0], [4.0], [5.0]])
    y = torch.tensor([9, 2, 2, 9])
    probe = KNNProbe(neighbors=[4], metrics=["euclidean"]).fit(x, y, x, y)
    assert probe.predict(torch.tensor([[1.0], [3.4]])).tolist() == [9, 2]


def test_k_and_metric_are_chosen_on_validation() -> None:
    # Class is direction, length is noise: only the cosine sees it.
    generator = torch.Generator().manual_seed(7)
    y = torch.randint(2, (600,), generator=generator)
    angle = 0.6 * y + 0.1 * torch.randn(600, generator=generator)
    length = torch.logspace(-3, 3, 600)[torch.randperm(600, generator=generator)]
    x = torch.stack([angle.cos(), angle.sin()], dim=1) * length.unsqueeze(1)
    probe = KNNProbe().fit(x[:300], y[:300], x[300:450], y[300:450])
    assert probe.metric == "cosine"
    assert probe.score(x[450:], y[450:]) > 0.95
    # One mislabelled row a cluster: a single neighbour repeats the mistake.
    x = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    y = torch.tensor([0, 0, 1, 1, 1, 0])
    probe = KNNProbe(neighbors=[1, 3], metrics=["euclidean"]).fit(
        x, y, torch.tensor([[0.25], [5.25]]), torch.tensor([0, 1])
    )
    assert probe.k == 3


def test_k_is_limited_to_the_train_rows() -> None:
    x = torch.tensor([[0.0], [1.0], [1.1]])
    y = torch.tensor([0, 1, 1])
    probe = KNNProbe(neighbors=[50, 100]).fit(x, y, x, y)
    assert probe.k == 3
    assert probe.predict(x).tolist() == [1, 1, 1]


def test_zero_rows_have_a_cosine() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([0, 1, 2])
    probe = KNNProbe(neighbors=[1], metrics=["cosine"]).fit(x, y, x, y)
    assert probe.predict(torch.tensor([[3.0, 0.1], [0.1, 3.0]])).tolist() == [1, 2]


def test_shuffled_labels_score_chance() -> None:
    generator = torch.Generator().manual_seed(8)
    x, y = torch.randn(1600, 5, generator=generator), torch.randint(4, (1600,), generator=generator)
    score = KNNProbe().fit(x[:800], y[:800], x[800:1000], y[800:1000]).score(x[1000:], y[1000:])
    assert abs(score - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 600)


def test_refuses_bad_choices() -> None:
    with pytest.raises(ValueError, match="neighbours must be one or more numbers >= 1"):
        KNNProbe(neighbors=[0])
    with pytest.raises(ValueError, match="metrics must be among"):
        KNNProbe(metrics=["manhattan"])

"""Clustering: the scores against their definitions, and mixtures whose answer is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

from pp_simve.evaluation import clustering
from pp_simve.evaluation.clustering import Covariance, GaussianMixtureClusters, cluster_scores, hungarian_accuracy


def blobs(rows: int, seed: int, classes: int = 3, distance: float = 8.0) -> tuple[Tensor, Tensor]:
    """Unit Gaussians about points ``distance`` apart on a line through the origin in 2 dimensions, in random order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    noise = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    return noise + distance * labels.unsqueeze(1) * torch.tensor([0.6, 0.8]), labels


def slanted(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two narrow clusters along the diagonal, one to the right of the other: features alone overlap."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (rows,), generator=generator)
    along = torch.randn(rows, generator=generator, dtype=torch.float64)
    across = 0.15 * torch.randn(rows, generator=generator, dtype=torch.float64)
    return torch.stack([along + across + 2 * labels, along - across], dim=1), labels


small_integers = st.integers(-1, 3)


@settings(deadline=None)
@given(st.lists(st.tuples(small_integers, small_integers), min_size=1, max_size=12))
def test_hungarian_accuracy_is_the_best_of_all_matchings(pairs: list[tuple[int, int]]) -> None:
    classes = sorted({label for label, _ in pairs})
    clusters = sorted({cluster for _, cluster in pairs})
    flip = len(classes) > len(clusters)
    short, long = (clusters, classes) if flip else (classes, clusters)
    best = 0
    for chosen in itertools.permutations(long, len(short)):
        match = set(zip(chosen, short, strict=True)) if flip else set(zip(short, chosen, strict=True))
        best = max(best, sum(pair in match for pair in pairs))
    labels, found = torch.tensor(pairs).unbind(dim=1)
    assert hungarian_accuracy(labels, found) == pytest.approx(best / len(pairs), abs=1e-12)


@pytest.mark.parametrize("clusters", [None, 2, 5])
@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_scores_are_their_definitions_on_the_clusters_found(covariance: Covariance, clusters: int | None) -> None:
    train, _ = blobs(400, seed=1, distance=2.0)
    test_x, test_y = blobs(150, seed=2, distance=2.0)
    scores = cluster_scores(train, (test_x, test_y), clusters=clusters, covariance=covariance, restarts=2, seed=4)
    mixture = GaussianMixtureClusters(clusters or 3, covariance=covariance, restarts=2, seed=4).fit(train)
    found = mixture.predict(test_x)
    assert len(torch.unique(found)) == (clusters or 3)
    assert scores["accuracy"] == hungarian_accuracy(test_y, found)
    assert scores["nmi"] == normalized_mutual_info_score(test_y, found)
    assert scores["ari"] == adjusted_rand_score(test_y, found)
    assert scores["converged"] == 1.0
    assert set(scores) == {"accuracy", "nmi", "ari", "converged"}


def test_classes_that_features_know_nothing_of_score_chance() -> None:
    train, _ = blobs(600, seed=5)
    test_x, _ = blobs(3000, seed=6)
    labels = torch.randint(3, (3000,), generator=torch.Generator().manual_seed(7))
    scores = cluster_scores(train, (test_x, labels))
    assert scores["accuracy"] < 0.37
    assert scores["nmi"] < 0.005
    assert abs(scores["ari"]) < 0.005


def test_full_covariances_follow_slanted_clusters_and_diagonal_ones_do_not() -> None:
    train, _ = slanted(1500, seed=8)
    test = slanted(500, seed=9)
    assert cluster_scores(train, test, covariance="full")["accuracy"] > 0.98
    assert cluster_scores(train, test, covariance="diag")["accuracy"] < 0.8


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_units_of_the_features_do_not_matter(covariance: Covariance) -> None:
    x, _ = blobs(300, seed=10, distance=3.0)
    units, offset = torch.tensor([1e-6, 1e5], dtype=torch.float64), torch.tensor([3.0, -1e6])
    plain = GaussianMixtureClusters(3, covariance=covariance).fit(x)
    scaled = GaussianMixtureClusters(3, covariance=covariance).fit(x * units + offset)
    assert torch.equal(plain.predict(x), scaled.predict(x * units + offset))
    assert plain.log_likelihood == pytest.approx(scaled.log_likelihood, abs=1e-6)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_the_log_likelihood_is_that_of_the_standardised_rows(covariance: Covariance) -> None:
    # Two points in equal number become ±1: each cluster has variance 0, and the floor of 0.01.
    x = torch.tensor([[3.0], [7.0]], dtype=torch.float64).repeat(10, 1)
    mixture = GaussianMixtureClusters(2, covariance=covariance).fit(x)
    assert mixture.log_likelihood == pytest.approx(-0.5 * math.log(2 * math.pi * 0.01) - math.log(2), abs=1e-9)
    assert mixture.converged


def test_restarts_differ_and_the_likeliest_is_kept() -> None:
    x, _ = blobs(300, seed=11, classes=12, distance=3.0)
    # The first of several starts is the only one of a single start.
    starts = [GaussianMixtureClusters(8, restarts=n, covariance="diag").fit(x).log_likelihood for n in (1, 2, 4, 8, 16)]
    assert starts == sorted(starts)
    assert starts[-1] > starts[0] + 1e-3
    seeds = [GaussianMixtureClusters(8, restarts=1, covariance="diag", seed=n).fit(x).log_likelihood for n in range(5)]
    assert max(seeds) > min(seeds) + 1e-3


def test_a_seed_decides_everything_and_no_global_state_is_touched() -> None:
    train, _ = blobs(400, seed=14, distance=1.0)
    test = blobs(200, seed=15, distance=1.0)
    before = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002 (the global state is what is tested)
    first = cluster_scores(train, test, seed=3, rows=100, restarts=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_equal(np.random.get_state(legacy=False), before[1])  # noqa: NPY002 (the global state is what is tested)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 (the global state is what is tested)
    assert cluster_scores(train, test, seed=3, rows=100, restarts=1) == first
    np.random.set_state(before[1])  # noqa: NPY002 (the global state is what is tested)
    others = [cluster_scores(train, test, seed=seed, rows=100, restarts=1) for seed in range(4, 8)]
    assert any(other != first for other in others)


def test_at_most_so_many_rows_are_fitted_and_they_are_drawn_from_all() -> None:
    x, labels = blobs(900, seed=16)
    ordered = x[labels.argsort()]
    assert cluster_scores(ordered, (x, labels), rows=90)["accuracy"] == 1.0
    # All rows are one set whatever the seed; fewer are another set each time.
    every = {round(GaussianMixtureClusters(3, seed=seed).fit(x).log_likelihood, 6) for seed in range(3)}
    some = {round(GaussianMixtureClusters(3, seed=seed, rows=90).fit(x).log_likelihood, 6) for seed in range(3)}
    assert len(every) == 1
    assert len(some) == 3


@pytest.mark.parametrize("covariance", ["full", "diag"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_constant_features_change_nothing(covariance: Covariance, dtype: torch.dtype) -> None:
    x, _ = blobs(300, seed=17)
    x = x.to(dtype)
    constant = torch.full((300, 4), 0.3, dtype=dtype)
    plain = GaussianMixtureClusters(3, covariance=covariance).fit(x).predict(x)
    both = torch.cat([constant, x], dim=1)
    # The same partition; which cluster is called 0 is left to chance.
    assert hungarian_accuracy(GaussianMixtureClusters(3, covariance=covariance).fit(both).predict(both), plain) == 1.0


def test_classes_far_apart_are_found_whatever_their_names_and_however_often_features_repeat() -> None:
    (train, _), (x, y) = blobs(500, seed=3), blobs(200, seed=4)
    for copies in (1, 3):
        scores = cluster_scores(train.repeat(1, copies), (x.repeat(1, copies), 10 - 7 * y))
        assert scores == {"accuracy": 1.0, "nmi": pytest.approx(1.0), "ari": 1.0, "converged": 1.0}


def test_a_collapsed_representation_is_one_cluster() -> None:
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    collapsed = torch.full((10, 4), 0.1)
    scores = cluster_scores(collapsed, (collapsed, labels))
    assert scores == {"accuracy": 0.5, "nmi": 0.0, "ari": 0.0, "converged": 1.0}


def test_no_more_clusters_than_distinct_rows() -> None:
    x = torch.tensor([[0.0, 0.0], [5.0, 1.0], [9.0, -3.0]]).repeat(20, 1)
    found = GaussianMixtureClusters(8).fit(x).predict(x)
    assert sorted(torch.unique(found).tolist()) == [0, 1, 2]
    assert hungarian_accuracy(torch.arange(3).repeat(20), found) == 1.0
    # An empty cluster would lie at the mean of the rows, and take what falls there.
    assert GaussianMixtureClusters(8).fit(x[:2].repeat(20, 1)).predict(x[:2].mean(dim=0, keepdim=True)).item() in (0, 1)


def test_a_fit_that_ran_out_of_iterations_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = blobs(500, seed=19, distance=1.0)
    assert not GaussianMixtureClusters(5, max_iterations=2).fit(x).converged
    assert GaussianMixtureClusters(5).fit(x).converged
    monkeypatch.setattr(clustering, "_TOLERANCE", 0.0)
    assert cluster_scores(x[:50], (x, labels), restarts=1)["converged"] == 0.0


X40, Y40 = blobs(40, seed=20)
NAN = X40.index_fill(0, torch.tensor(3), math.nan)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("clusters must be one or more numbers >= 2", lambda: GaussianMixtureClusters(1)),
        ("restarts must be one or more numbers >= 1", lambda: GaussianMixtureClusters(3, restarts=0)),
        ('covariance must be "full" or "diag"', lambda: GaussianMixtureClusters(3, covariance="tied")),  # type: ignore[arg-type]
        ("call fit first", lambda: GaussianMixtureClusters(2).predict(X40)),
        ("3 clusters cannot be fitted to 2 rows", lambda: cluster_scores(X40[:2], (X40, Y40))),
        ("5 clusters cannot be fitted to 4 rows", lambda: GaussianMixtureClusters(5, rows=4).fit(X40)),
        (r"train features are NaN or infinite in 1 of 40 rows \(rows 3\)", lambda: cluster_scores(NAN, (X40, Y40))),
        ("test features are NaN or infinite", lambda: cluster_scores(X40, (NAN, Y40))),
        (r"test features must have shape \(row, 2\)", lambda: cluster_scores(X40, (X40[:, :1], Y40))),
        (r"test labels must have shape \(40,\)", lambda: cluster_scores(X40, (X40, Y40[1:]))),
        ("test labels hold only class 2", lambda: cluster_scores(X40, (X40, torch.full((40,), 2)))),
        (r"clusters must have shape \(40,\) .* got \(2,\)", lambda: hungarian_accuracy(Y40, Y40[:2])),
        ("labels must be integers, got torch.float32", lambda: hungarian_accuracy(Y40.float(), Y40)),
    ],
)
def test_refuses(message: str, call: Callable[[], object]) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message):
        call()

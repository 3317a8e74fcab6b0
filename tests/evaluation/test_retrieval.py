"""retrieval_scores against every order of tie-breaking in exact fractions, plain loops, and chance levels."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import permutations
from statistics import mean, median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pp_simve.evaluation import multimodal
from pp_simve.evaluation.multimodal import retrieval_scores

Vectors = list[list[int]]


def random_pair(rows: int, width: int, seed: int, noise: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Gallery rows and noisy queries for them."""
    generator = torch.Generator().manual_seed(seed)
    gallery = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    queries = gallery + noise * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return queries.to(dtype), gallery.to(dtype)


@st.composite
def small_pairs(draw: st.DrawFn) -> tuple[Vectors, Vectors]:
    """Up to four rows of small integers: full of zeros, duplicates, multiples and other ties."""
    width = draw(st.integers(1, 3))
    row = st.lists(st.integers(-2, 2), min_size=width, max_size=width)
    rows = draw(st.integers(1, 4))
    matrix = st.lists(row, min_size=rows, max_size=rows)
    return draw(matrix), draw(matrix)


def ordered_as_cosine(query: list[int], row: list[int]) -> Fraction:
    """cos(query, row) |cos(query, row)| ‖query‖², exact, and of one query in the order of the cosines."""
    dot = sum(q * r for q, r in zip(query, row, strict=True))
    squares = sum(r * r for r in row)
    return Fraction(dot * abs(dot), squares) if squares else Fraction(0)


def ranks_under_every_order(queries: Vectors, gallery: Vectors) -> list[list[int]]:
    """For each query, the rank of the right row under each order in which equally similar rows could stand."""
    everything = []
    for right, query in enumerate(queries):
        key = [ordered_as_cosine(query, row) for row in gallery]
        ranks = []
        for order in permutations(range(len(gallery))):
            ranking = sorted(order, key=key.__getitem__, reverse=True)  # equal ones keep the order given
            ranks.append(1 + ranking.index(right))
        everything.append(ranks)
    return everything


def expected_scores(queries: Vectors, gallery: Vectors, ks: list[int]) -> dict[str, float]:
    ranks = ranks_under_every_order(queries, gallery)
    scores = {}
    for k in ks:
        scores[f"recall@{k}"] = float(mean(Fraction(sum(r <= k for r in row), len(row)) for row in ranks))
        scores[f"chance@{k}"] = min(k, len(gallery)) / len(gallery)
    return scores | {"median_rank": float(median(Fraction(sum(row), len(row)) for row in ranks))}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@settings(max_examples=60, deadline=None)
@given(pair=small_pairs())
def test_scores_are_the_mean_over_all_orders_of_breaking_ties(
    dtype: torch.dtype, pair: tuple[Vectors, Vectors]
) -> None:
    ks = [1, 2, 3, 4, 6]
    scores = retrieval_scores(*(torch.tensor(side, dtype=dtype) for side in pair), ks)
    assert scores == pytest.approx(expected_scores(*pair, ks), rel=0, abs=1e-14)
    recalls = [scores[f"recall@{k}"] for k in ks]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0


@settings(max_examples=40, deadline=None)
@given(pair=small_pairs(), data=st.data())
def test_lengths_of_rows_and_the_order_of_things_change_nothing(
    pair: tuple[Vectors, Vectors], data: st.DataObject
) -> None:
    queries, gallery = (torch.tensor(side, dtype=torch.float64) for side in pair)
    rows = len(queries)
    lengths = st.lists(st.floats(1e-3, 1e3) | st.sampled_from([1e-250, 1e250]), min_size=rows, max_size=rows)
    order = data.draw(st.permutations(range(rows)))
    longer = [
        side[order] * torch.tensor(data.draw(lengths), dtype=torch.float64).unsqueeze(1) for side in (queries, gallery)
    ]
    ks = [1, 2, 3]
    assert retrieval_scores(*longer, ks) == pytest.approx(retrieval_scores(queries, gallery, ks), rel=0, abs=1e-14)


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_plain_loops_where_nothing_is_tied(dtype: torch.dtype, noise: float) -> None:
    queries, gallery = random_pair(41, 6, seed=1, noise=noise, dtype=dtype)
    ranks = []
    for i, q in enumerate(queries.tolist()):
        cosines = [
            sum(a * b for a, b in zip(q, g, strict=True)) / math.hypot(*q) / math.hypot(*g) for g in gallery.tolist()
        ]
        ranks.append(1 + sum(cosine > cosines[i] for j, cosine in enumerate(cosines) if j != i))
    scores = retrieval_scores(queries, gallery)
    for k in (1, 5, 10):
        assert scores[f"recall@{k}"] == pytest.approx(sum(rank <= k for rank in ranks) / 41, abs=1e-14)
        assert scores[f"chance@{k}"] == k / 41
    assert scores["median_rank"] == median(ranks)
    assert len(scores) == 7
    assert 1 < mean(ranks) < 21


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 301])
def test_constant_embeddings_score_exactly_chance(width: int, dtype: torch.dtype) -> None:
    queries, one = random_pair(203, width, seed=5, noise=1.0, dtype=dtype)
    # Lengths that are powers of two leave the direction as it is to the last bit.
    lengths = 2.0 ** torch.arange(-101, 102).fmod(7).unsqueeze(1)
    scores = retrieval_scores(queries, (one[:1] * lengths).to(dtype), [1, 5, 202, 203, 900])
    for k in (1, 5, 202, 203, 900):
        assert scores[f"recall@{k}"] == pytest.approx(min(k, 203) / 203, rel=0, abs=1e-14)
        assert scores[f"chance@{k}"] == min(k, 203) / 203
    assert scores["median_rank"] == 102.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_things_described_alike_share_their_places(dtype: torch.dtype) -> None:
    queries, gallery = random_pair(60, 127, seed=6, noise=0.1, dtype=dtype)
    # Descriptions 0 to 9 are shared by ten things each, strewn over the gallery; 10 to 59 by one each.
    described = torch.cat([torch.arange(60), torch.arange(10).repeat(9)])
    described = described[torch.randperm(150, generator=torch.Generator().manual_seed(7))]
    scores = retrieval_scores(queries[described], gallery[described], [1, 4, 10])
    assert scores["recall@1"] == pytest.approx((50 + 100 / 10) / 150, rel=0, abs=1e-14)
    assert scores["recall@4"] == pytest.approx((50 + 100 * 4 / 10) / 150, rel=0, abs=1e-14)
    assert scores["recall@10"] == 1.0
    assert scores["median_rank"] == 5.5


def test_float64_rounding_of_lengths_makes_no_difference_between_duplicates() -> None:
    queries, one = random_pair(300, 512, seed=8, noise=1.0, dtype=torch.float64)
    lengths = torch.rand(300, 1, generator=torch.Generator().manual_seed(9), dtype=torch.float64) + 0.1
    assert retrieval_scores(queries, one[:1] * lengths, [3])["recall@3"] == pytest.approx(0.01, rel=0, abs=1e-14)


def test_the_smallest_differences_of_float32_are_no_ties() -> None:
    gallery = torch.ones(2, 64)
    gallery[1, 0] = 1 + torch.finfo(torch.float32).eps
    queries = torch.zeros(2, 64)
    queries[0, 0], queries[1, 0] = -1.0, 1.0
    assert retrieval_scores(queries, gallery, [1])["recall@1"] == 1.0
    assert retrieval_scores(-queries, gallery, [1])["recall@1"] == 0.0


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_float32_rows_keep_their_direction(size: float) -> None:
    queries, gallery = random_pair(50, 5, seed=10, noise=0.5, dtype=torch.float32)
    expected = retrieval_scores(queries, gallery)
    assert retrieval_scores(queries.requires_grad_() * size, gallery / size) == expected


@pytest.mark.parametrize("queries_a_block", [0, 7])
def test_blocks_change_nothing(queries_a_block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = random_pair(100, 9, seed=11, noise=1.0, dtype=torch.float32)
    gallery[::3] = gallery[1]
    whole = retrieval_scores(queries, gallery)
    monkeypatch.setattr(multimodal, "_BLOCK", queries_a_block * 100)
    assert retrieval_scores(queries, gallery) == whole
    largest = max(len(block) for block in multimodal.cosine_blocks(queries, gallery))
    assert largest == max(1, queries_a_block)


@pytest.mark.parametrize(
    ("message", "queries", "gallery", "ks"),
    [
        ("ks must be one or more numbers >= 1", torch.ones(2, 2), torch.ones(2, 2), (0,)),
        (r"gallery features must have shape \(2, 2\) .* got \(3, 2\)", torch.ones(2, 2), torch.ones(3, 2), (1,)),
        (r"query features are NaN .* in 2 of 2 rows", torch.full((2, 2), math.nan), torch.ones(2, 2), (1,)),
        (r"gallery features are NaN .* in 2 of 2 rows", torch.ones(2, 2), torch.full((2, 2), math.inf), (1,)),
    ],
)
def test_refuses(message: str, queries: Tensor, gallery: Tensor, ks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_scores(queries, gallery, ks)

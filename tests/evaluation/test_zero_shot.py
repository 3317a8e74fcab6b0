"""Zero-shot classification against plain loops, scikit-learn's nearest centroid and its balanced accuracy."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from pp_simve.evaluation import multimodal
from pp_simve.evaluation.multimodal import zero_shot_predictions, zero_shot_scores

LABELS = [3, 7, -2, 11]
"""Classes need not be 0, 1, 2, …, and their prompts come in no order."""


def noisy_task(queries: int, prompts: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries and prompts about four directions, of random lengths; the classes are far from equally frequent."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    frequency = torch.tensor([0.6, 0.2, 0.15, 0.05])
    index = torch.multinomial(frequency, queries, replacement=True, generator=generator)
    prompt_index = torch.cat([torch.tensor([2, 0, 3, 1]), torch.randint(4, (prompts - 4,), generator=generator)])
    x = centres[index] + 1.5 * torch.randn(queries, 6, generator=generator, dtype=torch.float64)
    p = centres[prompt_index] + 0.5 * torch.randn(prompts, 6, generator=generator, dtype=torch.float64)
    lengths = torch.logspace(-2, 2, prompts, dtype=torch.float64).unsqueeze(1)
    labels = torch.tensor(LABELS)
    return x, labels[index], p * lengths, labels[prompt_index]


def unit(row: list[float]) -> list[float]:
    return [value / math.hypot(*row) for value in row]


def predicted_by_loops(queries: Tensor, prompts: Tensor, prompt_labels: Tensor) -> list[int]:
    """The best class of each query, from the definition."""
    described: dict[int, list[list[float]]] = {}
    for row, label in zip(prompts.tolist(), prompt_labels.tolist(), strict=True):
        described.setdefault(label, []).append(unit(row))
    classes = {
        label: unit([sum(column) / len(rows) for column in zip(*rows, strict=True)])
        for label, rows in described.items()
    }

    def cosine(query: list[float], label: int) -> float:
        return sum(a * b for a, b in zip(unit(query), classes[label], strict=True))

    return [max(classes, key=partial(cosine, query)) for query in queries.tolist()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prompts", [4, 30])
def test_equals_plain_loops_and_the_metrics_of_scikit_learn(prompts: int, dtype: torch.dtype) -> None:
    x, y, p, prompt_y = noisy_task(200, prompts, seed=1)
    x, p = x.to(dtype), p.to(dtype)
    predicted = zero_shot_predictions(x, p, prompt_y)
    assert predicted.dtype == torch.int64
    assert predicted.tolist() == predicted_by_loops(x, p, prompt_y)
    scores = zero_shot_scores(x, y, p, prompt_y)
    most = max(np.bincount(y.numpy() + 2))
    assert scores == pytest.approx(
        {
            "accuracy": accuracy_score(y, predicted),
            "chance": most / 200,
            "balanced_accuracy": balanced_accuracy_score(y, predicted),
            "chance_balanced": 1 / 4,
        },
        rel=0,
        abs=1e-14,
    )
    assert len({round(score, 3) for score in scores.values()}) == 4


def test_equals_the_nearest_centroid_of_scikit_learn_where_class_means_are_equally_long() -> None:
    # Prompts at one angle about their class's direction have means of one length: cosine and distance agree.
    generator = torch.Generator().manual_seed(2)
    frame = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64)).Q
    centres, aside = frame[:4], frame[4:8]
    p = torch.cat([centres + 0.7 * aside, centres - 0.7 * aside])
    p = p / p.norm(dim=1, keepdim=True)
    prompt_y = torch.tensor(LABELS).repeat(2)
    x = torch.randn(300, 9, generator=generator, dtype=torch.float64)
    oracle = NearestCentroid().fit(p.numpy(), prompt_y.numpy())
    expected = oracle.predict((x / x.norm(dim=1, keepdim=True)).numpy())
    np.testing.assert_array_equal(zero_shot_predictions(x, p, prompt_y).numpy(), expected)
    assert set(expected) == set(LABELS)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), data=st.data())
def test_lengths_and_order_change_nothing(seed: int, data: st.DataObject) -> None:
    x, y, p, prompt_y = noisy_task(30, 9, seed=seed)
    expected = zero_shot_predictions(x, p, prompt_y)
    factors = st.floats(1e-3, 1e3) | st.sampled_from([1e-200, 1e200])
    order, prompt_order = data.draw(st.permutations(range(30))), data.draw(st.permutations(range(9)))
    x = x * torch.tensor(data.draw(st.lists(factors, min_size=30, max_size=30)), dtype=torch.float64).unsqueeze(1)
    p = p * torch.tensor(data.draw(st.lists(factors, min_size=9, max_size=9)), dtype=torch.float64).unsqueeze(1)
    assert torch.equal(zero_shot_predictions(x[order], p[prompt_order], prompt_y[prompt_order]), expected[order])
    scores = zero_shot_scores(x[order], y[order], p, prompt_y)
    assert scores == pytest.approx(zero_shot_scores(x, y, p, prompt_y), abs=1e-14)


def test_balanced_accuracy_is_over_the_classes_among_the_queries() -> None:
    prompts, prompt_labels = torch.eye(5), torch.tensor([4, 0, 1, 2, 3])
    queries = prompts[[0, 0, 0, 1, 2, 2]]
    scores = zero_shot_scores(queries, torch.tensor([4, 4, 0, 0, 0, 0]), prompts, prompt_labels)
    assert scores["accuracy"] == pytest.approx(3 / 6)
    assert scores["chance"] == pytest.approx(4 / 6)
    assert scores["balanced_accuracy"] == pytest.approx((2 / 2 + 1 / 4) / 2)
    assert scores["chance_balanced"] == 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_constant_embeddings_guess_the_first_class(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    one = torch.randn(1, 77, generator=generator, dtype=dtype)
    prompt_y = torch.tensor([9, 5, 7]).repeat_interleave(torch.tensor([3, 7, 10]))
    y = torch.tensor([5, 7, 9, 9])
    queries = torch.randn(4, 77, generator=generator, dtype=dtype)
    assert zero_shot_predictions(queries, one.expand(20, -1), prompt_y).tolist() == [5, 5, 5, 5]
    scores = zero_shot_scores(queries, y, one.expand(20, -1), prompt_y)
    assert scores == pytest.approx(
        {"accuracy": 1 / 4, "chance": 2 / 4, "balanced_accuracy": 1 / 3, "chance_balanced": 1 / 3}
    )
    assert zero_shot_predictions(torch.zeros(2, 77, dtype=dtype), queries, y).tolist() == [5, 5]


@pytest.mark.parametrize("copies", [1, 3000])
def test_prompts_that_cancel_have_no_direction(copies: int) -> None:
    turns = torch.tensor([0.3, 0.3 + 2 * math.pi / 3, 0.3 + 4 * math.pi / 3], dtype=torch.float64)
    star = torch.stack([turns.cos(), turns.sin(), torch.zeros(3, dtype=torch.float64)], dim=1)
    star = star.repeat_interleave(copies, dim=0)
    prompts = torch.cat([star, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)])
    angles = torch.arange(12, dtype=torch.float64)
    above = torch.stack([angles.cos(), angles.sin(), torch.full_like(angles, 1e-3)], dim=1)
    below = above * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    labels = torch.tensor([0] * len(star) + [1])
    assert zero_shot_predictions(above, prompts, labels).tolist() == [1] * 12
    assert zero_shot_predictions(below, prompts, labels).tolist() == [0] * 12


def test_blocks_and_gradients_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, p, prompt_y = noisy_task(50, 12, seed=4)
    whole = zero_shot_scores(x, y, p, prompt_y)
    monkeypatch.setattr(multimodal, "_BLOCK", 7 * 4)
    assert zero_shot_scores(x.requires_grad_(), y, p.requires_grad_(), prompt_y) == whole


def test_a_class_of_scattered_prompts_is_no_worse_off() -> None:
    # The mean of two prompts at right angles is short; renormalized it is 0.2 rad from the query, the other 0.6 rad.
    prompts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [math.cos(1.585), math.sin(1.585)]])
    query = torch.tensor([[math.cos(math.pi / 4 + 0.2), math.sin(math.pi / 4 + 0.2)]])
    assert zero_shot_predictions(query, prompts, torch.tensor([0, 0, 1])).tolist() == [0]


EYE, FIRST = torch.eye(3), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("message", "splits"),
    [
        (r"no prompt describes the query labels \[8\]", (EYE, torch.tensor([8, 0, 1]), EYE, FIRST)),
        (r"prompt features must have shape \(row, 3\) .* got \(2, 2\)", (EYE, FIRST, torch.eye(2), FIRST[:2])),
        (r"query labels must have shape \(3,\) .* got \(2,\)", (EYE, FIRST[:2], EYE, FIRST)),
        ("prompt labels must be integers", (EYE, FIRST, EYE, FIRST.float())),
        ("query features are NaN or infinite in 3 of 3 rows", (EYE / 0, FIRST, EYE, FIRST)),
        ("prompt features are NaN or infinite in 3 of 3 rows", (EYE, FIRST, EYE / 0, FIRST)),
    ],
)
def test_refuses(message: str, splits: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=message):
        zero_shot_scores(*splits)

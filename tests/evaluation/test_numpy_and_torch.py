"""Evaluators of features give the same for NumPy arrays as for tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from pp_simve import evaluation

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
OTHER = X + 0.1 * X.roll(1, 0)
Y = torch.arange(60) % 3
PARAMETERS = {"angle": X[:, 0].contiguous(), "size": X[:, 1].contiguous()}
VARIANCES = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.1])
EVALUATORS: Mapping[str, tuple[Any, ...]] = {
    "active_units": (X,),
    "alignment": (X, OTHER),
    "angle_scores": ((X, PARAMETERS),) * 3 + ({"angle": 6.0},),
    "attribute_scores": ((X, X[:, :2] > 0),) * 3 + (["first", "second"],),
    "cluster_scores": (X, (X, Y)),
    "content_scores": ((X, Y),) * 3,
    "effective_rank": (X,),
    "few_label_scores": ((X, Y),) * 3,
    "frechet_distance": (X, OTHER),
    "gaussian_information": VARIANCES,
    "hungarian_accuracy": (Y, Y.roll(1)),
    "infonce_bound": (X @ OTHER.T,),
    "kl_by_axis": (X, X.square() + 1),
    "mutual_information": (X, OTHER, evaluation.CanonicalCritic.fit(X, OTHER)),
    "retrieval_scores": (X, OTHER),
    "style_scores": ((X, PARAMETERS),) * 3,
    "uniformity": (X,),
    "zero_shot_predictions": (X, X[:3], Y[:3]),
    "zero_shot_scores": (X, Y, X[:3], Y[:3]),
}


def as_arrays(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.numpy()
    if isinstance(value, tuple):
        return tuple(map(as_arrays, value))
    return {key: as_arrays(part) for key, part in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", EVALUATORS)
def test_numpy_and_torch_give_the_same(name: str) -> None:
    evaluator: Callable[..., Any] = getattr(evaluation, name)
    expected, found = evaluator(*EVALUATORS[name]), evaluator(*as_arrays(EVALUATORS[name]))
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)

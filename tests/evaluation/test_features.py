"""What probes refuse, each with its message, and the standardisation they share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation import KNNProbe, LinearProbe, RidgeProbe
from pp_simve.evaluation.features import Standardizer

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 2
CLASSIFIERS = [LinearProbe, KNNProbe]
Classifier = type[LinearProbe] | type[KNNProbe]


def spoiled(value: float, rows: list[int]) -> Tensor:
    x = X.clone()
    x[rows, 1] = value
    return x


@pytest.mark.parametrize("probe", [*CLASSIFIERS, RidgeProbe])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_names_the_rows_that_are_not_finite(probe: type, value: float) -> None:
    y = Y if probe is not RidgeProbe else X
    with pytest.raises(ValueError, match=r"train features are NaN or infinite in 2 of 12 rows \(rows 3, 7\)"):
        probe().fit(spoiled(value, [3, 7]), y, X, y)
    with pytest.raises(ValueError, match=r"validation features .* in 7 of 12 rows \(rows 0, 1, 2, 3, 4, …\)"):
        probe().fit(X, y, spoiled(value, list(range(7))), y)
    with pytest.raises(ValueError, match="test features are NaN or infinite in 1 of 12 rows"):
        probe().fit(X, y, X, y).score(spoiled(value, [0]), y)


CASES: list[tuple[str, Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]]] = [
    (r"train features must have shape \(row, feature\), got \(12,\)", lambda: (X[:, 0], Y, X, Y)),
    ("train features must be floating point, got torch.int64", lambda: (X.long(), Y, X, Y)),
    (r"at least one row and one column, got \(0, 3\)", lambda: (X[:0], Y[:0], X, Y)),
    (r"validation features need at least one row and one column, got \(0, 3\)", lambda: (X, Y, X[:0], Y[:0])),
    ("validation features have 2 columns, but the train features have 3", lambda: (X, Y, X[:, :2], Y)),
    (r"train labels must have shape \(row,\), got \(12, 1\)", lambda: (X, Y[:, None], X, Y)),
    ("train labels must be integers, got torch.float32", lambda: (X, Y.float(), X, Y)),
    ("train has 12 rows of features but 11 labels", lambda: (X, Y[:11], X, Y)),
    ("validation has 12 rows of features but 3 labels", lambda: (X, Y, X, Y[:3])),
    ("train labels hold only class 4; a probe needs at least two classes", lambda: (X, torch.full_like(Y, 4), X, Y)),
]


@pytest.mark.parametrize("probe", CLASSIFIERS)
@pytest.mark.parametrize(("message", "arguments"), CASES, ids=[message[:30] for message, _ in CASES])
def test_classifiers_refuse(
    probe: Classifier, message: str, arguments: Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]
) -> None:
    with pytest.raises(ValueError, match=message):
        probe().fit(*arguments())


@pytest.mark.parametrize(
    ("message", "train_y", "validation_y"),
    [
        (r"train targets must have shape \(row, target\), got \(12,\)", X[:, 0], X),
        ("train targets must be real", X.to(torch.complex64), X),
        ("train has 12 rows of features but 5 rows of targets", X[:5], X),
        ("validation has 2 targets, but train has 3", X, X[:, :2]),
        (r"validation targets are NaN or infinite in 1 of 12 rows \(rows 2\)", X, spoiled(float("nan"), [2])),
    ],
)
def test_ridge_refuses(message: str, train_y: Tensor, validation_y: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        RidgeProbe().fit(X, train_y, X, validation_y)


@pytest.mark.parametrize("probe", [*CLASSIFIERS, RidgeProbe])
def test_predicting_before_fitting(probe: type) -> None:
    with pytest.raises(RuntimeError, match="has not been fitted: call fit first"):
        probe().predict(X)


@pytest.mark.parametrize("probe", CLASSIFIERS)
def test_scoring_refuses_other_widths_and_lengths(probe: Classifier) -> None:
    fitted = probe().fit(X, Y, X, Y)
    with pytest.raises(ValueError, match="test features have 2 columns, but the train features have 3"):
        fitted.predict(X[:, :2])
    with pytest.raises(ValueError, match="test has 12 rows of features but 4 labels"):
        fitted.score(X, Y[:4])


def test_standardised_train_rows_have_mean_0_and_variance_1() -> None:
    x = X * torch.tensor([1e-25, 1.0, 1e25]) + torch.tensor([0.0, 300.0, 0.0])
    z = Standardizer.of(x)(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=2e-4, rtol=0)
    torch.testing.assert_close(z.square().mean(0), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_constant_features_stay_constant(value: float) -> None:
    x = torch.full((1001, 1), value)
    standardise = Standardizer.of(x)
    assert standardise.scale.tolist() == [1.0]
    assert standardise(x).abs().max() <= 1e-6 * max(1.0, abs(value))

"""What all probes share: input checks, selection on validation, independence of test rows, dtypes, NumPy and torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation.probes import (
    AttributeProbe,
    ClassProbe,
    KNNProbe,
    LinearProbe,
    MLPProbe,
    MLPRegressionProbe,
    MLPTraining,
    Probe,
    RidgeProbe,
    WeightedKNNProbe,
)
from pp_simve.evaluation.probes.base import Standardizer

TRAINING = MLPTraining(hidden=16, decays=(1.0, 0.0), learning_rate=0.01, batch_size=32, epochs=30)
CLASSIFIERS: dict[str, Callable[[], ClassProbe]] = {
    "linear": LinearProbe,
    "knn": KNNProbe,
    "knn cosine": WeightedKNNProbe,
    "mlp": lambda: MLPProbe(TRAINING),
}
REGRESSIONS: dict[str, Callable[[], Probe[Any]]] = {
    "ridge": RidgeProbe,
    "mlp regression": lambda: MLPRegressionProbe(TRAINING),
}
PROBES: dict[str, Callable[[], Probe[Any]]] = {**CLASSIFIERS, **REGRESSIONS, "attributes": AttributeProbe}

Split = tuple[Tensor, Tensor]


def split(name: str, rows: int, seed: int) -> Split:
    """Features of unlike scales and offsets, one of them constant, and what the probe predicts from them, with noise.

    Classes -3, 7 and 40; targets of unlike scales; attributes.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    signal = x @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.3, 0.0, 1.0]], dtype=torch.float64)
    signal = signal + 0.3 * torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    features = torch.cat([x * torch.tensor([0.5, 1.0, 2.0]) + 3, torch.full((rows, 1), 0.1).double()], dim=1)
    if name in CLASSIFIERS:
        return features, torch.tensor([-3, 7, 40])[signal.argmax(dim=1)]
    return features, signal > 0.2 if name == "attributes" else signal * torch.tensor([40.0, 1e-3, 1.0]) - 9


def splits(name: str) -> tuple[Split, Split, Split]:
    return split(name, 150, 0), split(name, 80, 1), split(name, 100, 2)


def scored(probe: Probe[Any], test: Split) -> Tensor:
    return torch.as_tensor(probe.score(*test), dtype=torch.float64)


every_probe = pytest.mark.parametrize("name", PROBES)


@every_probe
def test_it_predicts_what_the_features_hold_and_no_labels_that_are_shuffled(name: str) -> None:
    train, validation, test = splits(name)
    assert (scored(PROBES[name]().fit(*train, *validation), test) > 0.7).all()
    order = torch.Generator().manual_seed(5)
    shuffled = [(x, y[torch.randperm(len(y), generator=order)]) for x, y in (train, validation, test)]
    found = scored(PROBES[name]().fit(*shuffled[0], *shuffled[1]), shuffled[2])
    commonest = float(torch.unique(test[1], return_counts=True)[1].max() / len(test[1]))
    chance = commonest if name in CLASSIFIERS else 0.5 if name == "attributes" else 0.0
    assert (found < chance + 4 * math.sqrt(0.25 / 100)).all()


@every_probe
def test_numpy_and_torch_give_the_same(name: str) -> None:
    train, validation, test = splits(name)
    expected = PROBES[name]().fit(*train, *validation)
    arrays = [part.numpy() for part in (*train, *validation)]
    for array in arrays:
        array.flags.writeable = False
    found = PROBES[name]().fit(*arrays)
    assert torch.equal(found.predict(test[0].numpy()), expected.predict(test[0]))
    assert torch.equal(scored(found, (test[0].numpy(), test[1].numpy())), scored(expected, test))


@every_probe
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_features_score_as_wide_ones(name: str, dtype: torch.dtype) -> None:
    (train_x, train_y), (validation_x, validation_y), (test_x, test_y) = splits(name)
    parts = [x.to(dtype) for x in (train_x, validation_x, test_x)]
    narrow = PROBES[name]().fit(parts[0], train_y, parts[1], validation_y)
    wide = PROBES[name]().fit(parts[0].double(), train_y, parts[1].double(), validation_y)
    torch.testing.assert_close(
        scored(narrow, (parts[2], test_y)), scored(wide, (parts[2].double(), test_y)), rtol=0, atol=0.021
    )
    assert narrow.predict(parts[2]).dtype == (torch.int64 if name in CLASSIFIERS else torch.float32)


@every_probe
def test_units_and_constant_features_change_nothing(name: str) -> None:
    train, validation, test = splits(name)
    expected = PROBES[name]().fit(*train, *validation).predict(test[0])
    # k-NN is not standardized: one unit for all.
    units = torch.tensor([8.0, 8.0, 8.0, 8.0] if name.startswith("knn") else [1e-6, 1e5, 3.0, 1.0], dtype=torch.float64)

    def moved(x: Tensor) -> Tensor:
        return torch.cat([torch.full((len(x), 2), 0.3).double(), x * units], dim=1)

    # The hidden layer is drawn by the number of features; a constant feature changes a cosine.
    if name.startswith("mlp") or name == "knn cosine":
        found = PROBES[name]().fit(train[0] * units, train[1], validation[0] * units, validation[1])
        torch.testing.assert_close(found.predict(test[0] * units), expected, rtol=1e-6, atol=1e-6)
        return
    found = PROBES[name]().fit(moved(train[0]), train[1], moved(validation[0]), validation[1])
    predicted = found.predict(moved(test[0]))
    torch.testing.assert_close(predicted, expected, rtol=0.02, atol=0.02)


@every_probe
def test_test_rows_change_nothing_but_their_score(name: str) -> None:
    """No leakage: poisoned test targets leave predictions as they were, and rows are predicted one by one."""
    train, validation, (test_x, test_y) = splits(name)
    probe = PROBES[name]().fit(*train, *validation)
    before = probe.predict(test_x)
    poisoned = ~test_y if name == "attributes" else -test_y if name in REGRESSIONS else test_y.roll(1)
    assert (scored(probe, (test_x, poisoned)) < scored(probe, (test_x, test_y))).all()
    assert torch.equal(probe.predict(test_x), before)
    torch.testing.assert_close(torch.cat([probe.predict(row[None]) for row in test_x[:20]]), before[:20])


@every_probe
def test_hyperparameters_are_selected_on_validation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation rows decide nothing but the selection, and they do decide it."""
    (x, y), (other_x, other_y), _ = splits(name)
    seen: list[tuple[Tensor, ...]] = []
    probe = PROBES[name]()
    plain = probe._fit

    def recorded(*parts: Tensor) -> None:
        seen.append(parts)
        plain(*parts)

    monkeypatch.setattr(probe, "_fit", recorded)
    probe.fit(x, y, other_x, other_y)
    probe.fit(x, y, other_x.flip(0)[:40], other_y.flip(0)[:40])
    for first, second in zip(seen[0][:2], seen[1][:2], strict=True):
        assert torch.equal(first, second)
    if not probe.standardized:
        return
    torch.testing.assert_close(seen[0][0][:, :3].mean(0), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(seen[0][0][:, :3].std(0, correction=0), torch.ones(3).double())
    assert (seen[0][2][:, :3].mean(0).abs() > 1e-3).all()  # by statistics of train


@every_probe
def test_no_gradients_no_mode_and_no_random_state_matter(name: str) -> None:
    (x, y), validation, test = splits(name)
    x.requires_grad_()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    plain = PROBES[name]().fit(x, y, *validation)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with torch.inference_mode():
        inside = PROBES[name]().fit(x + 0, y, *validation)
        assert torch.equal(inside.predict(test[0]), plain.predict(test[0]))
    assert not plain.predict(test[0].requires_grad_()).requires_grad
    assert x.grad is None


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_class_that_train_lacks_is_an_error(name: str) -> None:
    train, validation, test = splits(name)
    probe = CLASSIFIERS[name]().fit(*train, validation[0], torch.full_like(validation[1], 5))
    assert probe.classes.tolist() == [-3, 7, 40]
    assert probe.validation_score == 0
    assert set(probe.predict(test[0]).tolist()) <= {-3, 7, 40}
    assert probe.score(test[0], torch.full_like(test[1], 5)) == 0.0


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_target_that_is_constant_in_test_has_no_r2_and_one_in_train_is_kept(name: str) -> None:
    (x, y), (other_x, other_y), (test_x, test_y) = splits(name)
    probe = REGRESSIONS[name]().fit(x, y, other_x, other_y)
    assert scored(probe, (test_x, torch.full_like(test_y, 0.1))).isnan().all()
    constant = REGRESSIONS[name]().fit(x, torch.full_like(y, 3.0), other_x, torch.full_like(other_y, 3.0))
    torch.testing.assert_close(constant.predict(test_x), torch.full_like(test_y, 3.0))


X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 2


def good(name: str) -> Tensor:
    return Y if name in CLASSIFIERS else (X > 0 if name == "attributes" else X)


def spoiled(value: float, rows: list[int]) -> Tensor:
    x = X.clone()
    x[rows, 1] = value
    return x


B = X > 0
SPOILED = spoiled(math.nan, [3, 7])
ONE_CLASS = torch.full_like(Y, 4)
REFUSED: list[tuple[tuple[str, ...], str, Callable[[Any], tuple[Any, ...]]]] = [
    (tuple(PROBES), r"train features must have shape \(row, feature\) .* got \(12,\)", lambda y: (X[:, 0], y, X, y)),
    (tuple(PROBES), "train features must be floating point, got torch.int64", lambda y: (X.long(), y, X, y)),
    (tuple(PROBES), r"validation features must have shape \(row, 3\) .* got \(0, 3\)", lambda y: (X, y, X[:0], y[:0])),
    (tuple(PROBES), r"validation features must have shape \(row, 3\) .* got \(12, 2\)", lambda y: (X, y, X[:, :2], y)),
    (tuple(PROBES), r"train features are NaN .* in 2 of 12 rows \(rows 3, 7\)", lambda y: (SPOILED, y, X, y)),
    (tuple(PROBES), r"7 of 12 rows \(rows 0, 1, 2, 3, 4, …\)", lambda y: (X, y, spoiled(math.inf, [*range(7)]), y)),
    (tuple(CLASSIFIERS), r"train labels must have shape \(12,\) .* got \(12, 1\)", lambda y: (X, Y[:, None], X, Y)),
    (tuple(CLASSIFIERS), r"validation labels must have shape \(12,\) .* got \(3,\)", lambda y: (X, Y, X, Y[:3])),
    (tuple(CLASSIFIERS), "train labels must be integers, got torch.float32", lambda y: (X, Y.float(), X, Y)),
    (tuple(CLASSIFIERS), "train labels hold only class 4; a probe needs at least two", lambda y: (X, ONE_CLASS, X, Y)),
    (tuple(REGRESSIONS), r"train targets must have shape \(12, target\) .* got \(5, 3\)", lambda y: (X, X[:5], X, X)),
    (tuple(REGRESSIONS), "train targets must be real", lambda y: (X, X.to(torch.complex64), X, X)),
    (tuple(REGRESSIONS), r"validation targets .* \(12, 3\) .* got \(12, 2\)", lambda y: (X, X, X, X[:, :2])),
    (tuple(REGRESSIONS), r"validation targets are NaN .* 2 of 12 rows", lambda y: (X, X, X, SPOILED)),
    (("attributes",), "train attributes must be bool, got torch.int64", lambda y: (X, B.long(), X, B)),
    (("attributes",), r"validation attributes .* \(12, 3\) .* got \(12, 2\)", lambda y: (X, B, X, B[:, :2])),
    (
        ("attributes",),
        r"train attributes \[1\] are constant",
        lambda y: (X, B | torch.tensor([False, True, False]), X, B),
    ),
]


@pytest.mark.parametrize(("names", "message", "make"), REFUSED, ids=[message[:40] for _, message, _ in REFUSED])
def test_fit_refuses(names: tuple[str, ...], message: str, make: Callable[[Any], tuple[Any, ...]]) -> None:
    for name in names:
        with pytest.raises(ValueError, match=message):
            PROBES[name]().fit(*make(good(name)))


@every_probe
def test_predict_and_score_refuse(name: str) -> None:
    probe = PROBES[name]()
    with pytest.raises(RuntimeError, match=f"{type(probe).__name__} has not been fitted: call fit first"):
        probe.predict(X)
    probe.fit(X, good(name), X, good(name))
    with pytest.raises(ValueError, match=r"test features must have shape \(row, 3\) .* got \(12, 2\)"):
        probe.predict(X[:, :2])
    with pytest.raises(ValueError, match="test features are NaN or infinite in 1 of 12 rows"):
        probe.score(spoiled(math.nan, [0]), good(name))
    with pytest.raises(ValueError, match=r"test (labels|targets|attributes) must have shape \(12,.*\) .* got \(4,"):
        probe.score(X, good(name)[:4])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearProbe(penalties=[]), "penalties must be one or more numbers >= 0"),
        (lambda: LinearProbe(penalties=[-1.0]), "penalties must be one or more numbers >= 0"),
        (lambda: RidgeProbe(penalties=[0.0]), "penalties must be one or more numbers > 0"),
        (lambda: KNNProbe(neighbors=[0]), "neighbors must be one or more numbers >= 1"),
        (lambda: KNNProbe(metrics=["manhattan"]), "metrics must be among"),
        (lambda: MLPTraining(hidden=0), "hidden must be one or more numbers >= 1"),
        (lambda: MLPTraining(decays=()), "decays must be one or more numbers >= 0"),
        (lambda: MLPTraining(learning_rate=0.0), "learning_rate must be one or more numbers > 0"),
    ],
)
def test_hyperparameters_without_a_meaning_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_standardized_train_rows_have_mean_0_and_variance_1() -> None:
    x = X * torch.tensor([1e-25, 1.0, 1e25]) + torch.tensor([0.0, 300.0, 0.0])
    z = Standardizer.of(x)(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=2e-4, rtol=0)
    torch.testing.assert_close(z.square().mean(0), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_constant_features_stay_constant(value: float, dtype: torch.dtype) -> None:
    x = torch.full((1001, 1), value, dtype=dtype)
    standardize = Standardizer.of(x)
    assert standardize.scale.tolist() == [1.0]
    assert standardize(x).abs().max() <= 1e-6 * max(1.0, abs(value))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_a_collapsed_representation_scores_chance(value: float) -> None:
    x, y = torch.full((300, 4), value), (torch.arange(300) % 10 < 3).long()
    for probe in (LinearProbe(), LinearProbe(penalties=[0.0]), MLPProbe(TRAINING)):
        assert probe.fit(x, y, x, y).score(x, y) == pytest.approx(0.7)
    assert KNNProbe().fit(x, y, x, y).score(x, y) in (pytest.approx(0.3), pytest.approx(0.7))
    target = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    assert float(RidgeProbe().fit(x, target, x, target).score(x, target)) == pytest.approx(0, abs=1e-6)
    assert AttributeProbe().fit(x, y[:, None] > 0, x, y[:, None] > 0).predict(x).isfinite().all()

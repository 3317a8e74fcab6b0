"""View parameters, straight and circular, predicted from features whose relation to them is known."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation import RidgeProbe, angle_scores, style_scores

Split = tuple[Tensor, dict[str, Tensor]]


def features(rows: int, seed: int, width: int = 5) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def known(x: Tensor) -> Split:
    """One parameter that the features hold, one they do not, one that does not vary."""
    hidden = torch.randn(len(x), generator=torch.Generator().manual_seed(len(x)))
    return x, {"seen": 30 * x[:, 0] - 7, "hidden": hidden, "fixed": torch.ones(len(x))}


def test_r2_of_known_hidden_and_constant_parameters_by_name() -> None:
    train, validation, test = (known(features(rows, index)) for index, rows in enumerate((1000, 400, 600)))
    scores = style_scores(train, validation, test)
    assert list(scores) == ["mean_r2", "seen", "hidden", "fixed"]
    assert scores["seen"] > 0.999
    assert abs(scores["hidden"]) < 0.05
    assert math.isnan(scores["fixed"])
    assert scores["mean_r2"] == pytest.approx((scores["seen"] + scores["hidden"]) / 2)
    reversed_order = test[0], dict(reversed(test[1].items()))
    assert style_scores(train, validation, reversed_order) == pytest.approx(scores, nan_ok=True)
    fixed = (train[0], {"fixed": train[1]["fixed"]})
    assert all(math.isnan(score) for score in style_scores(fixed, fixed, fixed).values())


def circle(angles: Tensor, period: float = 360.0) -> Tensor:
    return torch.stack([torch.cos(2 * math.pi * angles / period), torch.sin(2 * math.pi * angles / period)], dim=1)


def uniform(rows: int, period: float = 360.0) -> Tensor:
    """Evenly spaced angles, none of them on an axis."""
    return (torch.arange(rows, dtype=torch.float64) + 0.5) * period / rows


@pytest.mark.parametrize("period", [360.0, 180.0, 1.0])
def test_features_that_hold_the_point_give_the_angle_and_half_of_it_an_eighth_of_a_turn(period: float) -> None:
    angles = uniform(400, period)
    turned = circle(angles + 0.2 * period, period) * torch.tensor([3.0, 0.1]) + 5
    whole, half = ((x, {"hue": angles}) for x in (turned, circle(angles, period)[:, :1]))
    scores = angle_scores(whole, whole, whole, {"hue": period})["hue"]
    assert scores["r2"] == pytest.approx(1, abs=1e-5)
    assert scores["median_error"] == pytest.approx(0, abs=1e-6 * period)
    # û = (cos, 0): half of the variance; its direction is 0 or half a turn, at most a quarter of a turn away.
    scores = angle_scores(half, half, half, {"hue": period})["hue"]
    assert scores["r2"] == pytest.approx(0.5, abs=1e-5)
    assert scores["median_error"] == pytest.approx(period / 8, abs=period / 400)


def test_unrelated_features_are_at_chance_and_no_direction_is_not_the_right_one() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        (torch.randn(2000, 3, generator=generator), {"hue": 360 * torch.rand(2000, generator=generator)})
        for _ in range(3)
    ]
    scores = angle_scores(*parts)["hue"]
    assert scores["r2"] == pytest.approx(0, abs=0.01)
    assert scores["median_error"] == pytest.approx(90, abs=6)
    part = (torch.zeros(20, 1), {"hue": torch.tensor([45.0, 135.0, 225.0, 315.0]).repeat(5)})
    scores = angle_scores(part, part, part)["hue"]
    assert scores["r2"] == pytest.approx(0, abs=1e-9)
    assert (scores["median_error"] or 0) >= 45 - 1e-6


def noisy(rows: int, seed: int) -> Split:
    """Two angles, one given but for noise and not uniform, the other noisier, of period 100."""
    generator = torch.Generator().manual_seed(seed)
    first = 150 * torch.randn(rows, generator=generator, dtype=torch.float64)
    second = 100 * torch.rand(rows, generator=generator, dtype=torch.float64)
    x = torch.cat([circle(first), circle(second, 100.0)], dim=1)
    x = x + torch.randn(x.shape, generator=generator, dtype=torch.float64) * torch.tensor([0.3, 0.3, 1.0, 1.0])
    return x, {"first": first, "second": second}


@pytest.mark.parametrize("rows", [41, 42])
def test_angles_equal_plain_loops_over_the_ridge_predictions(rows: int) -> None:
    train, validation, test = noisy(60, 0), noisy(50, 1), noisy(rows, 2)
    found = angle_scores(train, validation, (test[0], dict(reversed(test[1].items()))), {"second": 100})
    assert list(found) == ["first", "second"]
    for name, period in (("first", 360.0), ("second", 100.0)):
        probe = RidgeProbe().fit(
            train[0], circle(train[1][name], period), validation[0], circle(validation[1][name], period)
        )
        predicted, truth = probe.predict(test[0]).tolist(), circle(test[1][name], period).tolist()
        mean = [sum(point[axis] for point in truth) / rows for axis in (0, 1)]
        chords = sum(math.dist(u, v) ** 2 for u, v in zip(truth, predicted, strict=True))
        spread = sum(math.dist(u, mean) ** 2 for u in truth)
        errors = []
        for angle, (x, y) in zip(test[1][name].tolist(), predicted, strict=True):
            away = (angle - math.atan2(y, x) / (2 * math.pi) * period) % period
            errors.append(min(away, period - away))
        assert found[name]["r2"] == pytest.approx(1 - chords / spread, abs=1e-10)
        assert found[name]["median_error"] == pytest.approx(statistics.median(errors), abs=1e-8)


def test_full_turns_change_nothing_and_a_constant_angle_has_an_error_but_no_r2() -> None:
    parts = [noisy(100, seed) for seed in (3, 4, 5)]
    more = [(x, {"first": y["first"] - 720, "second": y["second"] + 300}) for x, y in parts]
    periods = {"second": 100.0}
    plain, turned = angle_scores(*parts, periods), angle_scores(*more, periods)
    for name in plain:
        assert turned[name] == pytest.approx(plain[name], abs=1e-9)
    test = parts[2]
    test[1]["first"] = torch.tensor([10.0, 370.0]).repeat(50)
    test[0][:, :2] = circle(test[1]["first"])
    scores = angle_scores(*parts, periods)["first"]
    assert scores["r2"] is None
    assert 0 <= (scores["median_error"] or 0) < 10


X = features(6, 0, 2)
A = {"a": torch.arange(6.0)}


@pytest.mark.parametrize(("score", "noun"), [(style_scores, "view parameter"), (angle_scores, "angle")])
def test_both_refuse(score: Callable[..., object], noun: str) -> None:
    cases: list[tuple[str, Split, Split]] = [
        (f"there are no {noun}s to predict", (X, {}), (X, A)),
        (rf"test has the {noun}s \['b'\], but train has \['a'\]", (X, A), (X, {"b": A["a"]})),
        (rf"train {noun} 'a' must have shape \(6,\) .* got \(5,\)", (X, {"a": A["a"][:5]}), (X, A)),
        (f"train {noun} 'a' are NaN or infinite", (X, {"a": A["a"] / 0}), (X, A)),
        ("test features are NaN or infinite", (X, A), (X / 0, A)),
    ]
    for message, train, test in cases:
        with pytest.raises(ValueError, match=message):
            score(train, train, test)


def test_names_and_periods_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="a view parameter may not be called 'mean_r2'"):
        style_scores((X, {"mean_r2": X[:, 0]}), (X, A), (X, A))
    with pytest.raises(ValueError, match=r"periods are given for \['tilt'\], but the angles are \['a'\]"):
        angle_scores((X, A), (X, A), (X, A), {"tilt": 90.0})
    for period in (0.0, math.nan):
        with pytest.raises(ValueError, match=f"a period must be a positive number, got {{'a': {period}}}"):
            angle_scores((X, A), (X, A), (X, A), {"a": period})

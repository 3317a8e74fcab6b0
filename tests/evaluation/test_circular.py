"""Angles read from features whose knowledge of them has a closed form."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation import RidgeProbe
from pp_simve.evaluation.tasks.view_parameters import angle_scores

Split = tuple[Tensor, dict[str, Tensor]]


def circle(degrees: Tensor, period: float = 360.0) -> Tensor:
    return torch.stack([torch.cos(2 * math.pi * degrees / period), torch.sin(2 * math.pi * degrees / period)], dim=1)


def uniform(rows: int, period: float = 360.0) -> Tensor:
    """Evenly spaced angles, none of them on an axis."""
    return (torch.arange(rows, dtype=torch.float64) + 0.5) * period / rows


@pytest.mark.parametrize("period", [360.0, 180.0, 1.0])
def test_features_that_hold_the_point_know_the_angle(period: float) -> None:
    angles = uniform(360, period)
    turned = circle(angles + 0.2 * period, period) * torch.tensor([3.0, 0.1]) + 5
    part = (turned, {"hue": angles})
    scores = angle_scores(part, part, part, {"hue": period})["hue"]
    assert scores["r2"] == pytest.approx(1, abs=1e-5)
    assert scores["median_error"] == pytest.approx(0, abs=1e-6 * period)


@pytest.mark.parametrize("period", [360.0, 180.0])
def test_the_cosine_alone_is_worth_half_and_an_eighth_of_a_turn(period: float) -> None:
    angles = uniform(400, period)
    part = (circle(angles, period)[:, :1], {"rotation": angles})
    scores = angle_scores(part, part, part, {"rotation": period})["rotation"]
    # û = (cos, 0): half of the variance; its direction is 0 or half a turn, at most a quarter of a turn away.
    assert scores["r2"] == pytest.approx(0.5, abs=1e-5)
    assert scores["median_error"] == pytest.approx(period / 8, abs=period / 400)


def test_half_a_turn_is_no_matter_to_what_looks_the_same_after_it() -> None:
    angles = uniform(720)
    part = (circle(angles, 180), {"bar": angles})
    assert angle_scores(part, part, part, {"bar": 180})["bar"]["r2"] == pytest.approx(1, abs=1e-5)
    whole = angle_scores(part, part, part)["bar"]
    assert whole["r2"] == pytest.approx(0, abs=1e-5)


def test_features_that_know_nothing_are_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        (torch.randn(2000, 3, generator=generator), {"hue": 360 * torch.rand(2000, generator=generator)})
        for _ in range(3)
    ]
    scores = angle_scores(*parts)["hue"]
    assert scores["r2"] == pytest.approx(0, abs=0.01)
    assert scores["median_error"] == pytest.approx(90, abs=6)


def test_no_direction_does_not_pass_for_the_right_one() -> None:
    angles = torch.tensor([45.0, 135.0, 225.0, 315.0]).repeat(5)
    part = (torch.zeros(20, 1), {"hue": angles})
    scores = angle_scores(part, part, part)["hue"]
    assert scores["r2"] == pytest.approx(0, abs=1e-9)
    assert (scores["median_error"] or 0) >= 45 - 1e-6


def noisy(rows: int, seed: int) -> Split:
    """Two angles, the one known but for noise and not uniform, the other less well, of period 100."""
    generator = torch.Generator().manual_seed(seed)
    first = 150 * torch.randn(rows, generator=generator, dtype=torch.float64)
    second = 100 * torch.rand(rows, generator=generator, dtype=torch.float64)
    x = torch.cat([circle(first), circle(second, 100.0)], dim=1)
    x = x + torch.randn(x.shape, generator=generator, dtype=torch.float64) * torch.tensor([0.3, 0.3, 1.0, 1.0])
    return x, {"first": first, "second": second}


@pytest.mark.parametrize("rows", [41, 42])
def test_equals_plain_loops_over_the_ridge_predictions(rows: int) -> None:
    train, validation, test = noisy(60, 0), noisy(50, 1), noisy(rows, 2)
    found = angle_scores(train, validation, test, {"second": 100})
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


def test_whole_turns_more_change_nothing() -> None:
    parts = [noisy(50, seed) for seed in (3, 4, 5)]
    more = [(x, {"first": y["first"] - 720, "second": y["second"] + 300}) for x, y in parts]
    periods = {"second": 100.0}
    plain, turned = angle_scores(*parts, periods), angle_scores(*more, periods)
    for name in plain:
        assert turned[name] == pytest.approx(plain[name], abs=1e-9)


def test_an_angle_constant_in_test_has_no_r2_but_an_error() -> None:
    train, validation, test = noisy(200, 6), noisy(100, 7), noisy(100, 8)
    # The same angle, told in two ways.
    test[1]["first"] = torch.tensor([10.0, 370.0]).repeat(50)
    test[0][:, :2] = circle(test[1]["first"])
    scores = angle_scores(train, validation, test, {"second": 100})["first"]
    assert scores["r2"] is None
    assert 0 <= (scores["median_error"] or 0) < 10


def test_splits_pair_angles_by_name() -> None:
    train, validation, test = noisy(60, 9), noisy(60, 10), noisy(60, 11)
    turned = test[0], dict(reversed(test[1].items()))
    assert angle_scores(train, validation, turned) == angle_scores(train, validation, test)


X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
A = {"hue": torch.arange(6.0)}


@pytest.mark.parametrize(
    ("message", "train", "test", "periods"),
    [
        ("there are no angles to predict", (X, {}), (X, {}), None),
        (r"test has the angles \['tilt'\], but train has \['hue'\]", (X, A), (X, {"tilt": A["hue"]}), None),
        (r"train angle 'hue' must have shape \(6,\), got \(5,\)", (X, {"hue": A["hue"][:5]}), (X, A), None),
        ("train targets are NaN or infinite in 6 of 6 rows", (X, {"hue": A["hue"] / 0}), (X, A), None),
        ("test features are NaN or infinite", (X, A), (X / 0, A), None),
        (r"periods are given for \['tilt'\], but the angles are \['hue'\]", (X, A), (X, A), {"tilt": 90.0}),
        ("a period must be a positive number, got {'hue': 0.0}", (X, A), (X, A), {"hue": 0.0}),
        ("a period must be a positive number, got {'hue': nan}", (X, A), (X, A), {"hue": math.nan}),
    ],
)
def test_refuses(message: str, train: Split, test: Split, periods: dict[str, float] | None) -> None:
    with pytest.raises(ValueError, match=message):
        angle_scores(train, train, test, periods)

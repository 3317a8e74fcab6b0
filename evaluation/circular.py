"""Angles: how well circular parameters, such as a rotation or a hue, are read from a frozen representation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pp_simve.evaluation.ridge import RidgeProbe
from pp_simve.evaluation.style import Parametrised

FULL_TURN = 360.0
"""Period of an angle in degrees, unless another is given."""


def angle_scores(
    train: Parametrised, validation: Parametrised, test: Parametrised, periods: Mapping[str, float] | None = None
) -> dict[str, dict[str, float | None]]:
    """R² and median error, on test, of ridge regression of the point on the unit circle that each angle stands for.

    An angle a of period p is the point ``u = (cos 2πa/p, sin 2πa/p)``, so that a and a + p are the same. `RidgeProbe`,
    fitted on train and chosen on validation, predicts both coordinates; its û need not lie on the circle.

    Returns:
        One entry an angle: ``"r2"``, 1 − Σ‖u − û‖² / Σ‖u − ū‖² with ū the mean of u over test (1: the point is a linear
        function of the features; 0: they say no more of it than its mean does; None where the angle is constant in
        test); and ``"median_error"``, the median over test of the distance along the circle between a and the
        direction of û, in the units of a, between 0 and p/2; p/4 is chance where the angles are uniform.

    Args:
        train, validation, test: features of shape ``(row, feature)``, and angles by name, each of shape ``(row,)``.
            Only circular parameters: `style_scores` judges the others.
        periods: in the units of the angles, degrees as a rule; 360 for an angle that is not named here. A bar that
            looks the same after half a turn has 180.

    Raises:
        ValueError: if the splits name different angles, or none; for a period that is not positive or of no angle; or
            for values or shapes that the probe refuses.
    """
    names = list(train[1])
    if not names:
        raise ValueError("there are no angles to predict")
    given = dict(periods or {})
    if unknown := set(given) - set(names):
        raise ValueError(f"periods are given for {sorted(unknown)}, but the angles are {sorted(names)}")
    if wrong := {name: period for name, period in given.items() if not 0 < period < math.inf}:
        raise ValueError(f"a period must be a positive number, got {wrong}")
    turns = {name: given.get(name, FULL_TURN) for name in names}

    (train_x, train_u), (validation_x, validation_u), (test_x, test_u) = (
        (split[0], _points(split, turns, name))
        for split, name in ((train, "train"), (validation, "validation"), (test, "test"))
    )
    probe = RidgeProbe().fit(train_x, train_u.flatten(1), validation_x, validation_u.flatten(1))
    predicted = probe.predict(test_x).double().view_as(test_u)
    residual = (test_u - predicted).square().sum(dim=(0, 2))
    total = (test_u - test_u.mean(dim=0)).square().sum(dim=(0, 2))
    # Compared with its first row: rounding in the mean would make a constant angle look as if it varied.
    constant = (test_u == test_u[0]).all(dim=2).all(dim=0)
    away = (_turn(test_u) - _turn(predicted)).abs()
    median = torch.minimum(away, 1 - away).quantile(0.5, dim=0)
    return {
        name: {
            "r2": None if constant[index] else float(1 - residual[index] / total[index]),
            "median_error": float(median[index]) * period,
        }
        for index, (name, period) in enumerate(turns.items())
    }


def _turn(points: Tensor) -> Tensor:
    """Direction of points, shape ``(…, 2)``, in turns between −1/2 and 1/2."""
    return torch.atan2(points[..., 1], points[..., 0]) / (2 * math.pi)


def _points(split: Parametrised, turns: Mapping[str, float], name: str) -> Tensor:
    """The angles as points of the unit circle, shape ``(row, angle, 2)``, float64."""
    features, angles = split
    if set(angles) != set(turns):
        raise ValueError(f"{name} has the angles {sorted(angles)}, but train has {sorted(turns)}")
    for angle, values in angles.items():
        if values.shape != features.shape[:1]:
            raise ValueError(f"{name} angle {angle!r} must have shape ({len(features)},), got {tuple(values.shape)}")
    # The remainder first: a turn more must not change a digit of the point.
    turned = torch.stack([(angles[angle].double() % period) / period for angle, period in turns.items()], dim=1)
    return torch.stack([torch.cos(2 * math.pi * turned), torch.sin(2 * math.pi * turned)], dim=2)

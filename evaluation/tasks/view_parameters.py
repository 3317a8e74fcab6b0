"""Style: how well the augmentation parameters of a view are predicted from a frozen representation of that view."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pp_simve.evaluation.probes import RegressionProbe, RidgeProbe, r_squared
from pp_simve.evaluation.probes.base import checked

Parametrised = tuple[Tensor, Mapping[str, Tensor]]
"""Features of shape ``(row, feature)`` and view parameters by name, each of shape ``(row,)``."""

MEAN = "mean_r2"
"""Key of the mean over parameters in the scores."""


def style_scores(
    train: Parametrised, validation: Parametrised, test: Parametrised, *, probe: RegressionProbe | None = None
) -> dict[str, float]:
    """Test R² of every view parameter by a probe (default: ridge), fitted on train and selected on validation.

    1: the parameter is a function of the features, for ridge a linear one. 0 and below: the features predict no better
    than the mean of test. A parameter of two values (a flip) rarely nears 1.

    Returns:
        ``"mean_r2"``, the mean over the defined parameters, then one entry per parameter. A parameter that is constant
        in test has no R²: its entry is NaN and is left out of the mean, which is NaN where none is defined.

    Raises:
        ValueError: splits with different parameters, or none; values or shapes that the probe refuses.
    """
    names = list(train[1])
    if MEAN in names:
        raise ValueError(f"a view parameter may not be called {MEAN!r}: that is the name of the mean over parameters")
    x, y = zip(*_targets(train, validation, test, noun="view parameter"), strict=True)
    scores = (probe or RidgeProbe()).fit(x[0], y[0], x[1], y[1]).score(x[2], y[2])
    return {MEAN: float(scores.nanmean()), **dict(zip(names, scores.tolist(), strict=True))}


def angle_scores(
    train: Parametrised, validation: Parametrised, test: Parametrised, periods: Mapping[str, float] | None = None
) -> dict[str, dict[str, float | None]]:
    """Test R² and median error of ridge regression of angles, such as a rotation or a hue, as points on the circle.

    An angle a of period p is the point ``u = (cos 2πa/p, sin 2πa/p)``. `RidgeProbe`, fitted on train and selected on
    validation, predicts both coordinates; its û need not lie on the circle.

    Args:
        train: features of shape ``(row, feature)``, and angles by name, each of shape ``(row,)``.
        validation: likewise.
        test: likewise.
        periods: in the units of the angles; 360 by default. A bar that looks the same after half a turn has 180.

    Returns:
        One entry per angle: ``"r2"``, 1 − Σ‖u − û‖² / Σ‖u − ū‖² with ū the mean of u over test, None where the angle is
        constant in test; and ``"median_error"``, the median over test of the distance along the circle between a and
        the direction of û, in units of a, from 0 to p/2; p/4 is chance for uniform angles.

    Raises:
        ValueError: splits with different angles, or none; a period that is not positive or of no angle; values or
            shapes that the probe refuses.
    """
    names, given = list(train[1]), dict(periods or {})
    if unknown := set(given) - set(names):
        raise ValueError(f"periods are given for {sorted(unknown)}, but the angles are {sorted(names)}")
    if wrong := {name: period for name, period in given.items() if not 0 < period < math.inf}:
        raise ValueError(f"a period must be a positive number, got {wrong}")
    turns = torch.tensor([given.get(name, 360.0) for name in names], dtype=torch.float64)

    def points(angles: Tensor) -> Tensor:
        # The remainder first: another full turn must not change a digit of the point.
        period = turns.to(angles.device)
        radians = 2 * math.pi * (angles % period) / period
        return torch.stack([radians.cos(), radians.sin()], dim=2)

    (train_x, train_u), (validation_x, validation_u), (test_x, test_u) = (
        (x, points(angles)) for x, angles in _targets(train, validation, test, noun="angle")
    )
    probe = RidgeProbe().fit(train_x, train_u.flatten(1), validation_x, validation_u.flatten(1))
    predicted = probe.predict(test_x).double().view_as(test_u)
    scores = r_squared(predicted, test_u).tolist()
    apart = (_direction(test_u) - _direction(predicted)).abs()
    errors = (torch.minimum(apart, 1 - apart).quantile(0.5, dim=0).cpu() * turns).tolist()
    return {
        name: {"r2": None if math.isnan(score) else score, "median_error": error}
        for name, score, error in zip(names, scores, errors, strict=True)
    }


def _direction(points: Tensor) -> Tensor:
    """Angle of points ``(…, 2)``, in turns from −1/2 to 1/2."""
    return torch.atan2(points[..., 1], points[..., 0]) / (2 * math.pi)


def _targets(*splits: Parametrised, noun: str) -> list[tuple[Tensor, Tensor]]:
    """Features and the parameters side by side in the order of train, ``(row, parameter)``, float64, of each split."""
    if not (names := list(splits[0][1])):
        raise ValueError(f"there are no {noun}s to predict")
    found = []
    for split, (features, parameters) in zip(("train", "validation", "test"), splits, strict=True):
        if set(parameters) != set(names):
            raise ValueError(f"{split} has the {noun}s {sorted(parameters)}, but train has {sorted(names)}")
        columns = [
            checked(parameters[name], f"{split} {noun} {name!r}", len(features), dtype="real").double()
            for name in names
        ]
        found.append((features, torch.stack(columns, dim=1)))
    return found

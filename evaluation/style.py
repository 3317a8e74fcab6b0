"""Style: how well the parameters of a view are read from a frozen representation of that view."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pp_simve.evaluation.ridge import RidgeProbe

Parametrised = tuple[Tensor, Mapping[str, Tensor]]
"""Features of shape ``(row, feature)`` and view parameters by name, each of shape ``(row,)``."""

MEAN = "mean_r2"
"""Key of the mean over parameters in the scores."""


def style_scores(train: Parametrised, validation: Parametrised, test: Parametrised) -> dict[str, float]:
    """R² on test of ridge regression of every view parameter, fitted on train and chosen on validation.

    Read it so: 1 means that the parameter is a linear function of the features, 0 that they say no more of it than its
    mean does. Below 0 is possible, and means the same as 0. What the features know in a non-linear way is not seen, and
    a parameter of two values (a flip) rarely nears 1.

    Returns:
        ``"mean_r2"``, the mean over the defined parameters, then one entry a parameter. A parameter that is constant in
        test has no R²: its entry is NaN and it is left out of the mean, which is NaN where none is defined.

    Raises:
        ValueError: if the splits name different parameters, or none, or for values or shapes that the probe refuses.
    """
    names = list(train[1])
    if not names:
        raise ValueError("there are no view parameters to predict")
    if MEAN in names:
        raise ValueError(f"a view parameter may not be called {MEAN!r}: that is the name of the mean over parameters")
    probe = RidgeProbe().fit(
        train[0], _targets(train, names, "train"), validation[0], _targets(validation, names, "validation")
    )
    scores = probe.score(test[0], _targets(test, names, "test"))
    return {MEAN: float(scores.nanmean()), **dict(zip(names, scores.tolist(), strict=True))}


def _targets(split: Parametrised, names: list[str], name: str) -> Tensor:
    """The parameters side by side, shape ``(row, parameter)``."""
    features, parameters = split
    if set(parameters) != set(names):
        raise ValueError(f"{name} has the view parameters {sorted(parameters)}, but train has {sorted(names)}")
    for parameter, values in parameters.items():
        if values.shape != features.shape[:1]:
            raise ValueError(
                f"{name} view parameter {parameter!r} must have shape ({len(features)},), got {tuple(values.shape)}"
            )
    return torch.stack([parameters[parameter].double() for parameter in names], dim=1)

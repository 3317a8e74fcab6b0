"""Ridge probe: linear regression of several targets, each with an ℓ2 penalty selected on validation rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import RegressionProbe, checked_grid

PENALTIES = (100.0, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""ℓ2 penalties tried by default: a penalty α is scikit-learn's ``alpha = rows · α``."""

_ROWS = 2**14
"""Rows held in float64 at a time."""


class RidgeProbe(RegressionProbe):
    """Ridge regression on standardized features, in closed form.

    For each target y, minimizes over the weights w, shape ``(feature,)``, and the unpenalized bias b

        mean over train rows of (y − w·x − b)²  +  α ‖w‖².

    The α with the best validation R² is selected for each target; among equals, the strongest.

    Args:
        penalties: values of α to select from, positive.

    Attributes:
        alpha: the selected one of each target, shape ``(target,)``.
        weight: for standardized features and targets, shape ``(feature, target)``, float64.
    """

    alpha: Tensor
    weight: Tensor

    def __init__(self, penalties: Sequence[float] = PENALTIES) -> None:
        self.penalties = checked_grid("penalties", penalties, strict=True)

    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        # In float64, because the Gram matrix squares the features' condition number. One eigendecomposition serves all
        # penalties. Features and targets are centered, so the bias of the standardized problem is 0.
        gram = y.new_zeros(x.shape[1], x.shape[1])
        cross = y.new_zeros(x.shape[1], y.shape[1])
        for rows, targets in zip(torch.split(x, _ROWS), torch.split(y, _ROWS), strict=True):
            rows = rows.double()
            gram.addmm_(rows.T, rows)
            cross.addmm_(rows.T, targets)
        eigenvalues, axes = torch.linalg.eigh(gram / len(x))
        eigenvalues, cross = eigenvalues.clamp_min(0).unsqueeze(1), axes.T @ cross / len(x)
        projected = validation_x.double() @ axes
        least = y.new_full(y.shape[1:], torch.inf)
        self.alpha, self.weight = torch.zeros_like(least), torch.zeros_like(cross)
        for penalty in self.penalties:
            weight = cross / (eigenvalues + penalty)
            # Least squared error is best R², and stays defined for a target that is constant in validation.
            error = (projected @ weight - validation_y).square().mean(dim=0)
            better = error < least
            least = torch.where(better, error, least)
            self.alpha = torch.where(better, penalty, self.alpha)
            self.weight = torch.where(better, weight, self.weight)
        self.weight = axes @ self.weight

    def _outputs(self, x: Tensor) -> Tensor:
        return x.double() @ self.weight

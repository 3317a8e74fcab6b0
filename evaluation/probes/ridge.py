"""Ridge probe: linear regression of several targets, each with an ℓ2 penalty selected on validation rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import CHUNK, RegressionProbe, checked_grid

PENALTIES = (100.0, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Values of α tried by default."""


class RidgeProbe(RegressionProbe):
    """Ridge regression on standardized features, in closed form.

    For each target y, minimizes over the weights w, shape ``(feature,)``, and the unpenalized bias b

        mean over train rows of (y − w·x − b)²  +  α ‖w‖².

    The α with the best validation R² is selected for each target; among equals, the strongest.

    Args:
        penalties: values of α to select from, positive; scikit-learn's ``alpha`` is rows · α.

    Attributes:
        alpha: the selected one of each target, shape ``(target,)``.
        weight: for standardized features and targets, shape ``(feature, target)``, float64.
    """

    alpha: Tensor
    weight: Tensor

    def __init__(self, penalties: Sequence[float] = PENALTIES) -> None:
        self.penalties = checked_grid("penalties", penalties, strict=True)

    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        # One eigendecomposition serves all penalties. In float64, because the Gram matrix squares the features'
        # condition number. Features and targets are centered, so the bias of the standardized problem is 0.
        gram, cross = y.new_zeros(x.shape[1], x.shape[1]), y.new_zeros(x.shape[1], y.shape[1])
        for rows, targets in zip(torch.split(x, CHUNK), torch.split(y, CHUNK), strict=True):
            wide = rows.double()
            gram.addmm_(wide.T, wide)
            cross.addmm_(wide.T, targets)
        eigenvalues, axes = torch.linalg.eigh(gram / len(x))
        cross = axes.T @ cross / len(x)
        weights = torch.stack([cross / (eigenvalues.clamp_min(0)[:, None] + penalty) for penalty in self.penalties])
        # Least squared error is best R², and stays defined for a target that is constant in validation.
        error = (validation_x.double() @ axes @ weights - validation_y).square().mean(dim=1)
        best = error.argmin(dim=0)  # the first of equals: the strongest
        self.alpha = torch.tensor(self.penalties, dtype=y.dtype, device=y.device)[best]
        self.weight = axes @ weights[best, :, torch.arange(len(best))].T

    def _outputs(self, x: Tensor) -> Tensor:
        return x.double() @ self.weight

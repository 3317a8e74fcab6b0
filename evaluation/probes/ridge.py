"""Ridge probe: linear regression of several targets, each with an ℓ2 penalty selected on validation rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import CHUNK, RegressionProbe, checked_grid, gram

PENALTIES = (100.0, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Values of α tried by default."""


class RidgeProbe(RegressionProbe):
    """Ridge probe: ridge regression on standardized features, in closed form.

    For each target y, minimizes over the weights w, shape ``(feature,)``, and the unpenalized bias b

        mean over train rows of (y − w·x − b)²  +  α ‖w‖².

    The positive α with the best validation R² is selected for each target; among equals, the strongest. scikit-learn's
    ``alpha`` is rows · α. ``alpha``, ``(target,)``, are the selected ones; ``weight``, float64 ``(feature, target)``,
    is for standardized features and targets.
    """

    alpha: Tensor
    weight: Tensor

    def __init__(self, penalties: Sequence[float] = PENALTIES) -> None:
        self.penalties = checked_grid("penalties", penalties, strict=True)

    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        # One eigendecomposition serves all penalties. In float64, because the Gram matrix squares the features'
        # condition number. Features and targets are centered, so the bias of the standardized problem is 0.
        eigenvalues, axes = torch.linalg.eigh(gram(x) / len(x), UPLO="U")
        cross = y.new_zeros(y.shape[1], x.shape[1])
        for rows, targets in zip(torch.split(x, CHUNK), torch.split(y.T.contiguous(), CHUNK, dim=1), strict=True):
            cross.addmm_(targets, rows.double())
        moments = axes.T @ cross.T / len(x)
        weights = torch.stack([moments / (eigenvalues.clamp_min(0)[:, None] + penalty) for penalty in self.penalties])
        # Least squared error is best R², and stays defined for a target that is constant in validation.
        error = (validation_x.double() @ axes @ weights - validation_y).square().mean(dim=1)
        best = error.argmin(dim=0)  # the first of equals: the strongest
        self.alpha = torch.tensor(self.penalties, dtype=y.dtype, device=y.device)[best]
        self.weight = axes @ weights[best, :, torch.arange(len(best))].T

    def _outputs(self, x: Tensor) -> Tensor:
        return x.double() @ self.weight

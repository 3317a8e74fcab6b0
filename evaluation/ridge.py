"""Ridge probe: linear regression of many targets at once, an ℓ2 penalty a target chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.features import Standardiser, checked_features, checked_targets

PENALTIES = (100.0, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""ℓ2 penalties tried by default: a penalty α is scikit-learn's ``alpha = rows · α``."""

_CHUNK = 2**14
"""Rows widened to float64 at a time."""


class RidgeProbe:
    """Ridge regression on standardised features, in closed form.

    For each target y, minimises over the weights w, shape ``(feature,)``, and the bias b

        mean over train rows of (y − w·x − b)²  +  α ‖w‖²       (b is free)

    The α with the best validation R² is kept for each target by itself; among equals, the strongest.

    Args:
        penalties: values of α to choose from, positive.

    Attributes:
        alpha: the chosen one a target, shape ``(target,)``.
        weight: shape ``(feature, target)``, for standardised features, float64.
        bias: the train means of the targets, shape ``(target,)``, float64.
    """

    alpha: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, penalties: Sequence[float] = PENALTIES) -> None:
        if not penalties or min(penalties) <= 0:
            raise ValueError(f"penalties must be one or more numbers > 0, got {penalties}")
        self.penalties = sorted(penalties, reverse=True)
        self._standardise: Standardiser | None = None

    @torch.no_grad()
    def fit(self, train_x: Tensor, train_y: Tensor, validation_x: Tensor, validation_y: Tensor) -> RidgeProbe:
        """Fits every target on the train rows and chooses its α on the validation rows.

        Args:
            train_x, validation_x: float features, shape ``(row, feature)``, on one device.
            train_y, validation_y: targets, shape ``(row, target)``.

        Raises:
            ValueError: for features or targets that are not finite, or shapes that do not agree.
        """
        train_x = checked_features(train_x, "train")
        train_y = checked_targets(train_y, train_x, "train")
        validation_x = checked_features(validation_x, "validation", width=train_x.shape[1])
        validation_y = checked_targets(validation_y, validation_x, "validation", width=train_y.shape[1])
        self._standardise = Standardiser.of(train_x)
        self.bias = train_y.mean(dim=0)

        # In the eigenvectors of the features' second moments, every α costs a division.
        moments, cross = self._moments(train_x, train_y - self.bias)
        eigenvalues, axes = torch.linalg.eigh(moments)
        eigenvalues, cross = eigenvalues.clamp_min(0).unsqueeze(1), axes.T @ cross
        best = torch.full_like(self.bias, torch.inf)
        self.alpha, self.weight = torch.zeros_like(self.bias), torch.zeros_like(cross)
        for penalty in self.penalties:
            weight = axes @ (cross / (eigenvalues + penalty))
            # The least squared error is the best R², and stays defined for a target constant in validation.
            error = (self._apply(validation_x, weight) - validation_y).square().mean(dim=0)
            better = error < best
            best = torch.where(better, error, best)
            self.alpha = torch.where(better, penalty, self.alpha)
            self.weight = torch.where(better, weight, self.weight)
        return self

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The targets of each row, shape ``(row, target)``, in the dtype of the features."""
        if self._standardise is None:
            raise RuntimeError("RidgeProbe has not been fitted: call fit first")
        x = checked_features(x, "test", width=self.weight.shape[0])
        return self._apply(x, self.weight).to(x.dtype)

    def score(self, x: Tensor, y: Tensor) -> Tensor:
        """R² of each target, shape ``(target,)``, float64; NaN for a target that is constant in ``y`` (undefined)."""
        predicted = self.predict(x)
        return r_squared(predicted.double(), checked_targets(y, predicted, "test", width=self.weight.shape[1]))

    def _moments(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean outer products x xᵀ and x yᵀ in float64: squaring the features squares their condition number."""
        assert self._standardise is not None
        moments = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        cross = x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64)
        for rows, targets in zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True):
            rows = self._standardise(rows).double()
            moments.addmm_(rows.T, rows)
            cross.addmm_(rows.T, targets)
        return moments / len(x), cross / len(x)

    def _apply(self, x: Tensor, weight: Tensor) -> Tensor:
        assert self._standardise is not None
        return torch.cat([self._standardise(rows).double() @ weight for rows in torch.split(x, _CHUNK)]) + self.bias


def r_squared(predicted: Tensor, targets: Tensor) -> Tensor:
    """1 − Σ(y − ŷ)² / Σ(y − ȳ)² of each column, ȳ the mean of ``targets``; NaN for a constant column."""
    residual = (targets - predicted).square().sum(dim=0)
    total = (targets - targets.mean(dim=0)).square().sum(dim=0)
    # Compared with its first row: rounding in the mean would make a constant column look as if it varied.
    constant = (targets == targets[0]).all(dim=0)
    return torch.where(constant, torch.nan, 1 - residual / total)

"""Scores of predictions: accuracy, balanced accuracy, area under the ROC curve, R²."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Fraction of equal entries of two tensors of shape ``(row,)``."""
    return float((predicted == labels).double().mean())


def balanced_accuracy(predicted: Tensor, positive: Tensor) -> Tensor:
    """Mean of sensitivity and specificity of bool tensors ``(row, column)`` by column, float64; NaN without both."""
    right = predicted == positive
    sensitivity = (right & positive).sum(dim=0).double() / positive.sum(dim=0)
    specificity = (right & ~positive).sum(dim=0).double() / (~positive).sum(dim=0)
    return (sensitivity + specificity) / 2


def roc_auc(scores: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve of each column: P(score of a positive row > that of a negative), ties counting half.

    From mean ranks: U / (positives · negatives) (Mann and Whitney 1947). Exact.

    Args:
        scores: shape ``(row, column)``, no NaN.
        positive: bool, the same shape.

    Returns:
        Shape ``(column,)``, float64; NaN for a column without positives or without negatives (undefined).
    """
    columns = scores.T.contiguous()
    ordered = columns.sort(dim=1).values
    below = torch.searchsorted(ordered, columns, right=False)
    up_to = torch.searchsorted(ordered, columns, right=True)
    # Twice the mean rank is an integer, and so is twice U: no rounding before the division.
    ranks = (below + up_to + 1) * positive.T
    positives = positive.sum(dim=0)
    negatives = len(positive) - positives
    return (ranks.sum(dim=1) - positives * (positives + 1)).double() / (2 * positives * negatives)


def r_squared(predicted: Tensor, targets: Tensor) -> Tensor:
    """1 − Σ‖y − ŷ‖² / Σ‖y − ȳ‖² over rows, ȳ the mean of ``targets``; NaN where targets are constant.

    Args:
        predicted, targets: float64, shape ``(row, target)``, or ``(row, target, coordinate)`` of vector targets.

    Returns:
        Shape ``(target,)``.
    """
    predicted, targets = (part.reshape(*part.shape[:2], -1) for part in (predicted, targets))
    residual = (targets - predicted).square().sum(dim=(0, 2))
    total = (targets - targets.mean(dim=0)).square().sum(dim=(0, 2))
    # Compared with its first row: rounding of the mean would make a constant target seem to vary.
    constant = (targets == targets[0]).all(dim=2).all(dim=0)
    return torch.where(constant, torch.nan, 1 - residual / total)

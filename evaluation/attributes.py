"""Attributes: how well yes-or-no properties of an image are read from a frozen representation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pp_simve.evaluation.features import Standardiser, checked_features
from pp_simve.evaluation.linear import PENALTIES, lbfgs

Attributed = tuple[Tensor, Tensor]
"""Features of shape ``(row, feature)`` and bool attributes of shape ``(row, attribute)``."""

MEAN = "mean"
"""Key of the mean over attributes in the scores."""

_ITERATIONS = 200
_TOLERANCE = 3e-4


def attribute_scores(
    train: Attributed, validation: Attributed, test: Attributed, names: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Balanced accuracy and area under the ROC curve, on test, of a logistic regression of each attribute.

    Minimises for each attribute, on standardised features, over the weights w, shape ``(feature,)``, and the bias b

        mean over train rows of cross-entropy(sigmoid(w·x + b), y)  +  penalty/2 · ‖w‖²       (b is free)

    and keeps for each attribute by itself the penalty, one of `LinearProbe`'s, with the least validation cross-entropy
    (which, unlike the scores, is defined where validation holds one value only); among equals, the strongest.

    Read it so: 0.5 means that the features do not hold the attribute, 1 that a half-space of them does, however rare
    the attribute is. Balanced accuracy is the mean of the fractions of yeses and of noes that are right, at the
    threshold that is best for it by the probabilities of the probe: yes where the probability is above the share of
    yeses in train, not above one half, which a rare attribute would seldom reach. The area needs no threshold.

    Args:
        train, validation, test: features and attributes.
        names: of the attributes, in order.

    Returns:
        ``"mean"``, over the attributes that have scores, then one entry an attribute: ``"balanced_accuracy"`` and
        ``"auc"`` as fractions, None for an attribute that is constant in train (nothing is learnt) or in test (nothing
        is told apart), and for the mean where there is no other.

    Raises:
        ValueError: for features that are not finite, attributes that are not bool, shapes that do not agree, or names
            that are none, repeated, or ``"mean"``.
    """
    names = list(names)
    if not names:
        raise ValueError("there are no attributes to predict")
    if len(set(names)) < len(names) or MEAN in names:
        raise ValueError(f"attribute names must differ from one another and from {MEAN!r}, got {names}")
    train_x, train_y = _checked(train, "train", len(names))
    validation_x, validation_y = _checked(validation, "validation", len(names), train_x.shape[1])
    test_x, test_y = _checked(test, "test", len(names), train_x.shape[1])

    varies = train_y.any(dim=0) & ~train_y.all(dim=0)
    balanced = test_x.new_full((len(names),), torch.nan, dtype=torch.float64)
    area = balanced.clone()
    if varies.any():
        learnt = test_y[:, varies]
        log_odds = _fitted(train_x, train_y[:, varies], validation_x, validation_y[:, varies], test_x)
        prior = torch.logit(train_y[:, varies].double().mean(dim=0))
        balanced[varies] = _balanced_accuracy(log_odds > prior, learnt)
        area[varies] = roc_auc(log_odds, learnt)
    scores = {"balanced_accuracy": balanced, "auc": area}
    rows = {MEAN: {key: float(values.nanmean()) for key, values in scores.items()}}
    for index, name in enumerate(names):
        rows[name] = {key: float(values[index]) for key, values in scores.items()}
    return {
        name: {key: None if math.isnan(value) else value for key, value in row.items()} for name, row in rows.items()
    }


def roc_auc(scores: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve of each column: how often a positive row scores above a negative, ties counting half.

    By ranks, equal scores sharing their mean rank: Mann and Whitney (1947), U / (positives · negatives). Exact.

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


def _checked(split: Attributed, name: str, count: int, width: int | None = None) -> Attributed:
    features, attributes = checked_features(split[0], name, width), split[1]
    if attributes.dtype != torch.bool:
        raise ValueError(f"{name} attributes must be bool, got {attributes.dtype}")
    if attributes.ndim != 2 or len(attributes) != len(features):
        raise ValueError(
            f"{name} attributes must have shape ({len(features)}, attribute), got {tuple(attributes.shape)}"
        )
    if attributes.shape[1] != count:
        raise ValueError(f"{name} has {attributes.shape[1]} attributes, but there are {count} names")
    return features, attributes.to(features.device)


def _balanced_accuracy(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean of the fractions of positives and of negatives that are right, a column; NaN without either."""
    right = predicted == truth
    yes = (right & truth).sum(dim=0).double() / truth.sum(dim=0)
    no = (right & ~truth).sum(dim=0).double() / (~truth).sum(dim=0)
    return (yes + no) / 2


@torch.no_grad()
def _fitted(train_x: Tensor, train_y: Tensor, validation_x: Tensor, validation_y: Tensor, test_x: Tensor) -> Tensor:
    """Log odds of each attribute on the test rows, shape ``(row, attribute)``, at its chosen penalty.

    All attributes are one problem, whose terms share nothing but the features: a product of matrices serves them all.
    """
    standardise = Standardiser.of(train_x)
    x, validation_x, test_x = standardise(train_x), standardise(validation_x), standardise(test_x)
    # A rotation leaves the penalty as it is, and lets every axis have a step length of its own.
    spectrum, rotation = (part.to(x.dtype) for part in torch.linalg.eigh((x.T @ x).double() / len(x)))
    x, validation_x, test_x = x @ rotation, validation_x @ rotation, test_x @ rotation
    y, validation_y = train_y.to(x.dtype), validation_y.to(x.dtype)

    share = y.mean(dim=0, dtype=torch.float64)
    weight, bias = x.new_zeros(y.shape[1], x.shape[1]), torch.logit(share).to(x.dtype)
    best_weight, best_bias = weight.clone(), bias.clone()
    least = torch.full_like(bias, torch.inf)
    for penalty in PENALTIES:
        # The curvature where the features say nothing.
        curvature = (share * (1 - share)).to(x.dtype).unsqueeze(1) * spectrum.clamp_min(0) + penalty
        _minimise(x, y, penalty, curvature.rsqrt(), weight, bias)
        loss = binary_cross_entropy_with_logits(
            torch.addmm(bias, validation_x, weight.T), validation_y, reduction="none"
        ).mean(dim=0)
        better = loss < least
        least = torch.where(better, loss, least)
        best_weight = torch.where(better.unsqueeze(1), weight, best_weight)
        best_bias = torch.where(better, bias, best_bias)
    return torch.addmm(best_bias, test_x, best_weight.T)


def _minimise(x: Tensor, y: Tensor, penalty: float, length: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Moves ``weight``, shape ``(attribute, feature)``, and ``bias`` in place to the minimum.

    The weights are searched in units of ``length``, of the same shape.
    """
    scaled = weight / length
    optimiser = lbfgs([scaled, bias], _ITERATIONS, _TOLERANCE)

    @torch.no_grad()
    def objective() -> Tensor:
        torch.mul(scaled, length, out=weight)
        log_odds = torch.addmm(bias, x, weight.T)
        residual = (log_odds.sigmoid() - y) / len(x)
        scaled.grad = torch.addmm(weight, residual.T, x, beta=penalty) * length
        bias.grad = residual.sum(dim=0)
        loss = binary_cross_entropy_with_logits(log_odds, y, reduction="sum") / len(x)
        return loss + penalty / 2 * weight.square().sum()

    optimiser.step(objective)
    torch.mul(scaled, length, out=weight)

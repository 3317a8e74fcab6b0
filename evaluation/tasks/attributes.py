"""Attributes: how well binary properties of an image are predicted from a frozen representation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.features import checked_features
from pp_simve.evaluation.probes.logistic import AttributeProbe, checked_attributes
from pp_simve.evaluation.probes.scores import balanced_accuracy, roc_auc

Attributed = tuple[Tensor, Tensor]
"""Features of shape ``(row, feature)`` and bool attributes of shape ``(row, attribute)``."""

MEAN = "mean"
"""Key of the mean over attributes in the scores."""


def attribute_scores(
    train: Attributed, validation: Attributed, test: Attributed, names: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Balanced accuracy and area under the ROC curve, on test, of logistic regression of each attribute.

    `AttributeProbe` is fitted on train, its penalties selected on validation. 0.5: the features do not predict the
    attribute; 1: a half-space separates it, however rare it is. Balanced accuracy is taken at the threshold that is
    best for it by the probe's probabilities, the share of positives in train, because a rare attribute seldom reaches
    one half.

    Args:
        train, validation, test: features and attributes.
        names: of the attributes, in order.

    Returns:
        ``"mean"``, over the attributes that have scores, then one entry per attribute: ``"balanced_accuracy"`` and
        ``"auc"`` as fractions; None for an attribute that is constant in train or in test, and for the mean where no
        attribute has scores.

    Raises:
        ValueError: features that are not finite, attributes that are not bool, shapes that do not agree, or names that
            are none, repeated, or ``"mean"``.
    """
    names = list(names)
    if not names:
        raise ValueError("there are no attributes to predict")
    if len(set(names)) < len(names) or MEAN in names:
        raise ValueError(f"attribute names must differ from one another and from {MEAN!r}, got {names}")
    splits: dict[str, tuple[Tensor, Tensor]] = {}
    for split, (features, attributes) in (("train", train), ("validation", validation), ("test", test)):
        x = checked_features(features, split, splits["train"][0].shape[1] if splits else None)
        splits[split] = x, checked_attributes(attributes, x, split, width=len(names))
    (train_x, train_y), (validation_x, validation_y), (test_x, test_y) = splits.values()

    varies = train_y.any(dim=0) & ~train_y.all(dim=0)
    balanced = torch.full((len(names),), torch.nan, dtype=torch.float64, device=test_x.device)
    area = balanced.clone()
    if varies.any():
        log_odds = (
            AttributeProbe().fit(train_x, train_y[:, varies], validation_x, validation_y[:, varies]).predict(test_x)
        )
        prior = torch.logit(train_y[:, varies].double().mean(dim=0))
        balanced[varies] = balanced_accuracy(log_odds > prior, test_y[:, varies])
        area[varies] = roc_auc(log_odds, test_y[:, varies])
    scores = torch.stack([balanced, area], dim=1)
    rows = zip([MEAN, *names], torch.cat([scores.nanmean(dim=0, keepdim=True), scores]).tolist(), strict=True)
    return {
        name: {
            key: None if math.isnan(value) else value
            for key, value in zip(("balanced_accuracy", "auc"), values, strict=True)
        }
        for name, values in rows
    }

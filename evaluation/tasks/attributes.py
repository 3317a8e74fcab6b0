"""Attributes: how well binary properties of an image are predicted from a frozen representation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.probes import AttributeProbe, balanced_accuracy, roc_auc
from pp_simve.evaluation.probes.base import checked, checked_features
from pp_simve.evaluation.records import MEAN

Attributed = tuple[Tensor, Tensor]
"""Features of shape ``(row, feature)`` and bool attributes of shape ``(row, attribute)``."""


def attribute_scores(
    train: Attributed, validation: Attributed, test: Attributed, names: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Balanced accuracy and area under the ROC curve, on test, of `AttributeProbe`.

    0.5: the features do not predict the attribute; 1: a half-space separates it, however rare it is. Balanced accuracy
    is taken at the threshold that is best for it by the probe's probabilities, the share of positives in train, because
    a rare attribute seldom reaches one half.

    Returns:
        ``"mean"``, over the attributes that have scores, then one entry per attribute: ``"balanced_accuracy"`` and
        ``"auc"`` as fractions; None where an attribute is constant in train or in test, or none has scores.

    Raises:
        ValueError: features that are not finite, attributes that are not bool, shapes that do not agree, or names that
            are none, repeated, or ``"mean"``.
    """
    if not names or len({MEAN, *names}) <= len(names):
        raise ValueError(f"attribute names must be given, and differ from one another and from {MEAN!r}, got {names}")
    (train_x, train_y), (validation_x, validation_y), (test_x, test_y) = (
        (checked_features(x, split), checked(y, f"{split} attributes", len(x), len(names), dtype="bool"))
        for split, (x, y) in (("train", train), ("validation", validation), ("test", test))
    )
    scores = torch.full((len(names), 2), torch.nan, dtype=torch.float64, device=test_x.device)
    if (varies := train_y.any(dim=0) & ~train_y.all(dim=0)).any():
        probe = AttributeProbe().fit(train_x, train_y[:, varies], validation_x, validation_y[:, varies])
        log_odds, positive = probe.predict(test_x), test_y[:, varies]
        prior = torch.logit(train_y[:, varies].double().mean(dim=0))
        scores[varies] = torch.stack([balanced_accuracy(log_odds > prior, positive), roc_auc(log_odds, positive)], 1)
    rows = torch.cat([scores.nanmean(dim=0, keepdim=True), scores]).tolist()
    return {
        name: dict(zip(("balanced_accuracy", "auc"), (None if math.isnan(one) else one for one in row), strict=True))
        for name, row in zip([MEAN, *names], rows, strict=True)
    }

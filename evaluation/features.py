"""What every probe asks of its inputs, and the standardisation that linear probes share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SHOWN_ROWS = 5


def checked_features(features: Tensor, name: str, width: int | None = None) -> Tensor:
    """Finite float32 or float64 features of shape ``(row, feature)``; half precisions are widened to float32.

    Args:
        features: what an encoder said of each row.
        name: how error messages call it ("train", "validation", "test").
        width: number of features expected; any if None.

    Raises:
        ValueError: if the shape or dtype is wrong, there are no rows or no features, or a value is NaN or infinite.
    """
    if features.ndim != 2:
        raise ValueError(f"{name} features must have shape (row, feature), got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"{name} features must be floating point, got {features.dtype}")
    if 0 in features.shape:
        raise ValueError(f"{name} features need at least one row and one column, got {tuple(features.shape)}")
    if width is not None and features.shape[1] != width:
        raise ValueError(f"{name} features have {features.shape[1]} columns, but the train features have {width}")
    _check_finite(features, f"{name} features")
    return features.detach() if features.dtype == torch.float64 else features.detach().float()


def checked_labels(labels: Tensor, features: Tensor, name: str) -> Tensor:
    """Integer class labels of shape ``(row,)`` as int64 on the features' device, one a row of ``features``.

    Raises:
        ValueError: if the shape or dtype is wrong, or the number of labels is not the number of rows.
    """
    if labels.ndim != 1:
        raise ValueError(f"{name} labels must have shape (row,), got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{name} labels must be integers, got {labels.dtype}")
    if len(labels) != len(features):
        raise ValueError(f"{name} has {len(features)} rows of features but {len(labels)} labels")
    return labels.to(features.device, torch.int64)


def checked_rows(
    train_x: Tensor, train_y: Tensor, validation_x: Tensor, validation_y: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a classifying probe is fitted to and chosen on: `checked_features` and `checked_labels` of both splits.

    Raises:
        ValueError: as they do, or if validation has another number of features than train.
    """
    train_x = checked_features(train_x, "train")
    train_y = checked_labels(train_y, train_x, "train")
    validation_x = checked_features(validation_x, "validation", width=train_x.shape[1])
    return train_x, train_y, validation_x, checked_labels(validation_y, validation_x, "validation")


def checked_classes(labels: Tensor) -> Tensor:
    """The classes present in the train labels, ascending.

    Raises:
        ValueError: if there is only one, so that nothing can be told apart.
    """
    classes: Tensor = torch.unique(labels)
    if len(classes) < 2:
        raise ValueError(f"train labels hold only class {int(classes)}; a probe needs at least two classes")
    return classes


def checked_targets(targets: Tensor, features: Tensor, name: str, width: int | None = None) -> Tensor:
    """Finite regression targets of shape ``(row, target)`` as float64 on the features' device.

    Raises:
        ValueError: if the shape or dtype is wrong, the rows do not match, or a value is NaN or infinite.
    """
    if targets.ndim != 2 or targets.shape[1] == 0:
        raise ValueError(f"{name} targets must have shape (row, target), got {tuple(targets.shape)}")
    if targets.is_complex():
        raise ValueError(f"{name} targets must be real, got {targets.dtype}")
    if len(targets) != len(features):
        raise ValueError(f"{name} has {len(features)} rows of features but {len(targets)} rows of targets")
    if width is not None and targets.shape[1] != width:
        raise ValueError(f"{name} has {targets.shape[1]} targets, but train has {width}")
    _check_finite(targets, f"{name} targets")
    return targets.detach().to(features.device, torch.float64)


def unit_rows(x: Tensor) -> Tensor:
    """Each row over its Euclidean norm, same shape and dtype; a row of zeros stays zeros."""
    # Squares of numbers in [-1, 1] neither overflow nor all vanish, so the norm of what is not 0 is at least 1.
    reach = x.abs().amax(dim=1, keepdim=True)
    x = x / torch.where(reach > 0, reach, 1.0)
    return x / x.norm(dim=1, keepdim=True).clamp(min=1.0)


def _check_finite(values: Tensor, name: str) -> None:
    bad = (~values.isfinite()).any(dim=1).nonzero().flatten()
    if len(bad):
        shown = ", ".join(str(row) for row in bad[:_SHOWN_ROWS].tolist()) + (", …" if len(bad) > _SHOWN_ROWS else "")
        raise ValueError(f"{name} are NaN or infinite in {len(bad)} of {len(values)} rows (rows {shown})")


@dataclass(frozen=True)
class Standardiser:
    """x ↦ (x − mean) / scale with the mean and standard deviation of the train rows.

    A constant feature is centred and otherwise left alone (scale 1): it carries nothing, and must not become noise.

    Attributes:
        mean: shape ``(feature,)``.
        scale: shape ``(feature,)``, positive.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standardiser:
        """The statistics of ``features``, shape ``(row, feature)``."""
        # Sums in float64, and squares of numbers in [-1, 1]: exact enough far from 0, no overflow and no underflow.
        mean = features.mean(dim=0, dtype=torch.float64).to(features.dtype)
        centred = features - mean
        reach = centred.abs().amax(dim=0)
        constant = reach <= 8 * torch.finfo(features.dtype).eps * mean.abs()
        reach = torch.where(constant, 1.0, reach)
        scale = reach * (centred / reach).square().mean(dim=0, dtype=torch.float64).sqrt().to(features.dtype)
        return cls(mean=mean, scale=torch.where(constant, 1.0, scale))

    def __call__(self, features: Tensor) -> Tensor:
        """``features`` in the units of the train rows, same shape."""
        return (features - self.mean) / self.scale

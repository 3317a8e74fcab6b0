"""Checked, standardized and normalized features: input handling shared by probes and scores.

Features, labels and targets may be torch tensors or anything `numpy.asarray` accepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Array = Tensor | ArrayLike
"""A tensor, or what becomes one: a NumPy array or nested lists."""

_SHOWN_ROWS = 5


def as_tensor(values: Array) -> Tensor:
    """A detached tensor of the values; arrays are copied to the CPU, tensors keep their device and storage."""
    return values.detach() if isinstance(values, Tensor) else torch.tensor(np.asarray(values))


def checked_features(features: Array, name: str, width: int | None = None) -> Tensor:
    """Finite float32 or float64 features of shape ``(row, feature)``; half precisions are widened to float32.

    Args:
        features: of each row.
        name: of the split in error messages ("train", "validation", "test").
        width: number of features expected; any if None.

    Raises:
        ValueError: wrong shape or dtype, no rows or no features, or values that are NaN or infinite.
    """
    features = as_tensor(features)
    if features.ndim != 2:
        raise ValueError(f"{name} features must have shape (row, feature), got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"{name} features must be floating point, got {features.dtype}")
    if 0 in features.shape:
        raise ValueError(f"{name} features need at least one row and one column, got {tuple(features.shape)}")
    if width is not None and features.shape[1] != width:
        raise ValueError(f"{name} features have {features.shape[1]} columns, but the train features have {width}")
    _check_finite(features, f"{name} features")
    return features if features.dtype == torch.float64 else features.float()


def checked_labels(labels: Array, features: Tensor, name: str) -> Tensor:
    """Integer class labels of shape ``(row,)``, one per row of ``features``, as int64 on the features' device.

    Raises:
        ValueError: wrong shape or dtype, or another number of labels than rows.
    """
    labels = as_tensor(labels)
    if labels.ndim != 1:
        raise ValueError(f"{name} labels must have shape (row,), got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{name} labels must be integers, got {labels.dtype}")
    if len(labels) != len(features):
        raise ValueError(f"{name} has {len(features)} rows of features but {len(labels)} labels")
    return labels.to(features.device, torch.int64)


def checked_classes(labels: Tensor) -> Tensor:
    """The classes present in the train labels, ascending.

    Raises:
        ValueError: there is only one.
    """
    classes: Tensor = torch.unique(labels)
    if len(classes) < 2:
        raise ValueError(f"train labels hold only class {int(classes)}; a probe needs at least two classes")
    return classes


def checked_targets(targets: Array, features: Tensor, name: str, width: int | None = None) -> Tensor:
    """Finite regression targets of shape ``(row, target)`` as float64 on the features' device.

    Raises:
        ValueError: wrong shape or dtype, rows that do not match, or values that are NaN or infinite.
    """
    targets = as_tensor(targets)
    if targets.ndim != 2 or targets.shape[1] == 0:
        raise ValueError(f"{name} targets must have shape (row, target), got {tuple(targets.shape)}")
    if targets.is_complex():
        raise ValueError(f"{name} targets must be real, got {targets.dtype}")
    if len(targets) != len(features):
        raise ValueError(f"{name} has {len(features)} rows of features but {len(targets)} rows of targets")
    if width is not None and targets.shape[1] != width:
        raise ValueError(f"{name} has {targets.shape[1]} targets, but train has {width}")
    _check_finite(targets, f"{name} targets")
    return targets.to(features.device, torch.float64)


def _check_finite(values: Tensor, name: str) -> None:
    if values.sum().isfinite():  # the usual case, in one pass; a sum that overflows is examined below
        return
    bad = (~values.isfinite()).any(dim=1).nonzero().flatten()
    if len(bad):
        shown = ", ".join(str(row) for row in bad[:_SHOWN_ROWS].tolist()) + (", …" if len(bad) > _SHOWN_ROWS else "")
        raise ValueError(f"{name} are NaN or infinite in {len(bad)} of {len(values)} rows (rows {shown})")


def unit_rows(x: Tensor) -> Tensor:
    """Each row divided by its Euclidean norm, same shape and dtype; a row of zeros stays zero."""
    # Dividing by the largest entry first keeps squares from overflowing, and the norm is then at least 1.
    largest = x.abs().amax(dim=1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1.0)
    return x / x.norm(dim=1, keepdim=True).clamp(min=1.0)


@dataclass(frozen=True)
class Standardizer:
    """x ↦ (x − mean) / scale with the mean and standard deviation of the train rows.

    A feature that is constant up to rounding is centered only (scale 1), so that its rounding errors are not amplified.

    Attributes:
        mean: shape ``(feature,)``.
        scale: shape ``(feature,)``, positive.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standardizer:
        """The statistics of ``features``, shape ``(row, feature)``; computed in float64."""
        wide = features.double()
        mean = wide.mean(dim=0)
        scale = (wide - mean).square_().mean(dim=0).sqrt()
        constant = scale <= 8 * torch.finfo(features.dtype).eps * mean.abs()
        return cls(mean.to(features.dtype), torch.where(constant, 1.0, scale).to(features.dtype))

    def __call__(self, features: Tensor) -> Tensor:
        """``features`` in units of the train rows, same shape."""
        return (features - self.mean) / self.scale

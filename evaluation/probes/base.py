"""Base classes of probes, and what all scores of features share: input checks, standardization, metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg.blas import dsyrk
from torch import Tensor

Array = Tensor | ArrayLike
"""A tensor, or what `numpy.asarray` accepts."""

CHUNK = 2048
"""Rows held in float64 at a time: allocating more of them costs more than the sums over them."""

UNSEEN = -1
"""Position of a validation class that train lacks: it equals no prediction."""

Score = TypeVar("Score", float, Tensor)

_DTYPES: dict[str, Callable[[Tensor], bool]] = {
    "floating point": Tensor.is_floating_point,
    "integers": lambda values: not (values.is_floating_point() or values.is_complex()),
    "real": lambda values: not values.is_complex(),
    "bool": lambda values: values.dtype == torch.bool,
}


def checked(
    values: Array, name: str, *shape: int | str, dtype: Literal["floating point", "integers", "real", "bool"]
) -> Tensor:
    """A detached tensor of the values; tensors keep their device and storage.

    ``shape`` holds the sizes expected, or the name of a dimension of any size but 0; errors call the values ``name``.

    Raises:
        ValueError: wrong shape or dtype, or values that are NaN or infinite.
    """
    values = values.detach() if isinstance(values, Tensor) else torch.tensor(np.asarray(values))
    if values.ndim != len(shape) or any(
        size == 0 if isinstance(wanted, str) else size != wanted
        for size, wanted in zip(values.shape, shape, strict=True)
    ):
        raise ValueError(
            f"{name} must have shape ({', '.join(map(str, shape))}{',' * (len(shape) == 1)}) and hold some, "
            f"got {tuple(values.shape)}"
        )
    if not _DTYPES[dtype](values):
        raise ValueError(f"{name} must be {dtype}, got {values.dtype}")
    if not values.sum().isfinite():  # in the usual case, one fast pass; a sum may overflow, too
        rows = (~values.isfinite()).reshape(len(values), -1).any(dim=1).nonzero().flatten().tolist()
        shown = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        if rows:
            raise ValueError(f"{name} are NaN or infinite in {len(rows)} of {len(values)} rows (rows {shown})")
    return values


def checked_features(features: Array, name: str, width: int | None = None) -> Tensor:
    """`checked` features of shape ``(row, feature)`` in float32 or float64; half precisions are widened to float32."""
    features = checked(features, f"{name} features", "row", width or "feature", dtype="floating point")
    return features if features.dtype == torch.float64 else features.float()


def checked_labels(labels: Array, features: Tensor, name: str) -> Tensor:
    """`checked` class labels of shape ``(row,)``, one per row of ``features``, as int64 on their device."""
    return checked(labels, f"{name} labels", len(features), dtype="integers").to(features.device, torch.int64)


def checked_classes(labels: Tensor) -> Tensor:
    """The classes present in the train labels, ascending; raises `ValueError` where there is only one."""
    classes: Tensor = torch.unique(labels)
    if len(classes) < 2:
        raise ValueError(f"train labels hold only class {int(classes)}; a probe needs at least two classes")
    return classes


def checked_grid(name: str, values: Sequence[float], least: float = 0.0, *, strict: bool = False) -> list[float]:
    """Hyperparameter candidates in descending order; raises `ValueError` for none, or one below ``least``."""
    if not values or min(values) < least or (strict and min(values) == least):
        raise ValueError(f"{name} must be one or more numbers {'>' if strict else '>='} {least:g}, got {values}")
    return sorted(values, reverse=True)


def unit_rows(x: Tensor) -> Tensor:
    """Each row divided by its Euclidean norm; a row of zeros stays zero."""
    # Dividing by the largest entry first keeps squares from overflowing, and the norm is then at least 1.
    largest = x.abs().amax(dim=1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1.0)
    return x / x.norm(dim=1, keepdim=True).clamp(min=1.0)


@dataclass(frozen=True)
class Standardizer:
    """x ↦ (x − mean) / scale with the mean and standard deviation of the train rows, each of shape ``(feature,)``.

    A feature that is constant up to rounding is only centered, so that its rounding errors are not amplified.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standardizer:
        """The statistics of features ``(row, feature)``, computed in float64."""
        mean = features.mean(dim=0, dtype=torch.float64)
        squares = [(rows.double() - mean).square_().sum(dim=0) for rows in torch.split(features, CHUNK)]
        scale = (torch.stack(squares).sum(dim=0) / len(features)).sqrt_()
        constant = scale <= 8 * torch.finfo(features.dtype).eps * mean.abs()
        return cls(mean.to(features.dtype), torch.where(constant, 1.0, scale).to(features.dtype))

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean).div_(self.scale)


def gram(x: Tensor) -> Tensor:
    """xᵀ x in float64, ``(feature, feature)``; only its upper triangle counts."""
    found = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for rows in torch.split(x, CHUNK):
        wide = rows.double()
        if x.is_cpu:  # BLAS's symmetric product has half the operations of a general one
            found = torch.from_numpy(dsyrk(1.0, wide.numpy().T, beta=1.0, c=found.numpy(), overwrite_c=1))
        else:
            found.addmm_(wide.T, wide)
    return found


class Probe(ABC, Generic[Score]):
    """Probe: a supervised model of frozen features, fitted on train rows and selected on validation rows.

    Subclasses define how targets are encoded and decoded (`ClassProbe`, `RegressionProbe`), and `_fit` and `_outputs`
    on checked and standardized features.
    """

    standardized: ClassVar[bool] = True
    """Whether features are standardized."""

    _standardize: Standardizer | None = None

    def fit(self, train_x: Array, train_y: Array, validation_x: Array, validation_y: Array) -> Self:
        """Fits on the train rows and selects hyperparameters on the validation rows.

        Features are float, ``(row, feature)``, on one device; targets integer labels ``(row,)`` of a classifier (those
        that train lacks are errors in validation), or ``(row, target)`` of a regression.

        Raises:
            ValueError: values that are not finite, shapes that do not agree, or a single train class.
        """
        # Probes are fitted by gradient, but none of them flows into the features.
        with torch.inference_mode(False), torch.no_grad():
            x = checked_features(train_x, "train")
            other_x = checked_features(validation_x, "validation", width=x.shape[1])
            y, other_y = self._encode(train_y, x, validation_y, other_x)
            self._standardize = (
                Standardizer.of(x) if self.standardized else Standardizer(0 * x[0], torch.ones_like(x[0]))
            )
            self._fit(self._standardize(x), y, self._standardize(other_x), other_y)
        return self

    @torch.no_grad()
    def predict(self, x: Array) -> Tensor:
        """Predictions of each row: classes ``(row,)``, int64, or targets ``(row, target)`` in the features' dtype."""
        x = self._features(x)
        return self._decode(self._outputs(x), x)

    @abstractmethod
    def score(self, x: Array, y: Array) -> Score:
        """Score of the predictions of ``x`` against ``y``."""

    @abstractmethod
    def _encode(self, train_y: Array, x: Tensor, validation_y: Array, validation_x: Tensor) -> tuple[Tensor, Tensor]:
        """Checked targets of train and validation as `_fit` takes them."""

    @abstractmethod
    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        """Fits and selects; gradients are off."""

    def _features(self, x: Array) -> Tensor:
        """Checked and standardized features of test rows."""
        if self._standardize is None:
            raise RuntimeError(f"{type(self).__name__} has not been fitted: call fit first")
        return self._standardize(checked_features(x, "test", width=len(self._standardize.mean)))

    @abstractmethod
    def _outputs(self, x: Tensor) -> Tensor:
        """Encoded predictions."""

    def _decode(self, outputs: Tensor, x: Tensor) -> Tensor:
        """Predictions as the user gave the targets."""
        return outputs


class ClassProbe(Probe[float]):
    """Classification probe; labels are encoded as positions in `classes`.

    Attributes:
        classes: labels present in train, ascending, shape ``(class,)``.
        validation_score: accuracy of the selected model on the validation rows.
    """

    classes: Tensor
    validation_score: float

    def score(self, x: Array, y: Array) -> float:
        """Accuracy: the fraction of rows whose class is predicted."""
        predicted = self.predict(x)
        return accuracy(predicted, checked_labels(y, predicted, "test"))

    def _encode(self, train_y: Array, x: Tensor, validation_y: Array, validation_x: Tensor) -> tuple[Tensor, Tensor]:
        y, other_y = checked_labels(train_y, x, "train"), checked_labels(validation_y, validation_x, "validation")
        self.classes = checked_classes(y)
        place = torch.searchsorted(self.classes, other_y)
        return torch.searchsorted(self.classes, y), torch.where(torch.isin(other_y, self.classes), place, UNSEEN)

    def _decode(self, outputs: Tensor, x: Tensor) -> Tensor:
        return self.classes[outputs]


class RegressionProbe(Probe[Tensor]):
    """Regression probe of several targets, each standardized by its train mean and standard deviation."""

    _units: Standardizer

    def score(self, x: Array, y: Array) -> Tensor:
        """R² of each target, shape ``(target,)``, float64; NaN for a target that is constant in ``y`` (undefined)."""
        predicted = self.predict(x).double()
        return r_squared(predicted, checked(y, "test targets", *predicted.shape, dtype="real").to(predicted))

    def _encode(self, train_y: Array, x: Tensor, validation_y: Array, validation_x: Tensor) -> tuple[Tensor, Tensor]:
        y = checked(train_y, "train targets", len(x), "target", dtype="real").to(x.device, torch.float64)
        other_y = checked(validation_y, "validation targets", len(validation_x), y.shape[1], dtype="real").to(y)
        self._units = Standardizer.of(y)
        return self._units(y), self._units(other_y)

    def _decode(self, outputs: Tensor, x: Tensor) -> Tensor:
        return (outputs.double() * self._units.scale + self._units.mean).to(x.dtype)


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

    From mean ranks: U / (positives · negatives) (Mann and Whitney 1947). Exact. Scores and bool labels are of shape
    ``(row, column)``; float64 of shape ``(column,)``, NaN for a column without both values.
    """
    columns = scores.T.contiguous()
    ordered = columns.sort(dim=1).values
    # Twice the mean rank is an integer, and so is twice U: no rounding before the division.
    ranks = torch.searchsorted(ordered, columns) + torch.searchsorted(ordered, columns, right=True) + 1
    positives = positive.sum(dim=0)
    negatives = len(positive) - positives
    return ((ranks * positive.T).sum(dim=1) - positives * (positives + 1)).double() / (2 * positives * negatives)


def r_squared(predicted: Tensor, targets: Tensor) -> Tensor:
    """R² = 1 − Σ‖y − ŷ‖² / Σ‖y − ȳ‖² over rows, ȳ the mean of ``targets``; NaN where targets are constant.

    Of float64 values ``(row, target)``, or ``(row, target, coordinate)`` of vector targets; shape ``(target,)``.
    """
    predicted, targets = (part.reshape(*part.shape[:2], -1) for part in (predicted, targets))
    residual = (targets - predicted).square().sum(dim=(0, 2))
    total = (targets - targets.mean(dim=0)).square().sum(dim=(0, 2))
    # Compared with its first row: rounding of the mean would make a constant target seem to vary.
    constant = (targets == targets[0]).all(dim=2).all(dim=0)
    return torch.where(constant, torch.nan, 1 - residual / total)

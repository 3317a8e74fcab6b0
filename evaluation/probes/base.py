"""Base classes of probes: check the inputs, standardize, fit, choose hyperparameters on validation rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from pp_simve.evaluation.features import (
    Array,
    Standardizer,
    checked_classes,
    checked_features,
    checked_labels,
    checked_targets,
)
from pp_simve.evaluation.probes.scores import accuracy, r_squared

UNSEEN = -1
"""Position of a validation class that train lacks: it equals no prediction."""

Score = TypeVar("Score", float, Tensor)


class Probe(ABC, Generic[Score]):
    """A supervised model of frozen features, fitted on train rows and selected on validation rows.

    Test rows are only predicted and scored. Subclasses define how targets are encoded (`ClassProbe`,
    `RegressionProbe`), and `_fit` and `_outputs` on checked features.
    """

    standardized: ClassVar[bool] = True
    """Whether `_fit` and `_outputs` are given standardized features."""

    _standardize: Standardizer | None = None

    def fit(self, train_x: Array, train_y: Array, validation_x: Array, validation_y: Array) -> Self:
        """Fits on the train rows and selects hyperparameters on the validation rows.

        Args:
            train_x, validation_x: float features, shape ``(row, feature)``, on one device.
            train_y, validation_y: integer labels ``(row,)`` of a classifier, whose validation labels count as errors
                where train lacks the class; targets ``(row, target)`` of a regression.

        Raises:
            ValueError: features or targets that are not finite, shapes that do not agree, or a single train class.
        """
        # Probes are fitted by gradient, but none of them flows into the features.
        with torch.inference_mode(False), torch.no_grad():
            train_x = checked_features(train_x, "train")
            validation_x = checked_features(validation_x, "validation", width=train_x.shape[1])
            y, validation_y = self._encode(train_y, train_x, validation_y, validation_x)
            self._standardize = Standardizer.of(train_x)
            self._fit(self._scaled(train_x), y, self._scaled(validation_x), validation_y)
        return self

    @torch.no_grad()
    def predict(self, x: Array) -> Tensor:
        """Predictions of each row: classes ``(row,)``, int64, or targets ``(row, target)`` in the features' dtype."""
        if self._standardize is None:
            raise RuntimeError(f"{type(self).__name__} has not been fitted: call fit first")
        x = checked_features(x, "test", width=len(self._standardize.mean))
        return self._decode(self._outputs(self._scaled(x)), x)

    @abstractmethod
    def score(self, x: Array, y: Array) -> Score:
        """Score of the predictions of ``x`` against ``y``."""

    def _scaled(self, x: Tensor) -> Tensor:
        assert self._standardize is not None
        return self._standardize(x) if self.standardized else x

    @abstractmethod
    def _encode(
        self, train_y: Array, train_x: Tensor, validation_y: Array, validation_x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Checked targets of train and validation as `_fit` takes them."""

    @abstractmethod
    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        """Fits and selects; gradients are off."""

    @abstractmethod
    def _outputs(self, x: Tensor) -> Tensor:
        """Encoded predictions."""

    @abstractmethod
    def _decode(self, outputs: Tensor, x: Tensor) -> Tensor:
        """Predictions as the user gave the targets."""


class ClassProbe(Probe[float]):
    """A classifier; labels are encoded as positions in `classes`.

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

    def _encode(
        self, train_y: Array, train_x: Tensor, validation_y: Array, validation_x: Tensor
    ) -> tuple[Tensor, Tensor]:
        train_y = checked_labels(train_y, train_x, "train")
        validation_y = checked_labels(validation_y, validation_x, "validation")
        self.classes = checked_classes(train_y)
        seen = torch.isin(validation_y, self.classes)
        position = torch.searchsorted(self.classes, validation_y)
        return torch.searchsorted(self.classes, train_y), torch.where(seen, position, UNSEEN)

    def _decode(self, outputs: Tensor, x: Tensor) -> Tensor:
        return self.classes[outputs]


class RegressionProbe(Probe[Tensor]):
    """Regression of several targets, each encoded in units of its train standard deviation about its train mean."""

    _units: Standardizer

    def score(self, x: Array, y: Array) -> Tensor:
        """R² of each target, shape ``(target,)``, float64; NaN for a target that is constant in ``y`` (undefined)."""
        predicted = self.predict(x).double()
        return r_squared(predicted, checked_targets(y, predicted, "test", width=predicted.shape[1]))

    def _encode(
        self, train_y: Array, train_x: Tensor, validation_y: Array, validation_x: Tensor
    ) -> tuple[Tensor, Tensor]:
        train_y = checked_targets(train_y, train_x, "train")
        validation_y = checked_targets(validation_y, validation_x, "validation", width=train_y.shape[1])
        self._units = Standardizer.of(train_y)
        return self._units(train_y), self._units(validation_y)

    def _decode(self, outputs: Tensor, x: Tensor) -> Tensor:
        return (outputs.double() * self._units.scale + self._units.mean).to(x.dtype)


def checked_grid(name: str, values: Sequence[float], least: float = 0.0, *, strict: bool = False) -> list[float]:
    """Hyperparameter candidates in descending order.

    Raises:
        ValueError: none, or one below ``least`` (or equal to it, where ``strict``).
    """
    if not values or min(values) < least or (strict and min(values) == least):
        raise ValueError(f"{name} must be one or more numbers {'>' if strict else '>='} {least:g}, got {values}")
    return sorted(values, reverse=True)

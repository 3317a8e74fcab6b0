"""Linear probe: multinomial logistic regression, its ℓ2 penalty chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.evaluation.features import Standardiser, checked_classes, checked_features, checked_labels, checked_rows

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""ℓ2 penalties tried by default: a penalty λ is scikit-learn's ``C = 1 / (rows · λ)``."""


class LinearProbe:
    """Multinomial logistic regression on standardised features.

    Minimises, over the weights W of shape ``(class, feature)`` and the biases b of shape ``(class,)``,

        mean over train rows of cross-entropy(softmax(W x + b), y)  +  penalty/2 · ‖W‖²       (b is free)

    by full-batch L-BFGS along the features' principal axes, from the strongest penalty to the weakest, each started
    where the last one ended. The penalty with the best validation accuracy is kept; among equals, the strongest.

    Args:
        penalties: values of the ℓ2 penalty to choose from.
        max_iterations: L-BFGS iterations a penalty.
        tolerance: stop where no entry of the gradient is larger than this, in coordinates whose curvature is at most
            about 1. The curvature falls as classes come apart, so this bounds no distance from the minimum; at the
            default, the objective of 10 classes of images was within 3e-5 of it.

    Attributes:
        penalty: the chosen one.
        validation_score: its accuracy on the validation rows.
        classes: labels seen in train, ascending, shape ``(class,)``.
        weight, bias: the solution, for standardised features.
        gradient_norm: largest entry of that gradient at the solution; above ``tolerance`` either the iterations or the
            digits of the features' dtype ran out.
    """

    penalty: float
    validation_score: float
    classes: Tensor
    weight: Tensor
    bias: Tensor
    gradient_norm: float

    def __init__(
        self, penalties: Sequence[float] = PENALTIES, max_iterations: int = 200, tolerance: float = 2e-4
    ) -> None:
        if not penalties or min(penalties) < 0:
            raise ValueError(f"penalties must be one or more numbers >= 0, got {penalties}")
        self.penalties = sorted(penalties, reverse=True)
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self._standardise: Standardiser | None = None

    @torch.no_grad()
    def fit(self, train_x: Tensor, train_y: Tensor, validation_x: Tensor, validation_y: Tensor) -> LinearProbe:
        """Fits on the train rows and chooses the penalty on the validation rows.

        Args:
            train_x, validation_x: float features, shape ``(row, feature)``, on one device.
            train_y, validation_y: integer labels, shape ``(row,)``. A validation class unseen in train is never right.

        Raises:
            ValueError: for features that are not finite, shapes that do not agree, or a single train class.
        """
        train_x, train_y, validation_x, validation_y = checked_rows(train_x, train_y, validation_x, validation_y)
        self.classes = checked_classes(train_y)
        self._standardise = Standardiser.of(train_x)
        x, validation_x = self._standardise(train_x), self._standardise(validation_x)
        # A rotation leaves the penalty as it is, and lets every axis have a step length of its own.
        spectrum, rotation = (part.to(x.dtype) for part in torch.linalg.eigh((x.T @ x).double() / len(x)))
        x, validation_x = x @ rotation, validation_x @ rotation
        regression = _SoftmaxRegression.of(x, torch.searchsorted(self.classes, train_y), len(self.classes))

        weight, bias = x.new_zeros(len(self.classes), x.shape[1]), x.new_zeros(len(self.classes))
        self.validation_score = -1.0
        for penalty in self.penalties:
            # The curvature at uniform probabilities.
            curvature = spectrum.clamp_min(0) / len(self.classes) + penalty
            length = curvature.clamp_min(torch.finfo(x.dtype).eps * (float(curvature.max()) or 1.0)).rsqrt()
            gradient_norm = self._minimise(regression, penalty, length, weight, bias)
            choice = self.classes[(validation_x @ weight.T + bias).argmax(dim=1)]
            score = accuracy(choice, validation_y)
            if score > self.validation_score:
                self.penalty, self.validation_score, self.gradient_norm = penalty, score, gradient_norm
                self.weight, self.bias = weight @ rotation.T, bias.clone()
        return self

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class of each row, shape ``(row,)``, int64."""
        if self._standardise is None:
            raise RuntimeError("LinearProbe has not been fitted: call fit first")
        x = self._standardise(checked_features(x, "test", width=self.weight.shape[1]))
        return self.classes[(x @ self.weight.T + self.bias).argmax(dim=1)]

    def score(self, x: Tensor, y: Tensor) -> float:
        """Fraction of rows whose class is predicted."""
        return accuracy(self.predict(x), checked_labels(y, x, "test"))

    def _minimise(
        self, regression: _SoftmaxRegression, penalty: float, length: Tensor, weight: Tensor, bias: Tensor
    ) -> float:
        """Moves ``weight`` and ``bias`` in place to the minimum; returns the largest entry of the gradient there.

        The weights are searched in units of ``length``, shape ``(feature,)``, and the biases in units of √classes, at
        which their curvature is 1 at uniform probabilities: in units of 1 the search takes twice as long.
        """
        unit = len(self.classes) ** 0.5
        scaled, scaled_bias = weight / length, bias / unit
        optimiser = lbfgs([scaled, scaled_bias], self.max_iterations, self.tolerance)

        @torch.no_grad()
        def objective() -> Tensor:
            torch.mul(scaled, length, out=weight)
            torch.mul(scaled_bias, unit, out=bias)
            loss, by_weight, by_bias = regression(weight, bias)
            scaled.grad = by_weight.add_(weight, alpha=penalty).mul_(length)
            scaled_bias.grad = by_bias.mul_(unit)
            return loss + penalty / 2 * weight.double().square().sum()

        optimiser.step(objective)
        objective()
        assert scaled.grad is not None
        assert scaled_bias.grad is not None
        return float(torch.maximum(scaled.grad.abs().max(), scaled_bias.grad.abs().max()))


@dataclass(frozen=True)
class _SoftmaxRegression:
    """Mean cross-entropy of softmax(W x + b) over rows, and its gradient, written out: it needs no tape.

    The labels enter linearly, by sums over rows that do not change: mean over rows of logsumexp(W x + b), less
    ⟨W, first⟩ + ⟨b, share⟩. Logits stand class by row, so that every pass over classes runs along memory; rows of
    a handful of classes are several times slower.

    Attributes:
        x: features, shape ``(row, feature)``.
        columns: the same, shape ``(feature, row)``, contiguous.
        share: of each class among rows, shape ``(class,)``.
        first: mean over rows of [y = class] · x, shape ``(class, feature)``.
    """

    x: Tensor
    columns: Tensor
    share: Tensor
    first: Tensor

    @classmethod
    def of(cls, x: Tensor, position: Tensor, classes: int) -> _SoftmaxRegression:
        """Of rows ``x`` whose classes are at ``position``, shape ``(row,)``, among so many."""
        # Summed in float64: a rounding here would move the minimum.
        first = torch.stack([x[position == c].sum(dim=0, dtype=torch.float64) for c in range(classes)]) / len(x)
        share = torch.bincount(position, minlength=classes).double() / len(x)
        return cls(x, x.T.contiguous(), share.to(x.dtype), first.to(x.dtype))

    def __call__(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, a scalar, and its gradients by ``weight``, ``(class, feature)``, and by ``bias``, ``(class,)``."""
        logits = torch.addmm(bias.unsqueeze(1), weight, self.columns)
        greatest = logits.amax(dim=0)
        probability = logits.sub_(greatest).exp_()
        total = probability.sum(dim=0)
        probability.div_(total)
        by_weight = (probability @ self.x).div_(len(self.x)).sub_(self.first)
        by_bias = probability.mean(dim=1).sub_(self.share)
        # In float64: near the minimum a step gains less than float32 can tell, and the line search would lose its way.
        normaliser = greatest.add_(total.log_()).mean(dtype=torch.float64)
        loss = normaliser - (weight.double() * self.first).sum() - bias.double() @ self.share.double()
        return loss, by_weight, by_bias


def lbfgs(unknowns: list[Tensor], iterations: int, tolerance: float) -> torch.optim.LBFGS:
    """L-BFGS of probes, which stops where no entry of the gradient is larger than the tolerance.

    Args:
        unknowns: of one dtype; searched in place, their ``grad`` written by the objective.
        iterations: at most.
        tolerance: of the gradient.
    """
    return torch.optim.LBFGS(
        unknowns,
        max_iter=iterations,
        tolerance_grad=tolerance,
        # Torch also stops where the slope along a step is below this: it must be small beside tolerance².
        tolerance_change=min(tolerance**2 / 100, torch.finfo(unknowns[0].dtype).eps / 10),
        history_size=20,
        line_search_fn="strong_wolfe",
    )


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Fraction of equal entries of two tensors of shape ``(row,)``."""
    return float((predicted == labels).double().mean())

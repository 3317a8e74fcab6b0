"""Linear probe: multinomial logistic regression, its ℓ2 penalty chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

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
        tolerance: stop where no entry of the gradient is larger than this, in coordinates whose curvature is about 1:
            the objective is then within about ``(class · feature) · tolerance² / 2`` of its minimum.

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
        self, penalties: Sequence[float] = PENALTIES, max_iterations: int = 200, tolerance: float = 3e-4
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
        y = one_hot(torch.searchsorted(self.classes, train_y), len(self.classes)).to(x.dtype)

        weight, bias = x.new_zeros(len(self.classes), x.shape[1]), x.new_zeros(len(self.classes))
        self.validation_score = -1.0
        for penalty in self.penalties:
            # The curvature at uniform probabilities.
            curvature = spectrum.clamp_min(0) / len(self.classes) + penalty
            length = curvature.clamp_min(torch.finfo(x.dtype).eps * (float(curvature.max()) or 1.0)).rsqrt()
            gradient_norm = self._minimise(x, y, penalty, length, weight, bias)
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

    def _minimise(self, x: Tensor, y: Tensor, penalty: float, length: Tensor, weight: Tensor, bias: Tensor) -> float:
        """Moves ``weight`` and ``bias`` in place to the minimum; returns the largest entry of the gradient there.

        The weights are searched in units of ``length``, shape ``(feature,)``.
        """
        scaled = weight / length
        optimiser = lbfgs([scaled, bias], self.max_iterations, self.tolerance)

        @torch.no_grad()
        def objective() -> Tensor:
            # The gradient is written out: softmax regression needs no tape, and features need not carry one.
            torch.mul(scaled, length, out=weight)
            log_probability = torch.log_softmax(torch.addmm(bias, x, weight.T), dim=1)
            residual = (log_probability.exp() - y) / len(x)
            scaled.grad = torch.addmm(weight, residual.T, x, beta=penalty) * length
            bias.grad = residual.sum(dim=0)
            return -(log_probability * y).sum() / len(x) + penalty / 2 * weight.square().sum()

        optimiser.step(objective)
        objective()
        assert scaled.grad is not None
        assert bias.grad is not None
        return float(torch.maximum(scaled.grad.abs().max(), bias.grad.abs().max()))


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

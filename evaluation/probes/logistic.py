"""Logistic probes: multinomial and binary logistic regression by L-BFGS, ℓ2 penalties selected on validation rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot, softplus

from pp_simve.evaluation.features import Array, as_tensor
from pp_simve.evaluation.probes.base import ClassProbe, Probe, checked_grid
from pp_simve.evaluation.probes.scores import accuracy, roc_auc

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""ℓ2 penalties tried by default: a penalty λ is scikit-learn's ``C = 1 / (rows · λ)``."""


class LinearProbe(ClassProbe):
    """Multinomial logistic regression on standardized features.

    Minimizes over the weights W, shape ``(class, feature)``, and the unpenalized biases b, shape ``(class,)``,

        mean over train rows of cross-entropy(softmax(W x + b), y)  +  penalty/2 · ‖W‖².

    The penalty with the best validation accuracy is selected; among equals, the strongest.

    Args:
        penalties: values of the ℓ2 penalty to select from.
        max_iterations: L-BFGS iterations per penalty.
        tolerance: of the largest gradient entry at the solution, see `penalty_path`.

    Attributes:
        penalty: the selected one.
        weight, bias: the solution, for standardized features.
    """

    penalty: float
    weight: Tensor
    bias: Tensor

    def __init__(
        self, penalties: Sequence[float] = PENALTIES, max_iterations: int = 200, tolerance: float = 2e-4
    ) -> None:
        self.penalties = checked_grid("penalties", penalties)
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        targets = one_hot(y, len(self.classes))
        start = targets.double().mean(0).log()
        # One curvature for all classes: the sums of weights over classes, which only the penalty bends, then stay 0.
        curvature = torch.full_like(start, 1 / len(self.classes))
        self.validation_score = -1.0
        for penalty, weight, bias in penalty_path(
            x, targets, _log_sum_exp, start, curvature, self.penalties, self.max_iterations, self.tolerance
        ):
            score = accuracy((validation_x @ weight.T + bias).argmax(dim=1), validation_y)
            if score > self.validation_score:
                self.penalty, self.validation_score, self.weight, self.bias = penalty, score, weight, bias

    def _outputs(self, x: Tensor) -> Tensor:
        return (x @ self.weight.T + self.bias).argmax(dim=1)


class AttributeProbe(Probe[Tensor]):
    """Binary logistic regression of several attributes on standardized features.

    Minimizes for each attribute, over the weights w, shape ``(feature,)``, and the unpenalized bias b,

        mean over train rows of cross-entropy(sigmoid(w·x + b), y)  +  penalty/2 · ‖w‖².

    The penalty with the least validation cross-entropy is selected for each attribute (which, unlike scores, is defined
    where validation holds one value only); among equals, the strongest. `fit` takes bool attributes of shape
    ``(row, attribute)``, each of both values in train; `predict` returns log odds, ``(row, attribute)``.

    Args:
        penalties, max_iterations, tolerance: as in `LinearProbe`.

    Attributes:
        penalty: the selected ones, shape ``(attribute,)``.
        weight, bias: the solution, for standardized features, ``(attribute, feature)`` and ``(attribute,)``.
    """

    penalty: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self, penalties: Sequence[float] = PENALTIES, max_iterations: int = 200, tolerance: float = 2e-4
    ) -> None:
        self.penalties = checked_grid("penalties", penalties)
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def score(self, x: Array, y: Array) -> Tensor:
        """Area under the ROC curve of each attribute, shape ``(attribute,)``; NaN where undefined."""
        log_odds = self.predict(x)
        return roc_auc(log_odds, checked_attributes(y, log_odds, "test", width=log_odds.shape[1]))

    def _encode(
        self, train_y: Array, train_x: Tensor, validation_y: Array, validation_x: Tensor
    ) -> tuple[Tensor, Tensor]:
        y = checked_attributes(train_y, train_x, "train")
        if len(constant := (y == y[0]).all(dim=0).nonzero().flatten().tolist()):
            raise ValueError(f"train attributes {constant} are constant; a probe needs both values")
        return y, checked_attributes(validation_y, validation_x, "validation", width=y.shape[1])

    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        share = y.double().mean(dim=0)
        start = torch.logit(share)
        least = torch.full_like(start, torch.inf)
        self.penalty, self.bias = torch.zeros_like(start), start.to(x.dtype)
        self.weight = x.new_zeros(y.shape[1], x.shape[1])
        for penalty, weight, bias in penalty_path(
            x, y, softplus, start, share * (1 - share), self.penalties, self.max_iterations, self.tolerance
        ):
            log_odds = validation_x @ weight.T + bias
            loss = binary_cross_entropy_with_logits(log_odds.double(), validation_y.double(), reduction="none").mean(
                dim=0
            )
            better = loss < least
            least = torch.where(better, loss, least)
            self.penalty = torch.where(better, penalty, self.penalty)
            self.weight = torch.where(better.unsqueeze(1), weight, self.weight)
            self.bias = torch.where(better, bias, self.bias)

    def _outputs(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias

    def _decode(self, outputs: Tensor, x: Tensor) -> Tensor:
        return outputs


def checked_attributes(attributes: Array, features: Tensor, name: str, width: int | None = None) -> Tensor:
    """Bool attributes of shape ``(row, attribute)`` on the features' device.

    Raises:
        ValueError: wrong shape or dtype, or rows that do not match.
    """
    attributes = as_tensor(attributes)
    if attributes.dtype != torch.bool:
        raise ValueError(f"{name} attributes must be bool, got {attributes.dtype}")
    if attributes.ndim != 2 or len(attributes) != len(features):
        raise ValueError(
            f"{name} attributes must have shape ({len(features)}, attribute), got {tuple(attributes.shape)}"
        )
    if width is not None and attributes.shape[1] != width:
        raise ValueError(f"{name} has {attributes.shape[1]} attributes, expected {width}")
    return attributes.to(features.device)


def penalty_path(
    x: Tensor,
    targets: Tensor,
    log_normalizer: Callable[[Tensor], Tensor],
    start: Tensor,
    curvature: Tensor,
    penalties: Sequence[float],
    max_iterations: int,
    tolerance: float,
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Generalized linear models with canonical link, by L-BFGS, each penalty started where the last one ended.

    Minimizes ``mean over rows of [A(W x + b) − ⟨y, W x + b⟩] + penalty/2 · ‖W‖²``. The second term is linear: the
    train rows enter it only by their moments.

    Args:
        x: standardized features, ``(row, feature)``.
        targets: y, ``(row, output)``: one-hot classes or bool attributes.
        log_normalizer: A, from logits ``(output, row)`` to ``(…, row)``, summed over the first dimension.
        start: of the biases, ``(output,)``, float64, the solution for W = 0.
        curvature: of A at that solution in each output, ``(output,)``, float64.
        penalties: strongest first.
        max_iterations: per penalty.
        tolerance: L-BFGS stops where no gradient entry is larger, in coordinates whose curvature is at most about 1.

    Yields:
        Penalty, W of shape ``(output, feature)`` and b of shape ``(output,)``.
    """
    # In the principal axes, which leave the penalty invariant, curvatures are known at W = 0 and scaled to about 1.
    spectrum, axes = torch.linalg.eigh(x.double().T @ x.double() / len(x))
    # A constant feature of curvature 1 and without penalty carries the bias. Outputs by rows, so that reductions over
    # outputs run along memory.
    columns = torch.cat([(x @ axes.to(x.dtype)).T, x.new_ones(1, len(x))])
    spectrum = torch.cat([spectrum.clamp_min(0), spectrum.new_ones(1)])
    moments = (columns @ targets.to(x.dtype)).T.double() / len(x)
    unpenalized = curvature.unsqueeze(1) * spectrum
    weight = torch.cat([x.new_zeros(len(start), x.shape[1]), start.to(x.dtype).unsqueeze(1)], dim=1)
    for penalty in penalties:
        penalized = torch.full_like(spectrum, penalty)
        penalized[-1] = 0
        total = unpenalized + penalized
        floor = torch.finfo(x.dtype).eps * total.amax(dim=1, keepdim=True)
        length = total.clamp_min(floor).rsqrt().to(x.dtype)
        weight = _minimize(columns, moments, log_normalizer, penalized, weight, length, max_iterations, tolerance)
        yield penalty, weight[:, :-1] @ axes.T.to(x.dtype), weight[:, -1].clone()


def _minimize(
    columns: Tensor,
    moments: Tensor,
    log_normalizer: Callable[[Tensor], Tensor],
    penalized: Tensor,
    weight: Tensor,
    length: Tensor,
    max_iterations: int,
    tolerance: float,
) -> Tensor:
    scaled = (weight / length).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [scaled],
        max_iter=max_iterations,
        tolerance_grad=tolerance,
        # Torch also stops where the slope along a step is below this: it must be small compared with tolerance².
        tolerance_change=min(tolerance**2 / 100, torch.finfo(scaled.dtype).eps / 10),
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    @torch.enable_grad()
    def closure() -> Tensor:
        optimizer.zero_grad()
        weight = scaled * length
        normalizer = log_normalizer(weight @ columns).sum(dtype=torch.float64) / columns.shape[1]
        # In float64: near the minimum a step gains less than float32 resolves.
        loss = normalizer + (weight.double() * (penalized * weight.double() / 2 - moments)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (scaled * length).detach()


def _log_sum_exp(logits: Tensor) -> Tensor:
    return logits.logsumexp(dim=0)

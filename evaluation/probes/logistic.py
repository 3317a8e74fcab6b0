"""Logistic probes: multinomial and binary logistic regression by L-BFGS, ℓ2 penalties selected on validation rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from pp_simve.evaluation.probes.base import Array, ClassProbe, Probe, accuracy, checked, checked_grid, roc_auc

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""ℓ2 penalties tried by default: a penalty λ is scikit-learn's ``C = 1 / (rows · λ)``."""


class _Penalized:
    """Generalized linear models with canonical link and ℓ2 penalty, by L-BFGS along a path of penalties.

    Args:
        penalties: values of the ℓ2 penalty to select from.
        max_iterations: L-BFGS iterations per penalty.
        tolerance: L-BFGS stops where no gradient entry is larger, in coordinates whose curvature is at most about 1.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, penalties: Sequence[float] = PENALTIES, max_iterations: int = 200, tolerance: float = 2e-4
    ) -> None:
        self.penalties = checked_grid("penalties", penalties)
        self.max_iterations, self.tolerance = max_iterations, tolerance

    def _path(
        self, x: Tensor, targets: Tensor, log_normalizer: Callable[[Tensor], Tensor], start: Tensor, curvature: Tensor
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Penalty, W and b of the minimum of ``mean over rows of [A(W x + b) − ⟨y, W x + b⟩] + penalty/2 · ‖W‖²``.

        Strongest penalty first; each starts where the last one ended. A is `log_normalizer`, from logits ``(output,
        row)`` to ``(…, row)``; `start` is b of the solution for W = 0, `curvature` that of A there, ``(output,)``.
        """
        # In the principal axes, which leave the penalty invariant, curvatures at W = 0 are known and scaled to about 1.
        spectrum, axes = torch.linalg.eigh(x.double().T @ x.double() / len(x))
        rotation = axes.to(x.dtype)
        # An unpenalized constant feature carries the bias. Outputs by rows: reductions over outputs run along memory.
        columns = torch.cat([(x @ rotation).T, x.new_ones(1, len(x))])
        spectrum = torch.cat([spectrum.clamp_min(0), spectrum.new_ones(1)])
        moments = (columns @ targets.to(x.dtype)).T.double() / len(x)
        weight = torch.cat([x.new_zeros(len(start), x.shape[1]), start.to(x.dtype)[:, None]], dim=1)
        for penalty in self.penalties:
            penalized = torch.full_like(spectrum, penalty)
            penalized[-1] = 0
            total = curvature[:, None] * spectrum + penalized
            length = total.clamp_min(torch.finfo(x.dtype).eps * total.amax(1, keepdim=True)).rsqrt().to(x.dtype)

            def loss(scaled: Tensor, length: Tensor = length, penalized: Tensor = penalized) -> Tensor:
                # In float64: near the minimum a step gains less than float32 resolves.
                weight = scaled * length
                normalizer = log_normalizer(weight @ columns).sum(dtype=torch.float64) / len(x)
                return normalizer + (weight.double() * (penalized * weight.double() / 2 - moments)).sum()

            weight = self._minimized(loss, weight / length) * length
            yield penalty, weight[:, :-1] @ rotation.T, weight[:, -1].clone()

    def _minimized(self, loss: Callable[[Tensor], Tensor], scaled: Tensor) -> Tensor:
        scaled.requires_grad_()
        optimizer = torch.optim.LBFGS(
            [scaled],
            max_iter=self.max_iterations,
            tolerance_grad=self.tolerance,
            # Torch also stops where the slope along a step is below this: it must be small compared with tolerance².
            tolerance_change=min(self.tolerance**2 / 100, torch.finfo(scaled.dtype).eps / 10),
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        @torch.enable_grad()
        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss(scaled)
            value.backward()
            return value

        optimizer.step(closure)
        return scaled.detach()


class LinearProbe(_Penalized, ClassProbe):
    """Linear probe: multinomial logistic regression on standardized features; arguments as of `_Penalized`.

    Minimizes over the weights W, shape ``(class, feature)``, and the unpenalized biases b, shape ``(class,)``,

        mean over train rows of cross-entropy(softmax(W x + b), y)  +  penalty/2 · ‖W‖².

    The penalty with the best validation accuracy is selected; among equals, the strongest. ``penalty`` is the selected
    one; ``weight`` and ``bias`` are the solution, for standardized features.
    """

    penalty: float

    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        targets = one_hot(y, len(self.classes))
        start = targets.double().mean(0).log()
        # One curvature for all classes: the sums of weights over classes, which only the penalty bends, then stay 0.
        curvature = torch.full_like(start, 1 / len(self.classes))
        self.validation_score = -1.0
        for penalty, weight, bias in self._path(x, targets, lambda logits: logits.logsumexp(0), start, curvature):
            score = accuracy((validation_x @ weight.T + bias).argmax(dim=1), validation_y)
            if score > self.validation_score:
                self.penalty, self.validation_score, self.weight, self.bias = penalty, score, weight, bias

    def _outputs(self, x: Tensor) -> Tensor:
        return (x @ self.weight.T + self.bias).argmax(dim=1)


class AttributeProbe(_Penalized, Probe[Tensor]):
    """Attribute probe: binary logistic regression of attributes on standardized features; arguments as of `_Penalized`.

    Minimizes for each attribute, over the weights w, shape ``(feature,)``, and the unpenalized bias b,

        mean over train rows of cross-entropy(sigmoid(w·x + b), y)  +  penalty/2 · ‖w‖².

    For each attribute, the penalty with the least validation cross-entropy is selected; among equals, the strongest.
    `fit` takes bool attributes, ``(row, attribute)``, of both values in train; `predict` returns log odds, ``(row,
    attribute)``. ``penalty``, ``(attribute,)``, are the selected ones; ``weight`` and ``bias`` the solution.
    """

    penalty: Tensor

    def score(self, x: Array, y: Array) -> Tensor:
        """Area under the ROC curve of each attribute, shape ``(attribute,)``; NaN where undefined."""
        log_odds = self.predict(x)
        return roc_auc(log_odds, checked(y, "test attributes", *log_odds.shape, dtype="bool").to(log_odds.device))

    def _encode(self, train_y: Array, x: Tensor, validation_y: Array, validation_x: Tensor) -> tuple[Tensor, Tensor]:
        y = checked(train_y, "train attributes", len(x), "attribute", dtype="bool").to(x.device)
        if constant := (y == y[0]).all(dim=0).nonzero().flatten().tolist():
            raise ValueError(f"train attributes {constant} are constant; a probe needs both values")
        other_y = checked(validation_y, "validation attributes", len(validation_x), y.shape[1], dtype="bool")
        return y, other_y.to(x.device)

    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        share = y.double().mean(dim=0)
        path = self._path(x, y, softplus, torch.logit(share), share * (1 - share))
        penalties, weights, biases = zip(*path, strict=True)
        weight, bias = torch.stack(weights), torch.stack(biases)
        log_odds = (validation_x @ weight.mT + bias[:, None]).double()
        best = (softplus(log_odds) - log_odds * validation_y).mean(dim=1).argmin(dim=0)  # the first of equals
        each = torch.arange(len(best), device=best.device)
        self.penalty = torch.tensor(penalties, dtype=torch.float64, device=best.device)[best]
        self.weight, self.bias = weight[best, each], bias[best, each]

    def _outputs(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias

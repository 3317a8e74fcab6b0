"""MLP probes: one hidden layer on frozen features, its weight decay and stopping epoch chosen on validation rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pp_simve.evaluation.features import (
    Standardiser,
    checked_classes,
    checked_features,
    checked_labels,
    checked_rows,
    checked_targets,
)
from pp_simve.evaluation.linear import accuracy
from pp_simve.evaluation.ridge import r_squared

DECAYS = (10.0, 1.0, 1e-1, 0.0)
"""Weight decays tried by default: a step of learning rate η shrinks the weights by the factor ``1 − η · decay``."""

_CHUNK = 2**14
"""Rows of which the hidden layer is held at a time, outside training."""


@dataclass(frozen=True)
class MLPTraining:
    """How the networks of an MLP probe are trained: by Adam with decoupled weight decay, one network a decay.

    Kingma and Ba, "Adam" (2015, arXiv 1412.6980); Loshchilov and Hutter, "Decoupled weight decay regularization" (2019,
    arXiv 1711.05101), algorithm 2.

    Attributes:
        hidden: units of the hidden layer.
        decays: weight decays to choose from. Biases do not decay.
        learning_rate: Adam's, constant.
        batch_size: train rows a step at most; an epoch is cut into as few and as equal batches as that allows.
        epochs: epochs at most.
        patience: training ends when this many epochs in a row have been no better on validation, at any decay.
        seed: decides the start of the hidden layer, the same for every decay, and the order of the train rows. Torch's
            own generators are neither used nor moved.
    """

    hidden: int = 256
    decays: tuple[float, ...] = DECAYS
    learning_rate: float = 1e-3
    batch_size: int = 128
    epochs: int = 200
    patience: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("hidden", "batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.decays or min(self.decays) < 0:
            raise ValueError(f"decays must be one or more numbers >= 0, got {self.decays}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be a number > 0, got {self.learning_rate}")


TRAINING = MLPTraining()
"""The default."""


class MLPProbe:
    """Classification by one hidden layer of rectified units on standardised features.

    Trained on the mean cross-entropy of the train rows. The output layer starts at 0, where every class is as probable.
    The decay and epoch with the best validation accuracy are kept; among equals, those with the least validation
    cross-entropy (over rows whose class train has), then the earliest epoch, then the strongest decay.

    Args:
        training: how.

    Attributes:
        decay, epoch: the chosen ones; epoch 0 is the start.
        validation_score: their accuracy on the validation rows.
        classes: labels seen in train, ascending, shape ``(class,)``.
    """

    decay: float
    epoch: int
    validation_score: float
    classes: Tensor

    def __init__(self, training: MLPTraining = TRAINING) -> None:
        self.training = training
        self._fitted: tuple[Standardiser, _Networks] | None = None

    @torch.no_grad()
    def fit(self, train_x: Tensor, train_y: Tensor, validation_x: Tensor, validation_y: Tensor) -> MLPProbe:
        """Trains on the train rows; chooses the decay and the epoch on the validation rows.

        Args:
            train_x, validation_x: float features, shape ``(row, feature)``, on one device.
            train_y, validation_y: integer labels, shape ``(row,)``. A validation class unseen in train is never right.

        Raises:
            ValueError: for features that are not finite, shapes that do not agree, or a single train class.
        """
        train_x, train_y, validation_x, validation_y = checked_rows(train_x, train_y, validation_x, validation_y)
        self.classes = checked_classes(train_y)
        standardise = Standardiser.of(train_x)
        y = one_hot(torch.searchsorted(self.classes, train_y), len(self.classes)).to(train_x.dtype)
        known = torch.isin(validation_y, self.classes)
        position = torch.searchsorted(self.classes, validation_y[known])

        def slope(logits: Tensor, rows: Tensor) -> Tensor:
            return (torch.softmax(logits, dim=-1) - y[rows]) / len(rows)

        def error(logits: Tensor) -> Tensor:
            wrong = (self.classes[logits.argmax(dim=-1)] != validation_y).sum(dim=1, keepdim=True)
            log_probability = torch.log_softmax(logits.double(), dim=-1)[:, known]
            chosen = log_probability.gather(2, position.expand(len(logits), -1).unsqueeze(2))
            loss = -chosen.sum(dim=1) / max(1, len(position))
            # A number below 1 decides among equal numbers of wrong answers, and nothing else.
            return wrong + loss / (1 + loss)

        best, epoch, decay = _search(
            self.training, standardise(train_x), standardise(validation_x), len(self.classes), slope, error
        )
        self._fitted = standardise, best
        self.epoch, self.decay = int(epoch), float(decay)
        self.validation_score = accuracy(self.predict(validation_x), validation_y)
        return self

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The most probable class of each row, shape ``(row,)``, int64."""
        if self._fitted is None:
            raise RuntimeError("MLPProbe has not been fitted: call fit first")
        standardise, network = self._fitted
        x = standardise(checked_features(x, "test", width=network.weight.shape[1]))
        return self.classes[network.chunked(x)[0].argmax(dim=1)]

    def score(self, x: Tensor, y: Tensor) -> float:
        """Fraction of rows whose class is predicted."""
        return accuracy(self.predict(x), checked_labels(y, x, "test"))


class MLPRegressionProbe:
    """Regression of many targets at once by one hidden layer of rectified units on standardised features.

    Trained on the mean squared error of the train rows and targets, each target in units of its standard deviation. The
    output layer starts at 0, which predicts the train means. All targets share the hidden layer while it is trained,
    but the decay and epoch with the best validation R² are kept for each target by itself; among equals, the earliest
    epoch, then the strongest decay. So a target that the features do not hold cannot stop the others early.

    Args:
        training: how.

    Attributes:
        decay: the chosen one a target, shape ``(target,)``.
        epoch: the chosen one a target, shape ``(target,)``, int64; 0 is the start.
    """

    decay: Tensor
    epoch: Tensor

    def __init__(self, training: MLPTraining = TRAINING) -> None:
        self.training = training
        self._fitted: tuple[Standardiser, Standardiser, _Networks] | None = None

    @torch.no_grad()
    def fit(self, train_x: Tensor, train_y: Tensor, validation_x: Tensor, validation_y: Tensor) -> MLPRegressionProbe:
        """Trains on the train rows; chooses each target's decay and epoch on the validation rows.

        Args:
            train_x, validation_x: float features, shape ``(row, feature)``, on one device.
            train_y, validation_y: targets, shape ``(row, target)``.

        Raises:
            ValueError: for features or targets that are not finite, or shapes that do not agree.
        """
        train_x = checked_features(train_x, "train")
        train_y = checked_targets(train_y, train_x, "train")
        validation_x = checked_features(validation_x, "validation", width=train_x.shape[1])
        validation_y = checked_targets(validation_y, validation_x, "validation", width=train_y.shape[1])
        standardise, units = Standardiser.of(train_x), Standardiser.of(train_y)
        y, validation_y = units(train_y).to(train_x.dtype), units(validation_y)

        def slope(predicted: Tensor, rows: Tensor) -> Tensor:
            return (predicted - y[rows]) * (2 / (len(rows) * y.shape[1]))

        def error(predicted: Tensor) -> Tensor:
            # The least squared error is the best R², and stays defined for a target constant in validation.
            return (predicted.double() - validation_y).square().mean(dim=1)

        best, self.epoch, self.decay = _search(
            self.training, standardise(train_x), standardise(validation_x), y.shape[1], slope, error
        )
        self._fitted = standardise, units, best
        return self

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The targets of each row, shape ``(row, target)``, in the dtype of the features."""
        if self._fitted is None:
            raise RuntimeError("MLPRegressionProbe has not been fitted: call fit first")
        standardise, units, networks = self._fitted
        x = checked_features(x, "test", width=networks.weight.shape[1])
        # Network t was kept for target t, and answers for it alone.
        own = networks.chunked(standardise(x)).diagonal(dim1=0, dim2=2)
        return (own.double() * units.scale + units.mean).to(x.dtype)

    def score(self, x: Tensor, y: Tensor) -> Tensor:
        """R² of each target, shape ``(target,)``, float64; NaN for a target that is constant in ``y`` (undefined)."""
        predicted = self.predict(x)
        return r_squared(predicted.double(), checked_targets(y, predicted, "test", width=predicted.shape[1]))


@dataclass(frozen=True)
class _Networks:
    """Networks of one hidden layer side by side: relu(x · weight + bias) · out_weight + out_bias.

    weight (network, feature, hidden), bias (network, 1, hidden), out_weight (network, hidden, output),
    out_bias (network, 1, output).
    """

    weight: Tensor
    bias: Tensor
    out_weight: Tensor
    out_bias: Tensor

    @classmethod
    def start(cls, count: int, hidden: int, outputs: int, like: Tensor, draw: torch.Generator) -> _Networks:
        """``count`` equal networks: a hidden layer as ``torch.nn.Linear`` starts, and an output layer of 0.

        ``like`` are features, whose number, dtype and device they take.
        """
        inputs = like.shape[1]
        reach = inputs**-0.5
        # Drawn in float32 on the CPU, so that neither dtype nor device decides what is drawn.
        weight = torch.rand(inputs, hidden, generator=draw, dtype=torch.float32).mul(2 * reach).sub(reach)
        bias = torch.rand(1, hidden, generator=draw, dtype=torch.float32).mul(2 * reach).sub(reach)
        return cls(
            weight.to(like).repeat(count, 1, 1),
            bias.to(like).repeat(count, 1, 1),
            like.new_zeros(count, hidden, outputs),
            like.new_zeros(count, 1, outputs),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """What each network answers of each row of ``x``, shape ``(network, row, output)``."""
        return self._hidden(x) @ self.out_weight + self.out_bias

    def chunked(self, x: Tensor) -> Tensor:
        """The same, in little memory."""
        return torch.cat([self(rows) for rows in torch.split(x, _CHUNK)], dim=1)

    def tensors(self) -> list[Tensor]:
        return [self.weight, self.bias, self.out_weight, self.out_bias]

    def taken(self, networks: Tensor) -> _Networks:
        """Copies of the networks of these positions."""
        return _Networks(*(tensor[networks] for tensor in self.tensors()))

    def put(self, where: Tensor, networks: _Networks) -> None:
        """Overwrites the networks at ``where``."""
        for mine, theirs in zip(self.tensors(), networks.tensors(), strict=True):
            mine[where] = theirs

    def gradients(self, x: Tensor, rows: Tensor, slope: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        """Gradients of each network's loss on these rows of ``x``; by the outputs it is ``slope(outputs, rows)``.

        Written out: two layers need no tape, and features need not carry one.
        """
        x = x[rows]
        hidden = self._hidden(x)
        by_output = slope(hidden @ self.out_weight + self.out_bias, rows)
        by_hidden = (by_output @ self.out_weight.mT) * (hidden > 0)
        return [
            x.T @ by_hidden,
            by_hidden.sum(dim=1, keepdim=True),
            hidden.mT @ by_output,
            by_output.sum(dim=1, keepdim=True),
        ]

    def _hidden(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.weight + self.bias)


def _search(
    training: MLPTraining,
    x: Tensor,
    validation_x: Tensor,
    outputs: int,
    slope: Callable[[Tensor, Tensor], Tensor],
    error: Callable[[Tensor], Tensor],
) -> tuple[_Networks, Tensor, Tensor]:
    """Trains a network a decay, and keeps the best one seen for each choice to be made.

    Args:
        slope: from outputs, shape ``(network, row, output)``, and which train rows they are of, to the gradient with
            respect to the outputs of each network's loss.
        error: from outputs of the validation rows to what to minimise, shape ``(network, choice)``, float64.

    Returns:
        The networks kept, one a choice, and their epochs and decays, each of shape ``(choice,)``.
    """
    generator = torch.Generator().manual_seed(training.seed)
    decays = torch.tensor(sorted(training.decays, reverse=True), dtype=torch.float64, device=x.device)
    networks = _Networks.start(len(decays), training.hidden, outputs, x, generator)
    keep = (1 - training.learning_rate * decays).to(x.dtype).view(-1, 1, 1)
    parameters = networks.tensors()
    optimiser = torch.optim.Adam(parameters, lr=training.learning_rate)
    batches = -(-len(x) // training.batch_size)

    # At the start all networks are equal.
    least = error(networks.chunked(validation_x))[0]
    epochs = torch.zeros(len(least), dtype=torch.int64, device=x.device)
    best, chosen = networks.taken(epochs), decays[epochs]
    last_better = 0
    for epoch in range(1, training.epochs + 1):
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in torch.tensor_split(order, batches):
            gradients = networks.gradients(x, rows, slope)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            networks.weight.mul_(keep)
            networks.out_weight.mul_(keep)
            optimiser.step()
        errors = error(networks.chunked(validation_x)).nan_to_num(nan=torch.inf)
        # argmin, unlike min, promises the first of equals: the strongest decay.
        network = errors.argmin(dim=0)
        now = errors.gather(0, network.unsqueeze(0)).squeeze(0)
        better = now < least
        if better.any():
            last_better = epoch
            least = torch.where(better, now, least)
            epochs[better] = epoch
            chosen[better] = decays[network[better]]
            best.put(better, networks.taken(network[better]))
        elif epoch - last_better >= training.patience:
            break
    return best, epochs, chosen

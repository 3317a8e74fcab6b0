"""MLP probes: one hidden layer on frozen features, weight decay and stopping epoch selected on validation rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pp_simve.evaluation.probes.base import UNSEEN, ClassProbe, RegressionProbe, accuracy, checked_grid

_ROWS = 2**14
"""Rows whose hidden layer is held at a time, outside training."""


@dataclass(frozen=True)
class MLPTraining:
    """Hyperparameters of MLP probes: Adam with decoupled weight decay, one network per decay.

    Kingma and Ba, "Adam" (2015, arXiv 1412.6980); Loshchilov and Hutter, "Decoupled weight decay regularization" (2019,
    arXiv 1711.05101), algorithm 2.
    """

    hidden: int = 256
    """Units of the hidden layer."""
    decays: tuple[float, ...] = (10.0, 1.0, 1e-1, 0.0)
    """Weight decays to select from: a step of learning rate η multiplies weights, not biases, by ``1 − η · decay``."""
    learning_rate: float = 1e-3
    batch_size: int = 128
    """Train rows per step at most; an epoch is split into as few and as equal batches as that allows."""
    epochs: int = 200
    patience: int = 25
    """Training ends after this many epochs in a row without an improvement on validation at any decay."""
    seed: int = 0
    """Of the initial hidden layer, the same for every decay, and of the order of the train rows."""

    def __post_init__(self) -> None:
        for name in ("hidden", "batch_size", "epochs", "patience"):
            checked_grid(name, [getattr(self, name)], least=1)
        checked_grid("decays", self.decays)
        checked_grid("learning_rate", [self.learning_rate], strict=True)


TRAINING = MLPTraining()


class MLPProbe(ClassProbe):
    """MLP probe: classification by one hidden layer of rectified units, on standardized features.

    Trained on the mean cross-entropy of the train rows. The output layer starts at 0, where all classes are equally
    probable. The ``decay`` and ``epoch`` (0: the initialization) with the best validation accuracy are selected; among
    equals, those with the least validation cross-entropy (of rows whose class is in train), then the earliest epoch,
    then the strongest decay.
    """

    decay: float
    epoch: int

    def __init__(self, training: MLPTraining = TRAINING) -> None:
        self.training = training

    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        def loss(logits: Tensor, rows: Tensor) -> Tensor:
            return cross_entropy(logits.mT, y[rows].expand(len(logits), -1), reduction="sum") / len(rows)

        def error(logits: Tensor) -> Tensor:
            wrong = (logits.argmax(dim=-1) != validation_y).sum(dim=1)
            labels = validation_y.expand(len(logits), -1)
            losses = cross_entropy(logits.double().mT, labels, reduction="none", ignore_index=UNSEEN)
            mean = losses.sum(dim=1) / (validation_y != UNSEEN).sum().clamp_min(1)
            # A number below 1 decides among equal numbers of wrong answers only.
            return (wrong + mean / (1 + mean))[:, None]

        self._network, epoch, decay = _search(self.training, x, validation_x, len(self.classes), loss, error)
        self.epoch, self.decay = int(epoch), float(decay)
        self.validation_score = accuracy(self._outputs(validation_x), validation_y)

    def _outputs(self, x: Tensor) -> Tensor:
        return self._network.chunked(x)[0].argmax(dim=1)


class MLPRegressionProbe(RegressionProbe):
    """MLP regression probe: several targets by one hidden layer of rectified units, on standardized features.

    Trained on the mean squared error of train rows and targets, each target in units of its standard deviation. The
    output layer starts at 0, which predicts the train means. The targets share the hidden layer in training, but
    ``decay`` and ``epoch`` with the best validation R² are selected for each target, shape ``(target,)``; among equals,
    the earliest epoch, then the strongest decay. A target that cannot be predicted therefore does not stop the others
    early.
    """

    decay: Tensor
    epoch: Tensor

    def __init__(self, training: MLPTraining = TRAINING) -> None:
        self.training = training

    def _fit(self, x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> None:
        y = y.to(x.dtype)

        def loss(outputs: Tensor, rows: Tensor) -> Tensor:
            return (outputs - y[rows]).square().mean(dim=(1, 2)).sum()

        def error(outputs: Tensor) -> Tensor:
            # Least squared error is best R², and stays defined for a target that is constant in validation.
            return (outputs.double() - validation_y).square().mean(dim=1)

        self._networks, self.epoch, self.decay = _search(self.training, x, validation_x, y.shape[1], loss, error)

    def _outputs(self, x: Tensor) -> Tensor:
        # Network t was selected for target t.
        return self._networks.chunked(x).diagonal(dim1=0, dim2=2)


class _Networks(nn.Module):
    """Perceptrons with one hidden layer side by side: relu(x · weight + bias) · out_weight + out_bias.

    Shapes ``(network, feature, hidden)``, ``(network, 1, hidden)``, ``(network, hidden, output)``, ``(network, 1,
    output)``.
    """

    def __init__(self, *parameters: Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.out_weight, self.out_bias = map(nn.Parameter, parameters)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of each network for rows ``x``, shape ``(network, row, output)``."""
        return torch.relu(x @ self.weight + self.bias) @ self.out_weight + self.out_bias

    def chunked(self, x: Tensor) -> Tensor:
        """The same in bounded memory."""
        return torch.cat([self(rows) for rows in torch.split(x, _ROWS)], dim=1)


def _search(
    training: MLPTraining,
    x: Tensor,
    validation_x: Tensor,
    outputs: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    error: Callable[[Tensor], Tensor],
) -> tuple[_Networks, Tensor, Tensor]:
    """Trains a network per decay and keeps the best one of all epochs, its epoch and decay, for each selection.

    Args:
        loss: from outputs ``(network, row, output)`` and the positions of these train rows to a sum over networks.
        error: from outputs of the validation rows to the selection criterion ``(network, selection)``, float64.
    """
    generator = torch.Generator().manual_seed(training.seed)
    decays = torch.tensor(sorted(training.decays, reverse=True), dtype=torch.float64, device=x.device)
    count, bound = len(decays), x.shape[1] ** -0.5
    # Bounds of `torch.nn.Linear`. Drawn in float32 on the CPU, so that neither dtype nor device decides what is drawn.
    weight, bias = (
        (torch.rand(rows, training.hidden, generator=generator) * 2 * bound - bound).to(x).repeat(count, 1, 1)
        for rows in (x.shape[1], 1)
    )
    out_weight, out_bias = (x.new_zeros(count, rows, outputs) for rows in (training.hidden, 1))
    networks = _Networks(weight, bias, out_weight, out_bias)
    keep = (1 - training.learning_rate * decays).to(x.dtype).view(-1, 1, 1)
    optimizer = torch.optim.Adam(networks.parameters(), lr=training.learning_rate)

    # All networks are equal at first.
    least = error(networks.chunked(validation_x))[0]
    epochs = torch.zeros(len(least), dtype=torch.int64, device=x.device)
    best, chosen = _Networks(*(parameter[epochs] for parameter in networks.parameters())), decays[epochs]
    last_better = 0
    for epoch in range(1, training.epochs + 1):
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in torch.tensor_split(order, -(-len(x) // training.batch_size)):
            optimizer.zero_grad()
            with torch.enable_grad():
                loss(networks(x[rows]), rows).backward()
            networks.weight.mul_(keep)
            networks.out_weight.mul_(keep)
            optimizer.step()
        errors = error(networks.chunked(validation_x)).nan_to_num(nan=torch.inf)
        # argmin, unlike min, returns the first of equals: the strongest decay.
        network = errors.argmin(dim=0)
        now = errors.gather(0, network[None])[0]
        better = now < least
        if better.any():
            last_better = epoch
            least = torch.where(better, now, least)
            epochs[better], chosen[better] = epoch, decays[network[better]]
            for kept, current in zip(best.parameters(), networks.parameters(), strict=True):
                kept[better] = current[network[better]]
        elif epoch - last_better >= training.patience:
            break
    return best, epochs, chosen

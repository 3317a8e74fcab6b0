"""Named terms of each step, kept on the device and fetched every few dozen steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

LEAST_STEPS = 5
"""Fewest steps for which `fit_warnings` reports anything."""


class NonFiniteError(FloatingPointError):
    """Term of the objective that became NaN or infinite.

    Attributes:
        step: the first such step, counted from 1.
        term: the first such term in it.
    """

    def __init__(self, step: int, term: str, value: float) -> None:
        super().__init__(
            f"{term} became {value} at step {step}; "
            "lower the learning rate (--lr), or look at the data and the likelihood's variance"
        )
        self.step = step
        self.term = term


def fit_warnings(history: Sequence[Mapping[str, float]], lr: float) -> list[str]:
    """What the losses of a finished fit show to be wrong, a sentence each.

    A fit has diverged where its loss ends higher than it began by more than the size of the first loss: at the initial
    parameters, nothing is learned yet. Losses that never change have nothing to learn from.

    Args:
        history: the terms of each step, in order.
        lr: the learning rate, for the message.
    """
    losses = [row["loss"] for row in history if "loss" in row]
    if len(losses) < LEAST_STEPS:
        return []
    first, last = losses[0], statistics.median(losses[-max(1, len(losses) // 20) :])
    if last - first > max(abs(first), 1.0):
        return [f"the fit diverged: the loss rose from {first:.4g} to {last:.4g}; lower --lr (it was {lr:g})"]
    if min(losses) == max(losses):
        return [
            f"nothing was learned: the loss is {first + 0.0:.4g} at every step; look at the objective and the batch"
        ]
    return []


class MetricBuffer:
    """Rows of terms on the device; `add` reads nothing back, `fetch` once for all rows.

    Args:
        capacity: rows held at most.
        device: of the terms.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.device = device
        self.names: tuple[str, ...] = ()
        self.count = 0
        self._rows = torch.empty(0)

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Keeps a copy of the terms of one step."""
        if not self.names:
            self.names = tuple(terms)
            self._rows = torch.zeros(self.capacity, len(terms), device=self.device)
        self._rows[self.count].copy_(torch.stack([value.detach() for value in terms.values()]))
        self.count += 1

    @property
    def full(self) -> bool:
        """Whether `fetch` is due."""
        return self.count == self.capacity

    def rows(self) -> Tensor:
        """The rows held, shape ``(row, term)``, on the device."""
        return self._rows[: self.count]

    def fetch(self, rows: Tensor, last_step: int) -> list[dict[str, float]]:
        """Turns rows into numbers and empties the buffer.

        Args:
            rows: what `rows` gave, averaged over devices where there are several.
            last_step: the step of the last row, counted from 1.

        Raises:
            NonFiniteError: a term is NaN or infinite.
        """
        first = last_step - self.count + 1
        self.count = 0
        values = rows.tolist()
        for offset, row in enumerate(values):
            # The loss comes last: one of its terms is the more informative name.
            for name, value in sorted(zip(self.names, row, strict=True), key=lambda item: item[0] == "loss"):
                if not math.isfinite(value):
                    raise NonFiniteError(first + offset, name, value)
        return [
            {"step": first + offset, **dict(zip(self.names, row, strict=True))} for offset, row in enumerate(values)
        ]


class StepMeans:
    """Means of the terms over every few steps, whose sums are part of a checkpoint.

    Args:
        every: steps that make a row.
        total: steps of the fit; the last row may be of fewer.
    """

    def __init__(self, every: int, total: int) -> None:
        self.every = every
        self.total = total
        self._count = 0
        self._sums: dict[str, float] = {}

    def add(self, rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
        """Takes the terms of further steps; the rows that they complete, each with its last ``step``."""
        means = []
        for row in rows:
            self._sums = {name: self._sums.get(name, 0.0) + value for name, value in row.items()}
            self._count += 1
            if row["step"] % self.every == 0 or row["step"] == self.total:
                means.append({name: total / self._count for name, total in self._sums.items()} | {"step": row["step"]})
                self.restore((0, {}))
        return means

    def state(self) -> list[Any]:
        """What `restore` goes on from."""
        return [self._count, self._sums]

    def restore(self, state: Sequence[Any]) -> None:
        """Goes on from a `state`."""
        self._count, sums = state
        self._sums = dict(sums)

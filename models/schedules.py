"""Schedules, numbers as functions of ``(step, total steps)``, and `Annealed`, a number that follows one over a fit."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn


class Schedule(ABC):
    """Schedule: a number for each step of a fit.

    A subclass can be named on the command line (``package.module:Class``). In Python any function of
    ``(step, total steps)`` will do.
    """

    @abstractmethod
    def __call__(self, step: int, total: int) -> float:
        """The value at a step, counted from 0, of ``total``."""


@dataclass(frozen=True)
class Constant(Schedule):
    """A factor of 1 at every step."""

    def __call__(self, step: int, total: int) -> float:
        return 1.0


constant = Constant()


@dataclass(frozen=True)
class WarmupCosine(Schedule):
    """Cosine schedule with warm-up: linear from 0 to 1 over the first steps, then half a cosine down to 0.

    Args:
        warmup: fraction of all steps, in [0, 1).
    """

    warmup: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a fraction of all steps in [0, 1), got {self.warmup}")

    def __call__(self, step: int, total: int) -> float:
        rise = self.warmup * total
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))


@dataclass(frozen=True)
class Linear(Schedule):
    """Linear schedule from ``start`` to ``end``, and ``end`` from then on (warm-up of β: Bowman et al. 2016).

    Args:
        start: first value.
        end: last value.
        until: fraction of all steps at which ``end`` is reached, in (0, 1].
    """

    start: float = 0.0
    end: float = 1.0
    until: float = 1.0

    def __post_init__(self) -> None:
        _check_finite(start=self.start, end=self.end)
        _check_until(self.until)

    def __call__(self, step: int, total: int) -> float:
        done = min(1.0, step / (self.until * total))
        return self.start + done * (self.end - self.start)


@dataclass(frozen=True)
class Geometric(Schedule):
    """Geometric schedule from ``start`` to ``end``, by equal ratios: for scales that go towards zero.

    Args:
        start: first value, positive.
        end: last value, positive.
        until: fraction of all steps at which ``end`` is reached, in (0, 1].
    """

    start: float = 1.0
    end: float = 0.01
    until: float = 1.0

    def __post_init__(self) -> None:
        _check_finite(start=self.start, end=self.end)
        if not (self.start > 0 and self.end > 0):
            raise ValueError(f"start and end must be positive, got {self.start} and {self.end}")
        _check_until(self.until)

    def __call__(self, step: int, total: int) -> float:
        done = min(1.0, step / (self.until * total))
        return float(self.start ** (1 - done) * self.end**done)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """Cyclical schedule: ``cycles`` times linear from ``start`` to ``end``, then ``end`` for the rest (Fu et al. 2019).

    Args:
        start: first value.
        end: last value.
        cycles: number of cycles over the fit.
        rise: fraction of a cycle in which it rises, in (0, 1].
    """

    start: float = 0.0
    end: float = 1.0
    cycles: int = 4
    rise: float = 0.5

    def __post_init__(self) -> None:
        _check_finite(start=self.start, end=self.end)
        if self.cycles < 1:
            raise ValueError(f"cycles must be at least 1, got {self.cycles}")
        if not 0 < self.rise <= 1:
            raise ValueError(f"rise is a fraction of a cycle in (0, 1], got {self.rise}")

    def __call__(self, step: int, total: int) -> float:
        if step >= total:
            return self.end
        within = step * self.cycles % total / total
        return self.start + min(1.0, within / self.rise) * (self.end - self.start)


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "cosine": WarmupCosine,
    "linear": Linear,
    "geometric": Geometric,
    "cyclic": Cyclic,
}
"""Schedules by name."""


class Annealed(nn.Module):
    """A number for each step of a fit, constant or by a schedule; call it for its present value.

    The value is a plain float: a step that uses it reads nothing from the device. Outside a fit it is the last one of
    the schedule.

    Args:
        value: the number, or its schedule, a function of ``(step, total steps)``.

    Attributes:
        ends: its first and last values.
    """

    def __init__(self, value: float | Schedule) -> None:
        super().__init__()
        self.schedule = value if callable(value) else None
        self.ends = (float(value(0, 1)), float(value(1, 1))) if callable(value) else (float(value), float(value))
        self.value = self.ends[1]

    def forward(self) -> float:
        return self.value

    def move(self, step: int, total: int) -> None:
        """Sets the value of a step."""
        if self.schedule is not None:
            self.value = float(self.schedule(step, total))

    def finish(self) -> None:
        """Sets the last value."""
        self.value = self.ends[1]

    def extra_repr(self) -> str:
        return f"{self.schedule or self.value}"


def annealed_parts(module: nn.Module) -> list[Annealed]:
    """The parts of a module that change over a fit."""
    return [part for part in module.modules() if isinstance(part, Annealed) and part.schedule is not None]


def _check_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")


def _check_until(until: float) -> None:
    if not 0 < until <= 1:
        raise ValueError(f"until is a fraction of all steps in (0, 1], got {until}")

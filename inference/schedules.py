"""Schedules: a number as a function of ``(step, total steps)``, for a learning rate, a β or the scale of a guide."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class Schedule(ABC):
    """A number for each step of a fit.

    Derive from it for a schedule that the command line can name (``package.module:Class``). In Python any function of
    ``(step, total steps)`` works as well.
    """

    @abstractmethod
    def __call__(self, step: int, total: int) -> float:
        """The value at a step, counted from 0, of ``total``."""


@dataclass(frozen=True)
class Constant(Schedule):
    """No schedule: the factor is 1 at every step."""

    def __call__(self, step: int, total: int) -> float:
        return 1.0


constant = Constant()


@dataclass(frozen=True)
class WarmupCosine(Schedule):
    """Linear from 0 to 1 over the first steps, then half a cosine down to 0.

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
    """From ``start`` to ``end`` in a straight line, and ``end`` from then on (warm-up of β: Bowman et al. 2016).

    Args:
        start, end: the values.
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
    """From ``start`` to ``end`` by equal ratios, which suits scales that go towards zero.

    Args:
        start, end: the values, positive.
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
    """``cycles`` times: from ``start`` to ``end`` in a straight line, then ``end`` for a while (Fu et al. 2019).

    Args:
        start, end: the values.
        cycles: how often over the fit.
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


def _check_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")


def _check_until(until: float) -> None:
    if not 0 < until <= 1:
        raise ValueError(f"until is a fraction of all steps in (0, 1], got {until}")

"""Schedules: a factor of the learning rate as a function of ``(step, total steps)``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int, int], float]


def constant(step: int, total: int) -> float:
    """No schedule: the factor is 1 at every step."""
    return 1.0


@dataclass(frozen=True)
class WarmupCosine:
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

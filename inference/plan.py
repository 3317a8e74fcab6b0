"""Settings of a fit, checked against the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from pp_simve.inference.optimizers import Adam
from pp_simve.models.schedules import SCHEDULES

MOST_ROWS = 100_000
"""Rows of the history of a fit, unless ``log_every`` is given: some 50 MB."""


class FitError(ValueError):
    """Argument of `fit` that is out of range, or does not match the images."""


@dataclass(frozen=True)
class Plan:
    """Settings of a fit apart from programs and data: see `fit` for each entry."""

    batch_size: int
    total_steps: int
    optimizer: Callable[[Any], Optimizer]
    schedule: Callable[[int, int], float]
    seed: int
    fetch_every: int
    log_every: int = 1
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None

    @property
    def images(self) -> int:
        """Images a step."""
        return self.batch_size * self.accumulate


def checked_plan(
    n_images: int,
    *,
    batch_size: int,
    epochs: float | None,
    steps: int | None,
    lr: float | None,
    optimizer: Callable[[Any], Optimizer] | None,
    schedule: Callable[[int, int], float] | str,
    clip_norm: float | None,
    accumulate: int,
    ema: float | None,
    seed: int,
    fetch_every: int,
    log_every: int | None = None,
) -> Plan:
    """The plan of a fit to a number of images.

    Raises:
        FitError: an argument out of range, or a batch larger than the data.
    """
    counts = {"batch_size": batch_size, "fetch_every": fetch_every, "accumulate": accumulate}
    for name, count in (counts | ({} if log_every is None else {"log_every": log_every})).items():
        if count < 1:
            raise FitError(f"{name} must be at least 1, got {count}")
    for name, value in {"lr": lr, "clip_norm": clip_norm}.items():
        if value is not None and not 0 < value < math.inf:
            raise FitError(f"{name} must be positive and finite, got {value}")
    if ema is not None and not 0 < ema < 1:
        raise FitError(f"ema is the share of the average that a step keeps, in (0, 1), got {ema}")
    if lr is not None and optimizer is not None:
        raise FitError(f"give lr or optimizer, not both: an optimizer has its own learning rate (lr is {lr})")
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise FitError(f"schedule is a function of (step, total), or one of {list(SCHEDULES)}, got {schedule!r}")
        schedule = SCHEDULES[schedule]()
    if batch_size > n_images:
        raise FitError(
            f"batch_size is {batch_size}, but there are only {n_images} images to fit; choose at most {n_images}"
        )
    if batch_size * accumulate > n_images:
        raise FitError(f"accumulate {accumulate} batches of {batch_size} are more than the {n_images} images to fit")
    total = total_steps(epochs, steps, n_images // (batch_size * accumulate))
    optimizer = optimizer or Adam(1e-3 if lr is None else lr)
    log_every = log_every or math.ceil(total / MOST_ROWS)
    return Plan(batch_size, total, optimizer, schedule, seed, fetch_every, log_every, clip_norm, accumulate, ema)


def total_steps(epochs: float | None, steps: int | None, steps_per_epoch: int) -> int:
    """Steps of a fit whose length is given in epochs or in steps.

    Raises:
        FitError: both are given, or make less than one step.
    """
    if epochs is not None and steps is not None:
        raise FitError(f"give epochs or steps, not both (got {epochs} epochs and {steps} steps)")
    if epochs is not None and not math.isfinite(epochs):
        raise FitError(f"epochs must be finite, got {epochs}")
    total = steps if steps is not None else round((10 if epochs is None else epochs) * steps_per_epoch)
    if total < 1:
        raise FitError(f"a fit needs at least one step, got {steps if steps is not None else f'{epochs} epochs'}")
    return total

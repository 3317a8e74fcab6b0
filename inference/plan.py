"""Settings of a fit, checked against the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pp_simve.inference.schedules import Schedule


class FitError(ValueError):
    """An argument of `fit` is out of range, or does not match the images."""


@dataclass(frozen=True)
class Plan:
    """Settings of a fit apart from programs and data: see `fit` for each entry."""

    batch_size: int
    total_steps: int
    lr: float
    schedule: Schedule
    seed: int
    fetch_every: int


def checked_plan(
    n_images: int,
    *,
    batch_size: int,
    epochs: float | None,
    steps: int | None,
    lr: float,
    schedule: Schedule,
    seed: int,
    devices: int,
    fetch_every: int,
) -> Plan:
    """The plan of a fit to a number of images.

    Raises:
        FitError: an argument out of range, or a batch larger than the data.
    """
    for name, value in {"batch_size": batch_size, "devices": devices, "fetch_every": fetch_every}.items():
        if value < 1:
            raise FitError(f"{name} must be at least 1, got {value}")
    if not 0 < lr < math.inf:
        raise FitError(f"lr must be positive and finite, got {lr}")
    if batch_size > n_images:
        raise FitError(
            f"batch_size is {batch_size}, but there are only {n_images} images to fit; choose at most {n_images}"
        )
    if batch_size % devices:
        raise FitError(f"batch_size {batch_size} must be a multiple of devices ({devices})")
    return Plan(batch_size, total_steps(epochs, steps, n_images // batch_size), lr, schedule, seed, fetch_every)


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

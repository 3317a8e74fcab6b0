"""Bounds of variances that a user chooses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_VARIANCE = 1e-8
"""A standard deviation of 1e-4 is some hundred steps of float32 at latents of usual size; far below, densities are of
rounding errors."""


def check_variance(name: str, value: float | Sequence[float] | Tensor) -> None:
    """Raises ValueError unless all variances are finite and at least `LEAST_VARIANCE`."""
    variance = torch.as_tensor(value, dtype=torch.float64)
    if not ((variance > 0) & variance.isfinite()).all():
        raise ValueError(f"{name} must be positive and finite, got {value}")
    if (variance < LEAST_VARIANCE * (1 - 1e-6)).any():  # a float32 of the bound is rounded
        raise ValueError(f"{name} must be at least {LEAST_VARIANCE:g}, which float32 resolves; got {value}")

"""Gaussian messages from views to content, and from content to a view: sums of precisions, never of variances.

Without information the variance is infinite but the precision zero.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def to_content(style_variance: Tensor, z: Tensor, precision: Tensor | None) -> Tensor:
    """Precision of each view's message to content: 1/(Σ + 1/precision), shape as z."""
    if precision is None:
        return style_variance.reciprocal().expand_as(z)
    return precision / (1 + precision * style_variance)


def natural_parameters(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Natural parameters Σ_j weight_j z_j and Σ_j weight_j of Π_j N(z_j; content, 1/weight_j) as a function of content.

    Shape ``(..., 1, image, latent)`` each.
    """
    return (weight * z).sum(-3, keepdim=True), weight.sum(-3, keepdim=True)


def log_agreement(z: Tensor, weight: Tensor) -> Tensor:
    """log ∫ Π_j N(z_j; content, 1/weight_j) d content by axis: shape ``(..., image, latent)``."""
    total = weight.sum(-3)
    spread = z - ((weight * z).sum(-3) / total).unsqueeze(-3)
    quadratic = (weight * spread.square()).sum(-3)
    return -0.5 * (quadratic - weight.log().sum(-3) + total.log() + (z.shape[-3] - 1) * LOG_2PI)


def log_normal(value: Tensor, variance: Tensor) -> Tensor:
    """log N(value; 0, variance), elementwise."""
    return -0.5 * (value.square() / variance + variance.log() + LOG_2PI)


def normal(mean: Tensor, precision: Tensor) -> dist.Independent:
    """The diagonal Gaussian of that mean and precision, event over the last dimension."""
    return dist.Normal(mean, precision.rsqrt()).to_event(1)


def updated(variance: Tensor, z: Tensor, precision: Tensor) -> dist.Independent:
    """N(0, variance) times the potential N(z, 1/precision), normalised."""
    total = variance.reciprocal() + precision
    return normal(precision * z / total, total)


def joined(first: Tensor, second: Tensor) -> Tensor:
    """Concatenation along the last dimension, leading dimensions broadcast."""
    leading = torch.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return torch.cat([first.expand(*leading, -1), second.expand(*leading, -1)], -1)

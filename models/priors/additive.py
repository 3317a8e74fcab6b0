"""Base of priors with z = content + Gaussian style, and variances per axis."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pp_simve.models.priors.base import ConjugatePrior
from pp_simve.models.priors.messages import updated
from pp_simve.models.variance import check_variance


class Variance(nn.Module):
    """Positive variances of the latent axes, fixed or learned; call it for the tensor, shape ``(latent,)``.

    Args:
        value: one number for all axes, or one per axis.
        latent_dim: number of axes.
        learned: makes the log variances parameters, which start at ``value``.
        name: used in error messages.
    """

    def __init__(self, value: float | Sequence[float] | Tensor, latent_dim: int, *, learned: bool, name: str) -> None:
        super().__init__()
        variance = torch.as_tensor(value, dtype=torch.get_default_dtype())
        if variance.ndim > 1 or (variance.ndim == 1 and len(variance) != latent_dim):
            raise ValueError(
                f"{name} must be one number or one for each of the {latent_dim} latent axes, "
                f"got shape {tuple(variance.shape)}"
            )
        check_variance(name, value)
        variance = variance.expand(latent_dim).clone()
        self.log: nn.Parameter | None = nn.Parameter(variance.log()) if learned else None
        if not learned:
            self.register_buffer("fixed", variance)

    fixed: Tensor

    def forward(self) -> Tensor:
        return self.fixed if self.log is None else self.log.exp()


class AdditivePrior(ConjugatePrior):
    """Additive prior z = content + style, style ~ N(0, style_variance); a subclass defines content and its inference.

    Args:
        latent_dim: dimensions of content, style and z.
        style_variance: one number, or one per axis.
        learn_style: learns the style variance of each axis, from the given start.
    """

    def __init__(
        self, latent_dim: int, style_variance: float | Sequence[float] | Tensor = 0.15, *, learn_style: bool = False
    ) -> None:
        super().__init__(latent_dim)
        self.style_variance = Variance(style_variance, latent_dim, learned=learn_style, name="style_variance")

    def style(self, content: Tensor) -> dist.Independent:
        return dist.Normal(torch.zeros_like(content), self.style_variance().sqrt()).to_event(1)

    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        return content + style

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return z - content

    def style_posterior(self, content: Tensor, z: Tensor, precision: Tensor) -> dist.Independent:
        """N(0, Σ) times the potential of z − content."""
        return updated(self.style_variance(), z - content, precision)

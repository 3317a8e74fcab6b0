"""The additive Gaussian prior, and the variance parameters it shares with the flat one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pp_simve.models.priors.base import Prior

LOG_2PI = math.log(2 * math.pi)


class Variance(nn.Module):
    """A positive variance for each latent axis, given or learned; call it for the tensor, shape ``(latent,)``.

    Args:
        value: one number for all axes, or one an axis.
        latent: number of axes.
        learned: makes the log variances parameters, which start at ``value``.
        name: what errors call it.
    """

    def __init__(self, value: float | Sequence[float] | Tensor, latent: int, *, learned: bool, name: str) -> None:
        super().__init__()
        variance = torch.as_tensor(value, dtype=torch.get_default_dtype())
        if variance.ndim > 1 or (variance.ndim == 1 and len(variance) != latent):
            raise ValueError(
                f"{name} must be one number or one for each of the {latent} latent axes, "
                f"got shape {tuple(variance.shape)}"
            )
        if not (torch.isfinite(variance) & (variance > 0)).all():
            raise ValueError(f"{name} must be positive and finite, got {value}")
        variance = variance.expand(latent).clone()
        self.log: nn.Parameter | None = nn.Parameter(variance.log()) if learned else None
        if not learned:
            self.register_buffer("fixed", variance)

    fixed: Tensor

    def forward(self) -> Tensor:
        return self.fixed if self.log is None else self.log.exp()


class GaussianPrior(Prior):
    """content ~ N(0, content_variance), style ~ N(0, style_variance), z = content + style.

    The prior of Bizeul, Schölkopf and Allen (TMLR 2024), whose style variance is 0.15. With a style variance for each
    axis, axes of small variance carry content and axes of large variance carry style.

    Args:
        latent: dimensions of content, style and z.
        content_variance: one number, or one an axis.
        style_variance: one number, or one an axis.
        learn_content: learns the content variance of each axis, from the given start.
        learn_style: learns the style variance of each axis, from the given start.
    """

    def __init__(
        self,
        latent: int,
        content_variance: float | Sequence[float] | Tensor = 1.0,
        style_variance: float | Sequence[float] | Tensor = 0.15,
        *,
        learn_content: bool = False,
        learn_style: bool = False,
    ) -> None:
        super().__init__(latent)
        self.content_variance = Variance(content_variance, latent, learned=learn_content, name="content_variance")
        self.style_variance = Variance(style_variance, latent, learned=learn_style, name="style_variance")

    def content(self) -> dist.TorchDistribution:
        scale = self.content_variance().sqrt()
        return dist.Normal(torch.zeros_like(scale), scale).to_event(1)

    def style(self, content: Tensor) -> dist.TorchDistribution:
        return dist.Normal(torch.zeros_like(content), self.style_variance().sqrt()).to_event(1)

    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        return content + style

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return z - content

    def content_posterior(self, z: Tensor) -> dist.TorchDistribution:
        """N(v Σ_j z_j / Σ, v) with 1/v = 1/τ² + J/Σ."""
        views = z.shape[-3]
        style_variance = self.style_variance()
        variance = 1 / (1 / self.content_variance() + views / style_variance)
        mean = z.sum(-3, keepdim=True) * (variance / style_variance)
        return dist.Normal(mean, variance.sqrt()).to_event(1)

    def log_marginal(self, z: Tensor) -> Tensor:
        """log N(z_1..J; 0, Σ I + τ² 11ᵀ), by its spread around the mean view and the mean view itself."""
        views = z.shape[-3]
        style_variance = self.style_variance()
        mean_variance = self.content_variance() * views + style_variance
        mean = z.mean(-3)
        spread = (z - mean.unsqueeze(-3)).square().sum(-3)
        quadratic = spread / style_variance + views * mean.square() / mean_variance
        log_det = (views - 1) * style_variance.log() + mean_variance.log()
        return -0.5 * (quadratic + log_det + views * LOG_2PI).sum(-1)

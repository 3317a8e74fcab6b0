"""The flat prior: any content is as good as any other, only agreement between views is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pp_simve.models.priors.base import Prior
from pp_simve.models.priors.gaussian import LOG_2PI, Variance


class FlatPrior(Prior):
    """p(content) = 1 everywhere (improper), style ~ N(0, style_variance), z = content + style.

    The limit of `GaussianPrior` for a large content variance, up to the constant of its density. Content can't be
    sampled from it; its density of z is improper too, so bounds compare only with those of other flat priors.

    Args:
        latent: dimensions of content, style and z.
        style_variance: one number, or one an axis.
        learn_style: learns the style variance of each axis, from the given start.
    """

    def __init__(
        self, latent: int, style_variance: float | Sequence[float] | Tensor = 0.15, *, learn_style: bool = False
    ) -> None:
        super().__init__(latent)
        self.style_variance = Variance(style_variance, latent, learned=learn_style, name="style_variance")

    def content(self) -> dist.TorchDistribution:
        return dist.ImproperUniform(constraints.real_vector, (), (self.latent,))

    def style(self, content: Tensor) -> dist.TorchDistribution:
        return dist.Normal(torch.zeros_like(content), self.style_variance().sqrt()).to_event(1)

    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        return content + style

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return z - content

    def content_posterior(self, z: Tensor) -> dist.TorchDistribution:
        """N(mean of the views' z, Σ / J)."""
        return dist.Normal(z.mean(-3, keepdim=True), (self.style_variance() / z.shape[-3]).sqrt()).to_event(1)

    def log_marginal(self, z: Tensor) -> Tensor:
        """−Σ_j (z_j − z̄)²/(2Σ) − (J−1)/2·log 2πΣ − ½ log J, summed over axes."""
        views = z.shape[-3]
        style_variance = self.style_variance()
        spread = (z - z.mean(-3, keepdim=True)).square().sum(-3)
        log_det = (views - 1) * (style_variance.log() + LOG_2PI) + math.log(views)
        return -0.5 * (spread / style_variance + log_det).sum(-1)

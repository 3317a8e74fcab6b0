"""The additive Gaussian prior of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from pp_simve.models.priors.additive import AdditivePrior, Variance
from pp_simve.models.priors.base import QuadraticPrior
from pp_simve.models.priors.messages import log_agreement, log_normal, natural_parameters, normal, to_content


class GaussianPrior(AdditivePrior, QuadraticPrior):
    """Additive Gaussian prior: content ~ N(0, content_variance), style ~ N(0, style_variance), z = content + style.

    The prior of Bizeul, Schölkopf and Allen (TMLR 2024), whose style variance is 0.15. With a style variance for each
    axis, axes of small variance carry content and axes of large variance carry style.

    Args:
        latent_dim: dimensions of content, style and z.
        content_variance: one number, or one per axis.
        style_variance: one number, or one per axis.
        learn_content: learns the content variance of each axis, from the given start.
        learn_style: learns the style variance of each axis, from the given start.

    Examples:
        >>> prior = GaussianPrior(4, style_variance=0.25)
        >>> z = torch.ones(2, 5, 4)  # (view, image, latent)
        >>> prior.content_posterior(z).mean[0, 0]  # two views at 1, shrunk towards 0: 2/Σ / (1/τ² + 2/Σ)
        tensor([0.8889, 0.8889, 0.8889, 0.8889])
        >>> prior.log_marginal(z).shape  # log p(z_1, z_2) of each image
        torch.Size([5])
    """

    def __init__(
        self,
        latent_dim: int,
        content_variance: float | Sequence[float] | Tensor = 1.0,
        style_variance: float | Sequence[float] | Tensor = 0.15,
        *,
        learn_content: bool = False,
        learn_style: bool = False,
    ) -> None:
        super().__init__(latent_dim, style_variance, learn_style=learn_style)
        self.content_variance = Variance(content_variance, latent_dim, learned=learn_content, name="content_variance")

    def content(self) -> dist.Independent:
        scale = self.content_variance().sqrt()
        return dist.Normal(torch.zeros_like(scale), scale).to_event(1)

    def axis_variances(self) -> tuple[Tensor, Tensor]:
        return self.content_variance(), self.style_variance()

    def content_axes(self) -> Tensor:
        """Axes of z with more content than style variance: bool, shape ``(latent,)``."""
        return self.content_variance() > self.style_variance()

    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
        """N(Σ_j w_j z_j / P, 1/P) with w_j = 1/(Σ + 1/precision_j), P = 1/τ² + Σ_j w_j."""
        pulled, total = natural_parameters(z, to_content(self.style_variance(), z, precision))
        total = total + self.content_variance().reciprocal()
        return normal(pulled / total, total)

    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        """log N(z_1..J; 0, Σ I + τ² 11ᵀ): the agreement of the views with their mean, plus the density of that mean."""
        weight = to_content(self.style_variance(), z, precision)
        total = weight.sum(-3)
        mean = (weight * z).sum(-3) / total
        of_mean = log_normal(mean, self.content_variance() + 1 / total)
        return (log_agreement(z, weight) + of_mean).sum(-1)

    def expected_log_marginal(self, z: Tensor, variance: Tensor) -> Tensor:
        views, style_variance = z.shape[-3], self.style_variance()
        of_mean = self.content_variance() + style_variance / views
        at_mean = log_agreement(z, to_content(style_variance, z, None)) + log_normal(z.mean(-3), of_mean)
        noise = variance.sum(-3)
        return at_mean - 0.5 * noise * ((1 - 1 / views) / style_variance + 1 / (views**2 * of_mean))

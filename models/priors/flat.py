"""The flat prior: improper uniform content, so that only the agreement of views has a density."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor

from pp_simve.models.priors.additive import AdditivePrior
from pp_simve.models.priors.base import QuadraticPrior
from pp_simve.models.priors.messages import log_agreement, natural_parameters, normal, to_content


class FlatPrior(AdditivePrior, QuadraticPrior):
    """Flat prior: p(content) = 1 everywhere (improper), style ~ N(0, style_variance), z = content + style.

    The limit of `GaussianPrior` for a large content variance, up to the constant of its density. Content cannot be
    sampled; the density of z is improper too, so bounds are comparable under flat priors only.

    Args:
        latent_dim: dimensions of content, style and z.
        style_variance: one number, or one per axis.
        learn_style: learns the style variance of each axis, from the given start.
    """

    @property
    def proper(self) -> bool:
        return False

    def content(self) -> dist.TorchDistribution:
        return dist.ImproperUniform(constraints.real_vector, (), (self.latent_dim,))

    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
        """N(Σ_j w_j z_j / Σ_j w_j, 1 / Σ_j w_j): the mean of the views' z, variance Σ/J, where z is known."""
        pulled, total = natural_parameters(z, to_content(self.style_variance(), z, precision))
        return normal(pulled / total, total)

    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        """−Σ_j (z_j − z̄)²/(2Σ) − (J−1)/2·log 2πΣ − ½ log J, summed over axes, where z is known."""
        return log_agreement(z, to_content(self.style_variance(), z, precision)).sum(-1)

    def expected_log_marginal(self, z: Tensor, variance: Tensor) -> Tensor:
        style_variance = self.style_variance()
        at_mean = log_agreement(z, to_content(style_variance, z, None))
        return at_mean - 0.5 * variance.sum(-3) * (1 - 1 / z.shape[-3]) / style_variance

"""The standard prior: no content, which makes the program a VAE."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pp_simve.models.priors.base import QuadraticPrior
from pp_simve.models.priors.messages import log_normal, updated


class StandardPrior(QuadraticPrior):
    """Standard prior z = style ~ N(0, I), content of width zero: views are independent images.

    Args:
        latent_dim: dimensions of style and z.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("one", torch.ones(()), persistent=False)

    one: Tensor

    def axis_variances(self) -> tuple[Tensor, Tensor]:
        return self.one.new_zeros(self.latent_dim), self.one.new_ones(self.latent_dim)

    def content(self) -> dist.Independent:
        return dist.Normal(self.one.new_zeros(0), self.one.new_ones(0)).to_event(1)

    def style(self, content: Tensor) -> dist.Independent:
        zeros = self.one.new_zeros(*content.shape[:-1], self.latent_dim)
        return dist.Normal(zeros, self.one).to_event(1)

    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        return style

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return z

    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
        empty = z.new_zeros(*z.shape[:-3], 1, z.shape[-2], 0)
        return dist.Normal(empty, torch.ones_like(empty)).to_event(1)

    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        variance = self.one if precision is None else 1 + 1 / precision
        return log_normal(z, variance).sum((-3, -1))

    def style_posterior(self, content: Tensor, z: Tensor, precision: Tensor) -> dist.Independent:
        return updated(self.one, z, precision)

    def expected_log_marginal(self, z: Tensor, variance: Tensor) -> Tensor:
        return (log_normal(z, self.one) - 0.5 * variance).sum(-3)

"""The block prior: content and style on the first axes, style alone on the others."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pp_simve.models.priors.base import ConjugatePrior, QuadraticPrior
from pp_simve.models.priors.gaussian import GaussianPrior
from pp_simve.models.priors.messages import joined, log_normal, updated
from pp_simve.models.priors.standard import StandardPrior
from pp_simve.models.variance import check_variance


class BlockPrior(QuadraticPrior):
    """Block prior z = (content block, style block): any prior on the first axes, N(0, variance) per view on the others.

    The content block encodes what the views share, the style block what they need not share. `group-vae` is this prior
    with a very small style variance on the content block.

    Args:
        latent_dim: dimensions of z.
        content: prior of the content block, or its width, for a `GaussianPrior` of that width (default: half).
        style_variance: of the content block, where only its width is given.
        variance: of each axis of the style block.

    Raises:
        ValueError: a content block as wide as z or wider, or a prior that is no `ConjugatePrior`.

    Examples:
        >>> prior = BlockPrior(6, content=2)  # two content axes, four style axes
        >>> prior.content_axes()
        tensor([ True,  True, False, False, False, False])
    """

    def __init__(
        self,
        latent_dim: int,
        content: ConjugatePrior | int | None = None,
        style_variance: float = 0.15,
        *,
        variance: float = 1.0,
    ) -> None:
        super().__init__(latent_dim)
        if content is None:
            content = max(1, latent_dim // 2)
        if isinstance(content, int):
            content = GaussianPrior(content, style_variance=style_variance)
        if not isinstance(content, ConjugatePrior):
            raise ValueError(
                f"the content block needs a ConjugatePrior (content and style from noisy z), "
                f"got {type(content).__name__}"
            )
        if content.latent_dim >= latent_dim:
            raise ValueError(f"the content block must leave axes to style, got {content.latent_dim} of {latent_dim}")
        check_variance("variance", variance)
        self.block = content
        self.register_buffer("variance", torch.full((latent_dim - content.latent_dim,), float(variance)))

    variance: Tensor

    @property
    def proper(self) -> bool:
        return self.block.proper

    @property
    def depends_on_batch(self) -> bool:
        return self.block.depends_on_batch

    def axis_variances(self) -> tuple[Tensor, Tensor] | None:
        of_block = self.block.axis_variances()
        if of_block is None:
            return None
        content, style = of_block
        return torch.cat([content, torch.zeros_like(self.variance)]), torch.cat([style, self.variance])

    def content(self) -> dist.TorchDistribution:
        return self.block.content()

    def content_axes(self) -> Tensor:
        """Axes of z with more content than style variance: bool, shape ``(latent,)``."""
        if isinstance(self.block, GaussianPrior | BlockPrior):
            of_block = self.block.content_axes()
        else:
            of_block = torch.full_like(self.variance[:1], not isinstance(self.block, StandardPrior), dtype=torch.bool)
            of_block = of_block.expand(self.block.latent_dim)
        return torch.cat([of_block, torch.zeros_like(self.variance, dtype=torch.bool)])

    def style(self, content: Tensor) -> dist.Independent:
        of_block = self.block.style(content)
        loc = joined(of_block.mean, torch.zeros_like(self.variance))
        scale = joined(of_block.stddev, self.variance.sqrt())
        return dist.Normal(loc, scale).to_event(1)

    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        first, second = self._split(style)
        return joined(self.block.compose(content, first), second)

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        first, second = self._split(z)
        return joined(self.block.decompose(content, first), second)

    def remember(self, z: Tensor) -> None:
        self.block.remember(self._split(z)[0])

    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> dist.TorchDistribution:
        return self.block.content_posterior(self._split(z)[0], None if precision is None else self._split(precision)[0])

    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        first, second = self._split(z)
        if precision is None:
            return self.block.log_marginal(first) + log_normal(second, self.variance).sum((-3, -1))
        of_first, of_second = self._split(precision)
        of_block = self.block.log_marginal(first, of_first)
        return of_block + log_normal(second, self.variance + 1 / of_second).sum((-3, -1))

    def style_posterior(self, content: Tensor, z: Tensor, precision: Tensor) -> dist.Independent:
        (first, second), (of_first, of_second) = self._split(z), self._split(precision)
        in_block = self.block.style_posterior(content, first, of_first)
        beside = updated(self.variance, second, of_second)
        return dist.Normal(joined(in_block.mean, beside.mean), joined(in_block.stddev, beside.stddev)).to_event(1)

    def expected_log_marginal(self, z: Tensor, variance: Tensor) -> Tensor:
        """As `QuadraticPrior`.

        Raises:
            TypeError: the content block's prior has no such closed form (a mixture).
        """
        if not isinstance(self.block, QuadraticPrior):
            raise TypeError(f"the mean of log p(z) under {type(self.block).__name__} has no closed form")
        (first, second), (of_first, of_second) = self._split(z), self._split(variance)
        beside = (log_normal(second, self.variance) - 0.5 * of_second / self.variance).sum(-3)
        return torch.cat([self.block.expected_log_marginal(first, of_first), beside], -1)

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values[..., : self.block.latent_dim], values[..., self.block.latent_dim :]

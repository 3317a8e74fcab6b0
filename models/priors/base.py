"""Interfaces of priors over content, style and the latent they compose, by what has a closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn


class Prior(nn.Module, ABC):
    """Prior p(content) p(style | content), and the latent z they compose.

    Four methods make a prior. Guides that draw z first need p(content | z) as well (`ExactPrior`), guides that pass
    messages need it for z observed with Gaussian noise (`ConjugatePrior`).

    Shapes: in the program's plates, content is ``(image, content)`` or ``(..., 1, image, content)`` and style and z are
    ``(..., view, image, latent)``; the leading ``...`` are particles. Distributions have one event dimension.

    Attributes:
        latent_dim: dimensions of z.
    """

    latent_dim: int

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}")
        self.latent_dim = latent_dim

    @property
    def proper(self) -> bool:
        """Whether p(content) integrates to one, so that content can be sampled."""
        return True

    @property
    def depends_on_batch(self) -> bool:
        """Whether p(content) is made of the images of the current batch: it is then no distribution of one image."""
        return False

    def axis_variances(self) -> tuple[Tensor, Tensor] | None:
        """Variances of content and of style in each axis of z, ``(latent,)`` each, where z is a sum of the two.

        Axes without content have variance 0 there. None unless both are Gaussian with mean 0 and independent axes.
        """
        return None

    @abstractmethod
    def content(self) -> TorchDistribution:
        """p(content), event ``(content,)``."""

    @abstractmethod
    def style(self, content: Tensor) -> TorchDistribution:
        """p(style | content), event ``(style,)``."""

    @abstractmethod
    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        """z from content and style; must keep volume in style (unit Jacobian), as adding does."""

    @abstractmethod
    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        """The style for which `compose` gives z."""

    def remember(self, z: Tensor) -> None:
        """Called by guides with each batch's z, ``(..., view, image, latent)``, before content is inferred from it.

        For priors made of the data itself (`EmpiricalPrior`); does nothing in others.
        """


class ExactPrior(Prior):
    """Prior with the exact conditional of content given z of all views."""

    @abstractmethod
    def content_posterior(self, z: Tensor) -> TorchDistribution:
        """p(content | z of all views), batch ``(..., 1, image)`` from z of shape ``(..., view, image, latent)``."""

    @abstractmethod
    def log_marginal(self, z: Tensor) -> Tensor:
        """log p(z of all views), content integrated out: nats, shape ``(..., image)``."""


class ConjugatePrior(ExactPrior):
    """Prior with exact conditionals of content and style also where each z is observed with Gaussian noise.

    The observation of z_j is a potential N(z_j; z, 1/precision), a diagonal Gaussian. Without a precision, z itself is
    observed. Style given content must be a diagonal Gaussian.
    """

    @abstractmethod
    def style(self, content: Tensor) -> dist.Independent:
        """p(style | content), diagonal Gaussian with event ``(style,)``."""

    @abstractmethod
    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> TorchDistribution:
        """p(content | potentials of all views), batch ``(..., 1, image)``; both ``(..., view, image, latent)``."""

    @abstractmethod
    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        """log ∫ p(z_1..J) Π_j N(z_j; z, 1/precision) dz_1..J: nats, shape ``(..., image)``."""

    @abstractmethod
    def style_posterior(self, content: Tensor, z: Tensor, precision: Tensor) -> dist.Independent:
        """p(style | content, potential of the view), diagonal Gaussian, batch ``(..., view, image)``."""


class QuadraticPrior(ConjugatePrior):
    """Prior with log p(z_1..J) quadratic in z, so that its mean under Gaussians has a closed form."""

    @abstractmethod
    def expected_log_marginal(self, z: Tensor, variance: Tensor) -> Tensor:
        """E[log p(z_1..J)] for z_j ~ N(z, variance), by axis: nats, shape ``(..., image, latent)``."""

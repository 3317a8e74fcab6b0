"""The interface of priors over content, style and the latent they compose."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pyro.distributions import TorchDistribution
from torch import Tensor, nn


class Prior(nn.Module, ABC):
    """p(content) p(style | content), and the latent z they compose.

    Shapes: in the program's plates, content is ``(image, content)`` or ``(..., 1, image, content)`` and style and z are
    ``(..., view, image, latent)``; the leading ``...`` are particles. Distributions have one event dimension.

    Attributes:
        latent: number of latent dimensions of z.
    """

    latent: int

    def __init__(self, latent: int) -> None:
        super().__init__()
        if latent < 1:
            raise ValueError(f"latent must be at least 1 dimension, got {latent}")
        self.latent = latent

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

    @abstractmethod
    def content_posterior(self, z: Tensor) -> TorchDistribution:
        """p(content | z of all views), batch ``(..., 1, image)`` from z of shape ``(..., view, image, latent)``."""

    @abstractmethod
    def log_marginal(self, z: Tensor) -> Tensor:
        """log p(z of all views), content integrated out: nats, shape ``(..., image)``."""

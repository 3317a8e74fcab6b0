"""Likelihoods: distributions of an image given z, with one event over the whole image."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pp_simve.models.networks import apply_network
from pp_simve.models.variance import check_variance

IMAGE_DIM = 3


class Likelihood(nn.Module, ABC):
    """Likelihood p(x | z): called with z, ``(..., latent)``, returns a distribution of batch ``(...)``, event image."""

    @abstractmethod
    def forward(self, z: Tensor) -> dist.TorchDistribution: ...


class Bernoulli(Likelihood):
    """Bernoulli pixels, with the decoder's output as logits.

    Gray values between 0 and 1 have the expected log probability (cross-entropy), as is usual for such images.

    Args:
        decoder: maps ``(batch, latent)`` to logits ``(batch, channel, height, width)``.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        logits = apply_network(self.decoder, z, event_dim=1)
        # Unvalidated, because the support is {0, 1} and gray values lie between.
        pixels = dist.Bernoulli(logits=logits, validate_args=False)
        return dist.Independent(pixels, IMAGE_DIM, validate_args=False)


class Gaussian(Likelihood):
    """Gaussian pixels N(decoder's output, variance).

    Args:
        decoder: maps ``(batch, latent)`` to means ``(batch, channel, height, width)``.
        variance: of every pixel, in squared units of [0, 1]. It sets how much detail the ELBO requires: 0.1 layout and
            colour, 0.01 (the paper's) texture too. 0.1 was chosen on held-out training images of CIFAR-10.
        learned: makes the variance a parameter that starts there.
    """

    def __init__(self, decoder: nn.Module, variance: float = 0.1, *, learned: bool = False) -> None:
        super().__init__()
        check_variance("variance", variance)
        self.decoder = decoder
        log_scale = 0.5 * torch.tensor(variance).log()
        if learned:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    log_scale: Tensor

    @property
    def variance(self) -> Tensor:
        """The pixels' variance, a scalar."""
        return (2 * self.log_scale).exp()

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        mean = apply_network(self.decoder, z, event_dim=1)
        return dist.Normal(mean, self.log_scale.exp()).to_event(IMAGE_DIM)

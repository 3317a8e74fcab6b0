"""The delta guide: each view's z is a point, as in discriminative methods."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
from torch import Tensor, nn

from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.guides.recognition import IMAGE_DIM, exact, feature_width, representation, sample_sites
from pp_simve.models import Prior, apply_network


class DeltaGuide(Guide):
    """q(z_j | x_j) = δ(f(x_j)), content ~ p(content | z_1..J) exactly, style what remains.

    The limit of `AmortizedGuide` for scale → 0, without the entropy that goes to minus infinity there. A point has no
    entropy, so the objective is a maximum over z and no lower bound of the evidence.

    Args:
        encoder: maps images ``(batch, channel, height, width)`` to features ``(batch, features)``.
        prior: the model's own prior (the same object), an `ExactPrior`.
        features: the encoder's width, where it has no attribute ``features``.
    """

    has_density: ClassVar[bool] = False

    def __init__(self, encoder: nn.Module, prior: Prior, features: int | None = None) -> None:
        super().__init__()
        self.prior = exact(prior, self)
        self.encoder = encoder
        self.head = nn.Linear(feature_width(encoder, features), prior.latent)

    def forward(self, views: Tensor) -> None:
        z = self.head(apply_network(self.encoder, views, event_dim=IMAGE_DIM))
        sample_sites(self.prior, dist.Delta(z, event_dim=1))

    def posterior(self, views: Tensor) -> Representation:
        features = apply_network(self.encoder, views, event_dim=IMAGE_DIM)
        return representation(self.prior, features, self.head(features))

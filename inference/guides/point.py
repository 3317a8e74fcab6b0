"""The point guide, the released code's: content set to its plug-in value instead of drawn."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.guides.recognition import Recognition, representation, sample_sites
from pp_simve.models import Prior


class PointGuide(Guide):
    """q(z_j | x_j) as in `AmortizedGuide`, content := the mean of p(content | z_1..J).

    Under the flat prior content is the mean of the views' z. A point has no entropy, so the objective is a maximum over
    content and no lower bound of the evidence.

    Args:
        encoder: maps images ``(batch, channel, height, width)`` to features ``(batch, features)``.
        prior: the model's own prior (the same object).
        features: the encoder's width, where it has no attribute ``features``.
    """

    def __init__(self, encoder: nn.Module, prior: Prior, features: int | None = None) -> None:
        super().__init__()
        self.prior = prior
        self.recognition = Recognition(encoder, prior.latent, features)

    def forward(self, views: Tensor) -> None:
        sample_sites(
            self.prior, self.recognition(views), content=lambda conditional: dist.Delta(conditional.mean, event_dim=1)
        )

    def posterior(self, views: Tensor) -> Representation:
        return representation(self.recognition, self.prior, views)

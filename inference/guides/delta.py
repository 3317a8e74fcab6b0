"""The delta guide: deterministic z, as in discriminative methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
from torch import Tensor
from torch.nn import functional

from pp_simve.inference.guides.base import Features
from pp_simve.inference.guides.heads import Encoder
from pp_simve.inference.guides.recognition import ZFirstGuide
from pp_simve.models import Prior


class DeltaGuide(ZFirstGuide):
    """Deterministic guide: q(z_j | x_j) = δ(f(x_j)), content ~ p(content | z_1..J) exactly, style the rest.

    The limit of `AmortizedGuide` for scale → 0, without the entropy that goes to minus infinity there. A point has no
    entropy, so the objective is a maximum over z and no lower bound of the evidence.

    Args:
        encoder: maps images ``(batch, channel, height, width)`` to features ``(batch, features)``.
        prior: the model's own prior (the same object), an `ExactPrior`.
        features: the encoder's width, where it has no attribute ``features``.
        projection: widths of hidden layers between backbone and z, none by default; see `EncoderHead`.
        unit_norm: puts z on the unit sphere, as contrastive methods do.
    """

    has_density: ClassVar[bool] = False

    def __init__(
        self,
        encoder: Encoder,
        prior: Prior,
        features: int | None = None,
        *,
        projection: Sequence[int] = (),
        unit_norm: bool = False,
    ) -> None:
        super().__init__(encoder, prior, prior.latent_dim, features, projection=projection)
        self.unit_norm = unit_norm

    def latent(self, features: Features) -> dist.Delta:
        z: Tensor = self.encoder_head(features)
        return dist.Delta(functional.normalize(z, dim=-1) if self.unit_norm else z, event_dim=1)

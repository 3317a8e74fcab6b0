"""The point guide, the released code's: content set to its plug-in value instead of drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.guides.heads import Encoder
from pp_simve.inference.guides.recognition import Recognition, exact, representation, sample_sites
from pp_simve.inference.schedules import Schedule
from pp_simve.models import Prior, Views


class PointGuide(Guide):
    """q(z_j | x_j) as in `AmortizedGuide`, content := the mode of p(content | z_1..J).

    Under the flat prior content is the mean of the views' z, under a mixture the nearest prototype. A point has no
    entropy, so the objective is a maximum over content and no lower bound of the evidence.

    Args:
        encoder: maps images ``(batch, channel, height, width)`` to features ``(batch, features)``.
        prior: the model's own prior (the same object), an `ExactPrior`.
        features: the encoder's width, where it has no attribute ``features``.
        scale: factor of the standard deviations of z, or its schedule.
        projection: widths of hidden layers between backbone and z, none by default; see `EncoderHead`.
    """

    has_density: ClassVar[bool] = False

    def __init__(
        self,
        encoder: Encoder,
        prior: Prior,
        features: int | None = None,
        *,
        scale: float | Schedule = 1.0,
        projection: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.prior = exact(prior, self)
        self.recognition = Recognition(encoder, prior.latent_dim, features, scale, projection)

    def forward(self, views: Views) -> None:
        sample_sites(self.prior, self.recognition(views), point=True)

    def posterior(self, views: Views) -> Representation:
        features = self.recognition.features(views)
        return representation(self.prior, features, self.recognition.latent(features).mean)

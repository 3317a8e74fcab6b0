"""The amortized guide, the paper's: a Gaussian over each view's z, content from its exact conditional."""

from __future__ import annotations

from collections.abc import Sequence

from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.guides.heads import Encoder
from pp_simve.inference.guides.recognition import Recognition, exact, representation, sample_sites
from pp_simve.inference.schedules import Schedule
from pp_simve.models import Prior, Views


class AmortizedGuide(Guide):
    """q(z_j | x_j) = N(μ(x_j), diag S(x_j)), content ~ p(content | z_1..J) exactly, style what remains.

    z is an auxiliary site. Since log p(z, content) − log p(content | z) = log p(z) whatever the content, drawing
    content costs no variance: the bound is the collapsed one (Bizeul et al., TMLR 2024, ELBO_SSL).

    Args:
        encoder: maps images ``(batch, channel, height, width)`` to features ``(batch, features)``.
        prior: the model's own prior (the same object), an `ExactPrior`.
        features: the encoder's width, where it has no attribute ``features``.
        scale: factor of the standard deviations of z, or its schedule; towards 0 it becomes `DeltaGuide`.
        projection: widths of hidden layers between backbone and z, none by default; see `EncoderHead`.
    """

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
        sample_sites(self.prior, self.recognition(views))

    def posterior(self, views: Views) -> Representation:
        features = self.recognition.features(views)
        return representation(self.prior, features, self.recognition.latent(features).mean)

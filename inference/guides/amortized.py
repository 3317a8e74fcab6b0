"""Guides with a Gaussian q(z | view): content drawn from its exact conditional (the paper's), or set to its mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist

from pp_simve.inference.guides.base import Features
from pp_simve.inference.guides.heads import Encoder
from pp_simve.inference.guides.recognition import Recognition, ZFirstProgram
from pp_simve.models import Prior, ViewsLike
from pp_simve.models.schedules import Schedule


class GaussianGuide(ZFirstProgram):
    """Base of guides with q(z_j | x_j) = N(μ(x_j), diag S(x_j)).

    Args:
        encoder: maps images ``(batch, channel, height, width)`` to features ``(batch, features)``.
        prior: the model's own prior (the same object), an `ExactPrior`.
        features: the encoder's width, where it has no attribute ``features``.
        scale: factor of the standard deviations of z, or its schedule; towards 0 the guide becomes `DeltaGuide`.
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
        super().__init__(prior)
        self.recognition = Recognition(encoder, prior.latent_dim, features, scale, projection)

    @property
    def encoder(self) -> Encoder:
        """The encoder as it was given, fitted; one for each modality where there are several."""
        return self.recognition.encoder_head.encoder

    def features(self, views: ViewsLike) -> Features:
        return self.recognition.features(views)

    def latent(self, features: Features) -> dist.TorchDistribution:
        return self.recognition.latent(features)


class AmortizedGuide(GaussianGuide):
    """Amortized guide: q(z_j | x_j) = N(μ(x_j), diag S(x_j)), content ~ p(content | z_1..J) exactly, style the rest.

    z is an auxiliary site. Since log p(z, content) − log p(content | z) = log p(z) whatever the content, drawing
    content costs no variance: the bound is the collapsed one (Bizeul et al., TMLR 2024, ELBO_SSL).

    Examples:
        >>> import torch
        >>> from pp_simve import GaussianPrior, MLPEncoder
        >>> guide = AmortizedGuide(MLPEncoder((1, 16, 16)), GaussianPrior(8))
        >>> found = guide.posterior(torch.rand(2, 3, 1, 16, 16))  # (view, image, channel, height, width)
        >>> found.content.shape, found.style.shape
        (torch.Size([3, 8]), torch.Size([2, 3, 8]))
    """


class PointGuide(GaussianGuide):
    """Point guide: q(z_j | x_j) as in `AmortizedGuide`, content at its conditional mode, as in the released code.

    Under the flat prior content is the mean of the views' z, under a mixture the nearest prototype. A point has no
    entropy, so the objective is a maximum over content and no lower bound of the evidence.
    """

    has_density: ClassVar[bool] = False
    content_at_mode: ClassVar[bool] = True

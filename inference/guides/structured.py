"""The structured guide: Gaussian messages along the tree from views to content and back."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor

from pp_simve.inference.guides.base import Features, Guide, Representation
from pp_simve.inference.guides.heads import Encoder
from pp_simve.inference.guides.recognition import Recognition
from pp_simve.models import ConjugatePrior, GaussianPrior, Prior, ViewsLike
from pp_simve.models.schedules import Schedule


def sample_from_potentials(messages: ConjugatePrior, loc: Tensor, precision: Tensor) -> None:
    """Samples content given the potentials of all views, and the style of each given content and its own.

    Args:
        messages: the prior whose messages are passed.
        loc, precision: of the potentials N(z; loc, 1/precision), shape ``(..., view, image, latent)`` each.
    """
    view_plate = pyro.plate("view", loc.shape[-3], dim=-2)
    with pyro.plate("image", loc.shape[-2], dim=-1):
        content = pyro.sample("content", messages.content_posterior(loc, precision))
        with view_plate:
            pyro.sample("style", messages.style_posterior(content, loc, precision))


class StructuredGuide(Guide):
    """Structured guide: potentials N(z_j; μ(x_j), S(x_j)) from the encoder, combined exactly with the prior:

    q(content | x_1..J) ∝ p(content) Π_j N(μ_j; content, S_j + Σ)
    q(style_j | content, x_j) ∝ p(style_j | content) N(z_j; μ_j, S_j)

    Views inform one another: in a linear-Gaussian model with the right potentials this is the posterior itself, and the
    bound the evidence, while independent q(z_j | x_j) stay below it. It samples the sites of the model alone, in its
    order, so that the divergence of each has a closed form (`AnalyticELBO`).

    Args:
        encoder: maps images ``(batch, channel, height, width)`` to features ``(batch, features)``.
        prior: the model's own prior (the same object).
        features: the encoder's width, where it has no attribute ``features``.
        scale: factor of the potentials' standard deviations, or its schedule; towards 0 it becomes `DeltaGuide`.
        projection: widths of hidden layers between backbone and potentials, none by default; see `EncoderHead`.
        messages: the prior whose messages are passed. Default: the model's, where it is a `ConjugatePrior`; otherwise a
            learned `GaussianPrior` that belongs to the guide.

    Examples:
        >>> import torch
        >>> from pp_simve import MLPEncoder, StudentTPrior
        >>> guide = StructuredGuide(MLPEncoder((1, 16, 16)), StudentTPrior(8))  # any prior of continuous content
        >>> guide.posterior(torch.rand(2, 3, 1, 16, 16)).content.shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        encoder: Encoder,
        prior: Prior,
        features: int | None = None,
        *,
        scale: float | Schedule = 1.0,
        projection: Sequence[int] = (),
        messages: ConjugatePrior | None = None,
    ) -> None:
        super().__init__()
        if messages is None:
            own = GaussianPrior(prior.latent_dim, learn_content=True, learn_style=True)
            messages = prior if isinstance(prior, ConjugatePrior) else own
        of_messages, of_prior = (part.content().event_shape for part in (messages, prior))
        if messages.latent_dim != prior.latent_dim or of_messages != of_prior:
            raise ValueError(
                f"StructuredGuide passes messages about {messages.latent_dim} latent axes and content of shape "
                f"{tuple(of_messages)}, but {type(prior).__name__} has {prior.latent_dim} and {tuple(of_prior)}; "
                "derive the prior from ConjugatePrior, or pass messages=... that fit it"
            )
        self.prior = prior
        self.messages = messages
        self.recognition = Recognition(encoder, prior.latent_dim, features, scale, projection)

    @property
    def encoder(self) -> Encoder:
        """The encoder as it was given, fitted; one for each modality where there are several."""
        return self.recognition.encoder_head.encoder

    def potentials(self, features: Features) -> tuple[Tensor, Tensor]:
        """Location and precision of each view's potential, shape ``(..., view, image, latent)`` each."""
        q = self.recognition.latent(features)
        # The head's mean is that of the potential times N(0, 1), which still moves z where the potential has almost no
        # precision: with the potential's own location its gradient would vanish there, and an axis once ignored (as
        # most are at the start of a fit) would stay ignored.
        variance = q.variance
        return q.mean * (1 + variance), variance.reciprocal()

    def forward(self, views: ViewsLike) -> None:
        loc, precision = self.potentials(self.recognition.features(views))
        self.messages.remember(loc)
        sample_from_potentials(self.messages, loc, precision)

    def posterior(self, views: ViewsLike) -> Representation:
        """Means of q(content | all views) and q(style_j | all views), and the z they compose."""
        features = self.recognition.features(views)
        loc, precision = self.potentials(features)
        self.messages.remember(loc)
        content = self.messages.content_posterior(loc, precision).mean
        # Linear in content: its mean given content's mean is its mean.
        style = self.messages.style_posterior(content, loc, precision).mean
        z = self.prior.compose(content, style)
        return Representation(backbone=features, z=z, content=content.squeeze(0), style=style)

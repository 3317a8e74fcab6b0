"""The recognition network, and the base of guides that infer z from each view first and content from all z exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from pp_simve.inference.guides.base import Features, Guide, Representation
from pp_simve.inference.guides.heads import Encoder, encoder_head
from pp_simve.models import ExactPrior, Prior, ViewsLike
from pp_simve.models.schedules import Annealed, Schedule

SMALLEST_SCALE = 1e-4
START_SCALE = 0.03
# Marks a site drawn from its exact conditional, which may then be a discrete one; read by objectives.
EXACT_CONDITIONAL: Any = {"is_exact_conditional": True}


class Recognition(nn.Module):
    """Recognition network: views → features → N(loc, scale²) over z, diagonal.

    Args:
        encoder: maps ``(batch, channel, height, width)`` to ``(batch, features)``; one per modality.
        latent_dim: dimensions of z.
        features: the encoder's width; by default its attribute ``features``.
        scale: factor of every standard deviation, or its schedule: towards 0 the guide becomes a point.
        projection: widths of hidden layers between backbone and head, see `EncoderHead`.

    Raises:
        ValueError: as `encoder_head`; a scale that is not positive.
    """

    def __init__(
        self,
        encoder: Encoder,
        latent_dim: int,
        features: int | None = None,
        scale: float | Schedule = 1.0,
        projection: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.scale = Annealed(scale)
        if not min(self.scale.ends) > 0:
            raise ValueError(
                f"scale must be positive, got {min(self.scale.ends)}; for a guide without noise take DeltaGuide"
            )
        self.encoder_head = encoder_head(encoder, 2 * latent_dim, features, projection)
        with torch.no_grad():
            # Softplus of the bias is the scale at the start. The means of an untrained head spread by about 0.1: wider
            # noise than that hides them, and the decoder first learns to ignore z, which takes long to unlearn.
            for head in self.encoder_head.heads():
                head.bias[latent_dim:] = float(torch.tensor(START_SCALE).expm1().log())

    def features(self, views: ViewsLike) -> Features:
        """Backbone features of the views, ``(..., view, image, feature)``; by modality where they are of several."""
        return self.encoder_head.features(views)

    def latent(self, features: Features) -> dist.Independent:
        """q(z | view) from the backbone's features, batch ``(..., view, image)``, event ``(latent,)``."""
        loc, raw_scale = self.encoder_head(features).chunk(2, -1)
        scale = functional.softplus(raw_scale) + SMALLEST_SCALE
        factor = self.scale()
        return dist.Normal(loc, scale if factor == 1 else factor * scale).to_event(1)

    def forward(self, views: ViewsLike) -> dist.Independent:
        """q(z | view)."""
        return self.latent(self.features(views))


class ZFirstProgram(Guide):
    """Program of guides that infer z from each view, then content from all z exactly; style is the remainder.

    Args:
        prior: the model's own prior (the same object), an `ExactPrior`.

    Attributes:
        content_at_mode: content is the mode of its conditional instead of a draw from it.

    Raises:
        ValueError: a prior without the exact conditional of content given z.
    """

    content_at_mode: ClassVar[bool] = False

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = exact(prior, self)

    def features(self, views: ViewsLike) -> Features:
        """Backbone features of the views, ``(..., view, image, feature)``; by modality where they are of several."""
        raise NotImplementedError(f"{type(self).__name__} must define features(views)")

    def latent(self, features: Features) -> dist.TorchDistribution:
        """q(z | view) from the backbone's features, batch ``(..., view, image)``, event ``(latent,)``."""
        raise NotImplementedError(f"{type(self).__name__} must define latent(features)")

    def center(self, features: Features) -> Tensor:
        """The mean of q(z | view), or a value near it: ``(..., view, image, latent)``."""
        return self.latent(features).mean

    def forward(self, views: ViewsLike) -> None:
        sample_sites(self.prior, self.latent(self.features(views)), content_at_mode=self.content_at_mode)

    def posterior(self, views: ViewsLike) -> Representation:
        """As `Guide.posterior`, with z at `center`: exact where content's conditional mean is linear in z."""
        features = self.features(views)
        z = self.center(features)
        self.prior.remember(z)
        content = self.prior.content_posterior(z).mean
        return Representation(
            backbone=features, z=z, content=content.squeeze(0), style=self.prior.decompose(content, z)
        )


class ZFirstGuide(ZFirstProgram):
    """Base of guides of one's own: q(z_j | x_j) by the subclass, content ~ p(content | z_1..J) exactly, style the rest.

    A subclass defines its constructor and ``latent(features)``, in which ``self.encoder_head(features)`` is what the
    network gives of each view, ``(..., view, image, outputs)``. Where q has no mean in closed form, it defines
    ``center(features)`` as well.

    Args:
        encoder: maps images ``(batch, channel, height, width)`` to features ``(batch, features)``; one per modality.
        prior: the model's own prior (the same object), an `ExactPrior`.
        outputs: numbers that ``latent`` needs of a view.
        features: the encoder's width, where it has no attribute ``features``.
        projection: widths of hidden layers between backbone and outputs, each with batch norm and ReLU; none by
            default.

    Raises:
        ValueError: a prior without the exact conditional of content given z; an encoder of unknown width.

    Examples:
        >>> import torch
        >>> from pp_simve import GaussianPrior, MLPEncoder
        >>> class LaplaceGuide(ZFirstGuide):
        ...     def __init__(self, encoder, prior):
        ...         super().__init__(encoder, prior, outputs=2 * prior.latent_dim)
        ...
        ...     def latent(self, features):
        ...         loc, log_scale = self.encoder_head(features).chunk(2, -1)
        ...         return dist.Laplace(loc, (log_scale - 3.5).exp()).to_event(1)
        >>> LaplaceGuide(MLPEncoder((1, 16, 16)), GaussianPrior(8)).posterior(torch.rand(2, 3, 1, 16, 16)).content.shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        encoder: Encoder,
        prior: Prior,
        outputs: int,
        features: int | None = None,
        *,
        projection: Sequence[int] = (),
    ) -> None:
        super().__init__(prior)
        self.encoder_head = encoder_head(encoder, outputs, features, projection)

    @property
    def encoder(self) -> Encoder:
        """The encoder as it was given, fitted; one for each modality where there are several."""
        return self.encoder_head.encoder

    def features(self, views: ViewsLike) -> Features:
        return self.encoder_head.features(views)


def exact(prior: Prior, guide: object) -> ExactPrior:
    """The prior, checked to have the exact conditional of content given z.

    Raises:
        ValueError: it does not, so the guide needs another.
    """
    if not isinstance(prior, ExactPrior):
        raise ValueError(
            f"{type(guide).__name__} infers content from z exactly, which {type(prior).__name__} cannot: it has no "
            "content_posterior(z). Derive the prior from ExactPrior, or use a guide that does not need it, such as "
            "StructuredGuide (--guide structured)"
        )
    return prior


def sample_sites(prior: ExactPrior, latent: dist.TorchDistribution, *, content_at_mode: bool = False) -> None:
    """Samples z of each view, content given all of them, and style, which follows from both.

    Args:
        prior: of the model.
        latent: q(z | view), batch ``(view, image)``.
        content_at_mode: sets content to the mode of its conditional, instead of drawing it.
    """
    views, images = latent.batch_shape[-2:]
    view_plate = pyro.plate("view", views, dim=-2)
    with pyro.plate("image", images, dim=-1):
        with view_plate:
            z = pyro.sample("z", latent, infer={"is_auxiliary": True})
        prior.remember(z)
        conditional = prior.content_posterior(z)
        if content_at_mode:
            content = pyro.sample("content", dist.Delta(conditional.mode, event_dim=1))
        else:
            # log p(content, z) − log p(content | z) is the same for every content, so its draw needs no gradient.
            content = pyro.sample("content", conditional, infer=EXACT_CONDITIONAL)
        with view_plate:
            pyro.sample("style", dist.Delta(prior.decompose(content, z), event_dim=1))

"""The flow guide: a normalizing flow over each view's z (needs zuko)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pp_simve.inference.guides.amortized import GaussianGuide
from pp_simve.inference.guides.base import Features
from pp_simve.inference.guides.heads import feature_width
from pp_simve.inference.tools import optional_module
from pp_simve.models import Prior
from pp_simve.models.schedules import Schedule


class FlowLatent(TorchDistribution):
    """loc + scale · u with u from a flow conditioned on the image's features; event ``(latent,)``.

    Args:
        flow: called with features ``(..., features)``, returns a distribution of batch ``(...)``, event ``(latent,)``.
        features: shape ``(..., features)``.
        loc, scale: shape ``(..., latent)``.
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, flow: nn.Module, features: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.flow, self.features, self.loc, self.scale = flow, features, loc, scale
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """A draw, whose density is kept: a coupling flow computes it along with the draw."""
        u, log_density = self.flow(self.features).rsample_and_log_prob(torch.Size(sample_shape))
        value: Tensor = self.loc + self.scale * u
        self._drawn = value, log_density - self.scale.log().sum(-1)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        u = (value - self.loc) / self.scale
        log_density: Tensor = self.flow(self.features).log_prob(u)
        return log_density - self.scale.log().sum(-1)

    @property
    def center(self) -> Tensor:
        """Image of the base's center under the flow, ``(..., latent)``: near the mean, which has no closed form."""
        flow = self.flow(self.features)
        return self.loc + self.scale * flow.transform.inv(torch.zeros_like(self.loc))

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowLatent:
        """The same distribution with a larger batch shape."""
        wide = (values.expand(*batch_shape, -1) for values in (self.features, self.loc, self.scale))
        return FlowLatent(self.flow, *wide)


class FlowGuide(GaussianGuide):
    """Flow guide: q(z_j | x_j) a normalizing flow, content ~ p(content | z_1..J) exactly, style the rest.

    A Gaussian as in `AmortizedGuide` whose noise first passes through affine coupling layers conditioned on the image's
    features (Rezende and Mohamed 2015; Dinh et al. 2017), so that its axes may depend on one another and need not be
    symmetric.

    Args:
        encoder: maps images ``(batch, channel, height, width)`` to features ``(batch, features)``.
        prior: the model's own prior (the same object), an `ExactPrior`, of at least 2 latent dimensions.
        features: the encoder's width, where it has no attribute ``features``.
        scale: factor of the standard deviations of z, or its schedule; towards 0 it becomes `DeltaGuide`.
        projection: widths of hidden layers between backbone and the Gaussian, none by default; see `EncoderHead`.
        transforms: coupling layers.
        hidden: widths of the hidden layers of each.

    Raises:
        ImportError: zuko is not installed.
        ValueError: a single latent dimension, or an encoder per modality.
    """

    def __init__(
        self,
        encoder: nn.Module,
        prior: Prior,
        features: int | None = None,
        *,
        scale: float | Schedule = 1.0,
        projection: Sequence[int] = (),
        transforms: int = 2,
        hidden: Sequence[int] = (64,),
    ) -> None:
        if prior.latent_dim < 2:
            raise ValueError("FlowGuide needs at least 2 latent dimensions: a coupling moves some axes by the others")
        if not isinstance(encoder, nn.Module):
            raise ValueError("FlowGuide takes views of one modality: its flow is conditioned on one encoder's features")
        super().__init__(encoder, prior, features, scale=scale, projection=projection)
        self.flow = _zuko().flows.MAF(
            prior.latent_dim,
            context=feature_width(encoder, features),
            transforms=transforms,
            hidden_features=list(hidden),
            passes=2,
        )

    def latent(self, features: Features) -> FlowLatent:
        assert isinstance(features, Tensor)
        gaussian = self.recognition.latent(features)
        return FlowLatent(self.flow, features, gaussian.mean, gaussian.stddev)

    def center(self, features: Features) -> Tensor:
        """Image of the base's center under the flow, near the mean of z: ``(..., view, image, latent)``."""
        return self.latent(features).center


def _zuko() -> Any:
    """zuko, imported without its side effect: it turns the validation of all of torch's distributions off."""
    validates = torch.distributions.Distribution._validate_args
    try:
        return optional_module("zuko", "flows", "FlowGuide")
    finally:
        torch.distributions.Distribution.set_default_validate_args(validates)

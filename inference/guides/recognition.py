"""What guides that read z off each view have in common: the recognition network, the sites, the means."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from pp_simve.inference.annealing import Annealed
from pp_simve.inference.guides.base import Representation
from pp_simve.inference.schedules import Schedule
from pp_simve.models import ExactPrior, Prior, apply_network

IMAGE_DIM = 3
SMALLEST_SCALE = 1e-4
START_SCALE = 0.03
# Tells objectives that a site is drawn from its exact conditional, which may then be a discrete one.
EXACT_CONDITIONAL: Any = {"is_exact_conditional": True}


class Recognition(nn.Module):
    """Images → features → N(loc, scale²) over z, diagonal.

    Args:
        encoder: maps ``(batch, channel, height, width)`` to ``(batch, features)``.
        latent: dimensions of z.
        features: the encoder's width; by default its attribute ``features``.
        scale: factor of every standard deviation, or its schedule: towards 0 the guide becomes a point.

    Raises:
        ValueError: the width is neither given nor an attribute of the encoder; a scale that is not positive.
    """

    def __init__(
        self, encoder: nn.Module, latent: int, features: int | None = None, scale: float | Schedule = 1.0
    ) -> None:
        super().__init__()
        self.scale = Annealed(scale)
        if not min(self.scale.ends) > 0:
            raise ValueError(
                f"scale must be positive, got {min(self.scale.ends)}; for a guide without noise take DeltaGuide"
            )
        width = feature_width(encoder, features)
        self.encoder = encoder
        self.head = nn.Linear(width, 2 * latent)
        with torch.no_grad():
            # Softplus of the bias is the scale at the start. The means of an untrained head spread by about 0.1: wider
            # noise than that drowns them, and the decoder first learns to do without z, which takes long to unlearn.
            self.head.bias[latent:] = float(torch.tensor(START_SCALE).expm1().log())

    def features(self, images: Tensor) -> Tensor:
        """Backbone features, shape ``(..., features)`` from images ``(..., channel, height, width)``."""
        return apply_network(self.encoder, images, event_dim=IMAGE_DIM)

    def latent(self, features: Tensor) -> dist.Independent:
        """q(z | image) from the backbone's features, batch ``(...)``, event ``(latent,)``."""
        # The head is one matrix of a few thousand numbers: left in full precision, where the scale needs it.
        loc, raw_scale = self.head(features).chunk(2, -1)
        scale = functional.softplus(raw_scale) + SMALLEST_SCALE
        factor = self.scale()
        return dist.Normal(loc, scale if factor == 1 else factor * scale).to_event(1)

    def forward(self, images: Tensor) -> dist.Independent:
        """q(z | image)."""
        return self.latent(self.features(images))


def feature_width(encoder: nn.Module, features: int | None) -> int:
    """How wide an encoder's output is: as given, or as it says itself.

    Raises:
        ValueError: neither.
    """
    width = features if features is not None else getattr(encoder, "features", None)
    if not isinstance(width, int):
        raise ValueError(
            f"{type(encoder).__name__} has no integer attribute `features` that says how wide its output is; "
            "pass features=... to the guide"
        )
    return width


def exact(prior: Prior, guide: object) -> ExactPrior:
    """The prior, if it can tell content from z.

    Raises:
        ValueError: it can't, so the guide needs another.
    """
    if not isinstance(prior, ExactPrior):
        raise ValueError(
            f"{type(guide).__name__} infers content from z exactly, which {type(prior).__name__} cannot: it has no "
            "content_posterior(z). Derive the prior from ExactPrior, or take a guide that does without, such as "
            "StructuredGuide"
        )
    return prior


def sample_sites(prior: ExactPrior, latent: dist.TorchDistribution, *, point: bool = False) -> None:
    """Samples z of each view, content given all of them, and style, which is what then remains.

    Args:
        prior: of the model.
        latent: q(z | view), batch ``(view, image)``.
        point: sets content to the mode of its conditional, instead of drawing it.
    """
    views, images = latent.batch_shape[-2:]
    view_plate = pyro.plate("view", views, dim=-2)
    with pyro.plate("image", images, dim=-1):
        with view_plate:
            z = pyro.sample("z", latent, infer={"is_auxiliary": True})
        prior.remember(z)
        conditional = prior.content_posterior(z)
        if point:
            content = pyro.sample("content", dist.Delta(conditional.mode, event_dim=1))
        else:
            # log p(content, z) − log p(content | z) is the same for every content, so its draw needs no gradient.
            content = pyro.sample("content", conditional, infer=EXACT_CONDITIONAL)
        with view_plate:
            pyro.sample("style", dist.Delta(prior.decompose(content, z), event_dim=1))


def representation(prior: ExactPrior, features: Tensor, z: Tensor) -> Representation:
    """Posterior means with z at the mean of q(z | view): exact where content's conditional mean is linear in z."""
    prior.remember(z)
    content = prior.content_posterior(z).mean
    return Representation(backbone=features, z=z, content=content.squeeze(0), style=prior.decompose(content, z))

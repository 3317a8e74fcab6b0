"""What guides that infer each view's z first have in common: the recognition network, the sites, the means."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from pp_simve.inference.guides.base import Representation
from pp_simve.models import Prior, apply_network

IMAGE_DIM = 3
SMALLEST_SCALE = 1e-4
START_SCALE = 0.03


class Recognition(nn.Module):
    """Images → features → N(loc, scale²) over z, diagonal.

    Args:
        encoder: maps ``(batch, channel, height, width)`` to ``(batch, features)``.
        latent: dimensions of z.
        features: the encoder's width; by default its attribute ``features``.

    Raises:
        ValueError: the width is neither given nor an attribute of the encoder.
    """

    def __init__(self, encoder: nn.Module, latent: int, features: int | None = None) -> None:
        super().__init__()
        width = features if features is not None else getattr(encoder, "features", None)
        if not isinstance(width, int):
            raise ValueError(
                f"{type(encoder).__name__} has no integer attribute `features` that says how wide its output is; "
                "pass features=... to the guide"
            )
        self.encoder = encoder
        self.head = nn.Linear(width, 2 * latent)
        with torch.no_grad():
            # Softplus of the bias is the scale at the start. The means of an untrained head spread by about 0.1: wider
            # noise than that drowns them, and the decoder first learns to do without z, which takes long to unlearn.
            self.head.bias[latent:] = float(torch.tensor(START_SCALE).expm1().log())

    def features(self, images: Tensor) -> Tensor:
        """Backbone features, shape ``(..., features)`` from images ``(..., channel, height, width)``."""
        return apply_network(self.encoder, images, event_dim=IMAGE_DIM)

    def latent(self, features: Tensor) -> dist.TorchDistribution:
        """q(z | image) from the backbone's features, batch ``(...)``, event ``(latent,)``."""
        # The head is one matrix of a few thousand numbers: left in full precision, where the scale needs it.
        loc, raw_scale = self.head(features).chunk(2, -1)
        return dist.Normal(loc, functional.softplus(raw_scale) + SMALLEST_SCALE).to_event(1)

    def forward(self, images: Tensor) -> dist.TorchDistribution:
        """q(z | image)."""
        return self.latent(self.features(images))


def sample_sites(
    prior: Prior, latent: dist.TorchDistribution, content: Callable[[dist.TorchDistribution], dist.TorchDistribution]
) -> None:
    """Samples z of each view, content given all of them, and style, which is what then remains.

    Args:
        prior: of the model.
        latent: q(z | view), batch ``(view, image)``.
        content: what to sample content from, given p(content | z_1..J).
    """
    views, images = latent.batch_shape[-2:]
    view_plate = pyro.plate("view", views, dim=-2)
    with pyro.plate("image", images, dim=-1):
        with view_plate:
            z = pyro.sample("z", latent, infer={"is_auxiliary": True})
        content_value = pyro.sample("content", content(prior.content_posterior(z)))
        with view_plate:
            pyro.sample("style", dist.Delta(prior.decompose(content_value, z), event_dim=1))


def representation(recognition: Recognition, prior: Prior, views: Tensor) -> Representation:
    """Posterior means with z at the mean of q(z | view): exact where content's conditional mean is linear in z."""
    features = recognition.features(views)
    z = recognition.latent(features).mean
    content = prior.content_posterior(z).mean
    return Representation(backbone=features, z=z, content=content.squeeze(0), style=prior.decompose(content, z))

"""The linear-Gaussian program with its posterior as guide, and guides that are wrong on purpose."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pp_simve.inference import AmortizedGuide, Guide, StructuredGuide
from pp_simve.models import Bernoulli, ConjugatePrior, Gaussian, GaussianPrior, SimVE

from ..inference.linear_gaussian import (
    DOUBLE,
    IMAGES,
    LATENT,
    STYLE,
    VIEWS,
    Linear,
    PotentialEncoder,
    Program,
    exact_program,
    set_head,
)


class WrongPosterior(StructuredGuide):
    """The posterior with every draw's deviation from its mean multiplied, and the mean moved.

    Content and style given content are Gaussians, the mean of style linear in content: so a factor on the standard
    deviations of both is one on all deviations of the joint posterior. The shift is in these standard deviations.
    """

    factor = 1.0
    shift = 0.0

    def forward(self, views: Tensor) -> None:
        loc, precision = self.potentials(self.recognition.features(views))
        with pyro.plate("image", loc.shape[-2], dim=-1):
            content = pyro.sample("content", self.wrong(self.messages.content_posterior(loc, precision)))
            with pyro.plate("view", loc.shape[-3], dim=-2):
                pyro.sample("style", self.wrong(self.messages.style_posterior(content, loc, precision)))

    def wrong(self, right: dist.TorchDistribution) -> dist.Independent:
        return dist.Normal(right.mean + self.shift * right.stddev, self.factor * right.stddev).to_event(1)

    @property
    def divergence(self) -> float:
        """KL(guide ‖ posterior) of an image with as many views as `VIEWS`, nats."""
        numbers = LATENT * (1 + 3)
        factor = torch.tensor(self.factor, dtype=DOUBLE)
        return float(numbers * (factor.square() - 1 - 2 * factor.log() + self.shift**2) / 2)


class PriorAsGuide(StructuredGuide):
    """A guide that ignores the views."""

    def forward(self, views: Tensor) -> None:
        with pyro.plate("image", views.shape[1], dim=-1):
            content = pyro.sample("content", self.prior.content())
            with pyro.plate("view", len(views), dim=-2):
                pyro.sample("style", self.prior.style(content))


def wrong_posterior(linear: Linear, prior: ConjugatePrior, factor: float = 1.0, shift: float = 0.0) -> WrongPosterior:
    """The posterior itself by default."""
    guide = WrongPosterior(PotentialEncoder(linear), prior)
    set_head(guide, linear.precision.rsqrt())
    guide.factor, guide.shift = factor, shift
    return guide


def planted(factor: float = 1.0, shift: float = 0.0, images: int = IMAGES, views: int = VIEWS) -> Program:
    """The Gaussian program with a wrong posterior as guide."""
    exact = exact_program(images=images, views=views)
    return exact._replace(guide=wrong_posterior(exact.linear, exact.guide.prior, factor, shift))


Moments = dict[str, tuple[Tensor, Tensor]]
"""Mean and variance of content ``(image, latent)``, style and z ``(image, view, latent)``."""


def exact_moments(linear: Linear, views: Tensor, content: list[float], style: list[float]) -> Moments:
    """Each axis is a Gaussian of content and styles: prior precision + Λ AᵀA, where z = A (content, styles)."""
    count = len(views)
    to_z = torch.cat([torch.ones(count, 1, dtype=DOUBLE), torch.eye(count, dtype=DOUBLE)], 1)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {"content": [], "style": [], "z": []}
    for axis, (shared, own, precision) in enumerate(zip(content, style, linear.precision, strict=True)):
        prior = torch.tensor([1 / shared] + count * [1 / own], dtype=DOUBLE).diag()
        covariance = torch.linalg.inv(prior + precision * to_z.T @ to_z)
        mean = covariance @ to_z.T @ (precision * linear.potential_mean(views)[..., axis])
        parts["content"].append((mean[0], covariance[0, 0].expand_as(mean[0])))
        parts["style"].append((mean[1:].T, covariance.diag()[1:].expand_as(mean[1:].T)))
        of_z = (to_z @ mean).T
        parts["z"].append((of_z, (to_z @ covariance @ to_z.T).diag().expand_as(of_z)))
    return {
        name: (torch.stack([m for m, _ in of], -1), torch.stack([v for _, v in of], -1)) for name, of in parts.items()
    }


def prior_as_guide(linear: Linear, prior: ConjugatePrior) -> PriorAsGuide:
    guide = PriorAsGuide(PotentialEncoder(linear), prior)
    set_head(guide, linear.precision.rsqrt())
    return guide


def independent_views(linear: Linear, prior: ConjugatePrior) -> Guide:
    """A guide that infers each view's z from that view and its own prior alone, as an amortized guide has to."""
    guide = AmortizedGuide(PotentialEncoder(linear), prior)
    set_head(guide, (linear.precision + 1 / torch.tensor(STYLE, dtype=DOUBLE)).rsqrt())
    return guide


class Flatten(nn.Flatten):
    """Pixels as features."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.features = pixels


def program_of_modalities() -> tuple[SimVE, AmortizedGuide, dict[str, Tensor]]:
    prior = GaussianPrior(2)
    shapes = {"picture": (1, 2, 3), "attributes": (4, 1, 1)}
    decoders = {
        modality: nn.Sequential(nn.Linear(2, torch.Size(shape).numel()), nn.Unflatten(-1, shape))
        for modality, shape in shapes.items()
    }
    likelihoods = {"picture": Gaussian(decoders["picture"], 0.1), "attributes": Bernoulli(decoders["attributes"])}
    guide = AmortizedGuide({"picture": Flatten(6), "attributes": Flatten(4)}, prior)
    views = {"picture": torch.rand(2, 5, 1, 2, 3), "attributes": torch.rand(1, 5, 4, 1, 1).round()}
    return SimVE(prior, likelihoods), guide, views

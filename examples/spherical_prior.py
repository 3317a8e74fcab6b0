"""A user-defined prior: content uniform on the unit sphere, its posterior a von Mises-Fisher distribution.

From this folder, in the shell: python -m pp_simve.fit --prior spherical_prior:SphericalPrior
"""

import argparse
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import normalize

from pp_simve import (
    AmortizedGuide,
    Bernoulli,
    GaussianPrior,
    MLPDecoder,
    MLPEncoder,
    SimVE,
    WarmupCosine,
    augmentation_policy,
    evaluate_representations,
    load_data,
)
from pp_simve.evaluation import score
from pp_simve.inference import fit
from pp_simve.models import ExactPrior
from pp_simve.testing import PriorSuite

LATENT = 16


# --8<-- [start:distribution]
class VonMisesFisher(TorchDistribution):
    """Density exp(concentration · x) / Z on the unit sphere; uniform where the concentration vector is 0.

    Args:
        concentration: shape ``(..., n)``, n at least 2; its length is κ, its direction the mean's.
    """

    arg_constraints: ClassVar = {"concentration": constraints.real_vector}
    support = constraints.sphere

    def __init__(self, concentration: Tensor, validate_args: bool | None = None) -> None:
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "VonMisesFisher":
        return VonMisesFisher(self.concentration.expand(*batch_shape, -1), validate_args=False)

    def of_angles(self) -> tuple[Tensor, Tensor]:
        """Cosines of angles to the mean direction, and the log of their unnormalized masses: Gauss-Legendre nodes."""
        nodes, weights = (self.concentration.new_tensor(values) for values in np.polynomial.legendre.leggauss(256))
        angles, kappa = (nodes + 1) * math.pi / 2, self.kappa.unsqueeze(-1)
        around = (self.event_shape[0] - 2) * angles.sin().log() + (weights * math.pi / 2).log()
        return angles.cos(), kappa * angles.cos() + around

    @property
    def kappa(self) -> Tensor:
        return (self.concentration.square().sum(-1) + 1e-12).sqrt()  # with a gradient at 0

    @property
    def mean(self) -> Tensor:
        cosines, log_masses = self.of_angles()
        return normalize(self.concentration, dim=-1) * (log_masses.softmax(-1) @ cosines).unsqueeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        half = (self.event_shape[0] - 1) / 2
        area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)  # of the sphere of one dimension less
        return (self.concentration * value).sum(-1) - self.of_angles()[1].logsumexp(-1) - area

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Wood's rejection sampler (1994) of the cosine; the direction around the mean is uniform."""
        around = torch.randn(self._extended_shape(torch.Size(sample_shape))).to(self.concentration)
        kappa, degrees = self.kappa.expand(around.shape[:-1]), self.event_shape[0] - 1
        b = degrees / (2 * kappa + (4 * kappa**2 + degrees**2).sqrt())
        middle = (1 - b) / (1 + b)
        cosine, missing = torch.zeros_like(kappa), torch.ones_like(kappa, dtype=torch.bool)
        beta = torch.distributions.Beta(b.new_full(b.shape, degrees / 2), degrees / 2)
        while missing.any():
            draw = beta.sample()
            proposed = (1 - (1 + b) * draw) / (1 - (1 - b) * draw)
            log_ratio = kappa * (proposed - middle) + degrees * ((1 - middle * proposed) / (1 - middle**2)).log()
            accepted = missing & (log_ratio >= torch.rand_like(kappa).log())
            cosine, missing = torch.where(accepted, proposed, cosine), missing & ~accepted
        direction = normalize(self.concentration, dim=-1)
        around = normalize(around - (around * direction).sum(-1, keepdim=True) * direction, dim=-1)
        cosine = cosine.unsqueeze(-1)
        return normalize(cosine * direction + (1 - cosine**2).clamp(min=0).sqrt() * around, dim=-1)


# --8<-- [end:distribution]


# --8<-- [start:prior]
class SphericalPrior(ExactPrior):
    """content uniform on the unit sphere, style ~ N(0, style_variance), z = content + style."""

    def __init__(self, latent_dim: int, style_variance: float = 0.01) -> None:
        super().__init__(latent_dim)
        if latent_dim < 2:
            raise ValueError(f"content on a sphere needs at least 2 axes, got {latent_dim}")
        self.style_variance = style_variance
        self.register_buffer("zero", torch.zeros(latent_dim))

    def content(self) -> VonMisesFisher:
        return VonMisesFisher(self.zero)

    def style(self, content: Tensor) -> dist.Independent:
        return dist.Normal(torch.zeros_like(content), self.style_variance**0.5).to_event(1)

    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        return content + style

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return z - content

    def content_posterior(self, z: Tensor) -> VonMisesFisher:
        """Π_j N(z_j; content, variance) on the sphere is exp(content · Σ_j z_j / variance) up to a constant."""
        return VonMisesFisher(z.sum(-3, keepdim=True) / self.style_variance)

    def log_marginal(self, z: Tensor) -> Tensor:
        """log p(z) = log p(content) + log p(z | content) − log p(content | z), which holds for any content."""
        content = normalize(z.sum(-3, keepdim=True), dim=-1)
        of_views = self.style(content).log_prob(z - content).sum(-2)
        return of_views + (self.content().log_prob(content) - self.content_posterior(z).log_prob(content)).squeeze(-2)


# --8<-- [end:prior]


class TestSphericalPrior(PriorSuite):
    latents = (2, 3)

    def make(self, latent_dim: int) -> SphericalPrior:
        return SphericalPrior(latent_dim, style_variance=0.3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150)
    arguments = parser.parse_args()
    digits = load_data("digits")
    policy = augmentation_policy("affine", digits.image_shape)
    for prior in (SphericalPrior(LATENT), GaussianPrior(LATENT)):
        torch.manual_seed(0)
        model = SimVE(prior, Bernoulli(MLPDecoder(LATENT, digits.image_shape, hidden=(256, 512))))
        guide = AmortizedGuide(MLPEncoder(digits.image_shape, hidden=(512, 256)), prior)
        fit(model, guide, digits.train.images, policy=policy, epochs=arguments.epochs, lr=2e-3, schedule=WarmupCosine())
        records = evaluate_representations(guide, policy, digits.train, digits.validation, digits.test, seed=0)
        linear, knn = (score(records, task="class", probe=name, representation="content") for name in ("linear", "knn"))
        length = guide.embed_batches(digits.test.images).content.norm(dim=-1).mean()
        print(f"{type(prior).__name__:14} class from content: linear {linear:.3f}, k-NN {knn:.3f}; length {length:.2f}")

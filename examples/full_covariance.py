"""A user-defined guide: a Gaussian of full covariance over each view's z.

From this folder, in the shell: python -m pp_simve.fit --guide full_covariance:FullCovarianceGuide
"""

import argparse

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pp_simve import (
    Bernoulli,
    GaussianPrior,
    MLPDecoder,
    MLPEncoder,
    Prior,
    SimVE,
    WarmupCosine,
    ZFirstGuide,
    augmentation_policy,
    evaluate_representations,
    load_data,
)
from pp_simve.evaluation import score
from pp_simve.inference import fit
from pp_simve.testing import GuideSuite

LATENT = 16


# --8<-- [start:guide]
class FullCovarianceGuide(ZFirstGuide):
    """q(z_j | x_j) = N(μ(x_j), LLᵀ), L(x_j) = diag(scale) (I + strictly lower triangle)."""

    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        super().__init__(encoder, prior, outputs=2 * prior.latent_dim + prior.latent_dim**2)

    def latent(self, features: Tensor) -> dist.MultivariateNormal:
        width = self.prior.latent_dim
        loc, raw_scale, square = self.encoder_head(features).split([width, width, width**2], -1)
        scale = nn.functional.softplus(raw_scale - 3.5) + 1e-4  # starts at 0.03, less than the means' spread
        lower = square.unflatten(-1, (width, width)).tril(-1)
        return dist.MultivariateNormal(loc, scale_tril=scale.unsqueeze(-1) * lower + scale.diag_embed())


# --8<-- [end:guide]


class TestFullCovarianceGuide(GuideSuite):
    def make(self, encoder: nn.Module, prior: Prior) -> FullCovarianceGuide:
        return FullCovarianceGuide(encoder, prior)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150)
    arguments = parser.parse_args()
    digits = load_data("digits")
    policy = augmentation_policy("affine", digits.image_shape)
    torch.manual_seed(0)
    prior = GaussianPrior(LATENT)
    model = SimVE(prior, Bernoulli(MLPDecoder(LATENT, digits.image_shape, hidden=(256, 512))))
    guide = FullCovarianceGuide(MLPEncoder(digits.image_shape, hidden=(512, 256)), prior)
    fit(model, guide, digits.train.images, policy=policy, epochs=arguments.epochs, lr=2e-3, schedule=WarmupCosine())
    records = evaluate_representations(guide, policy, digits.train, digits.validation, digits.test, seed=0)
    print(f"class from content: linear {score(records, task='class', probe='linear', representation='content'):.3f}")
    with torch.no_grad():
        q = guide.latent(guide.features(digits.test.images.float().div(255).unsqueeze(0)))
    correlation = q.covariance_matrix / (q.stddev.unsqueeze(-1) * q.stddev.unsqueeze(-2))
    pairs = correlation.abs()[0, :, *torch.triu_indices(LATENT, LATENT, 1)]
    print(f"mean absolute correlation of two axes of z under q: {pairs.mean():.2f}")

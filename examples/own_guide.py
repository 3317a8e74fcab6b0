"""A user-defined guide: content from a product of the views' Gaussians, style given content. Works with any prior."""

import argparse

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pp_simve.data import load_data
from pp_simve.evaluation import evaluate_representations, score
from pp_simve.inference import Guide, MLPEncoder, Representation, WarmupCosine, fit
from pp_simve.inference.augmentations import augmentation_policy
from pp_simve.models import Bernoulli, MLPDecoder, Prior, SimVE, StudentTPrior, apply_network
from pp_simve.testing import GuideSuite

# --8<-- [start:guide]
START = -3.5  # of raw scales: softplus gives 0.03, less than the spread of an untrained network's means


class VotingGuide(Guide):
    """q(content | x_1..J) ∝ Π_j N(content; vote(x_j), scale(x_j)²), q(style_j | content, x_j) a Gaussian."""

    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        super().__init__()
        self.prior, self.encoder = prior, encoder
        content = prior.content().event_shape[0]
        style = prior.style(torch.zeros(content)).event_shape[0]
        self.vote = nn.Linear(encoder.features, 2 * content)
        self.rest, self.given = nn.Linear(encoder.features, 2 * style), nn.Linear(content, 2 * style, bias=False)
        nn.init.constant_(self.vote.bias[content:], START)
        nn.init.constant_(self.rest.bias[style:], START)

    def content(self, features: Tensor) -> dist.Independent:
        """Votes weighted by their precisions, batch ``(..., 1, image)``."""
        votes = normal(self.vote(features))
        precision = votes.variance.reciprocal()
        total = precision.sum(-3, keepdim=True)
        return dist.Normal((precision * votes.mean).sum(-3, keepdim=True) / total, total.rsqrt()).to_event(1)

    def style(self, features: Tensor, content: Tensor) -> dist.Independent:
        return normal(self.rest(features) + self.given(content))

    def forward(self, views: Tensor) -> None:
        features = apply_network(self.encoder, views, event_dim=3)
        with pyro.plate("image", views.shape[1], dim=-1):
            content = pyro.sample("content", self.content(features))
            with pyro.plate("view", views.shape[0], dim=-2):
                pyro.sample("style", self.style(features, content))

    def posterior(self, views: Tensor) -> Representation:
        features = apply_network(self.encoder, views, event_dim=3)
        content = self.content(features).mean
        style = self.style(features, content).mean
        return Representation(features, self.prior.compose(content, style), content.squeeze(0), style)


def normal(outputs: Tensor) -> dist.Independent:
    mean, raw_scale = outputs.chunk(2, -1)
    return dist.Normal(mean, torch.nn.functional.softplus(raw_scale) + 1e-4).to_event(1)


# --8<-- [end:guide]


# --8<-- [start:test]
class TestVotingGuide(GuideSuite):
    def make(self, encoder: nn.Module, prior: Prior) -> VotingGuide:
        return VotingGuide(encoder, prior)


# --8<-- [end:test]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150)
    arguments = parser.parse_args()
    digits = load_data("digits")
    torch.manual_seed(0)
    prior = StudentTPrior(latent_dim=32)
    model = SimVE(prior, Bernoulli(MLPDecoder(prior.latent_dim, digits.image_shape, hidden=(256, 512))))
    guide = VotingGuide(MLPEncoder(digits.image_shape, hidden=(512, 256)), prior)
    policy = augmentation_policy("affine", digits.image_shape)
    fit(model, guide, digits.train.images, policy=policy, epochs=arguments.epochs, lr=2e-3, schedule=WarmupCosine())
    records = evaluate_representations(guide, policy, digits.train, digits.validation, digits.test, seed=0)
    linear, knn = (score(records, task="class", probe=name, representation="content") for name in ("linear", "knn"))
    print(f"class from content: linear {linear:.3f}, k-NN {knn:.3f}")

"""A user-defined prior: content in soft clusters. `python examples/own_prior.py` fits it, `pytest` on it tests it."""

import argparse

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pp_simve.data import load_data
from pp_simve.evaluation import evaluate_representations, score
from pp_simve.inference import AmortizedGuide, MLPEncoder, WarmupCosine, fit
from pp_simve.inference.augmentations import augmentation_policy
from pp_simve.models import Bernoulli, ExactPrior, GaussianPrior, MLPDecoder, SimVE
from pp_simve.testing import PriorSuite

LATENT = 32


# --8<-- [start:prior]
class ClusterPrior(ExactPrior):
    """content ~ 1/K Σ_k N(mean_k, within), style ~ N(0, style_variance), z = content + style; the means are learned."""

    def __init__(self, latent_dim: int, clusters: int = 10, within: float = 0.1, style_variance: float = 0.15) -> None:
        super().__init__(latent_dim)
        self.within, self.style_variance = within, style_variance
        # They start close together; far apart, one cluster takes all images and the others get no gradient.
        self.means = nn.Parameter(0.1 * torch.randn(clusters, latent_dim))

    def content(self) -> dist.MixtureSameFamily:
        return self.mixture(torch.zeros_like(self.means[:, 0]), self.means, self.within)

    def style(self, content: Tensor) -> dist.Independent:
        return dist.Normal(torch.zeros_like(content), self.style_variance**0.5).to_event(1)

    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        return content + style

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return z - content

    def content_posterior(self, z: Tensor) -> dist.MixtureSameFamily:
        """The views' mean is sufficient, N(content, noise): it updates each cluster, and weights it by its evidence."""
        mean, noise = z.mean(-3, keepdim=True).unsqueeze(-2), self.style_variance / z.shape[-3]
        weights = dist.Normal(self.means, (self.within + noise) ** 0.5).log_prob(mean).sum(-1)
        total = 1 / self.within + 1 / noise
        return self.mixture(weights, (self.means / self.within + mean / noise) / total, 1 / total)

    def log_marginal(self, z: Tensor) -> Tensor:
        """log p(z) = log p(content) + log p(z | content) − log p(content | z), which holds for any content."""
        content = z.mean(-3, keepdim=True)
        of_views = self.style(content).log_prob(z - content).sum(-2)
        return of_views + (self.content().log_prob(content) - self.content_posterior(z).log_prob(content)).squeeze(-2)

    def mixture(self, logits: Tensor, means: Tensor, variance: float) -> dist.MixtureSameFamily:
        """Σ_k softmax(logits)_k N(means_k, variance): logits ``(..., K)``, means ``(..., K, latent)``."""
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.Normal(means, variance**0.5).to_event(1))


# --8<-- [end:prior]


# --8<-- [start:test]
class TestClusterPrior(PriorSuite):
    def make(self, latent_dim: int) -> ClusterPrior:
        return ClusterPrior(latent_dim, clusters=3)


# --8<-- [end:test]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150)
    arguments = parser.parse_args()
    digits = load_data("digits")
    policy = augmentation_policy("affine", digits.image_shape)
    for prior_class in (ClusterPrior, GaussianPrior):
        torch.manual_seed(0)
        prior = prior_class(LATENT)
        model = SimVE(prior, Bernoulli(MLPDecoder(LATENT, digits.image_shape, hidden=(256, 512))))
        guide = AmortizedGuide(MLPEncoder(digits.image_shape, hidden=(512, 256)), prior)
        fit(model, guide, digits.train.images, policy=policy, epochs=arguments.epochs, lr=2e-3, schedule=WarmupCosine())
        records = evaluate_representations(guide, policy, digits.train, digits.validation, digits.test, seed=0)
        linear, knn = (score(records, task="class", probe=name, representation="content") for name in ("linear", "knn"))
        print(f"{prior_class.__name__:14}class from content: linear {linear:.3f}, k-NN {knn:.3f}")
        if isinstance(prior, ClusterPrior):
            posterior = prior.content_posterior(guide.embed_batches(digits.test.images).z.unsqueeze(0))
            print("images by cluster:", posterior.mixture_distribution.probs.argmax(-1).flatten().bincount().tolist())

"""Our own priors and likelihoods through the suites that a user's run through."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from pp_simve.models import (
    Bernoulli,
    BlockPrior,
    EmpiricalPrior,
    FlatPrior,
    Gaussian,
    GaussianPrior,
    MixturePrior,
    StandardPrior,
    StudentTPrior,
)
from pp_simve.testing.likelihood import LikelihoodSuite
from pp_simve.testing.prior import PriorSuite

CONTENT_VARIANCES, STYLE_VARIANCES = [0.5, 3.0], [0.05, 2.0]
POINTS = [[0.3, -1.0], [1.2, 0.1], [-0.8, 0.7]]


class TestGaussianPrior(PriorSuite):
    def make(self, latent_dim: int) -> GaussianPrior:
        return GaussianPrior(latent_dim)


class TestGaussianPriorWithVariancesByAxis(PriorSuite):
    def make(self, latent_dim: int) -> GaussianPrior:
        return GaussianPrior(latent_dim, CONTENT_VARIANCES[:latent_dim], STYLE_VARIANCES[:latent_dim])


class TestGaussianPriorLearned(PriorSuite):
    def make(self, latent_dim: int) -> GaussianPrior:
        return GaussianPrior(
            latent_dim,
            CONTENT_VARIANCES[:latent_dim],
            STYLE_VARIANCES[:latent_dim],
            learn_content=True,
            learn_style=True,
        )


class TestFlatPrior(PriorSuite):
    proper = False

    def make(self, latent_dim: int) -> FlatPrior:
        return FlatPrior(latent_dim)


class TestFlatPriorLearned(PriorSuite):
    proper = False

    def make(self, latent_dim: int) -> FlatPrior:
        return FlatPrior(latent_dim, STYLE_VARIANCES[:latent_dim], learn_style=True)


class TestMixturePrior(PriorSuite):
    def make(self, latent_dim: int) -> MixturePrior:
        return MixturePrior(latent_dim, prototypes=4)


class TestMixturePriorGiven(PriorSuite):
    def make(self, latent_dim: int) -> MixturePrior:
        points = [point[:latent_dim] for point in POINTS]
        return MixturePrior(latent_dim, points, [0.2, 0.3, 0.5], style_variance=0.4, learn_prototypes=False)


class TestMixturePriorLearned(PriorSuite):
    def make(self, latent_dim: int) -> MixturePrior:
        return MixturePrior(latent_dim, 3, [0.2, 0.3, 0.5], learn_weights=True, learn_style=True)


class TestEmpiricalPriorWithMemory(PriorSuite):
    def make(self, latent_dim: int) -> EmpiricalPrior:
        return EmpiricalPrior(latent_dim, memory=8)


class TestEmpiricalPriorLearnedWithSmallMemory(PriorSuite):
    """Fewer images remembered than a batch has."""

    def make(self, latent_dim: int) -> EmpiricalPrior:
        return EmpiricalPrior(latent_dim, memory=3, learn_style=True)


class TestEmpiricalPriorOfTheBatch(PriorSuite):
    independent_images = False

    def make(self, latent_dim: int) -> EmpiricalPrior:
        return EmpiricalPrior(latent_dim, memory=None, learn_style=True)


class TestBlockPrior(PriorSuite):
    latents: ClassVar[tuple[int, ...]] = (2, 3)

    def make(self, latent_dim: int) -> BlockPrior:
        return BlockPrior(latent_dim, variance=1.5)


class TestBlockPriorOfLearnedGaussian(PriorSuite):
    latents: ClassVar[tuple[int, ...]] = (2, 3)

    def make(self, latent_dim: int) -> BlockPrior:
        return BlockPrior(latent_dim, GaussianPrior(latent_dim - 1, 2.0, 0.3, learn_content=True, learn_style=True))


class TestBlockPriorOfMixture(PriorSuite):
    latents: ClassVar[tuple[int, ...]] = (2, 3)

    def make(self, latent_dim: int) -> BlockPrior:
        return BlockPrior(latent_dim, MixturePrior(latent_dim - 1, 3, learn_weights=True))


class TestBlockPriorOfMemory(PriorSuite):
    latents: ClassVar[tuple[int, ...]] = (2, 3)

    def make(self, latent_dim: int) -> BlockPrior:
        return BlockPrior(latent_dim, EmpiricalPrior(latent_dim - 1, memory=8))


class TestBlockPriorOfFlat(PriorSuite):
    proper = False
    latents: ClassVar[tuple[int, ...]] = (2, 3)

    def make(self, latent_dim: int) -> BlockPrior:
        return BlockPrior(latent_dim, FlatPrior(latent_dim - 1))


class TestBlockPriorOfStandard(PriorSuite):
    latents: ClassVar[tuple[int, ...]] = (2, 3)

    def make(self, latent_dim: int) -> BlockPrior:
        return BlockPrior(latent_dim, StandardPrior(latent_dim - 1))


class TestStandardPrior(PriorSuite):
    def make(self, latent_dim: int) -> StandardPrior:
        return StandardPrior(latent_dim)


class TestStudentTPrior(PriorSuite):
    def make(self, latent_dim: int) -> StudentTPrior:
        return StudentTPrior(latent_dim, content_variance=2.0, degrees=3.0)


class TestBernoulli(LikelihoodSuite):
    # Grey values get the cross-entropy. Over [0, 1] its exponential integrates to (2p - 1) / logit(p), at most a half.
    normalised = False

    def make(self, decoder: nn.Module) -> Bernoulli:
        return Bernoulli(decoder)


class TestGaussian(LikelihoodSuite):
    def make(self, decoder: nn.Module) -> Gaussian:
        return Gaussian(decoder)


class TestGaussianLearned(LikelihoodSuite):
    def make(self, decoder: nn.Module) -> Gaussian:
        return Gaussian(decoder, variance=0.3, learned=True)

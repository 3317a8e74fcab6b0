"""All priors and likelihoods of the package through the suites that users run on theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
from pp_simve.testing import LikelihoodSuite, PriorSuite

CONTENT, STYLE = [0.5, 3.0], [0.05, 2.0]  # variances by axis
POINTS = [[0.3, -1.0], [1.2, 0.1], [-0.8, 0.7]]


def prior(make: Callable[[int], Any], **attributes: Any) -> type[PriorSuite]:
    return type("Suite", (PriorSuite,), {"make": lambda self, latent_dim: make(latent_dim), **attributes})


def block(make: Callable[[int], Any], **attributes: Any) -> type[PriorSuite]:
    """Content of all axes but one."""
    return prior(lambda width: BlockPrior(width, make(width - 1)), latents=(2, 3), **attributes)


TestGaussianPrior = prior(GaussianPrior)
TestGaussianPriorWithVariancesByAxis = prior(lambda width: GaussianPrior(width, CONTENT[:width], STYLE[:width]))
TestGaussianPriorLearned = prior(
    lambda width: GaussianPrior(width, CONTENT[:width], STYLE[:width], learn_content=True, learn_style=True)
)
TestFlatPrior = prior(FlatPrior)
TestFlatPriorLearned = prior(lambda width: FlatPrior(width, STYLE[:width], learn_style=True))
TestMixturePrior = prior(lambda width: MixturePrior(width, prototypes=4))
TestMixturePriorGiven = prior(
    lambda width: MixturePrior(
        width, [point[:width] for point in POINTS], [0.2, 0.3, 0.5], style_variance=0.4, learn_prototypes=False
    )
)
TestMixturePriorLearned = prior(
    lambda width: MixturePrior(width, 3, [0.2, 0.3, 0.5], learn_weights=True, learn_style=True)
)
TestEmpiricalPriorWithMemory = prior(lambda width: EmpiricalPrior(width, memory=8))
# Fewer images remembered than a batch has.
TestEmpiricalPriorLearnedWithSmallMemory = prior(lambda width: EmpiricalPrior(width, memory=3, learn_style=True))
TestEmpiricalPriorOfTheBatch = prior(lambda width: EmpiricalPrior(width, memory=None, learn_style=True))
TestBlockPrior = prior(lambda width: BlockPrior(width, variance=1.5), latents=(2, 3))
TestBlockPriorOfLearnedGaussian = block(
    lambda width: GaussianPrior(width, 2.0, 0.3, learn_content=True, learn_style=True)
)
TestBlockPriorOfMixture = block(lambda width: MixturePrior(width, 3, learn_weights=True))
TestBlockPriorOfMemory = block(lambda width: EmpiricalPrior(width, memory=8))
TestBlockPriorOfFlat = block(FlatPrior)
TestBlockPriorOfStandard = block(StandardPrior)
TestStandardPrior = prior(StandardPrior)
TestStudentTPrior = prior(lambda width: StudentTPrior(width, content_variance=2.0, degrees=3.0))


def likelihood(make: Callable[..., Any], **attributes: Any) -> type[LikelihoodSuite]:
    return type("Suite", (LikelihoodSuite,), {"make": lambda self, decoder: make(decoder), **attributes})


# Grey values get the cross-entropy. Over [0, 1] its exponential integrates to (2p - 1) / logit(p), at most a half.
TestBernoulli = likelihood(Bernoulli, normalized=False)
TestGaussian = likelihood(Gaussian)
TestGaussianLearned = likelihood(lambda decoder: Gaussian(decoder, variance=0.3, learned=True))

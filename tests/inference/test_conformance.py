"""All guides and objectives of the package through the suites that users run on theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pp_simve.inference import (
    ELBO,
    IWAE,
    AmortizedGuide,
    AnalyticELBO,
    ConsistencyELBO,
    DecoderFreeELBO,
    DeltaGuide,
    DenoisingELBO,
    FlowGuide,
    GaussianEntropy,
    PointGuide,
    StructuredGuide,
    VICRegEntropy,
)
from pp_simve.models import (
    BlockPrior,
    EmpiricalPrior,
    FlatPrior,
    GaussianPrior,
    InfoNCE,
    MixturePrior,
    NTXent,
    SimVE,
    StandardPrior,
    StudentTPrior,
)
from pp_simve.testing import GuideSuite, ObjectiveSuite

from .programs import WithoutPixels

Make = Callable[..., Any]


def guide(make: Make, prior: Make | None = None, **attributes: Any) -> type[GuideSuite]:
    members = {"make": lambda self, encoder, prior: make(encoder, prior), **attributes}
    if prior is not None:
        members["make_prior"] = lambda self, latent_dim: prior(latent_dim)
    return type("Suite", (GuideSuite,), members)


TestAmortizedGuide = guide(AmortizedGuide)
TestAmortizedGuideUnderStandardPrior = guide(AmortizedGuide, StandardPrior)
TestAmortizedGuideUnderFlatPrior = guide(AmortizedGuide, FlatPrior)
# Responsibilities are not linear in z.
TestAmortizedGuideUnderMixturePrior = guide(
    AmortizedGuide,
    lambda width: MixturePrior(width, 3, [0.5, 0.25, 0.25], style_variance=0.5, learn_weights=True),
    mean_is_exact=False,
)
TestAmortizedGuideUnderEmpiricalPrior = guide(
    AmortizedGuide, lambda width: EmpiricalPrior(width, memory=32, style_variance=0.5), mean_is_exact=False
)
TestAmortizedGuideUnderEmpiricalPriorOfTheBatch = guide(
    AmortizedGuide,
    lambda width: EmpiricalPrior(width, memory=None, style_variance=0.5),
    mean_is_exact=False,
)
TestStructuredGuide = guide(StructuredGuide)
TestStructuredGuideUnderLearnedPrior = guide(
    StructuredGuide, lambda width: GaussianPrior(width, 1.0, 0.5, learn_content=True, learn_style=True)
)
TestStructuredGuideUnderBlockPrior = guide(StructuredGuide, lambda width: BlockPrior(width, style_variance=0.5))
TestStructuredGuideUnderStudentTPrior = guide(StructuredGuide, lambda width: StudentTPrior(width, style_variance=0.5))
# The flow's center is only near its mean.
TestFlowGuide = guide(lambda encoder, prior: FlowGuide(encoder, prior, hidden=[8]), mean_is_exact=False)
TestPointGuide = guide(PointGuide)
TestDeltaGuide = guide(DeltaGuide)


def objective(make: Make, within: type[ObjectiveSuite] = ObjectiveSuite, **attributes: Any) -> type[ObjectiveSuite]:
    """Attributes that are parts replace those of the pair: ``prior`` by width, ``guide``."""
    members = {"make": lambda self, model, guide: make(model, guide)}
    if prior := attributes.pop("prior", None):
        members["make_prior"] = lambda self, latent_dim: prior(latent_dim)
    if guide := attributes.pop("guide", None):
        members["make_guide"] = lambda self, encoder, prior: guide(encoder, prior)
    return type("Suite", (within,), members | attributes)


TestELBO = objective(ELBO)
TestELBOWithBeta = objective(lambda model, guide: ELBO(model, guide, beta=0.5))
TestELBOOfParticles = objective(lambda model, guide: ELBO(model, guide, particles=3))
TestELBOOfDeltaGuide = objective(ELBO, guide=DeltaGuide)
# Every image is a candidate for the others.
TestELBOUnderEmpiricalPriorOfTheBatch = objective(
    ELBO, prior=lambda width: EmpiricalPrior(width, memory=None), additive=False
)
TestELBOUnderEmpiricalPrior = objective(ELBO, prior=lambda width: EmpiricalPrior(width, memory=32))
TestIWAE = objective(lambda model, guide: IWAE(model, guide, samples=4))
TestAnalyticELBO = objective(AnalyticELBO)
# What is free depends on the mean over the batch: more than some axes cost, less than others.
TestAnalyticELBOWithFreeBits = objective(
    lambda model, guide: AnalyticELBO(model, guide, beta=0.5, free_bits=5.6), additive=False
)
TestAnalyticELBOOfStructuredGuide = objective(AnalyticELBO, guide=StructuredGuide)
TestAnalyticELBOOfStructuredGuideWithFreeBits = objective(
    lambda model, guide: AnalyticELBO(model, guide, free_bits=4.4), guide=StructuredGuide, additive=False
)
TestConsistencyELBO = objective(ConsistencyELBO)
TestDenoisingELBO = objective(DenoisingELBO)
TestBridge = objective(
    lambda model, guide: ELBO(SimVE(model.prior, model.likelihood, NTXent()), guide, alpha=2.0),
    additive=False,
    least_views=2,
)
TestContrastive = objective(
    lambda model, guide: ELBO(SimVE(model.prior, group=InfoNCE()), guide, beta=0.0), WithoutPixels, additive=False
)
TestDecoderFreeELBO, TestDecoderFreeELBOOfVICReg, TestDecoderFreeELBOOfTheDeterminant = (
    objective(
        lambda model, guide, options=options: DecoderFreeELBO(SimVE(model.prior), guide, **options),
        WithoutPixels,
        additive=False,
    )
    for options in ({}, {"entropy": VICRegEntropy()}, {"entropy": GaussianEntropy(0.1)})
)

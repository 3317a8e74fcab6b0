"""All guides and objectives of the package through the suites that users run on theirs."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

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
    Guide,
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
    Prior,
    SimVE,
    StandardPrior,
    StudentTPrior,
)
from pp_simve.testing.guide import GuideSuite
from pp_simve.testing.objective import ObjectiveSuite

from .programs import WithoutPixels


class TestAmortizedGuide(GuideSuite):
    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return AmortizedGuide(encoder, prior)


class TestAmortizedGuideUnderStandardPrior(TestAmortizedGuide):
    def make_prior(self, latent_dim: int) -> Prior:
        return StandardPrior(latent_dim)


class TestAmortizedGuideUnderFlatPrior(TestAmortizedGuide):
    def make_prior(self, latent_dim: int) -> Prior:
        return FlatPrior(latent_dim)


class TestAmortizedGuideUnderMixturePrior(TestAmortizedGuide):
    mean_is_exact: ClassVar[bool] = False  # responsibilities are not linear in z

    def make_prior(self, latent_dim: int) -> Prior:
        return MixturePrior(latent_dim, 3, [0.5, 0.25, 0.25], style_variance=0.5, learn_weights=True)


class TestAmortizedGuideUnderEmpiricalPrior(TestAmortizedGuide):
    mean_is_exact: ClassVar[bool] = False

    def make_prior(self, latent_dim: int) -> Prior:
        return EmpiricalPrior(latent_dim, memory=32, style_variance=0.5)


class TestAmortizedGuideUnderEmpiricalPriorOfTheBatch(TestAmortizedGuide):
    mean_is_exact: ClassVar[bool] = False
    independent_images: ClassVar[bool] = False

    def make_prior(self, latent_dim: int) -> Prior:
        return EmpiricalPrior(latent_dim, memory=None, style_variance=0.5)


class TestStructuredGuide(GuideSuite):
    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return StructuredGuide(encoder, prior)


class TestStructuredGuideUnderLearnedPrior(TestStructuredGuide):
    def make_prior(self, latent_dim: int) -> Prior:
        return GaussianPrior(latent_dim, 1.0, 0.5, learn_content=True, learn_style=True)


class TestStructuredGuideUnderBlockPrior(TestStructuredGuide):
    def make_prior(self, latent_dim: int) -> Prior:
        return BlockPrior(latent_dim, style_variance=0.5)


class TestStructuredGuideUnderStudentTPrior(TestStructuredGuide):
    def make_prior(self, latent_dim: int) -> Prior:
        return StudentTPrior(latent_dim, style_variance=0.5)


class TestFlowGuide(GuideSuite):
    mean_is_exact: ClassVar[bool] = False  # the flow's centre is only near its mean

    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return FlowGuide(encoder, prior, hidden=[8])


class TestPointGuide(GuideSuite):
    has_density: ClassVar[bool] = False

    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return PointGuide(encoder, prior)


class TestDeltaGuide(GuideSuite):
    has_density: ClassVar[bool] = False

    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        return DeltaGuide(encoder, prior)


class TestELBO(ObjectiveSuite):
    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return ELBO(model, guide)


class TestELBOWithBeta(ObjectiveSuite):
    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return ELBO(model, guide, beta=0.5)


class TestELBOOfParticles(ObjectiveSuite):
    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return ELBO(model, guide, particles=3)


class TestELBOOfDeltaGuide(TestELBO):
    def make_guide(self, encoder: nn.Module, prior: Prior) -> Guide:
        return DeltaGuide(encoder, prior)


class TestELBOUnderEmpiricalPriorOfTheBatch(TestELBO):
    additive: ClassVar[bool] = False  # every image is a candidate for the others

    def make_prior(self, latent_dim: int) -> Prior:
        return EmpiricalPrior(latent_dim, memory=None)


class TestELBOUnderEmpiricalPrior(TestELBO):
    def make_prior(self, latent_dim: int) -> Prior:
        return EmpiricalPrior(latent_dim, memory=32)


class TestIWAE(ObjectiveSuite):
    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return IWAE(model, guide, samples=4)


class TestAnalyticELBO(ObjectiveSuite):
    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return AnalyticELBO(model, guide)


class TestAnalyticELBOWithFreeBits(ObjectiveSuite):
    additive: ClassVar[bool] = False  # what is free depends on the mean over the batch

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return AnalyticELBO(model, guide, beta=0.5, free_bits=5.6)  # more than some axes cost, less than others


class TestAnalyticELBOOfStructuredGuide(TestAnalyticELBO):
    def make_guide(self, encoder: nn.Module, prior: Prior) -> Guide:
        return StructuredGuide(encoder, prior)


class TestAnalyticELBOOfStructuredGuideWithFreeBits(TestAnalyticELBOOfStructuredGuide):
    additive: ClassVar[bool] = False

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return AnalyticELBO(model, guide, free_bits=4.8)


class TestConsistencyELBO(ObjectiveSuite):
    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return ConsistencyELBO(model, guide)


class TestDenoisingELBO(ObjectiveSuite):
    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return DenoisingELBO(model, guide)


class TestBridge(ObjectiveSuite):
    additive: ClassVar[bool] = False  # every image is a candidate for the others
    least_views: ClassVar[int] = 2

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return ELBO(SimVE(model.prior, model.likelihood, NTXent()), guide, alpha=2.0)


class TestContrastive(WithoutPixels):
    additive: ClassVar[bool] = False

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return ELBO(SimVE(model.prior, group=InfoNCE()), guide, beta=0.0)


class TestImpliedELBO(TestContrastive):
    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return DecoderFreeELBO(SimVE(model.prior), guide)


class TestImpliedELBOOfVICReg(TestContrastive):
    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return DecoderFreeELBO(SimVE(model.prior), guide, entropy=VICRegEntropy())


class TestImpliedELBOOfTheDeterminant(TestContrastive):
    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return DecoderFreeELBO(SimVE(model.prior), guide, entropy=GaussianEntropy(0.1))

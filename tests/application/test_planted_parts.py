"""The suites of priors and likelihoods find mistakes that were planted, and nothing in the same part without them."""

from __future__ import annotations

import math
import re
import unittest
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pp_simve.models import EmpiricalPrior, Likelihood, QuadraticPrior, apply_network
from pp_simve.testing.likelihood import LikelihoodSuite
from pp_simve.testing.prior import PriorSuite


def failing(suite: Any) -> dict[str, Exception]:
    """The checks of a suite that fail, with how; skipped ones are left out."""
    found: dict[str, Exception] = {}
    for name in dir(suite):
        if name.startswith("test_"):
            try:
                getattr(suite, name)()
            except unittest.SkipTest:
                continue
            except Exception as error:  # whatever pytest would count as a failure
                found[name] = error
    return found


# A right prior, and mistakes in it


class Right(QuadraticPrior):
    """content ~ N(centre, τ²), style ~ N(0, Σ), both learned, z = content + style; the centre drawn at random."""

    centre: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("centre", torch.randn(latent_dim))
        self.log_content = nn.Parameter(torch.linspace(-0.5, 0.3, latent_dim))
        self.log_style = nn.Parameter(torch.linspace(-1.0, 0.2, latent_dim))

    def place(self) -> Tensor:
        return self.centre

    def content_variance(self) -> Tensor:
        return self.log_content.exp()

    def style_variance(self) -> Tensor:
        return self.log_style.exp()

    def content(self) -> dist.Independent:
        return dist.Normal(self.place(), self.content_variance().sqrt()).to_event(1)

    def style(self, content: Tensor) -> dist.Independent:
        return dist.Normal(torch.zeros_like(content), self.style_variance().sqrt()).to_event(1)

    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        return content + style

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return z - content

    def weight(self, z: Tensor, precision: Tensor | None) -> Tensor:
        noise = self.style_variance() if precision is None else self.style_variance() + 1 / precision
        return (1 / noise).expand_as(z)

    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
        weight, known = self.weight(z, precision), 1 / self.content_variance()
        total = known + weight.sum(-3, keepdim=True)
        mean = (known * self.place() + (weight * z).sum(-3, keepdim=True)) / total
        return dist.Normal(mean, total.rsqrt()).to_event(1)

    def by_axis(self, z: Tensor, precision: Tensor | None) -> Tensor:
        """log p(content) + Σ_j log p(z_j | content) − log p(content | z) at the centre, by axis."""
        place = self.place()
        of_z = dist.Normal(place, self.weight(z, precision).rsqrt()).log_prob(z).sum(-3)
        of_content = self.content().base_dist.log_prob(place)
        posterior = self.content_posterior(z, precision).base_dist.log_prob(place)
        return of_z + of_content - posterior.squeeze(-3)

    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        return self.by_axis(z, precision).sum(-1)

    def style_posterior(self, content: Tensor, z: Tensor, precision: Tensor) -> dist.Independent:
        total = precision + 1 / self.style_variance()
        return dist.Normal(precision * (z - content) / total, total.rsqrt()).to_event(1)

    def expected_log_marginal(self, z: Tensor, variance: Tensor) -> Tensor:
        content, style = self.content_variance(), self.style_variance()
        curvature = 1 / style - content / (style * (style + z.shape[-3] * content))
        return self.by_axis(z, None) - 0.5 * curvature * variance.sum(-3)


class Rough(dist.Normal):
    """A Gaussian whose density lacks its constant."""

    def log_prob(self, value: Tensor) -> Tensor:
        return -0.5 * ((value - self.loc) / self.scale).square()


class Overspread(dist.Normal):
    """A Gaussian whose draws spread by half as much again as its density says."""

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + 1.5 * (super().rsample(sample_shape) - self.loc)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)


class UnnormalisedContent(Right):
    def content(self) -> dist.Independent:
        return dist.Independent(Rough(self.centre, self.content_variance().sqrt()), 1)


class UnnormalisedStyle(Right):
    def style(self, content: Tensor) -> dist.Independent:
        return dist.Independent(Rough(torch.zeros_like(content), self.style_variance().sqrt()), 1)


class DrawsOfAnotherScale(Right):
    def style(self, content: Tensor) -> dist.Independent:
        return dist.Independent(Overspread(torch.zeros_like(content), self.style_variance().sqrt()), 1)


class ContentWithoutEvent(Right):
    def content(self) -> dist.Independent:
        return dist.Normal(self.centre, self.content_variance().sqrt())


class StyleWithoutEvent(Right):
    def style(self, content: Tensor) -> dist.Independent:
        return dist.Normal(torch.zeros_like(content), self.style_variance().sqrt())


class StyleOfOneShapeOfContent(Right):
    def style(self, content: Tensor) -> dist.Independent:
        # In the model, content has no dimension of views yet.
        zeros = torch.zeros_like(content[:, :1].expand(-1, content.shape[-2], -1))
        return dist.Normal(zeros, self.style_variance().sqrt()).to_event(1)


class PosteriorWithoutViewDimension(Right):
    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
        right = super().content_posterior(z, precision)
        return dist.Normal(right.mean.squeeze(-3), right.stddev.squeeze(-3)).to_event(1)


class DetachedInOneDensity(Right):
    def style(self, content: Tensor) -> dist.Independent:
        return dist.Normal(torch.zeros_like(content), self.style_variance().detach().sqrt()).to_event(1)


class DetachedEverywhere(Right):
    def style_variance(self) -> Tensor:
        return super().style_variance().detach()


class ParameterOfNoUse(Right):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.unused = nn.Parameter(torch.zeros(latent_dim))


class SinglePrecisionAnswer(Right):
    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        return super().log_marginal(z, precision).float()


class SinglePrecisionWithin(Right):
    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return (z.float() - content.float()).to(z.dtype)


class ConstantOfTheDefaultDtype(Right):
    def content(self) -> dist.Independent:
        return dist.Normal(torch.zeros(self.latent_dim), torch.ones(self.latent_dim)).to_event(1)


class ConstantOnTheCPU(Right):
    def style(self, content: Tensor) -> dist.Independent:
        zeros = torch.zeros(content.shape, dtype=content.dtype)
        return dist.Normal(zeros, self.style_variance().sqrt()).to_event(1)


class FirstViewOnly(Right):
    def weight(self, z: Tensor, precision: Tensor | None) -> Tensor:
        weight = super().weight(z, precision).clone()
        weight[..., 1:, :, :] *= 1e-3
        return weight


class WeightsByPosition(Right):
    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
        position = torch.arange(1.0, z.shape[-3] + 1, dtype=z.dtype, device=z.device)[:, None, None]
        return super().content_posterior(z * position / position.mean(), precision)


class PlainTensor(Right):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        centre = self.centre
        del self.centre
        self.centre = centre


class BufferThatIsNotSaved(Right):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("centre", torch.randn(latent_dim), persistent=False)


class PlainMemory(Right):
    """Its centre is the mean of the batch it was last trained on, kept in a plain attribute."""

    seen: Tensor | None = None

    def remember(self, z: Tensor) -> None:
        if self.training:
            self.seen = z.detach().mean((-3, -2))

    def place(self) -> Tensor:
        return self.centre if self.seen is None else self.seen


class ComposeThatScales(Right):
    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        return content + 2 * style

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return (z - content) / 2


class DecomposeThatForgets(Right):
    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return z


class MarginalOfIndependentViews(Right):
    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        variance = self.content_variance() + 1 / self.weight(z, precision)
        return dist.Normal(self.centre, variance.sqrt()).log_prob(z).sum((-3, -1))


class MarginalWithoutConstant(Right):
    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        return super().log_marginal(z, precision) + 0.5 * z.shape[-3] * self.latent_dim * math.log(2 * math.pi)


class PosteriorOfOneView(Right):
    """Its variance is that of a single view."""

    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
        mean = super().content_posterior(z, precision).mean
        total = 1 / self.content_variance() + self.weight(z, precision).mean(-3, keepdim=True)
        return dist.Normal(mean, total.rsqrt()).to_event(1)


class PotentialsWithoutPrecision(Right):
    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
        return super().content_posterior(z, None)


class VarianceForPrecision(Right):
    def weight(self, z: Tensor, precision: Tensor | None) -> Tensor:
        return super().weight(z, None if precision is None else 1 / precision)


class StyleWithoutPotential(Right):
    def style_posterior(self, content: Tensor, z: Tensor, precision: Tensor) -> dist.Independent:
        right = super().style_posterior(content, z, precision)
        return dist.Normal(right.mean, self.style_variance().sqrt()).to_event(1)


class ExpectationWithoutVariance(Right):
    def expected_log_marginal(self, z: Tensor, variance: Tensor) -> Tensor:
        return self.by_axis(z, None)


class ExpectationNotByAxis(Right):
    def expected_log_marginal(self, z: Tensor, variance: Tensor) -> Tensor:
        return super().expected_log_marginal(z, variance).sum(-1, keepdim=True)


class MeanOverImages(Right):
    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
        return super().content_posterior(z - 0.1 * z.mean(-2, keepdim=True), precision)


class MeanOverParticles(Right):
    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
        moved = z - 0.1 * z.mean(0, keepdim=True) if z.ndim > 3 else z
        return super().content_posterior(moved, precision)


class NoisyMarginal(Right):
    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        right = super().log_marginal(z, precision)
        return right + 1e-3 * torch.randn_like(right)


class RandomFromNumpy(Right):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.centre.copy_(torch.as_tensor(np.random.default_rng().normal(size=latent_dim)))


class LatentOfAnySize(Right):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(max(latent_dim, 1))


class EmpiricalOfTheBatch(EmpiricalPrior):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim, memory=None)


class BrokenInTraining(Right):
    def style(self, content: Tensor) -> dist.Independent:
        scale = self.style_variance().sqrt() * (0.0 if self.training else 1.0)
        return dist.Normal(torch.zeros_like(content), scale, validate_args=False).to_event(1)


# A right likelihood, and mistakes in it


class RightLikelihood(Likelihood):
    """Each pixel N(decoder's mean, learned variance), with a fixed pattern of brightness drawn at random."""

    pattern: Tensor

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.log_scale = nn.Parameter(torch.tensor(-1.0))
        self.register_buffer("pattern", 0.1 * torch.randn(()))

    def mean(self, z: Tensor) -> Tensor:
        return apply_network(self.decoder, z, event_dim=1) + self.pattern

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(z), self.log_scale.exp()).to_event(3)


class PixelsAsBatch(RightLikelihood):
    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(z), self.log_scale.exp())


class RowsAsBatch(RightLikelihood):
    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(z), self.log_scale.exp()).to_event(2)


class SquaredError(RightLikelihood):
    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Independent(Rough(self.mean(z), self.log_scale.exp()), 3)


class DetachedDecoder(RightLikelihood):
    def mean(self, z: Tensor) -> Tensor:
        return super().mean(z).detach()


class DetachedScale(RightLikelihood):
    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(z), self.log_scale.detach().exp()).to_event(3)


class HalfDetached(RightLikelihood):
    def mean(self, z: Tensor) -> Tensor:
        mean = super().mean(z)
        return 0.5 * (mean + mean.detach())


class DetachedLatent(RightLikelihood):
    def mean(self, z: Tensor) -> Tensor:
        return super().mean(z.detach())


class CastToSingle(RightLikelihood):
    def mean(self, z: Tensor) -> Tensor:
        return super().mean(z).float()

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(z), self.log_scale.float().exp()).to_event(3)


class ScaleOnTheCPU(RightLikelihood):
    def forward(self, z: Tensor) -> dist.TorchDistribution:
        mean = self.mean(z)
        return dist.Normal(mean, torch.ones(mean.shape, dtype=mean.dtype) * self.log_scale.exp()).to_event(3)


class BatchNormalised(RightLikelihood):
    def mean(self, z: Tensor) -> Tensor:
        mean = super().mean(z)
        return mean - mean.mean(dim=tuple(range(z.ndim - 1)), keepdim=True)


class DecoderCalledDirectly(RightLikelihood):
    def mean(self, z: Tensor) -> Tensor:
        return self.decoder(z) + self.pattern


class DecoderAlwaysInFull(RightLikelihood):
    def mean(self, z: Tensor) -> Tensor:
        images = self.decoder(z.reshape(-1, z.shape[-1]))
        return images.reshape(*z.shape[:-1], *images.shape[1:]) + self.pattern


class InfiniteAtBlackAndWhite(RightLikelihood):
    def forward(self, z: Tensor) -> dist.TorchDistribution:
        concentration = 1 + self.mean(z).exp(), (1 + self.log_scale.exp()).expand(self.mean(z).shape)
        return dist.Independent(dist.Beta(*concentration, validate_args=False), 3, validate_args=False)


class WithoutMean(RightLikelihood):
    def forward(self, z: Tensor) -> dist.TorchDistribution:
        pixels = dist.Normal(self.mean(z), self.log_scale.exp())
        squashed = dist.TransformedDistribution(pixels, [dist.transforms.SigmoidTransform()], validate_args=False)
        return squashed.to_event(3)


class PatternNotSaved(RightLikelihood):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__(decoder)
        self.register_buffer("pattern", 0.1 * torch.randn(()), persistent=False)


class PatternInAPlainTensor(RightLikelihood):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__(decoder)
        pattern = self.pattern
        del self.pattern
        self.pattern = pattern


class Dropout(RightLikelihood):
    def mean(self, z: Tensor) -> Tensor:
        return functional.dropout(super().mean(z), 0.1)


class ScaleOfNoUse(RightLikelihood):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__(decoder)
        self.unused = nn.Parameter(torch.zeros(()))


# The checks that must find each mistake; others may find it too.
PRIORS: dict[Callable[[int], Any], list[str]] = {
    UnnormalisedContent: ["test_content_density_integrates_to_one"],
    UnnormalisedStyle: ["test_style_density_integrates_to_one", "test_posterior_is_joint_over_marginal"],
    DrawsOfAnotherScale: ["test_draws_follow_the_densities"],
    ContentWithoutEvent: ["test_shapes", "test_runs_in_the_program"],
    StyleWithoutEvent: ["test_shapes", "test_runs_in_the_program"],
    StyleOfOneShapeOfContent: ["test_shapes", "test_runs_in_the_program"],
    PosteriorWithoutViewDimension: ["test_shapes"],
    DetachedInOneDensity: ["test_gradients_equal_finite_differences"],
    DetachedEverywhere: ["test_every_parameter_gets_a_gradient", "test_five_steps_of_a_fit"],
    ParameterOfNoUse: ["test_every_parameter_gets_a_gradient", "test_five_steps_of_a_fit"],
    SinglePrecisionAnswer: ["test_keeps_dtype"],
    SinglePrecisionWithin: ["test_decompose_inverts_compose", "test_gradients_equal_finite_differences"],
    ConstantOfTheDefaultDtype: ["test_keeps_dtype", "test_moves_to_another_device"],
    ConstantOnTheCPU: ["test_moves_to_another_device"],
    FirstViewOnly: ["test_order_of_views_does_not_matter"],
    WeightsByPosition: ["test_order_of_views_does_not_matter"],
    PlainTensor: ["test_state_dict_holds_everything", "test_keeps_dtype", "test_moves_to_another_device"],
    BufferThatIsNotSaved: ["test_state_dict_holds_everything"],
    PlainMemory: ["test_state_dict_holds_everything"],
    ComposeThatScales: ["test_compose_keeps_volume"],
    DecomposeThatForgets: ["test_decompose_inverts_compose"],
    MarginalOfIndependentViews: ["test_marginal_equals_quadrature", "test_posterior_is_joint_over_marginal"],
    MarginalWithoutConstant: ["test_marginal_equals_quadrature", "test_posterior_is_joint_over_marginal"],
    PosteriorOfOneView: ["test_content_posterior_equals_quadrature", "test_posterior_is_joint_over_marginal"],
    PotentialsWithoutPrecision: [
        "test_marginal_of_potentials_equals_quadrature",
        "test_posterior_of_potentials_is_joint_over_marginal",
    ],
    VarianceForPrecision: [
        "test_certain_potentials_are_known_z",
        "test_marginal_of_potentials_equals_quadrature",
    ],
    StyleWithoutPotential: ["test_style_posterior_is_style_times_potential"],
    ExpectationWithoutVariance: ["test_expected_marginal_equals_quadrature"],
    ExpectationNotByAxis: ["test_shapes"],
    MeanOverImages: ["test_batch_equals_loop"],
    MeanOverParticles: ["test_particles_equal_loop"],
    NoisyMarginal: ["test_same_seed_same_numbers"],
    RandomFromNumpy: ["test_same_seed_same_numbers"],
    LatentOfAnySize: ["test_latent_below_one_is_refused"],
    EmpiricalOfTheBatch: ["test_batch_equals_loop"],
    BrokenInTraining: ["test_five_steps_of_a_fit"],
}
LIKELIHOODS: dict[Callable[[nn.Module], Any], list[str]] = {
    PixelsAsBatch: ["test_one_event_over_a_whole_image"],
    RowsAsBatch: ["test_one_event_over_a_whole_image"],
    SquaredError: ["test_density_integrates_to_one"],
    DetachedDecoder: ["test_every_parameter_and_z_get_a_gradient", "test_five_steps_of_a_fit"],
    DetachedScale: ["test_every_parameter_and_z_get_a_gradient", "test_five_steps_of_a_fit"],
    DetachedLatent: ["test_every_parameter_and_z_get_a_gradient"],
    HalfDetached: ["test_gradients_equal_finite_differences"],
    CastToSingle: ["test_keeps_dtype"],
    ScaleOnTheCPU: ["test_moves_to_another_device"],
    BatchNormalised: ["test_batch_equals_loop"],
    DecoderCalledDirectly: ["test_one_event_over_a_whole_image"],
    DecoderAlwaysInFull: ["test_networks_may_run_in_bfloat16"],
    InfiniteAtBlackAndWhite: ["test_grey_images_have_finite_densities"],
    WithoutMean: ["test_mean_is_an_image"],
    PatternNotSaved: ["test_state_dict_holds_everything"],
    PatternInAPlainTensor: ["test_state_dict_holds_everything", "test_keeps_dtype"],
    Dropout: ["test_same_seed_same_numbers"],
    ScaleOfNoUse: ["test_every_parameter_and_z_get_a_gradient", "test_five_steps_of_a_fit"],
}


def prior_suite(part: Callable[[int], Any], **declared: Any) -> PriorSuite:
    made: PriorSuite = type("Suite", (PriorSuite,), {"make": lambda _, latent_dim: part(latent_dim), **declared})()
    return made


def likelihood_suite(part: Callable[[nn.Module], Any]) -> LikelihoodSuite:
    made: LikelihoodSuite = type("Suite", (LikelihoodSuite,), {"make": lambda _, decoder: part(decoder)})()
    return made


def test_the_right_parts_pass() -> None:
    assert failing(prior_suite(Right)) == {}
    assert failing(prior_suite(EmpiricalOfTheBatch, independent_images=False)) == {}
    assert failing(likelihood_suite(RightLikelihood)) == {}


@pytest.mark.parametrize("part", PRIORS, ids=lambda part: part.__name__)
def test_mistake_in_a_prior_is_found(part: Callable[[int], Any]) -> None:
    assert set(PRIORS[part]) <= set(failing(prior_suite(part)))


@pytest.mark.parametrize("part", LIKELIHOODS, ids=lambda part: part.__name__)
def test_mistake_in_a_likelihood_is_found(part: Callable[[nn.Module], Any]) -> None:
    assert set(LIKELIHOODS[part]) <= set(failing(likelihood_suite(part)))


def test_every_check_finds_a_mistake() -> None:
    """No check of the suites is there for nothing."""
    for suite, planted in ((PriorSuite, PRIORS), (LikelihoodSuite, LIKELIHOODS)):
        checks = {name for name in dir(suite) if name.startswith("test_")}
        assert checks == {name for names in planted.values() for name in names}


@pytest.mark.parametrize(
    ("part", "name", "words"),
    [
        (ContentWithoutEvent, "test_shapes", "content() has batch (1,) and event (), expected batch () and one event"),
        (StyleWithoutEvent, "test_shapes", "is a .to_event(1) missing?"),
        (UnnormalisedStyle, "test_style_density_integrates_to_one", "integrates to 1.52, expected 1"),
        (ComposeThatScales, "test_compose_keeps_volume", "by the factor 2, expected 1"),
        (PlainTensor, "test_keeps_dtype", "centre is a plain tensor"),
        (
            DetachedInOneDensity,
            "test_gradients_equal_finite_differences",
            "the gradient of style(content).log_prob",
        ),
        (MeanOverImages, "test_batch_equals_loop", "look for a sum or mean over images"),
        (LatentOfAnySize, "test_latent_below_one_is_refused", "make(0) gave a prior without axes"),
    ],
)
def test_failures_say_what_is_wrong(part: Callable[[int], Any], name: str, words: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(words)):
        getattr(prior_suite(part), name)()

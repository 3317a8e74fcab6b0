"""The suites of priors and likelihoods find planted mistakes, and none in the same parts without them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from pp_simve.models import EmpiricalPrior, Likelihood, QuadraticPrior, apply_network
from pp_simve.testing import LikelihoodSuite, PriorSuite

from .planted import Mistake, assert_caught, each, failures, suite_for


class Right(QuadraticPrior):
    """content ~ N(center, τ²), style ~ N(0, Σ), both learned, z = content + style; the center drawn at random."""

    center: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("center", torch.randn(latent_dim))
        self.log_content = nn.Parameter(torch.linspace(-0.5, 0.3, latent_dim))
        self.log_style = nn.Parameter(torch.linspace(-1.0, 0.2, latent_dim))

    def place(self) -> Tensor:
        return self.center

    def content_variance(self) -> Tensor:
        return self.log_content.exp()

    def style_variance(self) -> Tensor:
        return self.log_style.exp()

    def content(self) -> dist.Independent:
        return normal(self.place(), self.content_variance())

    def style(self, content: Tensor) -> dist.Independent:
        return normal(torch.zeros_like(content), self.style_variance())

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
        return normal((known * self.place() + (weight * z).sum(-3, keepdim=True)) / total, 1 / total)

    def by_axis(self, z: Tensor, precision: Tensor | None) -> Tensor:
        """log p(content) + Σ_j log p(z_j | content) − log p(content | z) at the center, by axis."""
        place = self.place()
        of_z = dist.Normal(place, self.weight(z, precision).rsqrt()).log_prob(z).sum(-3)
        of_content = self.content().base_dist.log_prob(place)
        posterior = Right.content_posterior(self, z, precision).base_dist.log_prob(place)
        return of_z + of_content - posterior.squeeze(-3)

    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        return self.by_axis(z, precision).sum(-1)

    def style_posterior(self, content: Tensor, z: Tensor, precision: Tensor) -> dist.Independent:
        total = precision + 1 / self.style_variance()
        return normal(precision * (z - content) / total, 1 / total)

    def expected_log_marginal(self, z: Tensor, variance: Tensor) -> Tensor:
        content, style = self.content_variance(), self.style_variance()
        curvature = 1 / style - content / (style * (style + z.shape[-3] * content))
        return self.by_axis(z, None) - 0.5 * curvature * variance.sum(-3)


def normal(mean: Tensor, variance: Tensor) -> dist.Independent:
    return dist.Normal(mean, variance.sqrt()).to_event(1)


class Rough(dist.Normal):
    """A Gaussian whose density lacks its constant."""

    def log_prob(self, value: Tensor) -> Tensor:
        return -0.5 * ((value - self.loc) / self.scale).square()


class Overspread(dist.Normal):
    """A Gaussian whose draws spread by half as much again as its density says."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + 1.5 * (super().rsample(sample_shape) - self.loc)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)


class ParameterOfNoUse(Right):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.unused = nn.Parameter(torch.zeros(latent_dim))


class PlainTensor(Right):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        center = self.center
        del self.center
        self.center = center


class BufferThatIsNotSaved(Right):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("center", torch.randn(latent_dim), persistent=False)


class PlainMemory(Right):
    """Its center is the mean of the batch it was last trained on, kept in a plain attribute."""

    seen: Tensor | None = None

    def remember(self, z: Tensor) -> None:
        if self.training:
            self.seen = z.detach().mean((-3, -2))

    def place(self) -> Tensor:
        return self.center if self.seen is None else self.seen


class RandomFromNumpy(Right):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.center.copy_(torch.as_tensor(np.random.default_rng().normal(size=latent_dim)))


class LatentOfAnySize(Right):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(max(latent_dim, 1))


class EmpiricalOfTheBatch(EmpiricalPrior):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim, memory=None)


def style_of_one_shape(self: Right, content: Tensor) -> dist.Independent:
    # In the model, content has no dimension of views yet.
    return normal(torch.zeros_like(content[:, :1].expand(-1, content.shape[-2], -1)), self.style_variance())


def weight_of_the_first_view(self: Right, z: Tensor, precision: Tensor | None) -> Tensor:
    first = torch.arange(z.shape[-3], device=z.device)[:, None, None] == 0
    return Right.weight(self, z, precision) * torch.where(first, 1.0, 1e-3).to(z)


def posterior_weighted_by_position(self: Right, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
    position = torch.arange(1.0, z.shape[-3] + 1, dtype=z.dtype, device=z.device)[:, None, None]
    return Right.content_posterior(self, z * position / position.mean(), precision)


def posterior_of_one_view(self: Right, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
    total = 1 / self.content_variance() + self.weight(z, precision).mean(-3, keepdim=True)
    return normal(Right.content_posterior(self, z, precision).mean, 1 / total)


def posterior_without_view_dimension(self: Right, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
    right = Right.content_posterior(self, z, precision)
    return normal(right.mean.squeeze(-3), right.variance.squeeze(-3))


def style_broken_in_training(self: Right, content: Tensor) -> dist.Independent:
    scale = self.style_variance().sqrt() * (0.0 if self.training else 1.0)
    return dist.Normal(torch.zeros_like(content), scale, validate_args=False).to_event(1)


def noisy_marginal(self: Right, z: Tensor, precision: Tensor | None = None) -> Tensor:
    right = Right.log_marginal(self, z, precision)
    return right + 1e-3 * torch.randn_like(right)


PRIORS = [
    Mistake(
        "content's density lacks its constant",
        {"content": lambda self: dist.Independent(Rough(self.center, self.content_variance().sqrt()), 1)},
        "test_densities_integrate_to_one: the density of content() with latent_dim = 1 integrates to",
    ),
    Mistake(
        "style's density lacks its constant",
        {"style": lambda self, c: dist.Independent(Rough(torch.zeros_like(c), self.style_variance().sqrt()), 1)},
        "test_densities_integrate_to_one: style(content) with latent_dim = 1 integrates to 1.52, expected 1",
        "test_posterior_is_joint_over_marginal",
    ),
    Mistake(
        "draws wider than their density",
        {"style": lambda self, c: dist.Independent(Overspread(torch.zeros_like(c), self.style_variance().sqrt()), 1)},
        "test_draws_follow_the_densities",
    ),
    Mistake(
        "content without to_event",
        {"content": lambda self: dist.Normal(self.center, self.content_variance().sqrt())},
        "test_shapes: content() has batch (1,) and event (), expected batch () and one event",
        "test_runs_in_the_program",
    ),
    Mistake(
        "style without to_event",
        {"style": lambda self, content: dist.Normal(torch.zeros_like(content), self.style_variance().sqrt())},
        "test_shapes: is a .to_event(1) missing?",
        "test_runs_in_the_program: the program with this prior ends in ValueError",
    ),
    Mistake(
        "style for content of one shape only",
        {"style": style_of_one_shape},
        "test_shapes",
        "test_runs_in_the_program: the program with this prior ends in",
    ),
    Mistake(
        "posterior without the view dimension",
        {"content_posterior": posterior_without_view_dimension},
        "test_shapes: content_posterior(z).mean has shape (5, 1), expected (1, 5, 1)",
    ),
    Mistake(
        "detach() in one of the densities",
        {"style": lambda self, content: normal(torch.zeros_like(content), self.style_variance().detach())},
        "test_gradients_equal_finite_differences: the gradient of style(content).log_prob",
    ),
    Mistake(
        "detach() everywhere",
        {"style_variance": lambda self: self.log_style.exp().detach()},
        "test_every_parameter_gets_a_gradient",
        "test_five_steps_of_a_fit: parameter log_style is the same",
    ),
    Mistake(
        "a parameter of no use",
        ParameterOfNoUse,
        "test_every_parameter_gets_a_gradient",
        "test_five_steps_of_a_fit: parameter unused is the same",
    ),
    Mistake(
        ".float() on an answer",
        {"log_marginal": lambda self, z, precision=None: Right.log_marginal(self, z, precision).float()},
        "test_keeps_dtype",
    ),
    Mistake(
        "float32 inside, float64 outside",
        {"decompose": lambda self, content, z: (z.float() - content.float()).to(z.dtype)},
        "test_decompose_inverts_compose",
        "test_gradients_equal_finite_differences",
    ),
    Mistake(
        "constants of the default dtype",
        {"content": lambda self: normal(torch.zeros(self.latent_dim), torch.ones(self.latent_dim))},
        "test_keeps_dtype",
        "test_moves_to_another_device",
    ),
    Mistake(
        "a constant made on the CPU",
        {"style": lambda self, content: normal(torch.zeros(content.shape).to(content.dtype), self.style_variance())},
        "test_moves_to_another_device",
    ),
    Mistake(
        "content from the first view alone", {"weight": weight_of_the_first_view}, "test_order_of_views_does_not_matter"
    ),
    Mistake(
        "views weighted by position",
        {"content_posterior": posterior_weighted_by_position},
        "test_order_of_views_does_not_matter",
    ),
    Mistake(
        "a plain tensor as attribute",
        PlainTensor,
        "test_state_dict_holds_everything: differs after state_dict was loaded",
        "test_keeps_dtype: center is a plain tensor",
        "test_moves_to_another_device",
    ),
    Mistake(
        "a buffer left out of the state",
        BufferThatIsNotSaved,
        "test_state_dict_holds_everything: differs after state_dict was loaded",
    ),
    Mistake(
        "a memory left out of the state",
        PlainMemory,
        "test_state_dict_holds_everything: differs after state_dict was loaded",
    ),
    Mistake(
        "compose that scales",
        {
            "compose": lambda self, content, style: content + 2 * style,
            "decompose": lambda self, content, z: (z - content) / 2,
        },
        "test_compose_keeps_volume: by the factor 2, expected 1",
    ),
    Mistake(
        "decompose that is no inverse", {"decompose": lambda self, content, z: z}, "test_decompose_inverts_compose"
    ),
    Mistake(
        "marginal of independent views",
        {
            "log_marginal": lambda self, z, precision=None: (
                dist.Normal(self.center, (self.content_variance() + 1 / self.weight(z, precision)).sqrt())
                .log_prob(z)
                .sum((-3, -1))
            )
        },
        "test_marginal_and_posterior_equal_quadrature",
        "test_posterior_is_joint_over_marginal",
    ),
    Mistake(
        "marginal without its constant",
        {
            "log_marginal": lambda self, z, precision=None: (
                Right.log_marginal(self, z, precision) + 0.5 * z.shape[-3] * self.latent_dim * math.log(2 * math.pi)
            )
        },
        "test_marginal_and_posterior_equal_quadrature",
        "test_posterior_is_joint_over_marginal",
    ),
    Mistake(
        "posterior of one view for all",
        {"content_posterior": posterior_of_one_view},
        "test_marginal_and_posterior_equal_quadrature",
        "test_posterior_is_joint_over_marginal",
    ),
    Mistake(
        "precision ignored",
        {"content_posterior": lambda self, z, precision=None: Right.content_posterior(self, z)},
        "test_marginal_and_posterior_equal_quadrature: (z, precision) of 1 view(s) is not",
        "test_posterior_is_joint_over_marginal: given z and a precision",
    ),
    Mistake(
        "a variance taken for a precision",
        {"weight": lambda self, z, precision: Right.weight(self, z, None if precision is None else 1 / precision)},
        "test_certain_potentials_are_known_z",
        "test_marginal_and_posterior_equal_quadrature: log_marginal(z, precision) of 1 view(s) is not log ∫",
    ),
    Mistake(
        "style's posterior of the wrong variance",
        {
            "style_posterior": lambda self, content, z, precision: normal(
                Right.style_posterior(self, content, z, precision).mean, self.style_variance()
            )
        },
        "test_style_posterior_is_style_times_potential",
    ),
    Mistake(
        "expectation that forgets the variance",
        {"expected_log_marginal": lambda self, z, variance: self.by_axis(z, None)},
        "test_expected_marginal_equals_quadrature",
    ),
    Mistake(
        "expectation not by axis",
        {
            "expected_log_marginal": lambda self, z, variance: Right.expected_log_marginal(self, z, variance).sum(
                -1, keepdim=True
            )
        },
        "test_shapes: expected_log_marginal(z, variance) has shape",
    ),
    Mistake(
        "a mean over images",
        {
            "content_posterior": lambda self, z, precision=None: Right.content_posterior(
                self, z - 0.1 * z.mean(-2, keepdim=True), precision
            )
        },
        "test_batch_equals_loop: look for a sum or mean over images",
    ),
    Mistake(
        "a mean over particles",
        {
            "content_posterior": lambda self, z, precision=None: Right.content_posterior(
                self, z - 0.1 * z.mean(0, keepdim=True) if z.ndim > 3 else z, precision
            )
        },
        "test_particles_equal_loop",
    ),
    Mistake(
        "noise in a density",
        {"log_marginal": noisy_marginal},
        "test_same_seed_same_numbers: log_marginal(z) differs when computed twice",
    ),
    Mistake("NumPy's randomness", RandomFromNumpy, "test_same_seed_same_numbers: made under the same seed"),
    Mistake(
        "a latent of any size accepted",
        LatentOfAnySize,
        "test_latent_below_one_is_refused: make(0) gave a prior without axes",
    ),
    Mistake(
        "images that depend on one another, undeclared",
        EmpiricalOfTheBatch,
        "test_batch_equals_loop: or set independent_images = False",
    ),
    Mistake(
        "breaks in training mode only",
        {"style": style_broken_in_training},
        "test_five_steps_of_a_fit: a fit of five steps ends in",
    ),
]


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

    def pixels(self, z: Tensor) -> dist.Normal:
        return dist.Normal(self.mean(z), self.log_scale.exp())

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return self.pixels(z).to_event(3)


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


class ScaleOfNoUse(RightLikelihood):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__(decoder)
        self.unused = nn.Parameter(torch.zeros(()))


def centered(self: RightLikelihood, z: Tensor) -> Tensor:
    mean = RightLikelihood.mean(self, z)
    return mean - mean.mean(dim=tuple(range(z.ndim - 1)), keepdim=True)


def half_detached(self: RightLikelihood, z: Tensor) -> Tensor:
    mean = RightLikelihood.mean(self, z)
    return 0.5 * (mean + mean.detach())


def always_in_full(self: RightLikelihood, z: Tensor) -> Tensor:
    images = self.decoder(z.reshape(-1, z.shape[-1]))
    return images.reshape(*z.shape[:-1], *images.shape[1:]) + self.pattern


def scale_on_the_cpu(self: RightLikelihood, z: Tensor) -> dist.Normal:
    mean = self.mean(z)
    return dist.Normal(mean, torch.ones(mean.shape, dtype=mean.dtype) * self.log_scale.exp())


def beta(self: RightLikelihood, z: Tensor) -> dist.TorchDistribution:
    concentration = 1 + self.mean(z).exp(), (1 + self.log_scale.exp()).expand(self.mean(z).shape)
    return dist.Independent(dist.Beta(*concentration, validate_args=False), 3, validate_args=False)


def squashed(self: RightLikelihood, z: Tensor) -> dist.TorchDistribution:
    transforms = [dist.transforms.SigmoidTransform()]
    return dist.TransformedDistribution(self.pixels(z), transforms, validate_args=False).to_event(3)


LIKELIHOODS = [
    Mistake("pixels as batch", {"forward": lambda self, z: self.pixels(z)}, "test_one_event_over_a_whole_image"),
    Mistake(
        "rows as batch", {"forward": lambda self, z: self.pixels(z).to_event(2)}, "test_one_event_over_a_whole_image"
    ),
    Mistake(
        "squared error, no density",
        {"forward": lambda self, z: dist.Independent(Rough(self.mean(z), self.log_scale.exp()), 3)},
        "test_density_integrates_to_one: the density of an image of one pixel integrates to",
    ),
    Mistake(
        "decoder detached",
        {"mean": lambda self, z: RightLikelihood.mean(self, z).detach()},
        "test_every_parameter_gets_a_gradient",
        "test_five_steps_of_a_fit",
    ),
    Mistake(
        "scale detached",
        {"pixels": lambda self, z: dist.Normal(self.mean(z), self.log_scale.detach().exp())},
        "test_every_parameter_gets_a_gradient",
        "test_five_steps_of_a_fit: parameter log_scale is the same",
    ),
    Mistake("z detached", {"mean": lambda self, z: RightLikelihood.mean(self, z.detach())}, "test_z_gets_a_gradient"),
    Mistake(
        "half of the mean detached",
        {"mean": half_detached},
        "test_gradients_equal_finite_differences: the gradient of log_prob is not its derivative",
    ),
    Mistake(
        ".float()",
        {"pixels": lambda self, z: dist.Normal(self.mean(z).float(), self.log_scale.float().exp())},
        "test_keeps_dtype",
    ),
    Mistake("a scale made on the CPU", {"pixels": scale_on_the_cpu}, "test_moves_to_another_device"),
    Mistake("normalized over the batch", {"mean": centered}, "test_batch_equals_loop"),
    Mistake(
        "decoder called without apply_network",
        {"mean": lambda self, z: self.decoder(z[None])[0] + self.pattern},
        "test_networks_may_run_in_bfloat16",
    ),
    Mistake(
        "decoder that ignores the precision asked for",
        {"mean": always_in_full},
        "test_networks_may_run_in_bfloat16: the decoder ran in torch.float32",
    ),
    Mistake("infinite at black and white", {"forward": beta}, "test_grey_images_have_finite_densities"),
    Mistake("no mean to show", {"forward": squashed}, "test_mean_is_an_image"),
    Mistake(
        "a buffer left out of the state",
        PatternNotSaved,
        "test_state_dict_holds_everything: log_prob differs after state_dict was loaded",
    ),
    Mistake(
        "a plain tensor as attribute",
        PatternInAPlainTensor,
        "test_state_dict_holds_everything: log_prob differs after state_dict was loaded",
        "test_keeps_dtype: pattern is a plain tensor",
    ),
    Mistake(
        "noise of its own",
        {"mean": lambda self, z: functional.dropout(RightLikelihood.mean(self, z), 0.1)},
        "test_same_seed_same_numbers: differs when computed twice",
    ),
    Mistake(
        "a parameter of no use",
        ScaleOfNoUse,
        "test_every_parameter_gets_a_gradient",
        "test_five_steps_of_a_fit: parameter unused is the same",
    ),
]


def test_the_right_parts_pass() -> None:
    assert failures(suite_for(PriorSuite, Right)) == {}
    assert failures(suite_for(PriorSuite, EmpiricalOfTheBatch, independent_images=False)) == {}
    assert failures(suite_for(LikelihoodSuite, RightLikelihood)) == {}


@each(PRIORS)
def test_mistake_in_a_prior_is_found(mistake: Mistake, check: str, words: str) -> None:
    assert_caught(suite_for(PriorSuite, mistake.planted(Right)), check, words)


@each(LIKELIHOODS)
def test_mistake_in_a_likelihood_is_found(mistake: Mistake, check: str, words: str) -> None:
    assert_caught(suite_for(LikelihoodSuite, mistake.planted(RightLikelihood)), check, words)

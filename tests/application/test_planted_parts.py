"""The suites of priors and likelihoods find planted mistakes, and none in the same parts without them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from pp_simve.models import EmpiricalPrior, Likelihood, Prior, QuadraticPrior, apply_network
from pp_simve.testing import LikelihoodSuite, PriorSuite

from .planted import Members, Mistake, assert_caught, built, each, failures, plain, suite_for


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


def tau() -> Tensor:
    return pyro.sample("tau", dist.LogNormal(0.0, 1.0))


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


class PlainMemory(Right):
    """Its center is the mean of the batch it was last trained on, kept in a plain attribute."""

    seen: Tensor | None = None

    def remember(self, z: Tensor) -> None:
        if self.training:
            self.seen = z.detach().mean((-3, -2))

    def place(self) -> Tensor:
        return self.center if self.seen is None else self.seen


class OnSphere(Prior):
    """content ~ ProjectedNormal on the unit sphere, style ~ N(0, 0.3), z = content + style."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.concentration = nn.Parameter(torch.linspace(0.5, 1.5, latent_dim))

    def content(self) -> dist.ProjectedNormal:
        return dist.ProjectedNormal(self.concentration)

    def style(self, content: Tensor) -> dist.Independent:
        return normal(torch.zeros_like(content), torch.full_like(content, 0.3))

    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        return content + style

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return z - content


class SphereSuite(PriorSuite):
    latents = (2, 3)


def projected(**members: Any) -> Members:
    """A `ProjectedNormal` with mistakes as content."""
    wrong = type("Wrong", (dist.ProjectedNormal,), members)
    return {"content": lambda self: wrong(self.concentration)}


class LatentOfAnySize(Right):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(max(latent_dim, 1))


class OfTheBatch(EmpiricalPrior):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim, memory=None)


class OfTheBatchUndeclared(OfTheBatch):
    depends_on_batch = False


def style_of_one_shape(self: Right, content: Tensor) -> dist.Independent:
    # In the model, content has no dimension of views yet.
    return normal(torch.zeros_like(content[:, :1].expand(-1, content.shape[-2], -1)), self.style_variance())


def weight_of_the_first_view(self: Right, z: Tensor, precision: Tensor | None) -> Tensor:
    first = torch.arange(z.shape[-3], device=z.device)[:, None, None] == 0
    return Right.weight(self, z, precision) * torch.where(first, 1.0, 1e-3).to(z)


def weighted_by_position(self: Right, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
    position = torch.arange(1.0, z.shape[-3] + 1, dtype=z.dtype, device=z.device)[:, None, None]
    return posterior(self, z * position / position.mean(), precision)


def of_one_view(self: Right, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
    total = 1 / self.content_variance() + self.weight(z, precision).mean(-3, keepdim=True)
    return normal(posterior(self, z, precision).mean, 1 / total)


def without_view_dimension(self: Right, z: Tensor, precision: Tensor | None = None) -> dist.Independent:
    right = posterior(self, z, precision)
    return normal(right.mean.squeeze(-3), right.variance.squeeze(-3))


def of_independent_views(self: Right, z: Tensor, precision: Tensor | None = None) -> Tensor:
    variance = self.content_variance() + 1 / self.weight(z, precision)
    return dist.Normal(self.center, variance.sqrt()).log_prob(z).sum((-3, -1))


def style_broken_in_training(self: Right, content: Tensor) -> dist.Independent:
    scale = self.style_variance().sqrt() * (0.0 if self.training else 1.0)
    return dist.Normal(torch.zeros_like(content), scale, validate_args=False).to_event(1)


def style_of(normal_class: type[dist.Normal], self: Right, content: Tensor) -> dist.Independent:
    return dist.Independent(normal_class(torch.zeros_like(content), self.style_variance().sqrt()), 1)


posterior, marginal, expected = Right.content_posterior, Right.log_marginal, Right.expected_log_marginal
FIT = "test_five_steps_of_a_fit"
STATE = "test_state_dict_holds_everything: differs after state_dict was loaded"
DENSITY = "test_densities_are_normalized_and_followed_by_draws"
JOINT = "test_marginal_and_posterior_are_those_of_the_joint"

PRIORS: list[Mistake] = [
    (
        "content's density lacks its constant",
        f"{DENSITY}: the density of content() with latent_dim = 1 integrates to",
        {"content": lambda self: dist.Independent(Rough(self.center, self.content_variance().sqrt()), 1)},
    ),
    (
        "style's density lacks its constant",
        f"{DENSITY}: style(content) with latent_dim = 1 integrates to 1.52, expected 1",
        {"style": lambda self, content: style_of(Rough, self, content)},
    ),
    (
        "draws wider than their density",
        f"{DENSITY}: draws of style(content)",
        {"style": lambda self, content: style_of(Overspread, self, content)},
    ),
    (
        "content without to_event",
        "test_shapes: content() has batch (1,) and event (), expected batch () and one event",
        {"content": lambda self: dist.Normal(self.center, self.content_variance().sqrt())},
    ),
    (
        "style without to_event",
        "test_shapes: and one event dimension, by .to_event(1)",
        {"style": lambda self, content: dist.Normal(torch.zeros_like(content), self.style_variance().sqrt())},
    ),
    (
        "a latent that all images share, sampled in content()",
        "test_shapes: content() has the site tau. Expected a distribution and nothing sampled: make it a parameter",
        {"content": lambda self: normal(self.center, tau() * self.content_variance())},
    ),
    (
        "a latent of its own sampled in style()",
        "test_shapes: has the site tau",
        {"style": lambda self, content: normal(torch.zeros_like(content), tau() * self.style_variance())},
    ),
    ("style for content of one shape only", "test_shapes: style(content of shape", {"style": style_of_one_shape}),
    (
        "posterior without the view dimension",
        "test_shapes: content_posterior(z).mean has shape (5, 1), expected (1, 5, 1)",
        {"content_posterior": without_view_dimension},
    ),
    (
        "detach() in one of the densities",
        "test_gradients_equal_finite_differences: the gradient of style(content).log_prob",
        {"style": lambda self, content: normal(torch.zeros_like(content), self.style_variance().detach())},
    ),
    ("detach() everywhere", FIT, {"style_variance": lambda self: self.log_style.exp().detach()}),
    (
        "a parameter of no use",
        f"{FIT}: parameter unused is the same",
        built(Right, lambda self: setattr(self, "unused", nn.Parameter(torch.zeros(())))),
    ),
    (".float() on an answer", "test_keeps_dtype", {"log_marginal": lambda *given: marginal(*given).float()}),
    (
        "float32 inside, float64 outside",
        "test_gradients_equal_finite_differences",
        {"decompose": lambda self, content, z: (z.float() - content.float()).to(z.dtype)},
    ),
    (
        "constants of the default dtype",
        "test_keeps_dtype",
        {"content": lambda self: normal(torch.zeros(self.latent_dim), torch.ones(self.latent_dim))},
    ),
    (
        "constants of the default dtype, as every check names them",
        "test_shapes: content().sample() is torch.float32 in a part of torch.float64",
        {"content": lambda self: normal(torch.zeros(self.latent_dim), torch.ones(self.latent_dim))},
    ),
    (
        "a constant made on the CPU",
        "test_moves_to_another_device",
        {"style": lambda self, content: normal(torch.zeros(content.shape).to(content.dtype), self.style_variance())},
    ),
    ("content from the first view alone", "test_order_of_views_does_not_matter", {"weight": weight_of_the_first_view}),
    (
        "views weighted by position",
        "test_order_of_views_does_not_matter",
        {"content_posterior": weighted_by_position},
    ),
    (
        "a plain tensor as attribute",
        "test_keeps_dtype: center is a plain tensor",
        built(Right, lambda self: plain(self, "center")),
    ),
    (
        "a buffer left out of the state",
        STATE,
        built(Right, lambda self: self.register_buffer("center", self.center, persistent=False)),
    ),
    ("a memory left out of the state", STATE, PlainMemory),
    (
        "compose that scales",
        "test_compose_keeps_volume_and_decompose_inverts_it: by the factor 2, expected 1",
        {
            "compose": lambda self, content, style: content + 2 * style,
            "decompose": lambda self, content, z: (z - content) / 2,
        },
    ),
    (
        "decompose that is no inverse",
        "test_compose_keeps_volume_and_decompose_inverts_it: is not style",
        {"decompose": lambda self, content, z: z},
    ),
    ("marginal of independent views", f"{JOINT}: log_marginal(z)", {"log_marginal": of_independent_views}),
    (
        "marginal without its constant",
        f"{JOINT}: log_marginal(z)",
        {
            "log_marginal": lambda self, z, *given: (
                marginal(self, z, *given) + 0.5 * z.shape[-3] * self.latent_dim * math.log(2 * math.pi)
            )
        },
    ),
    ("posterior of one view for all", f"{JOINT}: log_marginal(z) of 3 view(s)", {"content_posterior": of_one_view}),
    (
        "precision ignored",
        f"{JOINT}: log_marginal(z, precision) of 1 view(s) is not",
        {"content_posterior": lambda self, z, precision=None: posterior(self, z)},
    ),
    (
        "a variance taken for a precision",
        f"{JOINT}: log_marginal(z, precision) of 1 view(s) is not",
        {"weight": lambda self, z, precision: Right.weight(self, z, None if precision is None else 1 / precision)},
    ),
    (
        "style's posterior of the wrong variance",
        "test_style_posterior_is_style_times_potential",
        {
            "style_posterior": lambda self, *given: normal(
                Right.style_posterior(self, *given).mean, self.style_variance()
            )
        },
    ),
    (
        "expectation that forgets the variance",
        "test_expected_marginal_equals_quadrature",
        {"expected_log_marginal": lambda self, z, variance: self.by_axis(z, None)},
    ),
    (
        "expectation not by axis",
        "test_shapes: expected_log_marginal(z, variance) has shape",
        {"expected_log_marginal": lambda *given: expected(*given).sum(-1, keepdim=True)},
    ),
    (
        "a mean over images",
        "test_batch_equals_loop: image by image",
        {"content_posterior": lambda self, z, *given: posterior(self, z - 0.1 * z.mean(-2, keepdim=True), *given)},
    ),
    (
        "a mean over particles",
        "test_batch_equals_loop: of particles",
        {
            "content_posterior": lambda self, z, *given: posterior(
                self, z - 0.1 * z.mean(0, keepdim=True) if z.ndim > 3 else z, *given
            )
        },
    ),
    (
        "noise in a density",
        "test_same_seed_same_numbers: log_marginal(z) differs when computed twice",
        {"log_marginal": lambda *given: marginal(*given) + 1e-3 * torch.randn_like(marginal(*given))},
    ),
    (
        "NumPy's randomness",
        "test_same_seed_same_numbers: made under the same seed",
        built(Right, lambda self: self.center.add_(float(np.random.default_rng().normal()))),
    ),
    (
        "a latent of any size accepted",
        "test_latent_below_one_is_refused: make(0) gave a prior without axes",
        LatentOfAnySize,
    ),
    (
        "images that depend on one another, undeclared",
        "test_batch_equals_loop: let depends_on_batch be True",
        OfTheBatchUndeclared,
    ),
    (
        "breaks in training mode only",
        f"{FIT}: a fit of five steps ends in",
        {"style": style_broken_in_training},
    ),
    (
        "a proper density declared improper",
        "test_properties_are_those_of_draws: proper is False, but content().sample() works",
        {"proper": False},
    ),
    (
        "variances of content and style exchanged",
        "test_properties_are_those_of_draws: axis_variances() of content",
        {"axis_variances": lambda self: (self.style_variance(), self.content_variance())},
    ),
]


SPHERES: list[Mistake] = [
    (
        "a density on the circle without its constant",
        f"{DENSITY}: the density of content() with latent_dim = 2 integrates to 6.283, expected 1",
        projected(log_prob=lambda self, value: 0 * value.sum(-1)),
    ),
    (
        "draws on the circle around another direction",
        f"{DENSITY}: draws of content() with latent_dim = 2 do not follow",
        projected(sample=lambda self, shape=(): dist.ProjectedNormal(self.concentration.flip(-1)).sample(shape)),
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


def centered(self: RightLikelihood, z: Tensor) -> Tensor:
    return mean(self, z) - mean(self, z).mean(dim=tuple(range(z.ndim - 1)), keepdim=True)


def always_in_full(self: RightLikelihood, z: Tensor) -> Tensor:
    images = self.decoder(z.reshape(-1, z.shape[-1]))
    return images.reshape(*z.shape[:-1], *images.shape[1:]) + self.pattern


def scale_on_the_cpu(self: RightLikelihood, z: Tensor) -> dist.Normal:
    return dist.Normal(self.mean(z), torch.ones(self.mean(z).shape, dtype=z.dtype) * self.log_scale.exp())


def beta(self: RightLikelihood, z: Tensor) -> dist.TorchDistribution:
    concentration = 1 + self.mean(z).exp(), (1 + self.log_scale.exp()).expand(self.mean(z).shape)
    return dist.Independent(dist.Beta(*concentration, validate_args=False), 3, validate_args=False)


def squashed(self: RightLikelihood, z: Tensor) -> dist.TorchDistribution:
    transforms = [dist.transforms.SigmoidTransform()]
    return dist.TransformedDistribution(self.pixels(z), transforms, validate_args=False).to_event(3)


mean = RightLikelihood.mean
LIKELIHOODS: list[Mistake] = [
    ("pixels as batch", "test_one_event_over_a_whole_image", {"forward": lambda self, z: self.pixels(z)}),
    ("rows as batch", "test_one_event_over_a_whole_image", {"forward": lambda self, z: self.pixels(z).to_event(2)}),
    (
        "squared error, no density",
        "test_density_integrates_to_one: the density of an image of one pixel integrates to",
        {"forward": lambda self, z: dist.Independent(Rough(self.mean(z), self.log_scale.exp()), 3)},
    ),
    ("decoder detached", FIT, {"mean": lambda self, z: mean(self, z).detach()}),
    (
        "scale detached",
        f"{FIT}: parameter log_scale is the same",
        {"pixels": lambda self, z: dist.Normal(self.mean(z), self.log_scale.detach().exp())},
    ),
    (
        "z detached",
        "test_gradients_equal_finite_differences: the gradient of log_prob",
        {"mean": lambda self, z: mean(self, z.detach())},
    ),
    (
        "half of the mean detached",
        "test_gradients_equal_finite_differences: the gradient of log_prob is not its derivative",
        {"mean": lambda self, z: 0.5 * (mean(self, z) + mean(self, z).detach())},
    ),
    (
        ".float()",
        "test_keeps_dtype",
        {"pixels": lambda self, z: dist.Normal(self.mean(z).float(), self.log_scale.float().exp())},
    ),
    ("a scale made on the CPU", "test_moves_to_another_device", {"pixels": scale_on_the_cpu}),
    ("normalized over the batch", "test_batch_equals_loop", {"mean": centered}),
    (
        "decoder called without apply_network",
        "test_networks_may_run_in_bfloat16",
        {"mean": lambda self, z: self.decoder(z[None])[0] + self.pattern},
    ),
    (
        "decoder that ignores the precision asked for",
        "test_networks_may_run_in_bfloat16: the decoder ran in torch.float32",
        {"mean": always_in_full},
    ),
    ("infinite at black and white", "test_grey_images_have_finite_densities", {"forward": beta}),
    ("no mean to show", "test_one_event_over_a_whole_image: a property `mean`", {"forward": squashed}),
    (
        "a buffer left out of the state",
        STATE,
        built(RightLikelihood, lambda self: self.register_buffer("pattern", self.pattern, persistent=False)),
    ),
    (
        "a plain tensor as attribute",
        "test_keeps_dtype: pattern is a plain tensor",
        built(RightLikelihood, lambda self: plain(self, "pattern")),
    ),
    (
        "noise of its own",
        "test_same_seed_same_numbers: differs when computed twice",
        {"mean": lambda self, z: dropout(mean(self, z), 0.1)},
    ),
    (
        "a parameter of no use",
        FIT,
        built(RightLikelihood, lambda self: setattr(self, "unused", nn.Parameter(torch.zeros(())))),
    ),
]


def test_the_right_parts_pass() -> None:
    assert failures(suite_for(PriorSuite, Right)) == {}
    assert failures(suite_for(PriorSuite, OfTheBatch)) == {}
    assert failures(suite_for(SphereSuite, OnSphere)) == {}
    assert failures(suite_for(LikelihoodSuite, RightLikelihood)) == {}


@pytest.mark.parametrize(
    ("suite", "check"),
    each(PriorSuite, Right, PRIORS)
    + each(SphereSuite, OnSphere, SPHERES)
    + each(LikelihoodSuite, RightLikelihood, LIKELIHOODS),
)
def test_mistake_is_found(suite: Any, check: str) -> None:
    assert_caught(suite, check)

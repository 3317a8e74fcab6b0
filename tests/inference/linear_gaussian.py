"""The program whose posterior and evidence are dense Gaussians: x = W z + b + ε, the columns of W orthogonal.

Then Wᵀ W is diagonal and each view has a message about each axis of z, the potential N(z_j; mean, 1/precision) with
precision Λ = Wᵀ W / pixel variance and mean = Λ⁻¹ Wᵀ (x − b) / pixel variance. What is expected of the package is
written here with dense matrices over all views and pixels, from the same literal variances; these are binary fractions,
so that nothing is rounded where a prior is made in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pp_simve.inference import AmortizedGuide, Guide, StructuredGuide
from pp_simve.inference.guides.recognition import SMALLEST_SCALE
from pp_simve.models import (
    BlockPrior,
    ConjugatePrior,
    FlatPrior,
    Gaussian,
    GaussianPrior,
    MixturePrior,
    SimVE,
    StandardPrior,
    Views,
)

VIEWS, IMAGES, LATENT = 3, 4, 3
SHAPE = (1, 2, 4)
PIXELS = 8
PIXEL_VARIANCE = 0.25
CONTENT, STYLE = [0.5, 1.0, 2.0], [0.125, 0.25, 1.0]
POINTS = [[1.0, 0.5, -2.0], [-1.0, 1.5, 0.25], [0.0, -1.0, 1.0], [0.5, 0.5, 0.5]]
WEIGHTS = [0.5, 0.25, 0.125, 0.125]
DOUBLE = torch.float64


@dataclass(frozen=True)
class Linear:
    """The decoder's map, and what follows from it.

    Attributes:
        weight: W, shape ``(pixel, latent)``, columns orthogonal and of different lengths.
        bias: b, shape ``(pixel,)``.
        variance: of a pixel.
        shape: of an image.
    """

    weight: Tensor
    bias: Tensor
    variance: float = PIXEL_VARIANCE
    shape: tuple[int, int, int] = SHAPE

    @property
    def precision(self) -> Tensor:
        """Λ, shape ``(latent,)``."""
        return self.weight.square().sum(0) / self.variance

    def potential_mean(self, views: Tensor) -> Tensor:
        """Λ⁻¹ Wᵀ (x − b) / pixel variance, shape ``(view, image, latent)``."""
        return (views.flatten(2) - self.bias) @ self.weight / PIXEL_VARIANCE / self.precision

    def of_pixels(self, style_variance: Tensor) -> Tensor:
        """Covariance of one view's pixels once content is known, shape ``(pixel, pixel)``."""
        return self.weight * style_variance @ self.weight.T + PIXEL_VARIANCE * torch.eye(PIXELS, dtype=DOUBLE)


def make_linear(
    lengths: Sequence[float] = (1.125, 0.75, 0.5),
    variance: float = PIXEL_VARIANCE,
    shape: tuple[int, int, int] = SHAPE,
) -> Linear:
    """From the current random state; lengths of the columns of W."""
    pixels = math.prod(shape)
    columns = torch.linalg.qr(torch.randn(pixels, LATENT, dtype=DOUBLE)).Q
    bias = 0.3 * torch.randn(pixels, dtype=DOUBLE)
    return Linear(columns * torch.tensor(lengths, dtype=DOUBLE), bias, variance, shape)


def make_likelihood(linear: Linear, *, learned: bool = False) -> Gaussian:
    """The likelihood in float64, its decoder set to the map."""
    decoder = nn.Linear(LATENT, len(linear.bias))
    likelihood = Gaussian(nn.Sequential(decoder, nn.Unflatten(-1, linear.shape)), learned=learned).double()
    with torch.no_grad():
        decoder.weight.copy_(linear.weight)
        decoder.bias.copy_(linear.bias)
        likelihood.log_scale.copy_(torch.tensor(0.5 * math.log(linear.variance), dtype=DOUBLE))
    return likelihood


def make_model(prior: ConjugatePrior, linear: Linear) -> SimVE:
    """The program in float64, its decoder set to the map."""
    return SimVE(prior, make_likelihood(linear)).double()


def draw_views(linear: Linear, images: int = IMAGES, views: int = VIEWS) -> Tensor:
    """Views that share content, from the Gaussian prior, shape ``(view, image, channel, height, width)``."""
    content = torch.randn(images, LATENT, dtype=DOUBLE) * torch.tensor(CONTENT, dtype=DOUBLE).sqrt()
    style = torch.randn(views, images, LATENT, dtype=DOUBLE) * torch.tensor(STYLE, dtype=DOUBLE).sqrt()
    noise = PIXEL_VARIANCE**0.5 * torch.randn(views, images, PIXELS, dtype=DOUBLE)
    return ((content + style) @ linear.weight.T + linear.bias + noise).unflatten(-1, SHAPE)


# Evidence log p(x_1..J), shape (image,), by what content is.

Evidence = Callable[[Linear, Tensor], Tensor]


def gaussian_evidence(content: list[float], style: list[float], linear: Linear, views: Tensor) -> Tensor:
    """The Gaussian over all pixels of all views: every pair of views shares W diag(content variance) Wᵀ."""
    shared = linear.weight * torch.tensor(content, dtype=DOUBLE) @ linear.weight.T
    own = linear.of_pixels(torch.tensor(style, dtype=DOUBLE))
    count = len(views)
    covariance = torch.cat(
        [torch.cat([shared + own if j == k else shared for k in range(count)], 1) for j in range(count)]
    )
    joint = MultivariateNormal(linear.bias.repeat(count), covariance)
    return joint.log_prob(views.flatten(2).transpose(0, 1).flatten(1))


def flat_evidence(axes: int, style: list[float], linear: Linear, views: Tensor) -> Tensor:
    """∫ Π_j N(x_j; W content + b, own covariance) d content, content on the first axes only: completing the square."""
    own = linear.of_pixels(torch.tensor(style, dtype=DOUBLE))
    weight = linear.weight[:, :axes]
    centred = views.flatten(2) - linear.bias
    at_zero = MultivariateNormal(torch.zeros(PIXELS, dtype=DOUBLE), own).log_prob(centred).sum(0)
    slope = torch.linalg.solve(own, weight).T @ centred.sum(0).T
    curvature = len(views) * weight.T @ torch.linalg.solve(own, weight)
    quadratic = (slope * torch.linalg.solve(curvature, slope)).sum(0)
    return at_zero + 0.5 * (quadratic + axes * math.log(2 * math.pi) - torch.logdet(curvature))


def mixture_evidence(
    points: list[list[float]], weights: list[float], style: list[float], linear: Linear, views: Tensor
) -> Tensor:
    """Every prototype tried in turn."""
    own = linear.of_pixels(torch.tensor(style, dtype=DOUBLE))
    joint = []
    for point, weight in zip(points, weights, strict=True):
        mean = linear.weight @ torch.tensor(point, dtype=DOUBLE) + linear.bias
        joint.append(math.log(weight) + MultivariateNormal(mean, own).log_prob(views.flatten(2)).sum(0))
    return torch.stack(joint).logsumexp(0)


@dataclass(frozen=True)
class Case:
    """A prior, and its evidence written out."""

    prior: Callable[[], ConjugatePrior]
    evidence: Evidence


def mixture(points: list[list[float]], style: list[float]) -> MixturePrior:
    """With weights that are not rounded to float32."""
    prior = MixturePrior(len(style), points, WEIGHTS, style).double()
    prior.logits.copy_(torch.tensor(WEIGHTS, dtype=DOUBLE).log())
    return prior


NARROW = [point[:2] for point in POINTS]
CASES: dict[str, Case] = {
    "gaussian": Case(lambda: GaussianPrior(LATENT, CONTENT, STYLE), partial(gaussian_evidence, CONTENT, STYLE)),
    "standard": Case(lambda: StandardPrior(LATENT), partial(gaussian_evidence, [0.0] * 3, [1.0] * 3)),
    "block": Case(
        lambda: BlockPrior(LATENT, GaussianPrior(2, CONTENT[:2], STYLE[:2]), variance=4.0),
        partial(gaussian_evidence, [*CONTENT[:2], 0.0], [*STYLE[:2], 4.0]),
    ),
    "block in a block": Case(
        lambda: BlockPrior(LATENT, BlockPrior(2, GaussianPrior(1, 0.5, 0.125), variance=0.5), variance=4.0),
        partial(gaussian_evidence, [0.5, 0.0, 0.0], [0.125, 0.5, 4.0]),
    ),
    "flat": Case(lambda: FlatPrior(LATENT, STYLE), partial(flat_evidence, LATENT, STYLE)),
    "block of flat": Case(
        lambda: BlockPrior(LATENT, FlatPrior(2, STYLE[:2]), variance=4.0),
        partial(flat_evidence, 2, [*STYLE[:2], 4.0]),
    ),
    "mixture": Case(lambda: mixture(POINTS, STYLE), partial(mixture_evidence, POINTS, WEIGHTS, STYLE)),
    "block of mixture": Case(
        lambda: BlockPrior(LATENT, mixture(NARROW, STYLE[:2]), variance=4.0),
        partial(mixture_evidence, [[*point, 0.0] for point in NARROW], WEIGHTS, [*STYLE[:2], 4.0]),
    ),
}
QUADRATIC = [name for name in CASES if "mixture" not in name]


# Guides set by hand.


class PotentialEncoder(nn.Sequential):
    """The exact mean of z by one view alone: linear in its pixels."""

    features = LATENT

    def __init__(self, linear: Linear | None = None) -> None:
        layer = nn.Linear(PIXELS if linear is None else len(linear.bias), LATENT)
        super().__init__(nn.Flatten(), layer)
        self.double()
        if linear is not None:
            with torch.no_grad():
                to_mean = linear.weight.T / linear.variance / linear.precision.unsqueeze(-1)
                layer.weight.copy_(to_mean)
                layer.bias.copy_(-to_mean @ linear.bias)


class TableEncoder(nn.Module):
    """One row for each view of the one batch it knows, free of what an encoder could see: it may use all views."""

    features = LATENT

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.clone().flatten(0, -2))

    def forward(self, images: Tensor) -> Tensor:
        assert len(images) == len(self.rows)
        return self.rows


def set_head(guide: AmortizedGuide | StructuredGuide, scale: Tensor) -> None:
    """Makes the encoder's features the mean and ``scale``, shape ``(latent,)``, the standard deviation."""
    guide.double()
    set_layer(guide.recognition.encoder_head.head, scale, shrunk=isinstance(guide, StructuredGuide))


def set_layer(head: nn.Linear, scale: Tensor, *, shrunk: bool) -> None:
    """As `set_head`, of one layer; ``shrunk``: of a structured guide."""
    # The head of a structured guide gives the mean of the potential times N(0, 1).
    factor = 1 / (1 + scale.square()) if shrunk else torch.ones_like(scale)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:LATENT] = factor.diag()
        head.bias[:LATENT] = 0
        head.bias[LATENT:] = (scale - SMALLEST_SCALE).expm1().log()  # the inverse of softplus


def exact_structured_guide(prior: ConjugatePrior, linear: Linear) -> StructuredGuide:
    """The potentials are the likelihood's own, so that the guide is the posterior."""
    guide = StructuredGuide(PotentialEncoder(linear), prior)
    set_head(guide, linear.precision.rsqrt())
    return guide


class Program(NamedTuple):
    """The program of a case, its posterior as guide, views, and their evidence ``(image,)``."""

    model: SimVE
    guide: Any
    views: Tensor
    evidence: Tensor
    linear: Linear


def exact_program(case: str = "gaussian", images: int = IMAGES, views: int = VIEWS) -> Program:
    """In float64, from the current random state."""
    linear = make_linear()
    prior = CASES[case].prior().double()
    model, drawn = make_model(prior, linear), draw_views(linear, images, views)
    return Program(model, exact_structured_guide(prior, linear), drawn, CASES[case].evidence(linear, drawn), linear)


@dataclass(frozen=True)
class MeanField:
    """A guide that knows the views' z, but not how they depend on one another, under Gaussian content.

    Attributes:
        mean: of the posterior, shape ``(view, image, latent)``.
        scale: the same for all views, shape ``(latent,)``.
        divergence: KL from the posterior, the same for all images, a scalar: what its bound lacks.
        square: E_q[w²] / E_q[w]² of its importance weights w = p/q, a scalar.
    """

    mean: Tensor
    scale: Tensor
    divergence: Tensor
    square: Tensor


def mean_field(
    linear: Linear, views: Tensor, content: list[float], style: list[float], width: float = 1.0
) -> MeanField:
    """The Gaussian over views of each axis, Q its precision: the closest one without dependence has D = diag Q.

    KL = ½ (tr D⁻¹Q − J + log det D − log det Q), and E[(p/q)²] = det Q / √(det D · det(2Q − D)).

    Args:
        width: factor of the standard deviations; above 1 importance weights vary less.
    """
    count, means = len(views), linear.potential_mean(views)
    mean, scale = torch.empty_like(means), torch.empty(LATENT, dtype=DOUBLE)
    divergence, log_square = torch.zeros((), dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)
    for axis, (shared, own, precision) in enumerate(zip(content, style, linear.precision, strict=True)):
        prior = own * torch.eye(count, dtype=DOUBLE) + shared
        posterior = torch.linalg.inv(prior) + precision * torch.eye(count, dtype=DOUBLE)
        mean[..., axis] = torch.linalg.solve(posterior, precision * means[..., axis])
        diagonal = posterior.diag() / width**2
        scale[axis] = diagonal[0].rsqrt()
        of_both = diagonal.log().sum() - posterior.logdet()
        divergence += 0.5 * ((posterior.diag() / diagonal).sum() - count + of_both)
        excess = 2 * posterior - diagonal.diag()
        assert float(torch.linalg.eigvalsh(excess)[0]) > 0  # else the mean of w² is infinite
        log_square += posterior.logdet() - 0.5 * (diagonal.log().sum() + excess.logdet())
    return MeanField(mean, scale, divergence, log_square.exp())


def mean_field_guide(prior: ConjugatePrior, best: MeanField) -> AmortizedGuide:
    """That guide, for the views it was computed from."""
    guide = AmortizedGuide(TableEncoder(best.mean), prior)
    set_head(guide, best.scale)
    return guide


# Log weights by Pyro alone.


def log_weights(model: SimVE, guide: Guide, views: Any, particles: int) -> Tensor:
    """log p(views, latents) − log q(latents | views) of draws of the guide, shape ``(particle, image)``."""

    def repeated(module: nn.Module) -> Callable[[Any], None]:
        # Without the parameter statements of PyroModule, which would fill Pyro's global store.
        program: Callable[[Any], None] = partial(nn.Module.__call__, module)
        return pyro.plate("particles", particles, dim=-3)(program)

    drawn = poutine.trace(repeated(guide)).get_trace(views)
    scored = poutine.trace(poutine.replay(repeated(model), trace=drawn)).get_trace(views)
    total = torch.zeros(particles, Views.of(views).n_images, dtype=DOUBLE)
    for trace, sign in ((scored, 1), (drawn, -1)):
        trace.compute_log_prob()
        for site in trace.nodes.values():
            if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample":
                total += sign * site["log_prob"].sum(-2)
    return total

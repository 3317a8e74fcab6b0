"""Limits between priors and between guides, with the rate at which they are reached."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pp_simve.inference import (
    ELBO,
    IWAE,
    AmortizedGuide,
    AnalyticELBO,
    DeltaGuide,
    FlowGuide,
    Guide,
    PointGuide,
    StructuredGuide,
)
from pp_simve.models import (
    Bernoulli,
    BlockPrior,
    ConjugatePrior,
    ExactPrior,
    FlatPrior,
    GaussianPrior,
    MixturePrior,
    Prior,
    SimVE,
    StandardPrior,
    StudentTPrior,
)

from .programs import DOUBLE, IMAGES, LATENT, PIXELS, PRIORS, SHAPE, SmoothEncoder, assert_rate, draw_views

VIEWS = 3
STYLE = [0.125, 0.5, 2.0]
SCALES = [1e-1, 1e-2, 1e-3, 1e-4]


def draw_z(views: int = VIEWS) -> Tensor:
    return torch.randn(views, IMAGES, LATENT, dtype=DOUBLE)


def draw_precision(views: int = VIEWS) -> Tensor:
    return torch.rand(views, IMAGES, LATENT, dtype=DOUBLE) * 4 + 0.2


def make_model(prior: Prior) -> SimVE:
    decoder = nn.Sequential(nn.Linear(LATENT, 7), nn.Tanh(), nn.Linear(7, PIXELS), nn.Unflatten(-1, SHAPE))
    return SimVE(prior, Bernoulli(decoder)).double()


# Gaussian content, wide: flat.

WIDE = [1e2, 1e3, 1e4, 1e5]


@pytest.mark.parametrize("noisy", [False, True], ids=["z known", "z up to noise"])
@pytest.mark.parametrize("views", [1, 5])
def test_wide_gaussian_content_tends_to_flat_content(views: int, noisy: bool) -> None:
    """log p(z) + d/2 · log 2πτ² → log p_flat(z), the error −(m² + v) / (2 τ²) an axis, m and v content's moments."""
    z, precision, variance = draw_z(views), draw_precision(views) if noisy else None, draw_precision(views).reciprocal()
    flat = FlatPrior(LATENT, STYLE).double()
    content, errors = flat.content_posterior(z, precision), []
    for wide in WIDE:
        gaussian, constant = GaussianPrior(LATENT, wide, STYLE).double(), 0.5 * math.log(2 * math.pi * wide)
        posterior = gaussian.content_posterior(z, precision)
        errors.append(
            [
                gaussian.log_marginal(z, precision) + LATENT * constant - flat.log_marginal(z, precision),
                gaussian.expected_log_marginal(z, variance) + constant - flat.expected_log_marginal(z, variance),
                posterior.mean - content.mean,
                posterior.variance - content.variance,
            ]
        )
    for of_one in zip(*errors, strict=True):
        assert_rate(WIDE, of_one, -1)
    first_order = -(content.mean.square() + content.variance).sum(-1).squeeze(0) / 2
    torch.testing.assert_close(errors[-1][0] * WIDE[-1], first_order, rtol=1e-3, atol=1e-5)


# Style, wide: views that have nothing to do with one another.

SHARED = 1.0


@pytest.mark.parametrize("views", [2, 5])
def test_wide_style_makes_independent_views_of_unit_variance(views: int) -> None:
    """z = √(τ² + Σ) u has correlation ρ = τ²/(τ² + Σ) between views, so that p(u) → N(0, I) as ρ → 0:

    log p(z) + J·d/2 · log(τ² + Σ) = log N(u; 0, I) + ρ Σ_axes Σ_{j<k} u_j u_k + O(ρ²).
    """
    u = draw_z(views)
    standard = StandardPrior(LATENT).double().log_marginal(u)
    pairs = ((u.sum(0).square() - u.square().sum(0)) / 2).sum(-1)
    errors, correlations = [], []
    for style in (1e3, 1e4, 1e5, 1e6):
        total = SHARED + style
        prior = GaussianPrior(LATENT, SHARED, style).double()
        found = prior.log_marginal(math.sqrt(total) * u) + views * LATENT / 2 * math.log(total)
        errors.append(found - standard)
        correlations.append(SHARED / total)
    assert_rate(correlations, errors, 1)
    torch.testing.assert_close(errors[-1] / correlations[-1], pairs, rtol=1e-3, atol=1e-3)


# Blocks.


def standard_pair() -> tuple[StandardPrior, BlockPrior]:
    return StandardPrior(LATENT).double(), BlockPrior(LATENT, StandardPrior(1)).double()


@pytest.mark.parametrize("objective", [ELBO, IWAE, AnalyticELBO], ids=lambda objective: objective.__name__)
@pytest.mark.parametrize("make_guide", [AmortizedGuide, StructuredGuide], ids=lambda guide: guide.__name__)
def test_a_block_that_shares_nothing_has_the_bounds_of_the_standard_prior(
    make_guide: type[AmortizedGuide | StructuredGuide], objective: type[ELBO | IWAE | AnalyticELBO]
) -> None:
    views, found = draw_views(VIEWS), []
    state: list[dict[str, Tensor]] = []
    for prior in standard_pair():
        model, guide = make_model(prior), make_guide(SmoothEncoder(), prior).double()
        networks = nn.ModuleList([model.likelihood, guide.recognition])
        if state:
            networks.load_state_dict(state[0])
        state.append(networks.state_dict())
        pyro.set_rng_seed(3)
        found.append(objective(model, guide)(views))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-12)


def test_content_without_style_multiplies_what_its_views_know() -> None:
    """The product of experts: content's precision is 1/τ² + Σ_j precision_j, its mean weighs locations by precision.

    What is left of style shows in proportion to its variance.
    """
    z, precision = draw_z(), draw_precision()
    of_block = precision[..., :2]
    total = 1 / SHARED + of_block.sum(0)
    mean = (of_block * z[..., :2]).sum(0) / total
    variances, means, spreads = [1e-2, 1e-3, 1e-4, 1e-5], [], []
    for variance in variances:
        prior = BlockPrior(LATENT, GaussianPrior(2, SHARED, variance)).double()
        posterior = prior.content_posterior(z, precision)
        means.append(posterior.mean.squeeze(0) - mean)
        spreads.append(1 / posterior.variance.squeeze(0) - total)
        styles = prior.style_posterior(posterior.mean, z, precision)
        assert float(styles.mean[..., :2].abs().max()) < 100 * variance
    assert_rate(variances, means, 1)
    assert_rate(variances, spreads, 1)


# Other contents and styles.


def test_prototypes_at_the_nodes_of_a_quadrature_make_gaussian_content() -> None:
    """Gauss-Hermite: with K nodes and weights for N(0, τ²) the sum over prototypes is the integral over content."""
    shared, style = 2.0, 1.5
    z, precision = torch.randn(VIEWS, IMAGES, 1, dtype=DOUBLE), draw_precision()[..., :1]
    gaussian = GaussianPrior(1, shared, style).double()
    errors = []
    for count in (5, 10, 20, 40, 80):
        nodes, weights = np.polynomial.hermite_e.hermegauss(count)
        mixture = MixturePrior(1, count, style_variance=style, learn_prototypes=False).double()
        mixture.points.copy_(torch.from_numpy(nodes).unsqueeze(-1) * math.sqrt(shared))
        mixture.logits.copy_(torch.from_numpy(weights / weights.sum()).log())
        differences = []
        for known in (None, precision):
            ours, theirs = mixture.content_posterior(z, known), gaussian.content_posterior(z, known)
            differences += [
                (mixture.log_marginal(z, known) - gaussian.log_marginal(z, known)).flatten(),
                (ours.mean - theirs.mean).flatten(),
                (ours.variance - theirs.variance).flatten(),
            ]
        errors.append(float(torch.cat(differences).abs().max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-9


def test_a_students_t_of_many_degrees_is_a_gaussian_of_its_variance() -> None:
    content, style = draw_z(1), draw_z()
    gaussian = GaussianPrior(LATENT, 1.0, 0.5).double().style(content).log_prob(style)
    degrees, errors = [1e2, 1e3, 1e4], []
    for many in degrees:
        student = StudentTPrior(LATENT, 1.0, 0.5, degrees=many).double().style(content)
        torch.testing.assert_close(student.variance, torch.full_like(student.variance, 0.5), rtol=1e-6, atol=0)
        errors.append(student.log_prob(style) - gaussian)
    assert_rate(degrees, errors, -1, tolerance=0.1)


# Guides without noise: points.


def linear_reach(guide: Guide) -> list[nn.Parameter]:
    """The parameters that move where z is: the encoder's, and the head's that give the mean."""
    module = guide.get_submodule("encoder_head" if isinstance(guide, DeltaGuide) else "recognition.encoder_head")
    return [*module.get_submodule("encoder").parameters(), *module.get_submodule("head").parameters()]


def delta_like(guide: AmortizedGuide | PointGuide | StructuredGuide | FlowGuide, prior: Prior) -> DeltaGuide:
    """The point guide with the same encoder and the same means."""
    delta = DeltaGuide(SmoothEncoder(), prior).double()
    delta.encoder_head.encoder.load_state_dict(guide.recognition.encoder_head.encoder.state_dict())
    with torch.no_grad():
        delta.encoder_head.head.weight.copy_(guide.recognition.encoder_head.head.weight[:LATENT])
        delta.encoder_head.head.bias.copy_(guide.recognition.encoder_head.head.bias[:LATENT])
    return delta


def widen(guide: AmortizedGuide | PointGuide | StructuredGuide | FlowGuide) -> None:
    """Standard deviations near 1, rather than the small ones a fit starts from."""
    with torch.no_grad():
        guide.recognition.encoder_head.head.bias[LATENT:] = 0.5


def without_entropy(model: SimVE, guide_trace: Trace, views: Tensor) -> Tensor:
    """reconstruction + content + style of a draw of the guide, with gradient."""
    scored = poutine.trace(poutine.replay(partial(nn.Module.__call__, model), trace=guide_trace)).get_trace(views)
    content: Any = guide_trace.nodes["content"]
    style: Any = guide_trace.nodes["style"]
    total = scored.log_prob_sum() - content["fn"].log_prob(content["value"]).sum()
    return total - style["fn"].log_prob(style["value"]).sum()


def opposite_pair(model: SimVE, guide: Guide, views: Tensor) -> Tensor:
    """The mean of that over a draw of z and the draw with the opposite noise: what is odd in the noise cancels."""
    program = partial(nn.Module.__call__, guide)
    pyro.set_rng_seed(3)
    drawn = poutine.trace(program).get_trace(views)
    values = [without_entropy(model, drawn, views)]
    mirrored = Trace()
    z: Any = drawn.nodes["z"]
    # Through replay a value enters as it is given: with the gradient of the mean and of the noise.
    mirrored.add_node("z", **{**z, "value": 2 * z["fn"].mean - z["value"]})
    values.append(
        without_entropy(model, poutine.trace(poutine.replay(program, trace=mirrored)).get_trace(views), views)
    )
    return (values[0] + values[1]) / 2


@pytest.mark.parametrize("prior", ["gaussian per axis", "flat", "standard"])
def test_the_amortized_bound_without_its_entropy_tends_to_the_delta_guides(prior: str) -> None:
    """Value and gradient, with an error of the order of the variance: O(scale²) over three decades."""
    made, views = PRIORS[prior](), draw_views(VIEWS)
    assert isinstance(made, ExactPrior)
    model = make_model(made)
    wide = AmortizedGuide(SmoothEncoder(), made).double()
    widen(wide)
    delta = delta_like(wide, made)
    drawn = poutine.trace(partial(nn.Module.__call__, delta)).get_trace(views)
    limit = without_entropy(model, drawn, views)
    torch.testing.assert_close(-ELBO(model, delta, scale=1)(views)["loss"], limit, rtol=1e-12, atol=1e-12)
    slopes = torch.autograd.grad(limit, linear_reach(delta))
    values, gradients = [], []
    for scale in SCALES:
        guide = AmortizedGuide(SmoothEncoder(), made, scale=scale).double()
        guide.load_state_dict(wide.state_dict())
        value = opposite_pair(model, guide, views)
        values.append(value - limit)
        found = torch.autograd.grad(value, linear_reach(guide))
        gradients.append(
            torch.cat([(ours[: len(theirs)] - theirs).flatten() for ours, theirs in zip(found, slopes, strict=True)])
        )
    assert_rate(SCALES, values, 2)
    assert_rate(SCALES, gradients, 2)


@pytest.mark.parametrize("prior", ["gaussian per axis", "flat", "standard", "block", "mixture"])
def test_what_the_structured_guide_represents_tends_to_the_delta_guides(prior: str) -> None:
    own: dict[str, ConjugatePrior] = {
        "block": BlockPrior(LATENT, 2),
        "mixture": MixturePrior(LATENT, 4, style_variance=0.5, content_variance=1.0),
    }
    made, views = own.get(prior) or PRIORS[prior](), draw_views(VIEWS)
    made.double()
    wide = StructuredGuide(SmoothEncoder(), made).double()
    widen(wide)
    limit = delta_like(wide, made).posterior(views).as_dict()
    errors: dict[str, list[Tensor]] = {"z": [], "content": [], "style": []}
    small = [scale / 10 for scale in SCALES]
    for scale in small:
        guide = StructuredGuide(SmoothEncoder(), made, scale=scale).double()
        guide.load_state_dict(wide.state_dict())
        found = guide.posterior(views).as_dict()
        assert torch.equal(found["backbone"], limit["backbone"])
        for name, error in errors.items():
            error.append(found[name] - limit[name])
    if prior == "standard":  # the head's mean is that of z under N(0, I), whatever the scale
        assert errors["content"][0].shape == (IMAGES, 0)
        assert max(float(error.detach().abs().max()) for name in ("z", "style") for error in errors[name]) < 1e-14
        return
    for error in errors.values():
        assert_rate(small, error, 2)


@pytest.mark.parametrize("make_guide", [AmortizedGuide, PointGuide], ids=lambda guide: guide.__name__)
def test_of_other_guides_the_representation_is_the_delta_guides_at_every_scale(
    make_guide: type[AmortizedGuide | PointGuide],
) -> None:
    made, views = PRIORS["gaussian per axis"](), draw_views(VIEWS)
    made.double()
    guide = make_guide(SmoothEncoder(), made, scale=0.3).double()
    limit = delta_like(guide, made).posterior(views).as_dict()
    for name, value in guide.posterior(views).as_dict().items():
        torch.testing.assert_close(value, limit[name], rtol=1e-13, atol=1e-13)


# The first import of zuko switches torch's validation of distributions off for the whole process: the guide must not.
def test_draws_of_the_flow_guide_tend_to_the_delta_guides_in_proportion_to_its_scale() -> None:
    made, views = PRIORS["gaussian per axis"](), draw_views(VIEWS)
    wide = FlowGuide(SmoothEncoder(), made).double()
    widen(wide)
    limit = delta_like(wide, made).posterior(views).z
    drawn, centers = [], []
    for scale in SCALES:
        guide = FlowGuide(SmoothEncoder(), made, scale=scale).double()
        guide.load_state_dict(wide.state_dict())
        pyro.set_rng_seed(3)
        trace = poutine.trace(partial(nn.Module.__call__, guide)).get_trace(views)
        z: Any = trace.nodes["z"]["value"]
        drawn.append(z - limit)
        centers.append(guide.posterior(views).z - limit)
    assert_rate(SCALES, drawn, 1, tolerance=1e-4)
    assert_rate(SCALES, centers, 1, tolerance=1e-4)

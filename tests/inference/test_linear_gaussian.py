"""Linear-Gaussian programs: the structured guide is the posterior, others stay below by the gap that theory gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from pp_simve.inference import ELBO, IWAE, AmortizedGuide, AnalyticELBO, StructuredGuide

from .linear_gaussian import (
    CASES,
    CONTENT,
    LATENT,
    PIXEL_VARIANCE,
    QUADRATIC,
    STYLE,
    VIEWS,
    Linear,
    PotentialEncoder,
    TableEncoder,
    exact_program,
    gaussian_evidence,
    log_weights,
    mean_field,
    mean_field_guide,
    set_head,
)


def fitted(objective: nn.Module, guide: nn.Module, views: Tensor, steps: int, lr: float) -> None:
    """Adam on the guide alone, its rate falling to zero."""
    optimizer = torch.optim.Adam(guide.parameters(), lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps) ** 2
        optimizer.zero_grad()
        objective(views)["loss"].backward()
        optimizer.step()


@pytest.mark.parametrize("views", [1, 2, VIEWS])
@pytest.mark.parametrize("case", CASES)
def test_every_draw_of_the_exact_structured_guide_weighs_as_much_as_the_evidence(case: str, views: int) -> None:
    model, guide, images, evidence, _ = exact_program(case, views=views)
    found = log_weights(model, guide, images, particles=50)
    torch.testing.assert_close(found, evidence.expand_as(found), rtol=0, atol=1e-9)


@pytest.mark.parametrize("views", [1, 2, VIEWS])
@pytest.mark.parametrize("case", CASES)
def test_the_density_of_the_exact_potentials_is_the_evidence_up_to_what_views_say_of_themselves(
    case: str, views: int
) -> None:
    """log p(x_j | z) = log N(z; mean_j, 1/Λ) + what does not depend on z: the prior's answer makes the evidence."""
    model, _, images, expected, linear = exact_program(case, views=views)
    mean = linear.potential_mean(images)
    fitted_pixels = mean @ linear.weight.T + linear.bias
    at_mean = Normal(fitted_pixels, PIXEL_VARIANCE**0.5).log_prob(images.flatten(2)).sum((0, -1))
    of_potentials = 0.5 * views * torch.log(2 * math.pi / linear.precision).sum()
    density = model.prior.log_marginal(mean, linear.precision.expand_as(mean))
    torch.testing.assert_close(density + at_mean + of_potentials, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_potentials_that_are_a_little_off_fall_short_of_the_evidence(case: str) -> None:
    model, guide, images, evidence, _ = exact_program(case)
    with torch.no_grad():
        guide.recognition.encoder_head.head.bias[:LATENT] += 0.3
    short = evidence - log_weights(model, guide, images, particles=2000).detach()
    assert float(short.mean()) > 0.01
    assert float(short.std()) > 0.01


@pytest.mark.parametrize("case", QUADRATIC)
def test_bounds_of_the_exact_structured_guide_are_the_evidence_whatever_their_samples(case: str) -> None:
    model, guide, images, evidence, _ = exact_program(case)
    bounds = [ELBO(model, guide, particles=particles) for particles in (1, 7)]
    for objective in (*bounds, *(IWAE(model, guide, samples=samples) for samples in (1, 2, 64))):
        torch.testing.assert_close(-objective(images)["loss"].detach(), evidence.mean(), rtol=0, atol=1e-9)


def test_the_bound_of_the_exact_structured_guide_has_no_slope() -> None:
    """The posterior is the maximum over guides: the mean of the gradients of many draws is within their noise of 0."""
    model, guide, images, *_ = exact_program()
    objective = ELBO(model, guide, particles=50)
    parameters = list(guide.recognition.parameters())
    draws = []
    for _ in range(100):
        found = torch.autograd.grad(objective(images)["loss"], parameters)
        draws.append(torch.cat([slope.flatten() for slope in found]))
    slopes = torch.stack(draws)
    error = slopes.std(0) / 10
    assert bool((slopes.mean(0).abs() <= 4.5 * error + 1e-9).all())
    assert float(error.max()) < 0.1


@pytest.mark.parametrize("analytic", [True, False], ids=["analytic", "sampled"])
def test_a_structured_guide_learns_the_evidence(analytic: bool) -> None:
    model, exact, images, of_images, _ = exact_program(images=16)
    evidence, guide = of_images.mean(), StructuredGuide(PotentialEncoder(), exact.prior).double()
    objective = AnalyticELBO(model, guide) if analytic else ELBO(model, guide, particles=4)
    before = log_weights(model, guide, images, particles=200).detach()
    assert float(evidence - before.mean()) > 1
    fitted(objective, guide, images, steps=800, lr=0.1)
    after = log_weights(model, guide, images, particles=5000).detach()
    assert -0.01 < float(evidence - after.mean()) < 0.05


def test_the_best_guide_without_dependence_between_views_attains_its_closed_form() -> None:
    model, exact, images, evidence, linear = exact_program()
    best = mean_field(linear, images, CONTENT, STYLE)
    assert float(best.divergence) > 0.1
    guide = mean_field_guide(exact.prior, best)
    found = log_weights(model, guide, images, particles=50_000).detach()
    error = found.std(0) / found.shape[0] ** 0.5
    assert bool(((found.mean(0) - (evidence - best.divergence)).abs() < 4.5 * error).all())
    assert float(error.max()) < 0.01


def test_free_means_and_variances_learn_that_bound_and_no_more() -> None:
    model, exact, images, evidence, linear = exact_program()
    best = mean_field(linear, images, CONTENT, STYLE)
    attainable = evidence.mean() - best.divergence
    guide = AmortizedGuide(TableEncoder(torch.zeros_like(best.mean)), exact.prior)
    set_head(guide, torch.full((LATENT,), 0.1, dtype=torch.float64))
    fitted(AnalyticELBO(model, guide), guide, images, steps=400, lr=0.1)
    bound = exact_bound(linear, guide, images)
    assert -1e-9 < float(attainable - bound) < 0.05


def test_a_linear_amortized_guide_learns_less_than_a_structured_one() -> None:
    """One view does not determine the posterior mean given all: an encoder stays below even free means."""
    model, exact, images, evidence, linear = exact_program(images=16)
    best, guide = mean_field(linear, images, CONTENT, STYLE), AmortizedGuide(PotentialEncoder(), exact.prior).double()
    fitted(AnalyticELBO(model, guide), guide, images, steps=200, lr=0.1)
    assert float(exact_bound(linear, guide, images)) < float(evidence.mean() - best.divergence) - 0.05


def exact_bound(linear: Linear, guide: AmortizedGuide, views: Tensor) -> Tensor:
    """The bound of any Gaussian q(z_j | x_j) under Gaussian content, mean over images: evidence − KL, both dense."""
    q = guide.recognition(views).base_dist
    loc, variance = q.loc.detach(), q.scale.detach().square()
    means, count = linear.potential_mean(views), len(views)
    divergence = torch.zeros(views.shape[1], dtype=torch.float64)
    for axis, (shared, own, precision) in enumerate(zip(CONTENT, STYLE, linear.precision, strict=True)):
        prior = own * torch.eye(count, dtype=torch.float64) + shared
        posterior = torch.linalg.inv(prior) + precision * torch.eye(count, dtype=torch.float64)
        off = loc[..., axis] - torch.linalg.solve(posterior, precision * means[..., axis])
        trace = (posterior.diag()[:, None] * variance[..., axis]).sum(0)
        quadratic = (off * (posterior @ off)).sum(0)
        divergence += 0.5 * (trace + quadratic - count - posterior.logdet() - variance[..., axis].log().sum(0))
    return (gaussian_evidence(CONTENT, STYLE, linear, views) - divergence).mean()


def test_the_importance_weighted_bound_rises_to_the_evidence() -> None:
    model, exact, views, of_images, linear = exact_program()
    images, evidence = views.repeat(1, 50, 1, 1, 1), of_images.mean()
    best = mean_field(linear, images, CONTENT, STYLE)
    guide = mean_field_guide(exact.prior, best)
    bounds, errors = [], []
    for samples in (1, 4, 16, 64, 256):
        objective = IWAE(model, guide, samples=samples)
        with torch.no_grad():
            found = torch.stack([-objective(images)["loss"] for _ in range(200 // samples + 4)])
        bounds.append(float(found.mean()))
        errors.append(float(found.std()) / len(found) ** 0.5)
    for place in range(4):
        assert bounds[place + 1] > bounds[place] - 3 * (errors[place] + errors[place + 1])
    assert bounds[1] - bounds[0] > 10 * (errors[0] + errors[1])
    assert abs(bounds[0] - float(evidence - best.divergence)) < 4.5 * errors[0]
    assert abs(bounds[-1] - float(evidence)) < 0.02


def test_what_the_importance_weighted_bound_lacks_falls_like_the_variance_of_its_weights() -> None:
    """evidence − IWAE(K) → Var(w) / (2 K E[w]²) (Domke and Sheldon 2018), here in closed form."""
    model, exact, images, evidence, linear = exact_program()
    best = mean_field(linear, images, CONTENT, STYLE, width=1.25)
    weights = log_weights(model, mean_field_guide(exact.prior, best), images, particles=100_000)
    ratio = (weights.detach() - evidence).exp()
    limit = float(best.square - 1) / 2
    for samples, tolerance in ((50, 0.08), (200, 0.12)):
        mean = ratio.unflatten(0, (-1, samples)).mean(1)
        # E[mean] = 1: what is added has mean zero, and takes away most of the noise.
        assert samples * float((mean - 1 - mean.log()).mean()) == pytest.approx(limit, rel=tolerance)

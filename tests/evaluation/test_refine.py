"""Refinement against the best guide of its family, known in closed form for the linear-Gaussian program."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation import posterior
from pp_simve.evaluation.posterior import calibrate, nuts_reference, refine, weigh
from pp_simve.inference import AmortizedGuide, DeltaGuide, FlowGuide, Guide, PointGuide, StructuredGuide, draw
from pp_simve.inference.guides.recognition import SMALLEST_SCALE
from pp_simve.models import GaussianPrior, SimVE, StudentTPrior

from ..inference.linear_gaussian import (
    CONTENT,
    IMAGES,
    LATENT,
    STYLE,
    VIEWS,
    PotentialEncoder,
    Program,
    exact_program,
    make_model,
    mean_field,
    mean_field_guide,
    set_head,
)
from .planted_guides import program_of_modalities

Pair = tuple[SimVE, AmortizedGuide | StructuredGuide, Tensor]
"""Model, guide, views."""


@pytest.fixture
def exact() -> Program:
    """Its guide is the posterior."""
    return exact_program()


@pytest.fixture
def spoiled(exact: Program) -> Pair:
    """Its guide has the family of independent views, but not the best parameters."""
    prior = GaussianPrior(LATENT, CONTENT, STYLE, learn_style=True)
    guide = mean_field_guide(prior, mean_field(exact.linear, exact.views, CONTENT, STYLE))
    spoil(guide)
    return make_model(prior, exact.linear), guide, exact.views


def spoil(guide: AmortizedGuide | StructuredGuide) -> None:
    """Half the scale, and means off by a third."""
    head = guide.recognition.encoder_head.head
    with torch.no_grad():
        scale = torch.nn.functional.softplus(head.bias[LATENT:]) + SMALLEST_SCALE
        head.bias[LATENT:] = (scale / 2 - SMALLEST_SCALE).expm1().log()
        if isinstance(guide, StructuredGuide):  # the same potentials, in the head's terms
            head.weight[:LATENT] *= ((1 + scale**2) / (1 + scale**2 / 4)).unsqueeze(-1)
        head.bias[:LATENT] += 0.3


def bound(model: SimVE, guide: Guide, views: Tensor) -> tuple[Tensor, Tensor]:
    """ELBO of each image and its standard error."""
    log_weight = draw(model, guide, views, 20_000, seed=77).log_weight
    return log_weight.mean(0), log_weight.std(0) / len(log_weight) ** 0.5


def khat(model: SimVE, guide: Guide, views: Tensor) -> Tensor:
    return weigh(draw(model, guide, views, 1000, seed=78).log_weight).khat


def test_an_amortized_guide_becomes_the_best_one_without_dependence_between_views(
    exact: Program, spoiled: Pair
) -> None:
    model, guide, views = spoiled
    best = mean_field(exact.linear, views, CONTENT, STYLE)
    refined = refine(model, guide, views, steps=300, draws=32, seed=1)
    loc, scale = refined.family.loc(), refined.family.scale()
    torch.testing.assert_close(loc, best.mean, rtol=0, atol=0.05)
    torch.testing.assert_close(scale, best.scale.expand_as(scale), rtol=0.05, atol=0)
    attainable = exact.evidence - best.divergence
    found, error = bound(model, refined, views)
    assert bool(((found - attainable).abs() < 5 * error + 0.01).all())
    assert bool(refined.moved.all())
    before, error = bound(model, guide, views)
    assert bool(((refined.elbo_before - before).abs() < 5 * refined.elbo_error + 5 * error).all())
    assert bool(((refined.elbo_after - found).abs() < 5 * refined.elbo_error + 5 * error).all())
    assert bool((refined.elbo_after > refined.elbo_before + 1).all())
    assert bool((khat(model, refined, views) < khat(model, guide, views)).all())


def test_a_structured_guide_becomes_the_posterior(exact: Program) -> None:
    model, guide, views, evidence, _ = exact
    right = guide.posterior(views)
    spoil(guide)
    assert float((evidence - bound(model, guide, views)[0]).min()) > 0.5
    refined = refine(model, guide, views, steps=300, draws=32, seed=1)
    log_weight = draw(model, refined, views, 1000, seed=3).log_weight
    assert bool(((log_weight.mean(0) - evidence).abs() < 0.02).all())
    assert float(log_weight.std(0).max()) < 0.2
    assert float(khat(model, refined, views).max()) < 0.4
    assert float(khat(model, guide, views).min()) > 0.6
    found = refined.posterior(views)
    for name in ("content", "style", "z"):
        torch.testing.assert_close(getattr(found, name), getattr(right, name), rtol=0, atol=0.05)
    torch.testing.assert_close(found.backbone, right.backbone)


def test_any_guide_with_spread_starts_from_its_moments(exact: Program) -> None:
    model, views, linear, prior = exact.model, exact.views, exact.linear, exact.model.prior
    flow = FlowGuide(PotentialEncoder(linear), prior).double()
    point = PointGuide(PotentialEncoder(linear), prior)
    set_head(point, 0.5 * linear.precision.rsqrt())  # type: ignore[arg-type]
    drawn = draw(model, flow, views, 4000, seed=5)
    start = refine(model, flow, views, steps=0, seed=1)
    assert not start.moved.any()
    scale = start.family.scale()
    error = 5 * scale / 1000**0.5
    assert bool(((start.family.loc() - drawn.z.mean(0)).abs() < 2 * error).all())
    torch.testing.assert_close(scale, drawn.z.std(0), rtol=0.25, atol=0)
    refined = refine(model, point, views, steps=300, draws=16, seed=1)
    assert bool(refined.elbo_before.isnan().all())  # points have no density
    attainable = exact.evidence - mean_field(linear, views, CONTENT, STYLE).divergence
    assert bool(((bound(model, refined, views)[0] - attainable).abs() < 0.05).all())


def test_images_that_do_not_improve_return_to_the_start(exact: Program) -> None:
    """With a learning rate much too large every image ends worse than it started, at the evidence."""
    refined = refine(*exact[:3], steps=3, lr=30.0, draws=1, seed=1)
    assert not refined.moved.any()
    torch.testing.assert_close(refined.elbo_after, exact.evidence, rtol=0, atol=1e-8)


def test_model_and_guide_are_unchanged_and_the_seed_decides(spoiled: Pair) -> None:
    model, guide, views = spoiled
    model.train()
    guide.train()
    kept = {name: value.clone() for part in (model, guide) for name, value in part.state_dict().items()}
    state = torch.get_rng_state()
    first, again, other = (refine(model, guide, views, steps=5, judged=20, seed=seed) for seed in (1, 1, 2))
    for name, value in first.family.state_dict().items():
        assert torch.equal(value, again.family.state_dict()[name])
    assert torch.equal(first.elbo_after, again.elbo_after)
    assert not torch.equal(first.family.shift, other.family.shift)
    assert torch.equal(state, torch.get_rng_state())
    for part in (model, guide):
        assert part.training
        assert all(parameter.requires_grad and parameter.grad is None for parameter in part.parameters())
        for name, value in part.state_dict().items():
            assert torch.equal(value, kept[name])


def test_it_has_posteriors_of_any_of_its_images_and_of_no_others(spoiled: Pair) -> None:
    model, guide, views = spoiled
    refined = refine(model, guide, views, steps=5, draws=2, judged=2)
    some = torch.tensor([3, 0, 2])
    whole, part = refined.posterior(views), refined.posterior(views[:, some])
    for name in ("z", "style", "backbone"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[:, some], rtol=0, atol=0)
    torch.testing.assert_close(part.content, whole.content[some], rtol=0, atol=0)
    drawn = draw(model, refined, views[:, some], 4000, seed=0)
    error = drawn.z.std(0) / 4000**0.5
    assert bool(((drawn.z.mean(0) - whole.z[:, some]).abs() < 5 * error).all())
    assert draw(model, refined, views.clone(), 3, seed=0).z.shape == (3, VIEWS, IMAGES, LATENT)
    for others in (views + 0.1, views[:1], torch.cat([views, views[:, :1] + 1], 1), {"image": views}):
        with pytest.raises(ValueError, match="no others"):
            refined.posterior(others)
        with pytest.raises(ValueError, match="no others"):
            draw(model, refined, others, 2, seed=0)
    with pytest.raises(ValueError, match="no others"):
        refined.embed(views[0])


def test_it_has_a_posterior_tree_and_no_calibration(exact: Program) -> None:
    model, _, views, *_ = exact
    refined = refine(*exact[:3], steps=1, draws=1, judged=2)
    tree = posterior((model, refined), views, draws=3)
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 3, "image": IMAGES, "view": VIEWS, "latent": LATENT}
    with pytest.raises(ValueError, match="calibrate the guide it started from"):
        calibrate(model, refined, views, seed=0)


def test_views_of_several_modalities_are_refined_and_sampled_together() -> None:
    model, guide, views = program_of_modalities()
    refined = refine(model, guide, views, steps=20, seed=1)
    assert bool((refined.elbo_after > refined.elbo_before).all())
    assert refined.posterior(views).z.shape == (3, 5, 2)
    with pytest.raises(ValueError, match="no others"):
        refined.posterior({"picture": views["picture"]})
    reference = nuts_reference(model, views, guide=refined, draws=4, warmup=4, chains=1)
    assert reference.z.shape == (1, 4, 5, 3, 2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": -1}, "steps must be at least"),
        ({"draws": 0}, "draws must be at least"),
        ({"judged": 1}, "judged must be at least"),
        ({"lr": 0.0}, "lr must be"),
        ({"lr": math.nan}, "lr must be"),
    ],
)
def test_bad_numbers_are_refused(exact: Program, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refine(*exact[:3], **setting)


def test_pairs_that_cannot_be_refined_are_refused(exact: Program) -> None:
    _, guide, views, _, linear = exact
    prior, discrete = guide.prior, exact_program("mixture")
    plain = AmortizedGuide(PotentialEncoder(linear), prior).double()
    for model, other, message in (
        (SimVE(prior), guide, "no images"),
        (make_model(prior, linear), DeltaGuide(PotentialEncoder(linear), prior).double(), "do not vary"),
        (discrete.model, discrete.guide, "draws content first"),
        (make_model(StudentTPrior(LATENT).double(), linear), plain, "needs content given z"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=message):
            refine(model, other, views)

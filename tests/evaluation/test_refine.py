"""Refinement against the best guide of its family, which the linear-Gaussian program knows in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pp_simve.evaluation import posterior
from pp_simve.evaluation.posterior import calibrate, nuts_reference, refine, weigh
from pp_simve.inference import AmortizedGuide, DeltaGuide, FlowGuide, Guide, PointGuide, StructuredGuide, draw
from pp_simve.inference.guides.recognition import SMALLEST_SCALE
from pp_simve.models import Bernoulli, Gaussian, GaussianPrior, SimVE, StudentTPrior

from ..inference.linear_gaussian import (
    CONTENT,
    DOUBLE,
    IMAGES,
    LATENT,
    POINTS,
    STYLE,
    VIEWS,
    Linear,
    PotentialEncoder,
    draw_views,
    exact_structured_guide,
    gaussian_evidence,
    make_linear,
    make_model,
    mean_field,
    mean_field_guide,
    mixture,
    set_head,
)


@pytest.fixture
def linear() -> Linear:
    torch.manual_seed(0)
    return make_linear()


def gaussian_prior() -> GaussianPrior:
    return GaussianPrior(LATENT, CONTENT, STYLE)


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


def test_an_amortized_guide_becomes_the_best_one_without_dependence_between_views(linear: Linear) -> None:
    prior, views = gaussian_prior(), draw_views(linear)
    best = mean_field(linear, views, CONTENT, STYLE)
    model, guide = make_model(prior, linear), mean_field_guide(prior, best)
    spoil(guide)
    refined = refine(model, guide, views, steps=300, draws=32, seed=1)
    loc, scale = refined.family.loc(), refined.family.scale()
    torch.testing.assert_close(loc, best.mean, rtol=0, atol=0.05)
    torch.testing.assert_close(scale, best.scale.expand_as(scale), rtol=0.05, atol=0)
    attainable = gaussian_evidence(CONTENT, STYLE, linear, views) - best.divergence
    found, error = bound(model, refined, views)
    assert bool(((found - attainable).abs() < 5 * error + 0.01).all())
    assert bool(refined.moved.all())
    before, error = bound(model, guide, views)
    assert bool(((refined.elbo_before - before).abs() < 5 * refined.elbo_error + 5 * error).all())
    assert bool(((refined.elbo_after - found).abs() < 5 * refined.elbo_error + 5 * error).all())
    assert bool((refined.elbo_after > refined.elbo_before + 1).all())
    assert bool((khat(model, refined, views) < khat(model, guide, views)).all())


def test_a_structured_guide_becomes_the_posterior(linear: Linear) -> None:
    prior, views = gaussian_prior(), draw_views(linear)
    model, guide = make_model(prior, linear), exact_structured_guide(prior, linear)
    spoil(guide)
    evidence = gaussian_evidence(CONTENT, STYLE, linear, views)
    assert float((evidence - bound(model, guide, views)[0]).min()) > 0.5
    refined = refine(model, guide, views, steps=300, draws=32, seed=1)
    log_weight = draw(model, refined, views, 1000, seed=3).log_weight
    assert bool(((log_weight.mean(0) - evidence).abs() < 0.02).all())
    assert float(log_weight.std(0).max()) < 0.2
    assert float(khat(model, refined, views).max()) < 0.4
    assert float(khat(model, guide, views).min()) > 0.6
    found = refined.posterior(views)
    exact = exact_structured_guide(prior, linear).posterior(views)
    for name in ("content", "style", "z"):
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), rtol=0, atol=0.05)
    torch.testing.assert_close(found.backbone, exact.backbone)


def test_any_guide_with_spread_starts_from_its_moments(linear: Linear) -> None:
    prior, views = gaussian_prior(), draw_views(linear)
    best = mean_field(linear, views, CONTENT, STYLE)
    model = make_model(prior, linear)
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
    attainable = gaussian_evidence(CONTENT, STYLE, linear, views) - best.divergence
    assert bool(((bound(model, refined, views)[0] - attainable).abs() < 0.05).all())


def test_who_cannot_get_better_is_left_where_it_was(linear: Linear) -> None:
    """With steps much too long every image ends worse, and none is returned so."""
    prior, views = gaussian_prior(), draw_views(linear)
    model, guide = make_model(prior, linear), exact_structured_guide(prior, linear)
    refined = refine(model, guide, views, steps=3, lr=30.0, draws=1, seed=1)
    assert not refined.moved.any()
    evidence = gaussian_evidence(CONTENT, STYLE, linear, views)
    torch.testing.assert_close(refined.elbo_after, evidence, rtol=0, atol=1e-8)


def test_model_and_guide_are_untouched_and_seeds_decide(linear: Linear) -> None:
    prior = GaussianPrior(LATENT, CONTENT, STYLE, learn_style=True)
    views = draw_views(linear)
    model = make_model(prior, linear).train()
    guide = mean_field_guide(prior, mean_field(linear, views, CONTENT, STYLE)).train()
    spoil(guide)
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


def test_images_do_not_share_anything(linear: Linear) -> None:
    """An image refined beside others comes to the same as alone, but for the noise of its draws."""
    prior, views = gaussian_prior(), draw_views(linear)
    best = mean_field(linear, views, CONTENT, STYLE)
    model, guide = make_model(prior, linear), mean_field_guide(prior, best)
    spoil(guide)
    one = views[:, :1]
    alone_guide = mean_field_guide(prior, mean_field(linear, one, CONTENT, STYLE))
    spoil(alone_guide)
    beside = refine(model, guide, views, steps=200, draws=32, seed=1)
    alone = refine(model, alone_guide, one, steps=200, draws=32, seed=2)
    torch.testing.assert_close(beside.family.loc()[:, :1], alone.family.loc(), rtol=0, atol=0.06)


def test_it_answers_for_any_of_its_images(linear: Linear) -> None:
    prior, views = gaussian_prior(), draw_views(linear)
    guide = mean_field_guide(prior, mean_field(linear, views, CONTENT, STYLE))
    spoil(guide)
    refined = refine(make_model(prior, linear), guide, views, steps=5, draws=2, judged=2)
    some = torch.tensor([3, 0, 2])
    whole, part = refined.posterior(views), refined.posterior(views[:, some])
    for name in ("z", "style", "backbone"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[:, some], rtol=0, atol=0)
    torch.testing.assert_close(part.content, whole.content[some], rtol=0, atol=0)
    drawn = draw(make_model(prior, linear), refined, views[:, some], 4000, seed=0)
    error = drawn.z.std(0) / 4000**0.5
    assert bool(((drawn.z.mean(0) - whole.z[:, some]).abs() < 5 * error).all())


def test_it_has_a_posterior_tree_and_no_calibration(linear: Linear) -> None:
    prior, views = gaussian_prior(), draw_views(linear)
    model, guide = make_model(prior, linear), exact_structured_guide(prior, linear)
    refined = refine(model, guide, views, steps=1, draws=1, judged=2)
    tree = posterior((model, refined), views, draws=3)
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 3, "image": IMAGES, "view": VIEWS, "latent": LATENT}
    with pytest.raises(ValueError, match="calibrate the guide it started from"):
        calibrate(model, refined, views, seed=0)


def test_it_answers_for_its_views_and_no_others(linear: Linear) -> None:
    prior, views = gaussian_prior(), draw_views(linear)
    model, guide = make_model(prior, linear), exact_structured_guide(prior, linear)
    refined = refine(model, guide, views, steps=1, draws=1, judged=2)
    drawn = draw(model, refined, views.clone(), 3, seed=0)
    assert drawn.z.shape == (3, VIEWS, IMAGES, LATENT)
    for others in (views + 0.1, views[:1], torch.cat([views, views[:, :1] + 1], 1), {"image": views}):
        with pytest.raises(ValueError, match="no others"):
            refined.posterior(others)
        with pytest.raises(ValueError, match="no others"):
            draw(model, refined, others, 2, seed=0)
    with pytest.raises(ValueError, match="no others"):
        refined.embed(views[0])


class Flat(nn.Sequential):
    """Pixels as features."""

    def __init__(self, features: int) -> None:
        super().__init__(nn.Flatten())
        self.features = features


def test_views_of_several_kinds_are_refined_and_sampled_together() -> None:
    torch.manual_seed(0)
    prior = GaussianPrior(LATENT)
    likelihoods = {
        "image": Gaussian(nn.Sequential(nn.Linear(LATENT, 8), nn.Unflatten(-1, (1, 2, 4)))),
        "attributes": Bernoulli(nn.Sequential(nn.Linear(LATENT, 5), nn.Unflatten(-1, (5, 1, 1)))),
    }
    model = SimVE(prior, likelihoods).double()
    guide = AmortizedGuide({"image": Flat(8), "attributes": Flat(5)}, prior).double()
    views = {"image": torch.rand(2, 2, 1, 2, 4).double(), "attributes": torch.rand(1, 2, 5, 1, 1).round().double()}
    refined = refine(model, guide, views, steps=20, seed=1)
    assert bool((refined.elbo_after > refined.elbo_before).all())
    assert refined.posterior(views).z.shape == (3, 2, LATENT)
    with pytest.raises(ValueError, match="no others"):
        refined.posterior({"image": views["image"]})
    reference = nuts_reference(model, views, guide=refined, draws=4, warmup=4, chains=1)
    assert reference.z.shape == (1, 4, 2, 3, LATENT)


def test_bad_input_is_refused(linear: Linear) -> None:
    prior, views = gaussian_prior(), draw_views(linear)
    model, guide = make_model(prior, linear), exact_structured_guide(prior, linear)
    for name, value in {"steps": -1, "draws": 0, "judged": 1}.items():
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            refine(model, guide, views, **{name: value})  # type: ignore[arg-type]
    for lr in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="lr must be"):
            refine(model, guide, views, lr=lr)
    with pytest.raises(ValueError, match="no images"):
        refine(SimVE(prior), guide, views)
    with pytest.raises(ValueError, match="do not vary"):
        refine(model, DeltaGuide(PotentialEncoder(linear), prior).double(), views)
    discrete = mixture(POINTS, STYLE)
    with pytest.raises(ValueError, match="draws content first"):
        refine(make_model(discrete, linear), exact_structured_guide(discrete, linear), views)
    heavy = StudentTPrior(LATENT).double()
    plain = AmortizedGuide(PotentialEncoder(linear), gaussian_prior())
    with pytest.raises(ValueError, match="needs content given z"):
        refine(make_model(heavy, linear), plain.to(DOUBLE), views)  # type: ignore[arg-type]

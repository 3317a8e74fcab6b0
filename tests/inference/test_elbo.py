"""The ELBO: Trace_ELBO bit for bit, the collapsed bound, finite differences, and what it refuses."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pp_simve.inference import ELBO, ProgramError
from pp_simve.models import Views

from .programs import GUIDES, IMAGES, PRIORS, FaultyGuide, assert_trace_elbo, draw_views, make_pair

pytestmark = pytest.mark.usefixtures("local_parameters")


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("prior", PRIORS)
def test_value_and_gradients_equal_trace_elbo_bit_for_bit(prior: str, guide: str, likelihood: str) -> None:
    for views, particles in ((1, 1), (2, 3), (5, 1), (5, 3)):
        pair = make_pair(prior, guide, likelihood)
        assert_trace_elbo(pair.model, pair.guide, draw_views(views), particles)


@pytest.mark.parametrize("views", [1, 2, 5])
@pytest.mark.parametrize("prior", PRIORS)
def test_sampled_content_gives_the_collapsed_bound_at_every_draw(prior: str, views: int) -> None:
    pair, images = make_pair(prior), draw_views(views)
    objective = ELBO(pair.model, pair.guide, scale=1)
    model, guide = (partial(nn.Module.__call__, module) for module in (pair.model, pair.guide))
    first = poutine.trace(guide).get_trace(images)
    z = first.nodes["z"]["value"]
    reconstruction = pair.model.likelihood(z).log_prob(images).sum()
    log_q = pair.guide.recognition(images).log_prob(z).sum()
    collapsed = reconstruction + pair.prior.log_marginal(z).sum() - log_q
    drawn = []
    for _ in range(20):
        only_z = first.copy()
        only_z.remove_node("content")
        only_z.remove_node("style")
        guide_trace = poutine.trace(poutine.replay(guide, trace=only_z)).get_trace(images)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(images)
        drawn.append(guide_trace.nodes["content"]["value"])
        terms = objective.terms(model_trace, guide_trace, images=IMAGES)
        torch.testing.assert_close(-terms["loss"], collapsed, rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(terms["reconstruction"], reconstruction, rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(terms["entropy"], -log_q, rtol=1e-12, atol=1e-11)
        prior_terms = terms["content"] + terms["style"]
        torch.testing.assert_close(prior_terms, pair.prior.log_marginal(z).sum(), rtol=1e-11, atol=1e-11)
    if prior != "standard":
        assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("views", [1, 2, 5])
def test_the_standard_prior_is_a_vae_with_its_closed_form_divergence(views: int) -> None:
    pair, images = make_pair("standard"), draw_views(views)
    q = pair.guide.recognition(images).base_dist
    divergence = 0.5 * (q.loc.square() + q.scale.square() - 1 - 2 * q.scale.log()).sum()
    terms = ELBO(pair.model, pair.guide, scale=1, particles=5_000)(images)
    sampled = -(terms["content"] + terms["style"] + terms["entropy"])
    torch.testing.assert_close(sampled, divergence, rtol=0.03, atol=0)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("guide", GUIDES)
def test_gradients_equal_central_differences(prior: str, guide: str) -> None:
    pair, images = make_pair(prior, guide, likelihood="gaussian"), draw_views(2)
    objective = ELBO(pair.model, pair.guide, beta=0.7, particles=2)

    def loss() -> Tensor:
        pyro.set_rng_seed(5)  # common random numbers
        return objective(images)["loss"]

    parameters, step = list(pair.both().parameters()), 1e-5
    for parameter, slope in zip(parameters, torch.autograd.grad(loss(), parameters), strict=True):
        direction, found = torch.randn_like(parameter), []
        with torch.no_grad():
            for move in (step, -2 * step, step):
                parameter += move * direction
                found.append(loss())
        difference = (found[0] - found[1]) / (2 * step)
        torch.testing.assert_close(difference, (slope * direction).sum(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_loss_is_the_weighted_sum_of_its_terms(beta: float) -> None:
    pair = make_pair()
    terms = ELBO(pair.model, pair.guide, beta=beta)(draw_views(2))
    assert set(terms) == {"loss", "reconstruction", "content", "style", "entropy"}
    expected = -(terms["reconstruction"] + beta * (terms["content"] + terms["style"] + terms["entropy"]))
    torch.testing.assert_close(terms["loss"].detach(), expected, rtol=1e-13, atol=1e-13)


def test_terms_are_per_image_by_default_and_summed_at_scale_one() -> None:
    pair, views = make_pair(), draw_views(2)
    pyro.set_rng_seed(3)
    mean = ELBO(pair.model, pair.guide)(views)
    pyro.set_rng_seed(3)
    total = ELBO(pair.model, pair.guide, scale=1)(views)
    for name in total:
        torch.testing.assert_close(mean[name] * IMAGES, total[name], rtol=1e-13, atol=1e-13)


def test_the_global_parameter_store_stays_empty_whatever_pyros_setting() -> None:
    for local in (False, True):
        with pyro.settings.context(module_local_params=local):
            pair = make_pair("gaussian learned")
            ELBO(pair.model, pair.guide)(draw_views(2))["loss"].backward()
            assert not list(pyro.get_param_store().keys())


def test_two_pairs_of_the_same_names_keep_their_own_parameters() -> None:
    first, second, views = make_pair(), make_pair(), draw_views(2)
    pyro.set_rng_seed(3)
    alone = ELBO(first.model, first.guide)(views)["loss"]
    ELBO(second.model, second.guide)(views)["loss"].backward()
    pyro.set_rng_seed(3)
    assert torch.equal(ELBO(first.model, first.guide)(views)["loss"], alone)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("param", r"pyro\.param\('shift'\) lives in Pyro's global store"),
        ("not reparametrised", "guide's site 'style' is not reparametrised"),
        ("no style", "(?s)model and guide do not match.*style"),
        ("extra site", "(?s)model and guide do not match.*surplus"),
        ("shared latent", "the latent 'shift' is outside of the plate `image`, .*: make it a parameter"),
    ],
)
def test_guides_that_cannot_work_are_refused_under_validation(fault: str, message: str) -> None:
    pair = make_pair()
    with pyro.validation_enabled(True), pytest.raises(ProgramError, match=message):
        ELBO(pair.model, FaultyGuide(fault))(draw_views(2))


@pytest.mark.parametrize("fault", ["plate", "event"])
def test_guides_of_the_wrong_shape_are_refused_under_validation(fault: str) -> None:
    pair = make_pair()
    with pyro.validation_enabled(True), pytest.raises(ValueError, match=r"style|shape|dims"):
        ELBO(pair.model, FaultyGuide(fault))(draw_views(2))


def test_a_mean_field_guide_without_auxiliary_sites_is_a_guide_too() -> None:
    pair, guide = make_pair(), FaultyGuide("none")
    terms = ELBO(pair.model, guide)(draw_views(2))
    assert set(terms) == {"loss", "reconstruction", "content", "style"}
    assert_trace_elbo(pair.model, guide, draw_views(2))


def test_programs_are_called_with_plain_views_whatever_wraps_them() -> None:
    """A user's guide and model take tensors."""
    pair, views = make_pair(), draw_views(2)
    for guide in (FaultyGuide("none"), pair.guide):
        losses = []
        for given in (views, Views.of(views)):
            pyro.set_rng_seed(3)
            losses.append(ELBO(pair.model, guide)(given)["loss"])
        assert torch.equal(*losses)
    assert torch.equal(pair.guide.posterior(Views.of(views)).z, pair.guide.posterior(views).z)


def test_a_model_with_a_global_parameter_is_refused_under_validation() -> None:
    pair = make_pair()

    class Shifted(PyroModule):
        def forward(self, views: Tensor) -> None:
            pyro.param("brightness", torch.ones(()))
            pair.model(views)

    with pyro.validation_enabled(True), pytest.raises(ProgramError, match=r"pyro\.param\('brightness'\)"):
        ELBO(Shifted(), pair.guide)(draw_views(2))

"""The pair is plain Pyro: it trains and predicts by Pyro's own tools."""

from __future__ import annotations

from collections.abc import Iterator

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor

from pp_simve.inference import ELBO

from .programs import GUIDES, IMAGES, LATENT, PRIORS, Pair, draw_views, make_pair


@pytest.fixture(params=[True, False], ids=["module-local parameters", "global parameters"])
def parameter_setting(request: pytest.FixtureRequest) -> Iterator[bool]:
    with pyro.settings.context(module_local_params=request.param):
        yield request.param
    pyro.clear_param_store()


def train(pair: Pair, views: Tensor, steps: int, local: bool, lr: float) -> list[float]:
    """By Pyro's own means: `SVI` for global parameters, which cannot step module-local ones, else the ELBO's module."""
    if not local:
        svi = SVI(pair.model, pair.guide, Adam({"lr": lr}), Trace_ELBO())
        return [svi.step(views) for _ in range(steps)]
    bound = Trace_ELBO()(pair.model, pair.guide)
    optimizer = torch.optim.Adam(bound.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        loss = bound(views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("prior", ["gaussian learned", "flat", "standard"])
def test_training_under_pyro_lowers_the_loss_and_moves_every_parameter(
    prior: str, guide: str, parameter_setting: bool
) -> None:
    pair, views = make_pair(prior, guide), draw_views(2)
    before = {name: value.detach().clone() for name, value in pair.both().named_parameters()}
    losses = train(pair, views, 30, parameter_setting, lr=5e-2)
    assert sum(losses[-10:]) < sum(losses[:10]) - 1
    for name, value in pair.both().named_parameters():
        assert not torch.equal(before[name], value), name
    stored = [] if parameter_setting else ["likelihood$$$decoder.0.weight", "recognition$$$encoder_head.head.weight"]
    assert set(stored) <= set(pyro.get_param_store().keys())


def test_the_second_pair_of_a_session_is_warned_of_the_parameters_of_the_first() -> None:
    """Without `clear_param_store` SVI would optimize those of the first, and the second would never learn."""
    views = draw_views(2)
    first, second = make_pair("gaussian learned"), make_pair("gaussian learned")
    try:
        train(first, views, 2, local=False, lr=5e-2)
        train(first, views, 1, local=False, lr=5e-2)
        with pytest.warns(UserWarning, match="of another model or guide.*call pyro.clear_param_store"):
            second.model(views)
        with torch.no_grad():
            second.guide(views)  # draws, no training: none
        with pytest.warns(UserWarning, match="instead of those of this AmortizedGuide"):
            second.guide(views)
        pyro.clear_param_store()
        train(make_pair("gaussian learned"), views, 1, local=False, lr=5e-2)
    finally:
        pyro.clear_param_store()


def test_pyro_and_our_objective_take_the_same_steps(parameter_setting: bool) -> None:
    first, second = make_pair("gaussian learned"), make_pair("gaussian learned")
    second.both().load_state_dict(first.both().state_dict())
    views = draw_views(2)
    pyro.set_rng_seed(2)
    theirs = train(first, views, 5, parameter_setting, lr=1e-2)
    objective = ELBO(second.model, second.guide, scale=1)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    pyro.set_rng_seed(2)
    ours = []
    for _ in range(5):
        loss = objective(views)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ours.append(loss.item())
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_several_particles_and_renyis_bound_run_vectorised(parameter_setting: bool) -> None:
    pair, views = make_pair("gaussian per axis"), draw_views(3)
    evidence = {}
    for name, bound in (
        ("elbo", Trace_ELBO(num_particles=2000, vectorize_particles=True, max_plate_nesting=2)),
        ("iwae", RenyiELBO(alpha=0, num_particles=2000, vectorize_particles=True, max_plate_nesting=2)),
    ):
        evidence[name] = -bound.loss(pair.model, pair.guide, views)
    assert evidence["iwae"] > evidence["elbo"]


def test_predictive_draws_contents_and_styles(parameter_setting: bool) -> None:
    pair, views = make_pair(), draw_views(2)
    draws = Predictive(pair.guide, num_samples=7)(views)
    assert draws["content"].shape == (7, 1, IMAGES, LATENT)
    assert draws["style"].shape == (7, 2, IMAGES, LATENT)
    parallel = Predictive(pair.guide, num_samples=7, parallel=True)(views)
    assert parallel["content"].shape[-2:] == (IMAGES, LATENT)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_pair_passes_pyros_validation(guide: str) -> None:
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(True):
        for prior in PRIORS:
            pair = make_pair(prior, guide)
            for views in (1, 2, 5):
                assert torch.isfinite(Trace_ELBO().differentiable_loss(pair.model, pair.guide, draw_views(views)))

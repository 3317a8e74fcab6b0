"""Draws and their densities, against the evidence of the linear-Gaussian program and Pyro's own traces."""

from __future__ import annotations

import pytest
import torch

from pp_simve.inference import AmortizedGuide, DeltaGuide, Draws, PointGuide, draw
from pp_simve.inference import sampling as module
from pp_simve.models import InfoNCE, SimVE

from .linear_gaussian import (
    CONTENT,
    IMAGES,
    LATENT,
    QUADRATIC,
    STYLE,
    VIEWS,
    PotentialEncoder,
    draw_views,
    exact_program,
    log_weights,
    mean_field,
    mean_field_guide,
)


@pytest.mark.parametrize("name", QUADRATIC)
@pytest.mark.parametrize("draws", [1, 5])
def test_every_draw_of_the_posterior_weighs_the_evidence(name: str, draws: int) -> None:
    model, guide, views, evidence, _ = exact_program(name)
    drawn, prior = draw(model, guide, views, draws, seed=1), model.prior
    assert drawn.content.shape == (draws, IMAGES, prior.content().event_shape[0])
    assert drawn.style.shape == drawn.z.shape == (draws, VIEWS, IMAGES, LATENT)
    torch.testing.assert_close(drawn.z, prior.compose(drawn.content.unsqueeze(1), drawn.style))
    torch.testing.assert_close(drawn.log_weight, evidence.expand(draws, IMAGES), rtol=0, atol=1e-9)


def test_densities_are_those_of_their_sites() -> None:
    model, exact, views, _, linear = exact_program()
    guide = mean_field_guide(exact.prior, mean_field(linear, draw_views(linear), CONTENT, STYLE))
    drawn = draw(model, guide, views, 6, seed=1)
    content, style = drawn.content, drawn.style
    of_style = torch.distributions.Normal(0.0, torch.tensor(STYLE, dtype=torch.float64).sqrt()).log_prob(style)
    of_content = torch.distributions.Normal(0.0, torch.tensor(CONTENT, dtype=torch.float64).sqrt()).log_prob(content)
    torch.testing.assert_close(drawn.log_prior, of_content.sum(-1) + of_style.sum((1, -1)))
    torch.testing.assert_close(drawn.log_likelihood, model.likelihood_of()(drawn.z).log_prob(views))
    torch.testing.assert_close(drawn.log_weight, drawn.log_p - drawn.log_q)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.testing.assert_close(drawn.log_weight, log_weights(model, guide, views, 6))


def test_draws_in_parts_are_as_many_and_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide, views, evidence, _ = exact_program()
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 3 * views.numel())
    drawn = draw(model, guide, views, 7, seed=1)
    assert drawn.z.shape[0] == len(drawn.log_weight) == 7
    assert len(drawn.z.flatten(1).unique(dim=0)) == 7
    torch.testing.assert_close(drawn.log_weight, evidence.expand(7, IMAGES), rtol=0, atol=1e-9)


def test_the_seed_decides_and_torch_stays_as_it_was() -> None:
    model, guide, views, *_ = exact_program()
    state = torch.get_rng_state()
    first, again, other = (draw(model, guide, views, 2, seed=seed).z for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert guide.training
    assert not first.requires_grad


@pytest.mark.parametrize("guide", [PointGuide, DeltaGuide])
def test_points_have_no_density(guide: type[PointGuide | DeltaGuide]) -> None:
    model, exact, views, _, linear = exact_program()
    drawn = draw(model, guide(PotentialEncoder(linear), exact.prior).double(), views, 2, seed=1)
    assert drawn.log_q is None
    assert drawn.log_p.shape == (2, IMAGES)
    with pytest.raises(ValueError, match="no density"):
        _ = drawn.log_weight


def test_without_pixels_there_is_no_joint_and_the_group_is_no_part_of_it() -> None:
    _, exact, views, _, linear = exact_program()
    prior, guide = exact.prior, AmortizedGuide(PotentialEncoder(linear), exact.prior).double()
    drawn = draw(SimVE(prior), guide, views, 2, seed=1)
    assert drawn.log_likelihood is None
    with pytest.raises(ValueError, match="no likelihood"):
        _ = drawn.log_p
    with pytest.raises(ValueError, match="at least 1"):
        draw(SimVE(prior), guide, views, 0, seed=0)
    grouped: Draws = draw(SimVE(prior, group=InfoNCE()), guide, views, 2, seed=1)
    torch.testing.assert_close(grouped.log_prior, drawn.log_prior)

"""The importance-weighted bound, where the evidence and a guide's distance from it are closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation.bound import importance_weighted_bound
from pp_simve.inference import AmortizedGuide, DeltaGuide
from pp_simve.models import GaussianPrior, SimVE

from ..inference.linear_gaussian import (
    CASES,
    CONTENT,
    IMAGES,
    LATENT,
    STYLE,
    PotentialEncoder,
    draw_views,
    exact_structured_guide,
    gaussian_evidence,
    make_linear,
    make_model,
    mean_field,
    mean_field_guide,
)


@pytest.mark.parametrize("name", ["gaussian", "standard", "block"])
@pytest.mark.parametrize("views", [1, 3])
def test_the_exact_posterior_gives_the_evidence(name: str, views: int) -> None:
    torch.manual_seed(0)
    linear = make_linear()
    pictures, prior = draw_views(linear, images=5, views=views), CASES[name].prior().double()
    model, guide = make_model(prior, linear), exact_structured_guide(prior, linear)
    for draws, batch_size in ((1, 512), (3, 2)):
        found = importance_weighted_bound(model, guide, pictures, draws=draws, seed=1, batch_size=batch_size)
        torch.testing.assert_close(found, CASES[name].evidence(linear, pictures), rtol=0, atol=1e-9)


def test_another_guide_lacks_its_divergence_and_less_with_every_draw() -> None:
    """With one draw the mean lies below the evidence by KL(q ‖ p); with K by about (E[w²]/E[w]² − 1) / 2K."""
    torch.manual_seed(0)
    linear = make_linear()
    # Of 4 images, each many times over: the guide of views that it knows by heart needs them all in one batch.
    views = draw_views(linear, images=4).repeat(1, 400, 1, 1, 1)
    # Wider than the best, so that weights have a variance.
    known = mean_field(linear, views, CONTENT, STYLE, width=1.1)
    prior = GaussianPrior(LATENT, CONTENT, STYLE).double()
    model, guide = make_model(prior, linear), mean_field_guide(prior, known)
    evidence = gaussian_evidence(CONTENT, STYLE, linear, views)

    def lack(draws: int) -> tuple[float, float]:
        rest = evidence - importance_weighted_bound(model, guide, views, draws=draws, seed=2, batch_size=len(evidence))
        return float(rest.mean()), float(rest.std()) / len(rest) ** 0.5

    one, error = lack(1)
    assert abs(one - float(known.divergence)) < 4 * error
    few, _ = lack(4)
    many, error = lack(64)
    assert one > few > many > -4 * error
    assert abs(many - (float(known.square) - 1) / (2 * 64)) < 4 * error + 0.01


def test_the_seed_decides_and_torch_stays_as_it_was() -> None:
    torch.manual_seed(0)
    linear = make_linear()
    views, prior = draw_views(linear), GaussianPrior(LATENT, CONTENT, STYLE).double()
    model, guide = make_model(prior, linear), AmortizedGuide(PotentialEncoder(linear), prior).double().train()

    def bound(seed: int) -> Tensor:
        return importance_weighted_bound(model, guide, views, draws=2, seed=seed, batch_size=2)

    state = torch.get_rng_state()
    first = bound(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(bound(3), first)
    assert not torch.equal(bound(4), first)
    assert first.shape == (IMAGES,)
    assert guide.training
    assert not first.requires_grad


def test_what_has_no_bound_is_refused() -> None:
    torch.manual_seed(0)
    linear = make_linear()
    views, prior = draw_views(linear), GaussianPrior(LATENT, CONTENT, STYLE).double()
    model, guide = make_model(prior, linear), exact_structured_guide(prior, linear)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        importance_weighted_bound(model, guide, views, draws=0, seed=0)
    with pytest.raises(ValueError, match="no likelihood"):
        importance_weighted_bound(SimVE(prior), guide, views, draws=1, seed=0)
    points = DeltaGuide(PotentialEncoder(linear), prior).double()
    with pytest.raises(ValueError, match="the guide has no density"):
        importance_weighted_bound(model, points, views, draws=1, seed=0)

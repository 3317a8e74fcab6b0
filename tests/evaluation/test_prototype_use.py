"""Prototypes within a fit and across fits."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation.posterior import match_prototypes, prototype_use
from pp_simve.inference import AmortizedGuide
from pp_simve.models import ConjugatePrior, GaussianPrior

from ..inference.linear_gaussian import (
    CASES,
    LATENT,
    POINTS,
    STYLE,
    WEIGHTS,
    Linear,
    PotentialEncoder,
    make_linear,
    make_model,
    mixture,
    set_head,
)


def guide_of(linear: Linear, prior: ConjugatePrior) -> AmortizedGuide:
    guide = AmortizedGuide(PotentialEncoder(linear), prior)
    set_head(guide, linear.precision.rsqrt() * 0.1)
    return guide


def views_of(linear: Linear, points: Tensor, views: int = 3) -> Tensor:
    """Views whose z is content and nothing else."""
    return (points @ linear.weight.T + linear.bias).unflatten(-1, (1, 2, 4)).expand(views, -1, -1, -1, -1)


def test_responsibilities_are_those_of_the_prior() -> None:
    linear = make_linear()
    prior = mixture(POINTS, STYLE)
    points = torch.tensor(POINTS).double()[[0, 0, 1, 2]]
    model, guide = make_model(prior, linear), guide_of(linear, prior)
    found = prototype_use(model, guide, views_of(linear, points), draws=50, seed=1)
    assert found.responsibilities.shape == (4, 4)
    torch.testing.assert_close(found.responsibilities.sum(1), torch.ones(4).double())
    at_mean = prior.responsibilities(points.expand(3, -1, -1))
    assert (found.responsibilities - at_mean).abs().max() < 0.1
    torch.testing.assert_close(found.use, found.responsibilities.mean(0))
    assert found.effective == pytest.approx(float((-(found.use * found.use.log()).sum()).exp()))
    assert found.certainty == pytest.approx(float(found.responsibilities.max(1).values.mean()))


def test_unused_prototypes_are_named() -> None:
    linear = make_linear()
    prior = mixture(POINTS, [variance / 16 for variance in STYLE])
    model, guide = make_model(prior, linear), guide_of(linear, prior)
    found = prototype_use(model, guide, views_of(linear, torch.tensor(POINTS).double()[[0, 1, 1]]), draws=50, seed=1)
    assert found.unused == [2, 3]
    assert found.certainty > 0.95


def test_blocks_of_a_mixture_have_labels_and_gaussians_have_none() -> None:
    linear = make_linear()
    views = views_of(linear, torch.zeros(2, LATENT).double())
    prior = CASES["block of mixture"].prior().double()
    assert prototype_use(make_model(prior, linear), guide_of(linear, prior), views, seed=1).use.shape == (len(WEIGHTS),)
    gaussian = GaussianPrior(LATENT).double()
    with pytest.raises(ValueError, match="not one of K prototypes"):
        prototype_use(make_model(gaussian, linear), guide_of(linear, gaussian), views, seed=1)


def test_renamed_prototypes_are_matched() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.softmax(4 * torch.randn(200, 5, generator=generator), 1)
    names = torch.tensor([3, 0, 4, 1, 2])
    second = first[:, names.argsort()]  # prototype k of the first is names[k] of the second
    found = match_prototypes(first, second)
    assert found.order.tolist() == names.tolist()
    assert found.switched
    assert found.after == 1
    assert found.before < 0.1
    assert float(found.overlap.sum()) == pytest.approx(1)
    same = match_prototypes(first, first)
    assert not same.switched
    assert same.before == same.after == 1


def test_the_matching_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.softmax(3 * torch.randn(2, 40, 4, generator=generator), -1)
    found = match_prototypes(first, second)
    shared = {
        order: sum(float(found.overlap[k, to]) for k, to in enumerate(order))
        for order in itertools.permutations(range(4))
    }
    assert tuple(found.order.tolist()) == max(shared, key=lambda order: shared[order])
    agree = (found.order[first.argmax(1)] == second.argmax(1)).double().mean()
    assert found.after == pytest.approx(float(agree))

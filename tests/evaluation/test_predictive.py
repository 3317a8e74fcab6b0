"""Posterior predictive checks, where replicates' distributions are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation.posterior import STATISTICS, check_predictions
from pp_simve.evaluation.posterior.predictive import contrast, ink, mean, sharpness
from pp_simve.models import Bernoulli, SimVE

from ..inference.linear_gaussian import CONTENT, DOUBLE, PIXEL_VARIANCE, STYLE
from .planted_guides import exact_moments, planted


def test_statistics_are_what_they_are_called() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 5, 3, 6, 7, generator=generator, dtype=DOUBLE)
    for name, statistic in STATISTICS.items():
        found = statistic(images)
        assert found.shape == (2, 5)
        torch.testing.assert_close(found[1, 2], statistic(images[1, 2]), msg=name)
    picture = torch.tensor([[[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]])
    assert float(mean(picture)) == pytest.approx(0.5)
    assert float(contrast(picture)) == pytest.approx(0.5)
    assert float(ink(picture)) == pytest.approx(0.5)
    # 1 of 2 neighbours across differs in each row, 1 of 3 down.
    assert float(sharpness(picture)) == pytest.approx(3 / 7)
    assert float(sharpness(torch.ones(4, 1, 1))) == 0


def test_p_values_are_those_of_the_predictive_distribution() -> None:
    """The mean over replicates of a linear statistic is Gaussian about that of the posterior mean of z."""
    model, guide, views, _, linear = planted()

    def along(images: Tensor) -> Tensor:
        return images.flatten(-3) @ linear.weight[:, 0]

    found = check_predictions(model, guide, views, draws=4000, seed=1, statistics={"along": along})
    check = found.statistics["along"]
    torch.testing.assert_close(check.observed, along(views))
    length = float(linear.weight[:, 0].square().sum())
    expected = guide.posterior(views).z[..., 0] * length + linear.bias @ linear.weight[:, 0]
    of_z = exact_moments(linear, views, CONTENT, STYLE)["z"][1][0, 0, 0]
    sd = float((of_z * length**2 + PIXEL_VARIANCE * length).sqrt())
    assert (check.replicated - expected).abs().max() < 5 * sd / 4000**0.5
    p_values = 1 - torch.distributions.Normal(expected, sd).cdf(check.observed)
    assert (check.p_values - p_values).abs().max() < 5 * 0.5 / 4000**0.5


def test_p_values_are_conservative() -> None:
    right = check_predictions(*planted(images=200)[:3], draws=900, seed=1)
    assert not right.alarm, right.failing
    # Conservative: latents come from the view, so that its own statistic is rarely far out.
    of_views = right.statistics["mean"].p_values
    assert float((of_views - 0.5).abs().mean()) < 0.22  # of uniform ones 0.25


def test_ties_count_as_halves() -> None:
    constant = {"constant": lambda images: torch.ones_like(images[..., 0, 0, 0])}
    check = check_predictions(*planted()[:3], seed=1, statistics=constant).statistics["constant"]
    assert (check.p_values == 0.5).all()
    assert check.overall == 1.0


def test_grey_views_are_unlike_black_and_white_replicates() -> None:
    model, guide, *_ = planted()
    coins = SimVE(guide.prior, Bernoulli(model.likelihood_of().decoder))  # type: ignore[arg-type]
    views = torch.rand(2, 30, 1, 2, 4, dtype=DOUBLE)
    found = check_predictions(coins, guide, views, seed=1)
    assert "contrast" in found.failing
    assert (found.statistics["contrast"].replicated > found.statistics["contrast"].observed).double().mean() > 0.9

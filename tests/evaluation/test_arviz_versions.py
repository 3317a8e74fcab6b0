"""The one file of ArviZ differences: the same numbers under 0.23 and 1.x, and those of a plain reference."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.special import log_softmax, logsumexp

from pp_simve.evaluation.posterior import arviz_versions
from pp_simve.evaluation.posterior.arviz_versions import FEWEST_DRAWS, for_arviz, psis, summary, takes_trees

DRAWS = 300


def fixed_log_weights() -> np.ndarray:
    """Three images whose weights have tails of growing thickness; no random generator, whose stream might change."""
    return np.array(
        [
            [
                math.sin(12.9898 * draw * (image + 1))
                + (image + 1) * 0.8 * math.tan(1.4 * math.sin(78.233 * draw + image))
                for image in range(3)
            ]
            for draw in range(DRAWS)
        ]
    )


def pareto_fit(excesses: np.ndarray) -> tuple[float, float]:
    """Shape and scale of a generalized Pareto distribution: Zhang and Stephens (2009), the mean of their likelihood of
    θ over its quadrature points; then the prior of Vehtari et al. (appendix C), ten observations of shape ½.
    """
    excesses = np.sort(excesses)
    count = len(excesses)
    points = 30 + math.floor(math.sqrt(count))
    quartile = excesses[math.floor(count / 4 + 0.5) - 1]
    thetas, logs = [], []
    for point in range(1, points + 1):
        theta = 1 / excesses[-1] + (1 - math.sqrt(points / (point - 0.5))) / (3 * quartile)
        shape = -np.mean([math.log(1 - theta * excess) for excess in excesses])
        thetas.append(theta)
        logs.append(count * (math.log(theta / shape) + shape - 1))
    theta = float(np.sum(np.array(thetas) * np.exp(np.array(logs) - logsumexp(logs))))
    shape = float(np.mean(np.log1p(-theta * excesses)))
    return (count * shape + 10 * 0.5) / (count + 10), -shape / theta


def plain_psis(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Of one image: the expected order statistics of the fitted tail in place of the largest weights."""
    weights = np.exp(log_weights - log_weights.max())
    order = np.argsort(weights)
    tail = math.floor(min(len(weights) / 5, 3 * math.sqrt(len(weights))))
    cutoff = weights[order[-tail - 1]]
    shape, scale = pareto_fit(weights[order[-tail:]] - cutoff)
    quantiles = (np.arange(tail) + 0.5) / tail
    weights[order[-tail:]] = np.minimum(cutoff + scale * ((1 - quantiles) ** -shape - 1) / shape, 1)
    return np.log(weights / weights.sum()), shape


def test_shapes_of_a_fixed_vector_are_the_stored_ones_in_both_lines() -> None:
    smoothed, shape = psis(fixed_log_weights())
    np.testing.assert_allclose(shape, [0.42810478, 0.87674235, 2.11020441], rtol=0, atol=1e-8)
    np.testing.assert_allclose(smoothed[0], [-8.06625377, -7.70519735, -8.27468069], rtol=0, atol=1e-8)


@pytest.mark.parametrize("draws", [FEWEST_DRAWS, 103, 225, 226, DRAWS])
def test_weights_and_shapes_are_those_of_a_plain_reference(draws: int) -> None:
    log_weights = fixed_log_weights()[:draws]
    smoothed, shape = psis(log_weights)
    for image in range(3):
        expected, expected_shape = plain_psis(log_weights[:, image])
        np.testing.assert_allclose(shape[image], expected_shape, rtol=1e-6)
        np.testing.assert_allclose(smoothed[:, image], expected, rtol=1e-6)
    np.testing.assert_allclose(np.exp(smoothed).sum(0), 1)


def test_a_constant_added_changes_nothing_and_the_input_stays() -> None:
    log_weights = fixed_log_weights()
    before = log_weights.copy()
    smoothed, shape = psis(log_weights)
    np.testing.assert_array_equal(log_weights, before)
    again, shape_again = psis(log_weights - [5000.0, 0.0, 300.0])
    np.testing.assert_allclose(shape_again, shape, rtol=1e-6)
    np.testing.assert_allclose(again, smoothed, rtol=1e-6)


def test_equal_weights_have_no_tail() -> None:
    exact = np.full((100, 3), -1234.5)
    exact[:, 1] += np.random.default_rng(0).uniform(-4e-4, 4e-4, 100)  # what float32 leaves of an exact guide's
    exact[:50, 2] = -2000  # some are far below, but the largest fifth is equal: weights are bounded
    smoothed, shape = psis(exact)
    np.testing.assert_array_equal(shape, -np.inf)
    np.testing.assert_allclose(smoothed, log_softmax(exact, axis=0))


def test_tails_wider_than_floats_have_an_infinite_shape() -> None:
    wide = np.linspace(-9000.0, 0.0, 100)[:, None]
    partly = np.where(np.arange(100) < 90, -np.inf, 0.1 * np.arange(100))[:, None]
    smoothed, shape = psis(np.hstack([wide, partly]))
    np.testing.assert_array_equal(shape, np.inf)
    np.testing.assert_allclose(np.exp(smoothed).sum(0), 1)


@pytest.mark.parametrize(
    ("log_weights", "message"),
    [
        (np.zeros((FEWEST_DRAWS - 1, 2)), f"no meaning for fewer than {FEWEST_DRAWS} draws, got {FEWEST_DRAWS - 1}"),
        (np.zeros(100), r"shape \(draw, image\)"),
        (np.where(np.arange(3) == 1, np.nan, np.zeros((100, 3))), r"NaN or ∞ in 1 of 3 images \(1\)"),
        (np.full((100, 12), np.inf), r"in 12 of 12 images \(0, 1, 2, 3, 4, 5, 6, 7, …\)"),
        (np.where(np.arange(3) > 0, -np.inf, np.zeros((100, 3))), r"−∞ in 2 of 3 images \(1, 2\)"),
    ],
)
def test_bad_weights_are_refused(log_weights: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        psis(log_weights)


def tree(chains: int) -> xr.DataTree:
    values = np.random.default_rng(0).normal(size=(chains, 400, 2, 3)) + 10 * np.arange(3)
    content = xr.DataArray(values, dims=["chain", "draw", "image", "latent"])
    nothing = content.isel(latent=slice(0)).rename(latent="content_latent")
    posterior = xr.Dataset({"z": content, "content": nothing}, coords={"chain": range(chains), "draw": range(400)})
    return xr.DataTree.from_dict({"posterior": posterior})


@pytest.mark.parametrize("chains", [1, 2])
def test_a_summary_has_one_form(chains: int) -> None:
    table = summary(tree(chains), probability=0.5)
    assert list(table.columns) == ["mean", "sd", "hdi_lower", "hdi_upper"] + ["r_hat"] * (chains > 1)
    assert list(table.index) == [f"z[{image}, {axis}]" for image in range(2) for axis in range(3)]
    values = tree(chains)["posterior"]["z"].to_numpy().reshape(-1, 6)
    np.testing.assert_allclose(table["mean"], values.mean(0))
    np.testing.assert_allclose(table["sd"], values.std(0), rtol=2e-3)  # over S or over S − 1
    np.testing.assert_allclose(table["hdi_upper"] - table["hdi_lower"], 2 * 0.674, rtol=0.2)
    if chains > 1:
        np.testing.assert_allclose(table["r_hat"], 1, atol=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group": "prior"}, "no group 'prior'; this tree has posterior"),
        ({"names": ["depth"]}, "no depth in posterior; it has z"),
        ({"probability": 94}, "between 0 and 1, got 94"),
    ],
)
def test_summaries_of_what_is_not_there_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summary(tree(1), **settings)


def test_arviz_gets_the_container_of_its_line() -> None:
    given = for_arviz(tree(1))
    assert isinstance(given, xr.DataTree) == takes_trees()
    assert takes_trees() == (sys.version_info >= (3, 12))  # what the requirements install
    assert given.posterior["z"].dims == ("chain", "draw", "image", "latent")


def test_evaluation_does_not_pay_for_arviz_until_it_is_asked_for() -> None:
    command = "import sys, pp_simve.evaluation; sys.exit('arviz' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", command], check=False).returncode == 0
    assert arviz_versions.arviz() is sys.modules["arviz"]

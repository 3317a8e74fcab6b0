"""Distances between known Gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from pp_simve.evaluation.posterior import Distance, GaussianClassifier, Reference, distance_to_reference
from pp_simve.inference import Draws

CHAINS, LENGTH, IMAGES, VIEWS, LATENT = 4, 250, 3, 2, 3


def reference(seed: int = 0, ess: float = CHAINS * LENGTH) -> Reference:
    """Independent N(1, 2²) content and N(0, 1) style."""
    rng = np.random.default_rng(seed)
    content = 1 + 2 * rng.normal(size=(CHAINS, LENGTH, IMAGES, LATENT))
    style = rng.normal(size=(CHAINS, LENGTH, IMAGES, VIEWS, LATENT))
    nothing = np.zeros((CHAINS, LENGTH))
    by_chain = np.full(CHAINS, 0.5)
    return Reference(
        content=content,
        style=style,
        z=content[..., None, :] + style,
        diverging=nothing.astype(bool),
        leapfrogs=nothing.astype(int),
        acceptance=by_chain,
        step_size=by_chain,
        rhat=np.ones(IMAGES),
        ess=np.full(IMAGES, ess),
        seconds=0.0,
        settings={},
    )


def draws(scale: float = 1.0, shift: float = 0.0, count: int = 1000) -> Draws:
    """Of a guide that is the reference, but for a factor of all deviations and an offset of content."""
    generator = torch.Generator().manual_seed(1)
    content = 1 + 2 * (shift + scale * torch.randn(count, IMAGES, LATENT, generator=generator))
    style = scale * torch.randn(count, VIEWS, IMAGES, LATENT, generator=generator)
    empty = torch.zeros(count, IMAGES)
    return Draws(content, style, content.unsqueeze(1) + style, empty, torch.zeros(count, VIEWS, IMAGES), empty)


def test_the_same_distribution_cannot_be_told_apart() -> None:
    found, again = (distance_to_reference(reference(), draws(), seed=3) for _ in range(2))
    np.testing.assert_array_equal(found.accuracy, again.accuracy)
    assert (np.abs(found.accuracy - 0.5) < 4 * found.accuracy_error).all()
    np.testing.assert_allclose(found.accuracy_error, 0.5 / 2000**0.5)
    for name, views in {"content": (), "style": (VIEWS,), "z": (VIEWS,)}.items():
        assert found.shift[name].shape == found.spread[name].shape == (IMAGES, *views, LATENT)
        assert np.abs(found.shift[name]).max() < 5 * found.noise[0]
        assert np.abs(found.spread[name] - 1).max() < 5 * found.noise[0]
    assert found.summary()["accuracy"] == pytest.approx(0.5, abs=0.03)


def test_shift_and_spread_are_in_units_of_the_reference() -> None:
    found = distance_to_reference(reference(), draws(scale=0.5, shift=0.7))
    np.testing.assert_allclose(found.shift["content"], 0.7, atol=0.2)
    np.testing.assert_allclose(found.spread["content"], 0.5, atol=0.06)
    np.testing.assert_allclose(found.shift["style"], 0.0, atol=0.2)
    np.testing.assert_allclose(found.shift["z"], 0.7 * 2 / 5**0.5, atol=0.2)
    summary = found.summary()
    assert summary["content_shift"] == pytest.approx(0.7, abs=0.1)
    assert summary["style_spread"] == pytest.approx(0.5, abs=0.05)
    assert summary["noise"] == pytest.approx((2 / 1000) ** 0.5)


def test_twice_the_scale_is_seen() -> None:
    """In 9 dimensions the best of all classifiers is right on chi-square radii: P(χ² < t) and P(4 χ² > t)."""
    found = distance_to_reference(reference(), draws(scale=2.0))
    radii = np.random.default_rng(0).chisquare(9, size=100_000)
    threshold = 9 * np.log(4) / (1 - 1 / 4)
    best = 0.5 * ((radii < threshold).mean() + (4 * radii > threshold).mean())
    assert best > 0.85
    assert (np.abs(found.accuracy - best) < 0.03).all()


@pytest.mark.parametrize("shift", [0.2, 0.5, 1.0])
def test_accuracy_of_a_shifted_gaussian_is_that_of_bayes(shift: float) -> None:
    """Φ(δ/2), δ the distance of the means in standard deviations, here in three axes."""
    found = distance_to_reference(reference(), draws(shift=shift))
    best = norm.cdf(shift * LATENT**0.5 / 2)
    assert abs(found.accuracy.mean() - best) < 0.03
    linear = distance_to_reference(reference(), draws(shift=shift), classifier=LinearDiscriminantAnalysis)
    assert abs(linear.accuracy.mean() - best) < 0.03


def test_dependence_between_axes_is_seen() -> None:
    """Moments by axis are the same; only a classifier that multiplies axes can tell."""
    guide = draws()
    tied = guide.style.clone()
    tied[:, 1] = 0.8 * tied[:, 0] + 0.6 * tied[:, 1]
    tied_guide = Draws(guide.content, tied, guide.content.unsqueeze(1) + tied, guide.log_prior, None, None)
    found = distance_to_reference(reference(), tied_guide)
    assert np.abs(found.spread["style"] - 1).max() < 0.2
    assert found.accuracy.min() > 0.65
    linear = distance_to_reference(reference(), tied_guide, classifier=LinearDiscriminantAnalysis)
    assert linear.accuracy.max() < 0.58


def test_dependent_draws_are_thinned() -> None:
    found = distance_to_reference(reference(ess=101.0), draws())
    assert found.kept.tolist() == [100] * IMAGES
    np.testing.assert_allclose(found.noise, (1 / 101 + 1 / 1000) ** 0.5)
    few = distance_to_reference(reference(ess=12.0), draws())
    assert np.isnan(few.accuracy).all()
    assert few.kept.tolist() == [12] * IMAGES
    assert np.isnan(few.summary()["accuracy"])
    sparse = distance_to_reference(reference(), draws(count=50))
    assert sparse.kept.tolist() == [50] * IMAGES


def test_axes_that_do_not_move_have_no_units() -> None:
    still = reference()
    still.content[...] = 1.0
    found: Distance = distance_to_reference(still, draws())
    assert np.isnan(found.shift["content"]).all()
    assert np.isfinite(found.accuracy).all()
    assert found.accuracy.min() > 0.9
    assert np.isfinite(found.summary()["z_shift"])


def test_draws_of_other_images_are_refused() -> None:
    drawn = draws()
    short: dict[str, Any] = {"content": drawn.content[:, :2], "style": drawn.style[:, :, :2], "z": drawn.z[:, :, :2]}
    with pytest.raises(ValueError, match="content have shape"):
        distance_to_reference(reference(), Draws(**short, log_prior=drawn.log_prior, log_likelihood=None, log_q=None))
    with pytest.raises(ValueError, match="at least 2"):
        distance_to_reference(reference(), draws(count=1))


def test_the_classifier_is_that_of_two_gaussians() -> None:
    """Against scikit-learn's quadratic discriminant, where there are rows enough for shrinkage not to matter."""
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(3000, 3)), rng.normal(size=(3000, 3)) @ np.diag([1.5, 1.0, 0.6]) + 0.3])
    y = np.repeat([0, 1], 3000)
    ours = GaussianClassifier().fit(x, y).predict(x)
    theirs = QuadraticDiscriminantAnalysis().fit(x, y).predict(x)
    assert (ours == theirs).mean() > 0.99

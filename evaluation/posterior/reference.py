"""The posterior by NUTS as a reference: convergence of its chains, and the distance of a guide's draws from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import StratifiedKFold

from pp_simve.evaluation.posterior.arviz_versions import arviz
from pp_simve.inference import Draws
from pp_simve.inference.mcmc import MarkovChains, nuts
from pp_simve.models import PlainViews, SimVE

Array = np.ndarray[Any, Any]

LARGEST_RHAT = 1.05
LATENTS = ("content", "style", "z")
FEWEST = 20
"""Draws of each of the two samples that a classifier needs."""


@dataclass(frozen=True)
class Reference(MarkovChains):
    """Draws of the posterior by NUTS, and whether its chains converged.

    Attributes:
        rhat: of the worst axis of content and style, or of z where content is discrete, ``(image,)``. Near 1 where
            chains from different starts agree; a mode that no chain found does not show.
        ess: effective sample size of the worst axis, over all chains, ``(image,)``: the error of a mean is sd / √ess.
    """

    rhat: Array
    ess: Array

    @property
    def tree_depth(self) -> Array:
        """How often each draw's trajectory was doubled, ``(chain, draw)``."""
        depth: Array = np.ceil(np.log2(self.leapfrogs + 1)).astype(np.int64)
        return depth

    @property
    def converged(self) -> Array:
        """Images whose R-hat is at most `LARGEST_RHAT` and of whose draws none diverged, bool ``(image,)``."""
        good: Array = (self.rhat <= LARGEST_RHAT) & (not self.diverging.any())
        return good


def nuts_reference(model: SimVE, views: PlainViews, *, draws: int = 500, **settings: Any) -> Reference:
    """NUTS draws of each image's posterior with R-hat and ESS.

    Arguments and errors as of `pp_simve.inference.mcmc.nuts`, and `ValueError` for fewer than 4 draws.
    """
    if draws < 4:
        raise ValueError(f"draws must be at least 4, got {draws}")
    found = nuts(model, views, draws=draws, **settings)
    latents = (found.z,) if found.settings["content_summed_out"] else (found.content, found.style)
    rhat, ess = worst_axis(np.concatenate([of.reshape(*of.shape[:3], -1) for of in latents], -1))
    return Reference(**vars(found), rhat=rhat, ess=ess)


def worst_axis(draws: Array) -> tuple[Array, Array]:
    """Largest rank-normalized split R-hat and smallest bulk ESS over axes of draws ``(chain, draw, image, axis)``.

    Shape ``(image,)`` each. Axes that never move (content under a prior with one point of it) are left out: NaN where
    no axis moves. R-hat is ∞ where each chain stays at a different point. Vehtari, Gelman, Simpson, Carpenter,
    Bürkner, "Rank-Normalization, Folding, and Localization: An Improved R-hat" (2021, arXiv 1903.08008).
    """
    moving = np.ptp(draws, axis=(0, 1)) > 0
    still = moving & (np.ptp(draws, axis=1) == 0).all(0)
    rhat, ess = np.where(still, np.inf, -np.inf), np.where(still, len(draws), np.inf)
    for image, axis in zip(*np.nonzero(moving & ~still), strict=True):
        of_axis = draws[:, :, image, axis].astype(np.float64)
        rhat[image, axis], ess[image, axis] = float(arviz().rhat(of_axis)), float(arviz().ess(of_axis))
    any_moves = moving.any(1)
    worst, fewest = rhat.max(1, initial=-np.inf), ess.min(1, initial=np.inf)
    return np.where(any_moves, worst, np.nan), np.where(any_moves, fewest, np.nan)


@dataclass(frozen=True)
class Distance:
    """Differences between the guide's draws of each image's posterior and the reference's.

    Attributes:
        shift: mean of the guide − mean of the reference, in standard deviations of the reference; by ``content``
            ``(image, content)``, ``style`` and ``z`` ``(image, view, latent)``. NaN for axes that do not move.
        spread: standard deviation of the guide / that of the reference, likewise. Below 1 the guide is overconfident.
        noise: Monte-Carlo standard error of ``shift`` on the worst axis, ``(image,)``.
        accuracy: of a classifier between the two samples on held-out draws (classifier two-sample test), ``(image,)``;
            NaN for fewer than `FEWEST` independent draws. 0.5: indistinguishable; 1: disjoint.
        accuracy_error: its binomial standard error under the null hypothesis: ½ / √draws.
        kept: independent draws of each of the two samples, ``(image,)``.
    """

    shift: Mapping[str, Array]
    spread: Mapping[str, Array]
    noise: Array
    accuracy: Array
    accuracy_error: Array
    kept: Array

    def summary(self) -> dict[str, float]:
        """Over all axes and images: root mean square shift, geometric mean spread; mean accuracy."""
        shifts = {f"{name}_shift": _mean(of**2) ** 0.5 for name, of in self.shift.items() if of.size}
        spreads = {f"{name}_spread": math.exp(_mean(np.log(of[of > 0]))) for name, of in self.spread.items() if of.size}
        return {**shifts, **spreads, "noise": _mean(self.noise**2) ** 0.5, "accuracy": _mean(self.accuracy)}


class GaussianClassifier:
    """Quadratic discriminant analysis with shrunk covariances: the ratio of two Gaussian densities.

    Fitted by moments, for some hundred draws of some dozens of dimensions. Covariances are shrunk (Ledoit and Wolf
    2004) in coordinates in which the common covariance is the identity: so towards no difference.
    """

    def fit(self, x: Array, y: Array) -> GaussianClassifier:
        """From rows ``(row, axis)`` and labels 0 and 1, as many of each."""
        within = np.concatenate([x[y == label] - x[y == label].mean(0) for label in (0, 1)])
        values, vectors = np.linalg.eigh(ledoit_wolf(within, assume_centered=True)[0])
        self._whiten = vectors / np.sqrt(values.clip(values.max() * 1e-10))
        samples = [x[y == label] @ self._whiten for label in (0, 1)]
        self._densities = [multivariate_normal(rows.mean(0), ledoit_wolf(rows)[0]) for rows in samples]
        return self

    def predict(self, x: Array) -> Array:
        """Labels of rows ``(row, axis)``."""
        scores = [density.logpdf(x @ self._whiten) for density in self._densities]
        labels: Array = np.argmax(scores, axis=0)
        return labels


def distance_to_reference(
    reference: Reference,
    drawn: Draws,
    *,
    classifier: Callable[[], Any] = GaussianClassifier,
    folds: int = 5,
    seed: int = 0,
) -> Distance:
    """Compares draws of a guide with those of `nuts_reference`, for the same model, images and views.

    The classifier two-sample test is that of Lopez-Paz and Oquab (2017, arXiv 1610.06545), cross-validated, on content
    and style. Draws of Markov chains are dependent: of each chain evenly spaced ones are kept, in all no more than the
    effective sample size; and as many of the guide.

    Args:
        drawn: of `pp_simve.inference.draw`; some hundreds, as many as the reference's effective draws or more.
        classifier: makes one with scikit-learn's ``fit`` and ``predict``, for each image and fold.

    Raises:
        ValueError: draws of other images or latents, or fewer than two.
    """
    by_image = {"content": drawn.content, "style": drawn.style.movedim(1, 2), "z": drawn.z.movedim(1, 2)}
    ours: dict[str, Array] = {name: values.double().numpy(force=True) for name, values in by_image.items()}
    theirs = {name: np.asarray(getattr(reference, name), np.float64) for name in LATENTS}
    for name in LATENTS:
        if ours[name].shape[1:] != theirs[name].shape[2:]:
            raise ValueError(
                f"the guide's draws of {name} have shape {ours[name].shape[1:]} after draws, the reference's "
                f"{theirs[name].shape[2:]}; draw from the guide for the images and views of the reference"
            )
    if len(ours["z"]) < 2:
        raise ValueError(f"a distance needs at least 2 draws of the guide, got {len(ours['z'])}; take some hundreds")
    shift, spread = {}, {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in LATENTS:
            sd = theirs[name].std((0, 1))
            shift[name] = np.where(sd > 0, (ours[name].mean(0) - theirs[name].mean((0, 1))) / sd, np.nan)
            spread[name] = np.where(sd > 0, ours[name].std(0) / sd, np.nan)
    images = theirs["z"].shape[2]
    accuracy, kept = np.full(images, np.nan), np.zeros(images, np.int64)
    for image in range(images):
        exact = _thinned(theirs, image, reference.ess[image])
        kept[image] = fewest = min(len(exact), len(ours["z"]))
        if fewest >= max(FEWEST, folds):
            guessed = [ours[name][:fewest, image].reshape(fewest, -1) for name in ("content", "style")]
            accuracy[image] = _accuracy(exact[:fewest], np.concatenate(guessed, 1), classifier, folds, seed)
    with np.errstate(divide="ignore"):
        noise = np.sqrt(1 / reference.ess + 1 / len(ours["z"]))
        error = 0.5 / np.sqrt(2.0 * kept)
    return Distance(shift, spread, noise, accuracy, error, kept)


def _thinned(draws: Mapping[str, Array], image: int, ess: float) -> Array:
    """Content and style of evenly spaced draws of each chain, the chains in turn; no more than the effective ones."""
    chains, length = draws["z"].shape[:2]
    each = int(min(length, ess // chains)) if np.isfinite(ess) else 0
    places = np.linspace(0, length - 1, each).round().astype(np.int64)
    parts = (draws[name][:, places, image].swapaxes(0, 1) for name in ("content", "style"))
    return np.concatenate([part.reshape(each * chains, math.prod(part.shape[2:])) for part in parts], 1)


def _accuracy(theirs: Array, ours: Array, classifier: Callable[[], Any], folds: int, seed: int) -> float:
    x = np.concatenate([theirs, ours])
    y = np.repeat([0, 1], [len(theirs), len(ours)])
    sd = theirs.std(0)
    x = (x - theirs.mean(0)) / np.where(sd > 0, sd, 1)
    right = 0
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
        right += int((classifier().fit(x[train], y[train]).predict(x[test]) == y[test]).sum())
    return right / len(y)


def _mean(values: Array) -> float:
    """Of those that are finite; NaN where none is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan

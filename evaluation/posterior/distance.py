"""How far a guide is from a reference: moments in units of the reference, and whether a classifier tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import StratifiedKFold

from pp_simve.evaluation.posterior.mixing import Array
from pp_simve.evaluation.posterior.reference import Reference
from pp_simve.inference import Draws

LATENTS = ("content", "style", "z")
FEWEST = 20
"""Draws of each modality that a classifier is trained and judged on."""


class Classifier(Protocol):
    """As scikit-learn's: trained on rows ``(row, axis)`` and labels 0 and 1, it answers for other rows."""

    def fit(self, x: Array, y: Array) -> Any: ...

    def predict(self, x: Array) -> Array: ...


@dataclass(frozen=True)
class Distance:
    """What sets the guide's posterior of each image apart from the reference's.

    Attributes:
        shift: mean of the guide − mean of the reference, in standard deviations of the reference; by ``content``
            ``(image, content)``, ``style`` and ``z`` ``(image, view, latent)``. NaN for axes that do not move.
        spread: standard deviation of the guide / that of the reference, likewise. Below 1 the guide is too sure.
        noise: Monte-Carlo standard error of ``shift`` of the worst axis, ``(image,)``; that of ``spread`` is a little
            less. What is not above it says nothing.
        accuracy: of a classifier that tells draws of one from draws of the other, on draws it was not trained on,
            ``(image,)``; NaN where there are fewer than `FEWEST` independent draws. 0.5: it cannot; 1: nothing in
            common. It cannot see less than its classifier can learn from so few draws, and with many dimensions
            small differences on each add up.
        accuracy_error: its binomial standard error, if draws cannot be told apart: ½ / √draws.
        kept: independent draws of each of the two that it saw, ``(image,)``.
    """

    shift: Mapping[str, Array]
    spread: Mapping[str, Array]
    noise: Array
    accuracy: Array
    accuracy_error: Array
    kept: Array

    def summary(self) -> dict[str, float]:
        """Over all axes and images: root mean square shift, geometric mean spread; mean accuracy."""
        values = {f"{name}_shift": _root_mean_square(of) for name, of in self.shift.items() if of.size}
        values |= {
            f"{name}_spread": float(np.exp(_mean(np.log(of[of > 0])))) for name, of in self.spread.items() if of.size
        }
        return values | {"noise": _root_mean_square(self.noise), "accuracy": _mean(self.accuracy)}


class GaussianClassifier:
    """The ratio of two Gaussian densities with all their covariances: a logistic regression on squares and products.

    Fitted by moments and not by gradients, because it is asked about some hundred draws of some dozens of dimensions
    (Ng and Jordan 2002: with few rows the generative classifier errs less). Covariances are shrunk (Ledoit and Wolf
    2004) in coordinates in which what both have in common is the identity: so towards no difference.
    """

    def __init__(self) -> None:
        self._means: list[Array] = []
        self._precisions: list[Array] = []
        self._logdets: list[float] = []
        self._whiten: Array = np.empty(0)

    def fit(self, x: Array, y: Array) -> GaussianClassifier:
        """From rows ``(row, axis)`` and labels 0 and 1, as many of each."""
        within = np.concatenate([x[y == label] - x[y == label].mean(0) for label in (0, 1)])
        values, vectors = np.linalg.eigh(ledoit_wolf(within, assume_centered=True)[0])
        self._whiten = vectors / np.sqrt(values.clip(values.max() * 1e-10))
        self._means, self._precisions, self._logdets = [], [], []
        for label in (0, 1):
            rows = x[y == label] @ self._whiten
            covariance = ledoit_wolf(rows)[0]
            self._means.append(rows.mean(0))
            self._precisions.append(np.linalg.inv(covariance))
            self._logdets.append(float(np.linalg.slogdet(covariance)[1]))
        return self

    def predict(self, x: Array) -> Array:
        """Labels of rows ``(row, axis)``."""
        rows = x @ self._whiten
        scores = []
        for mean, precision, logdet in zip(self._means, self._precisions, self._logdets, strict=True):
            off = rows - mean
            scores.append(-0.5 * (np.einsum("ri,ij,rj->r", off, precision, off) + logdet))
        return (scores[1] > scores[0]).astype(np.int64)


def distance_to_reference(
    reference: Reference,
    drawn: Draws,
    *,
    classifier: Callable[[], Classifier] = GaussianClassifier,
    folds: int = 5,
    seed: int = 0,
) -> Distance:
    """Compares draws of a guide with those of `nuts_reference`, for the same model, images and views.

    The classifier two-sample test is that of Lopez-Paz and Oquab (2017, arXiv 1610.06545), cross-validated, on content
    and style. Markov chains give dependent draws, so of each chain evenly spaced ones are kept, in all no more than
    there are effective draws; and as many of the guide.

    Args:
        drawn: of `pp_simve.inference.draw`; some hundreds, as many as the reference's effective draws or more.
        classifier: makes one for each image and fold.
        folds: of the cross-validation.
        seed: of the folds.

    Raises:
        ValueError: draws of other images or latents, or fewer than two.
    """
    ours = {
        "content": drawn.content.double().cpu().numpy(),
        "style": drawn.style.movedim(1, 2).double().cpu().numpy(),
        "z": drawn.z.movedim(1, 2).double().cpu().numpy(),
    }
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
        rows = [_rows(_thinned(theirs, image, reference.ess[image])), _rows({n: v[:, image] for n, v in ours.items()})]
        kept[image] = min(map(len, rows))
        if kept[image] >= max(FEWEST, folds):
            accuracy[image] = _accuracy(rows[0][: kept[image]], rows[1][: kept[image]], classifier, folds, seed)
    with np.errstate(divide="ignore"):
        noise = np.sqrt(1 / reference.ess + 1 / len(ours["z"]))
        error = 0.5 / np.sqrt(2.0 * kept)
    return Distance(shift, spread, noise, accuracy, error, kept)


def _thinned(draws: Mapping[str, Array], image: int, ess: float) -> dict[str, Array]:
    """Evenly spaced draws of each chain, ``(kept, ...)``, the chains taking turns; no more than the effective ones."""
    chains, length = draws["z"].shape[:2]
    each = int(min(length, ess // chains)) if np.isfinite(ess) else 0
    places = np.linspace(0, length - 1, each).round().astype(np.int64) if each else np.empty(0, np.int64)
    return {
        name: values[:, places, image].swapaxes(0, 1).reshape(-1, *values.shape[3:]) for name, values in draws.items()
    }


def _rows(draws: Mapping[str, Array]) -> Array:
    """Content and style of each draw in one row: z follows from them."""
    return np.concatenate([draws[name].reshape(len(draws["z"]), -1) for name in ("content", "style")], 1)


def _accuracy(theirs: Array, ours: Array, classifier: Callable[[], Classifier], folds: int, seed: int) -> float:
    x = np.concatenate([theirs, ours])
    y = np.repeat([0, 1], [len(theirs), len(ours)])
    # In units of the reference, which no classifier need find out for itself.
    sd = theirs.std(0)
    x = (x - theirs.mean(0)) / np.where(sd > 0, sd, 1)
    right = 0
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
        right += int((classifier().fit(x[train], y[train]).predict(x[test]) == y[test]).sum())
    return right / len(y)


def _root_mean_square(values: Array) -> float:
    return _mean(np.square(values)) ** 0.5


def _mean(values: Array) -> float:
    """Of those that are finite; NaN where none is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")

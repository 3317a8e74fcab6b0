"""Clustering: whether the classes stand apart in a representation that nobody told about them."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pp_simve.evaluation.features import Standardizer, checked_features, checked_labels

Covariance = Literal["full", "diag"]
"""Shape of a cluster: any ellipsoid, or one whose axes are the features."""

_FLOOR = 1e-2
"""Added to every variance, those of the standardised features being 1: a constant feature stays well conditioned, and
no cluster gains likelihood by closing in on a few rows."""

_TOLERANCE = 1e-4
"""Gain of log likelihood a row, in nats, at which a fit ends. Ten times more, scikit-learn's own choice, ends it on
plateaus that long clusters stay on for a while after k-means has cut them across."""


class GaussianMixtureClusters:
    """The clusters of a Gaussian mixture, fitted to standardised features without labels.

    Expectation-maximisation (scikit-learn's `GaussianMixture`) is started several times from k-means, and the start
    that ends with the highest likelihood of the fitted rows is kept. Full covariances follow correlated features, and
    suit latents; an iteration costs ``4 · rows · clusters · feature²`` operations, and each cluster needs many more
    rows than features. Diagonal ones cost a feature's share of that, and suit backbones of hundreds of features.

    Args:
        clusters: number of Gaussians, at least 2. No more are used than there are distinct rows to fit: a collapsed
            representation is one cluster.
        covariance: ``"full"`` or ``"diag"``.
        restarts: number of starts.
        seed: of the choice of rows and of the starts; the global random states are neither read nor changed.
        rows: at most so many rows are fitted, drawn at random without replacement.
        max_iterations: of expectation-maximisation, a start.

    Attributes:
        log_likelihood: mean over the fitted rows of the mixture's log density of standardised features, in nats, one
            iteration before the end; the highest among the starts.
        converged: whether it changed by less than 0.0001 nats in the last iteration; if not, ``max_iterations`` were
            too few.
    """

    log_likelihood: float
    converged: bool

    def __init__(
        self,
        clusters: int,
        *,
        covariance: Covariance = "diag",
        restarts: int = 3,
        seed: int = 0,
        rows: int = 10_000,
        max_iterations: int = 500,
    ) -> None:
        if clusters < 2:
            raise ValueError(f"clusters must be at least 2, got {clusters}: one cluster tells nothing apart")
        if covariance not in ("full", "diag"):
            raise ValueError(f'covariance must be "full" or "diag", got {covariance!r}')
        for name, value in (("restarts", restarts), ("rows", rows), ("max_iterations", max_iterations)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.clusters = clusters
        self.covariance = covariance
        self.restarts = restarts
        self.seed = seed
        self.rows = rows
        self.max_iterations = max_iterations
        self._standardise: Standardizer | None = None

    def fit(self, features: Tensor) -> GaussianMixtureClusters:
        """Fits the mixture to float features of shape ``(row, feature)``.

        Raises:
            ValueError: for features that are not finite, or fewer rows to fit than clusters.
        """
        features = checked_features(features, "train")
        if len(features) > self.rows:
            order = torch.randperm(len(features), generator=torch.Generator().manual_seed(self.seed))
            features = features[order[: self.rows].to(features.device)]
        if len(features) < self.clusters:
            raise ValueError(
                f"{self.clusters} clusters cannot be fitted to {len(features)} rows: give more rows or fewer clusters"
            )
        self._standardise = Standardizer.of(features)
        x = _array(self._standardise(features))
        self._mixture = GaussianMixture(
            n_components=min(self.clusters, len(np.unique(x, axis=0))),
            covariance_type=self.covariance,
            tol=_TOLERANCE,
            reg_covar=_FLOOR,
            n_init=self.restarts,
            max_iter=self.max_iterations,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            # What it warns of is `converged`.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._mixture.fit(x)
        self.log_likelihood = float(self._mixture.lower_bound_)
        self.converged = bool(self._mixture.converged_)
        return self

    def predict(self, features: Tensor) -> Tensor:
        """The most probable cluster of each row, shape ``(row,)``, int64 from 0."""
        if self._standardise is None:
            raise RuntimeError("GaussianMixtureClusters has not been fitted: call fit first")
        features = checked_features(features, "test", width=len(self._standardise.mean))
        found = self._mixture.predict(_array(self._standardise(features)))
        return torch.as_tensor(found, dtype=torch.int64, device=features.device)


def cluster_scores(
    train: Tensor,
    test: tuple[Tensor, Tensor],
    *,
    clusters: int | None = None,
    covariance: Covariance = "diag",
    restarts: int = 3,
    seed: int = 0,
    rows: int = 10_000,
) -> dict[str, float]:
    """How well the clusters of train features, found without labels, are the classes of the test rows.

    Args:
        train: float features, shape ``(row, feature)``.
        test: features of shape ``(row, feature)`` and class labels of shape ``(row,)``, on the same device as train.
        clusters: number of clusters; the number of test classes if None. That number is all a fit learns of labels.
        covariance, restarts, seed, rows: as in `GaussianMixtureClusters`.

    Returns:
        ``"accuracy"``: `hungarian_accuracy`, at least the share of the commonest class. ``"nmi"``: mutual information
        of cluster and class over the mean of their entropies, 0 to 1. ``"ari"``: Rand index adjusted for chance
        (Hubert and Arabie 1985): 1 for the same partition, 0 in expectation for a random one. ``"converged"``: 1 or 0,
        as `GaussianMixtureClusters.converged`.

    Raises:
        ValueError: for features that are not finite, shapes that do not agree, a single test class, or fewer train
            rows than clusters.
    """
    train = checked_features(train, "train")
    features = checked_features(test[0], "test", width=train.shape[1])
    labels = checked_labels(test[1], features, "test")
    classes = len(torch.unique(labels))
    if classes < 2:
        raise ValueError(f"test labels hold only class {int(labels[0])}; clusters are judged on at least two classes")
    mixture = GaussianMixtureClusters(
        classes if clusters is None else clusters, covariance=covariance, restarts=restarts, seed=seed, rows=rows
    ).fit(train)
    found = mixture.predict(features)
    return {
        "accuracy": hungarian_accuracy(labels, found),
        "nmi": float(normalized_mutual_info_score(labels.cpu().numpy(), found.cpu().numpy())),
        "ari": float(adjusted_rand_score(labels.cpu().numpy(), found.cpu().numpy())),
        "converged": float(mixture.converged),
    }


def hungarian_accuracy(labels: Tensor, clusters: Tensor) -> float:
    """Fraction of rows whose cluster stands for their class, in the best one-to-one matching of clusters and classes.

    Where their numbers differ, the clusters or classes left over match nothing, and their rows count as wrong.

    Args:
        labels, clusters: integers, shape ``(row,)``, any values.

    Raises:
        ValueError: if a shape or dtype is wrong, the lengths differ, or there are no rows.
    """
    for name, values in (("labels", labels), ("clusters", clusters)):
        if values.ndim != 1 or values.is_floating_point() or values.is_complex():
            raise ValueError(f"{name} must be integers of shape (row,), got {values.dtype} {tuple(values.shape)}")
    if len(labels) != len(clusters) or len(labels) == 0:
        raise ValueError(f"labels and clusters need one entry a row each, got {len(labels)} and {len(clusters)}")
    together = contingency_matrix(labels.cpu().numpy(), clusters.cpu().numpy())
    return float(together[linear_sum_assignment(together, maximize=True)].sum() / len(labels))


def _array(features: Tensor) -> npt.NDArray[np.float64]:
    return features.double().cpu().numpy()

"""Clustering: how well unsupervised clusters of a representation agree with the classes."""

from __future__ import annotations

import warnings
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pp_simve.evaluation.probes.base import (
    Array,
    Standardizer,
    checked,
    checked_features,
    checked_grid,
    checked_labels,
)

Covariance = Literal["full", "diag"]

_FLOOR = 1e-2
"""Added to every variance of the standardized features: keeps constant features well conditioned and clusters from
collapsing onto a few rows."""

_TOLERANCE = 1e-4
"""Gain of log likelihood per row, in nats, at which a fit ends. Scikit-learn's default, ten times more, stops on the
plateaus that elongated clusters pass through after k-means has cut them across."""


@dataclass
class GaussianMixtureClusters:
    """Gaussian mixture clusters of standardized features, fitted without labels.

    scikit-learn's `GaussianMixture`, several times from k-means; the fit with the highest likelihood is kept. Full
    covariances follow correlated features and suit latents; an iteration costs ``4 · rows · clusters · feature²``
    operations, and each cluster needs many more rows than features. Diagonal ones suit backbones of hundreds of
    features.

    Args:
        clusters: number of Gaussians, at least 2, limited to the number of distinct rows: a collapsed representation
            is one cluster.
        covariance: ``"full"`` or ``"diag"``.
        restarts: number of initializations.
        seed: of the choice of rows and of the initializations.
        rows: number of rows fitted at most, drawn at random without replacement.
        max_iterations: of expectation-maximization, per initialization.

    Attributes:
        log_likelihood: mean over the fitted rows of the log density of standardized features, in nats, one iteration
            before the end.
        converged: whether it changed by less than 0.0001 nats in the last iteration.
    """

    clusters: int
    _: KW_ONLY
    covariance: Covariance = "diag"
    restarts: int = 3
    seed: int = 0
    rows: int = 10_000
    max_iterations: int = 500
    log_likelihood: float = field(init=False)
    converged: bool = field(init=False)

    def __post_init__(self) -> None:
        for name in ("clusters", "restarts", "rows", "max_iterations"):
            checked_grid(name, [getattr(self, name)], least=2 if name == "clusters" else 1)
        if self.covariance not in ("full", "diag"):
            raise ValueError(f'covariance must be "full" or "diag", got {self.covariance!r}')
        self._standardize: Standardizer | None = None

    def fit(self, features: Tensor) -> GaussianMixtureClusters:
        """Fits the mixture to float features of shape ``(row, feature)``.

        Raises:
            ValueError: features that are not finite, or fewer rows to fit than clusters.
        """
        features = checked_features(features, "train")
        if len(features) > self.rows:
            order = torch.randperm(len(features), generator=torch.Generator().manual_seed(self.seed))
            features = features[order[: self.rows].to(features.device)]
        if len(features) < self.clusters:
            raise ValueError(
                f"{self.clusters} clusters cannot be fitted to {len(features)} rows: give more rows or fewer clusters"
            )
        self._standardize = Standardizer.of(features)
        x = self._standardize(features).double().cpu().numpy()
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
            # Reported as `converged`.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._mixture.fit(x)
        self.log_likelihood, self.converged = float(self._mixture.lower_bound_), bool(self._mixture.converged_)
        return self

    def predict(self, features: Tensor) -> Tensor:
        """The most probable cluster of each row, shape ``(row,)``, int64 from 0."""
        if self._standardize is None:
            raise RuntimeError("GaussianMixtureClusters has not been fitted: call fit first")
        features = checked_features(features, "test", width=len(self._standardize.mean))
        found = self._mixture.predict(self._standardize(features).double().cpu().numpy())
        return torch.as_tensor(found, dtype=torch.int64, device=features.device)


def cluster_scores(
    train: Tensor, test: tuple[Tensor, Tensor], *, clusters: int | None = None, **options: Any
) -> dict[str, float]:
    """Agreement of `GaussianMixtureClusters`, fitted to train features without labels, with the classes ``(row,)`` of
    test.

    The number of clusters is by default that of test classes, all that a fit uses of labels. Options are covariance,
    restarts, seed and rows of `GaussianMixtureClusters`.

    Returns:
        ``"accuracy"``: `hungarian_accuracy`, at least the share of the commonest class. ``"nmi"``: mutual information
        of cluster and class over the mean of their entropies, 0 to 1. ``"ari"``: Rand index adjusted for chance (Hubert
        and Arabie 1985): 1 for the same partition, 0 in expectation for a random one. ``"converged"``: 1 or 0.

    Raises:
        ValueError: features that are not finite, shapes that do not agree, a single test class, or fewer train rows
            than clusters.
    """
    train = checked_features(train, "train")
    features = checked_features(test[0], "test", width=train.shape[1])
    labels = checked_labels(test[1], features, "test")
    classes = len(torch.unique(labels))
    if classes < 2:
        raise ValueError(f"test labels hold only class {int(labels[0])}; clusters are scored on at least two classes")
    mixture = GaussianMixtureClusters(classes if clusters is None else clusters, **options).fit(train)
    found = mixture.predict(features)
    true, predicted = labels.cpu().numpy(), found.cpu().numpy()
    return {
        "accuracy": hungarian_accuracy(labels, found),
        "nmi": float(normalized_mutual_info_score(true, predicted)),
        "ari": float(adjusted_rand_score(true, predicted)),
        "converged": float(mixture.converged),
    }


def hungarian_accuracy(labels: Array, clusters: Array) -> float:
    """Fraction of rows whose cluster matches their class, in the best one-to-one matching of clusters and classes.

    Both are integers of any values, shape ``(row,)``. Where their numbers differ, rows of unmatched clusters or classes
    count as wrong.

    Raises:
        ValueError: a shape or dtype is wrong, the lengths differ, or there are no rows.
    """
    labels = checked(labels, "labels", "row", dtype="integers")
    clusters = checked(clusters, "clusters", len(labels), dtype="integers")
    together = contingency_matrix(labels.cpu().numpy(), clusters.cpu().numpy())
    return float(together[linear_sum_assignment(together, maximize=True)].sum() / len(labels))

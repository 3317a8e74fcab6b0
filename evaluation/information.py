"""Information and geometry: effective rank, alignment, uniformity, and mutual information of two views' features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import Array, checked, checked_features, unit_rows

Critic = Callable[[Tensor, Tensor], Tensor]
"""From features of the first and second view, ``(a, feature)`` and ``(b, feature)``, to scores ``(a, b)``, high where
the two rows look like views of one image."""

_BLOCK = 2**23
"""Entries of a block of pairs, (rows × all rows): 64 MiB in float64."""


@torch.no_grad()
def effective_rank(features: Array) -> float:
    """Effective rank (RankMe) of features ``(row, feature)``: a number of directions from 1 to min(row, feature).

    ``exp(−Σ_k p_k log p_k)`` with ``p_k = σ_k / Σ_l σ_l + 10⁻⁷`` over the min(row, feature) singular values σ of the
    uncentered features: k equal orthogonal directions give k, identical rows give 1, and so do features that are all 0.
    Singular values are computed in float64 (a Gram matrix would lose those below 10⁻⁸ of the largest).

    Garrido, Balestriero, Najman and LeCun, "RankMe" (2023, arXiv 2210.02885), equations 1 and 2; there of some 25,000
    train images. Raises `ValueError` for features of another shape, or not finite.
    """
    features = checked_features(features, "given").double()
    largest = features.abs().max()
    singular = torch.linalg.svdvals(features / torch.where(largest > 0, largest, 1.0))
    # The sum is 0 for zeros, and otherwise at least 1, the largest entry.
    p = singular / singular.sum().clamp_min(0.5) + 1e-7
    return math.exp(-float((p * p.log()).sum()))


@torch.no_grad()
def alignment(first: Array, second: Array) -> float:
    """Alignment: mean squared distance of two views of an image on the unit sphere: 0 if equal, 2 if unrelated.

    Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere" (2020, arXiv 2005.10242), with α = 2. Row i of both, ``(row, feature)``, is one image. Raises
    `ValueError` for features that are not finite, shapes that do not agree, or a row of zeros.
    """
    first, second = _pairs(first, second)
    return float((_directions(first) - _directions(second)).square().sum(dim=1).mean())


@torch.no_grad()
def uniformity(features: Array, t: float = 2.0) -> float:
    """Uniformity: log of the mean of ``exp(−t ‖x − y‖²)`` over pairs of rows on the unit sphere.

    From 0, all rows in one direction, to about ``log 0F1(; feature/2; t²) − 2 t`` for many evenly spread rows, which
    nears −2 t in many dimensions; never below −4 t. Source and errors as of `alignment`, and `ValueError` for fewer
    than two rows, or ``t`` not positive.
    """
    x = _directions(checked_features(features, "given"))
    rows = len(x)
    if rows < 2 or not 0 < t < math.inf:
        raise ValueError(f"uniformity needs at least two rows, and t positive and finite, got {rows} rows and t={t}")
    total = x.new_tensor(-math.inf)
    size = max(1, _BLOCK // rows)
    for start in range(0, rows - 1, size):
        log_kernel = 2 * t * (x[start : start + size] @ x[start:].T - 1)
        # Each pair once, and no row with itself.
        later = torch.ones_like(log_kernel, dtype=torch.bool).triu(diagonal=1)
        total = torch.logaddexp(total, log_kernel[later].logsumexp(dim=0))
    return float(total) - math.log(rows * (rows - 1) / 2)


@torch.no_grad()
def infonce_bound(scores: Array) -> dict[str, float]:
    """InfoNCE lower bound on the mutual information of two views, from a critic's scores of K × K pairs.

    ``log K − mean_i [ logsumexp_j scores_ij − scores_ii ]``: at most the information in expectation over K independent
    pairs for any critic, and at most log K always (van den Oord, Li and Vinyals 2018, arXiv 1807.03748; Poole et al.
    2019, arXiv 1905.06922). Near its ceiling the bound is loose: use more pairs. Below 0 the critic is wrong.

    Rows of the scores are first views, and column i is the second view of row i's image. Returns ``"bound"`` and
    ``"ceiling"``, which is log K, in nats; raises `ValueError` for scores that are not square, floating point or
    finite.
    """
    rows = checked(scores, "scores", "K", len(torch.as_tensor(scores)) or "K", dtype="floating point")
    return mutual_information(rows, rows, lambda chunk, _: chunk)


@torch.no_grad()
def mutual_information(first: Array, second: Array, critic: Critic) -> dict[str, float]:
    """Mutual information by `infonce_bound`, all rows of features ``(row, feature)`` as candidates, in blocks.

    Row i of both is one image, and images are independent. A critic with fitted parameters must have been fitted to
    other rows: `GaussianCritic` for latents of a known prior, `CanonicalCritic.fit` on train rows otherwise.

    Raises:
        ValueError: features that are not finite, shapes that do not agree, or scores of another shape.
    """
    first, second = _pairs(first, second)
    losses: list[Tensor] = []
    start = 0
    for chunk in torch.split(first, max(1, _BLOCK // len(first))):
        scores = checked(critic(chunk, second), "scores", len(chunk), len(second), dtype="floating point").double()
        losses.append(scores.logsumexp(dim=1) - scores.diagonal(offset=start))
        start += len(chunk)
    ceiling = math.log(len(first))
    return {"bound": ceiling - float(torch.cat(losses).mean()), "ceiling": ceiling}


@dataclass(frozen=True)
class GaussianCritic:
    """Pointwise mutual information of latents under the additive Gaussian prior: the optimal critic of InfoNCE.

    With z = content + style and z' = content + style', content ~ N(0, τ²) and style, style' ~ N(0, Σ) in each axis,
    ``log p(z' | z) − log p(z')`` summed over the axes, in nats, computed in float64. The variances τ² ≥ 0 and Σ > 0 are
    of shape ``(latent,)``; others raise `ValueError`.
    """

    content_variance: Tensor
    style_variance: Tensor

    def __post_init__(self) -> None:
        content = checked(self.content_variance, "content variances", "latent", dtype="floating point")
        style = checked(self.style_variance, "style variances", len(content), dtype="floating point")
        if (content < 0).any() or (style <= 0).any():
            raise ValueError("content variances must be >= 0, style variances > 0")

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Scores ``(a, b)`` of latents ``(a, latent)`` and ``(b, latent)``."""
        content, style = self.content_variance.double(), self.style_variance.double()
        first, second = (checked_features(z, "latent", width=len(content)).double() for z in (first, second))
        # (ρ z z' − ρ² (z² + z'²) / 2) / ((1 − ρ²)(τ² + Σ)), ρ = τ² / (τ² + Σ), without the difference 1 − ρ².
        weight = content / (style * (2 * content + style))
        penalty = weight * content / (content + style) / 2
        own = (first.square() @ penalty)[:, None] + second.square() @ penalty
        return (first * weight) @ second.T - own + gaussian_information(content, style)


@dataclass(frozen=True)
class CanonicalCritic:
    """`GaussianCritic` along the canonical axes of fitted features: for features of any origin.

    The two views are assumed to have one mean and one covariance, as views from one distribution do. In the axes both
    that covariance and the one between the views are diagonal (canonical correlation analysis of exchangeable views),
    so the critic is invariant under invertible linear maps of the features.

    Attributes:
        mean: shape ``(feature,)``.
        axes: shape ``(feature, latent)``: ``(x − mean) @ axes`` has unit variances and no correlations in train.
        correlation: of the two views in each axis, ascending, from 0 to 1, shape ``(latent,)``.
    """

    mean: Tensor
    axes: Tensor
    correlation: Tensor

    @classmethod
    @torch.no_grad()
    def fit(cls, first: Tensor, second: Tensor) -> CanonicalCritic:
        """From train features of shape ``(row, feature)``; row i of both is one image.

        With few rows for the number of features the correlations come out too high. Bounds on other rows are then still
        bounds, but loose ones. Raises `ValueError` for features that are not finite, shapes that do not agree, or all
        rows equal.
        """
        first, second = (x.double() for x in _pairs(first, second))
        both = torch.cat([first, second])
        mean = both.mean(dim=0)
        reach = (both - mean).abs().amax(dim=0)
        scale = torch.where(reach > 1e-12 * mean.abs(), reach, math.inf)
        first, second, both = ((x - mean) / scale for x in (first, second, both))
        variance, basis = torch.linalg.eigh(both.T @ both / len(both))
        kept = variance > 1e-10 * variance[-1]
        if not kept.any():
            raise ValueError("train features are the same in all rows and both views: there is nothing to correlate")
        whiten = basis[:, kept] * variance[kept].rsqrt()
        between = (first @ whiten).T @ (second @ whiten) / len(first)
        correlation, rotation = torch.linalg.eigh((between + between.T) / 2)
        # Views that are equal in an axis share infinite information.
        return cls(mean, (whiten @ rotation) / scale[:, None], correlation.clamp(0.0, 1 - 1e-6))

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Scores ``(a, b)`` in nats of features ``(a, feature)`` and ``(b, feature)``."""
        critic = GaussianCritic(content_variance=self.correlation, style_variance=1 - self.correlation)
        return critic((first.double() - self.mean) @ self.axes, (second.double() - self.mean) @ self.axes)


@torch.no_grad()
def gaussian_information(content_variance: Array, style_variance: Array) -> float:
    """Mutual information in nats of two views' latents under the additive Gaussian prior, as of `GaussianCritic`.

    ``−½ Σ log(1 − ρ²)`` over the axes, with ``ρ = τ² / (τ² + Σ)`` the correlation of the two.
    """
    critic = GaussianCritic(torch.as_tensor(content_variance), torch.as_tensor(style_variance))
    # −½ log(1 − ρ²) = ½ log(1 + r² / (1 + 2 r)) with r = τ²/Σ: exact however near 0 or 1 ρ is.
    ratio = critic.content_variance.double() / critic.style_variance.double()
    return float((ratio * (ratio / (1 + 2 * ratio))).log1p().sum() / 2)


def _pairs(first: Array, second: Array) -> tuple[Tensor, Tensor]:
    first = checked_features(first, "first")
    second = checked(second, "second features", *first.shape, dtype="floating point")
    return first, second.to(first.dtype)


def _directions(features: Tensor) -> Tensor:
    if (zero := (features == 0).all(dim=1)).any():
        raise ValueError(
            f"features are 0 in {int(zero.sum())} of {len(features)} rows, which have no direction "
            f"(the first is row {int(zero.nonzero()[0])})"
        )
    return unit_rows(features.double())

"""Information and geometry: effective rank, alignment, uniformity, and mutual information of two views' features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.evaluation.features import checked_features, unit_rows

Critic = Callable[[Tensor, Tensor], Tensor]
"""From features of the first and second view, ``(a, feature)`` and ``(b, feature)``, to scores ``(a, b)``, high where
the two rows look like views of one image."""

_BLOCK = 2**23
"""Entries of a block of pairs, (rows × all rows): 64 MiB in float64."""

_RANK_EPSILON = 1e-7
"""The paper's ε for float32 features."""

_MOST_CORRELATED = 1 - 1e-6
"""Largest correlation of a fitted axis: views that are equal in an axis share infinite information."""


@torch.no_grad()
def effective_rank(features: Tensor) -> float:
    """RankMe: the effective number of directions of the features, near 1 if collapsed, at most min(row, feature).

    ``exp(−Σ_k p_k log p_k)`` with ``p_k = σ_k / Σ_l σ_l + 10⁻⁷`` over the min(row, feature) singular values σ of the
    uncentered features: k equal orthogonal directions give k, identical rows give 1, and so do features that are all 0.

    Computed from the triangular factor of the features, block by block in float64, which keeps singular values to about
    10⁻¹⁵ of the largest (a Gram matrix would lose those below 10⁻⁸).

    Garrido, Balestriero, Najman and LeCun, "RankMe" (2023, arXiv 2210.02885), equations 1 and 2.

    Args:
        features: shape ``(row, feature)``; the paper uses some 25,000 train images.

    Raises:
        ValueError: features of the wrong shape, or not finite.
    """
    features = checked_features(features, "given")
    largest = features.abs().max().double()
    scale = torch.where(largest > 0, largest, 1.0)
    width = features.shape[1]
    factor = features.new_zeros((0, width), dtype=torch.float64)
    for chunk in torch.split(features, max(width, _BLOCK // width)):
        factor = torch.linalg.qr(torch.cat([factor, chunk.double() / scale]), mode="r").R
    singular = torch.linalg.svdvals(factor)
    # The sum is 0 for zeros, and otherwise at least 1, the largest entry.
    p = singular / singular.sum().clamp_min(0.5) + _RANK_EPSILON
    return math.exp(-float((p * p.log()).sum()))


@torch.no_grad()
def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of two views of an image on the unit sphere: 0 if equal, 2 if unrelated, at most 4.

    Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere" (2020, arXiv 2005.10242), with α = 2.

    Args:
        first, second: features of shape ``(row, feature)``; row i of both is one image. Rows are normalized.

    Raises:
        ValueError: features that are not finite, shapes that do not agree, or a row of zeros.
    """
    first, second = _pairs(first, second)
    between = _directions(first, "first") - _directions(second, "second")
    return float(between.square().sum(dim=1).mean())


@torch.no_grad()
def uniformity(features: Tensor, t: float = 2.0) -> float:
    """Log of the mean of ``exp(−t ‖x − y‖²)`` over all pairs of rows on the unit sphere; lower is more uniform.

    From 0, all rows in one direction, to about ``log 0F1(; feature/2; t²) − 2 t`` for many evenly spread rows, which
    nears −2 t in many dimensions; never below −4 t. Same source as `alignment`.

    Args:
        features: shape ``(row, feature)``, at least two rows. Rows are normalized.
        t: positive; 2 in the paper.

    Raises:
        ValueError: features that are not finite, fewer than two rows, a row of zeros, or ``t`` not positive.
    """
    if not 0 < t < math.inf:
        raise ValueError(f"t must be positive and finite, got {t}")
    x = _directions(checked_features(features, "given"), "given")
    rows = len(x)
    if rows < 2:
        raise ValueError(f"uniformity is a mean over pairs of rows: it needs at least two, got {rows}")
    total = x.new_tensor(-math.inf)
    size = max(1, _BLOCK // rows)
    for start in range(0, rows - 1, size):
        log_kernel = 2 * t * (x[start : start + size] @ x[start:].T - 1)
        # Each pair once, and no row with itself.
        later = torch.ones_like(log_kernel, dtype=torch.bool).triu(diagonal=1)
        total = torch.logaddexp(total, log_kernel[later].logsumexp(dim=0))
    return float(total) - math.log(rows * (rows - 1) / 2)


@torch.no_grad()
def infonce_bound(scores: Tensor) -> dict[str, float]:
    """InfoNCE lower bound on the mutual information of two views, from a critic's scores of K × K pairs.

    ``log K − mean_i [ logsumexp_j scores_ij − scores_ii ]``: at most the information in expectation over K independent
    pairs for any critic, and at most log K always (van den Oord, Li and Vinyals 2018, arXiv 1807.03748; Poole et al.
    2019, arXiv 1905.06922). Near its ceiling the bound is loose: use more pairs. Below 0 the critic is wrong.

    Args:
        scores: shape ``(K, K)``; rows are first views, and column i is the second view of row i's image.

    Returns:
        ``"bound"`` and ``"ceiling"``, which is log K, in nats.

    Raises:
        ValueError: scores that are not square, not floating point or not finite.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) == 0:
        raise ValueError(f"scores must be square, row i's partner being column i, got {tuple(scores.shape)}")
    return _bound([_losses(scores, 0)])


@torch.no_grad()
def mutual_information(first: Tensor, second: Tensor, critic: Critic) -> dict[str, float]:
    """`infonce_bound` with all rows as candidates, scored block by block.

    Args:
        first, second: features of shape ``(row, feature)``; row i of both is one image, and images are independent.
        critic: scores of shape ``(some rows, row)``. One with fitted parameters must have been fitted to other rows:
            `GaussianCritic` for latents of a known prior, `CanonicalCritic.fit` on train rows otherwise.

    Raises:
        ValueError: features that are not finite, shapes that do not agree, or scores of another shape.
    """
    first, second = _pairs(first, second)
    losses: list[Tensor] = []
    start = 0
    for chunk in torch.split(first, max(1, _BLOCK // len(first))):
        scores = critic(chunk, second)
        if scores.shape != (len(chunk), len(second)):
            raise ValueError(
                f"the critic must score all pairs of {len(chunk)} and {len(second)} rows in a tensor of shape "
                f"{(len(chunk), len(second))}, got {tuple(scores.shape)}"
            )
        losses.append(_losses(scores, start))
        start += len(chunk)
    return _bound(losses)


@dataclass(frozen=True)
class GaussianCritic:
    """Pointwise mutual information of latents under the additive Gaussian prior: the optimal critic of InfoNCE.

    With z = content + style and z' = content + style', content ~ N(0, τ²) and style, style' ~ N(0, Σ) in each axis,
    ``log p(z' | z) − log p(z')`` summed over the axes. Symmetric in z and z'; computed in float64.

    Attributes:
        content_variance: τ², shape ``(latent,)``, not negative.
        style_variance: Σ, shape ``(latent,)``, positive.

    Raises:
        ValueError: other shapes or values.
    """

    content_variance: Tensor
    style_variance: Tensor

    def __post_init__(self) -> None:
        _checked_variances(self.content_variance, self.style_variance)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Scores of shape ``(a, b)`` in nats, from latents of shapes ``(a, latent)`` and ``(b, latent)``."""
        content, style = self.content_variance.double(), self.style_variance.double()
        for name, z in (("first", first), ("second", second)):
            if z.ndim != 2 or z.shape[1] != len(content):
                raise ValueError(f"{name} latents must have shape (row, {len(content)}), got {tuple(z.shape)}")
        first, second = first.double(), second.double()
        # (ρ z z' − ρ² (z² + z'²) / 2) / ((1 − ρ²)(τ² + Σ)), ρ = τ² / (τ² + Σ), without the difference 1 − ρ².
        weight = content / (style * (2 * content + style))
        penalty = weight * content / (content + style) / 2
        own = (first.square() @ penalty).unsqueeze(1) + second.square() @ penalty
        return (first * weight) @ second.T - own + _shared(content, style)


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
        bounds, but loose ones.

        Raises:
            ValueError: features that are not finite, shapes that do not agree, or all rows equal.
        """
        first, second = (x.double() for x in _pairs(first, second))
        mean = (first.mean(dim=0) + second.mean(dim=0)) / 2
        first, second = first - mean, second - mean
        reach = torch.maximum(first.abs().amax(dim=0), second.abs().amax(dim=0))
        scale = torch.where(reach > 1e-12 * mean.abs(), reach, math.inf)
        first, second = first / scale, second / scale
        variance, basis = torch.linalg.eigh((first.T @ first + second.T @ second) / (2 * len(first)))
        kept = variance > 1e-10 * variance[-1]
        if not kept.any():
            raise ValueError("train features are the same in all rows and both views: there is nothing to correlate")
        whiten = basis[:, kept] * variance[kept].rsqrt()
        between = (first @ whiten).T @ (second @ whiten) / len(first)
        correlation, rotation = torch.linalg.eigh((between + between.T) / 2)
        return cls(mean, (whiten @ rotation) / scale.unsqueeze(1), correlation.clamp(0.0, _MOST_CORRELATED))

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Scores of shape ``(a, b)`` in nats, from features of shapes ``(a, feature)`` and ``(b, feature)``."""
        critic = GaussianCritic(content_variance=self.correlation, style_variance=1 - self.correlation)
        return critic((first.double() - self.mean) @ self.axes, (second.double() - self.mean) @ self.axes)


@torch.no_grad()
def gaussian_information(content_variance: Tensor, style_variance: Tensor) -> float:
    """Mutual information in nats of two views' latents under the additive Gaussian prior.

    ``−½ Σ log(1 − ρ²)`` over the axes, with ``ρ = τ² / (τ² + Σ)`` the correlation of the two.

    Args:
        content_variance: τ², shape ``(latent,)``, not negative.
        style_variance: Σ, shape ``(latent,)``, positive.

    Raises:
        ValueError: other shapes or values.
    """
    _checked_variances(content_variance, style_variance)
    return float(_shared(content_variance.double(), style_variance.double()))


def _pairs(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    first, second = checked_features(first, "first"), checked_features(second, "second")
    if first.shape != second.shape:
        raise ValueError(
            f"first and second must have one shape, (row, feature), row i of both being one image, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    return first, second


def _directions(features: Tensor, name: str) -> Tensor:
    zero = (features == 0).all(dim=1)
    if zero.any():
        raise ValueError(
            f"{name} features are 0 in {int(zero.sum())} of {len(features)} rows, which have no direction "
            f"(the first is row {int(zero.nonzero()[0])})"
        )
    return unit_rows(features.double())


def _losses(scores: Tensor, start: int) -> Tensor:
    """InfoNCE loss of each row in float64; row i's partner is column ``start + i``."""
    if not scores.is_floating_point() or not scores.isfinite().all():
        raise ValueError(f"scores must be finite floating point numbers, got {scores.dtype} or NaN or infinite ones")
    scores = scores.double()
    return scores.logsumexp(dim=1) - scores.diagonal(offset=start)


def _bound(losses: list[Tensor]) -> dict[str, float]:
    loss = torch.cat(losses)
    ceiling = math.log(len(loss))
    return {"bound": ceiling - float(loss.mean()), "ceiling": ceiling}


def _checked_variances(content: Tensor, style: Tensor) -> None:
    if content.ndim != 1 or content.shape != style.shape or len(content) == 0:
        raise ValueError(
            f"content and style variances must both have shape (latent,), got {tuple(content.shape)} "
            f"and {tuple(style.shape)}"
        )
    if not (content.isfinite() & (content >= 0)).all() or not (style.isfinite() & (style > 0)).all():
        raise ValueError("content variances must be finite and >= 0, style variances finite and > 0")


def _shared(content: Tensor, style: Tensor) -> Tensor:
    """−½ Σ log(1 − ρ²), which is ½ Σ log(1 + r² / (1 + 2 r)) with r = τ²/Σ: exact however near 0 or 1 ρ is."""
    ratio = content / style
    return (ratio * (ratio / (1 + 2 * ratio))).log1p().sum() / 2

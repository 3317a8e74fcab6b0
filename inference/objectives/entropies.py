"""Estimates of the entropy of z, for objectives without a likelihood of pixels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pp_simve.inference.tracing import ProgramError
from pp_simve.models.priors.messages import LOG_2PI


class EntropyEstimate(nn.Module, ABC):
    """Entropy estimate: called with z, ``(view, image, latent)``, returns nats per image, summed over its views.

    An estimate is of all images given. Where several processes share a batch, `of_share` is called with the z of all
    (`DecoderFreeELBO`), so an estimate gathers and scales nothing itself.
    """

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor: ...

    def of_share(self, z: Tensor, everyone: Tensor, first: int) -> Tensor:
        """This process's part of the estimate of all z, of which the estimate is the mean; by default the whole.

        Args:
            z: of this process, shape ``(view, image, latent)``.
            everyone: of all processes, ``(view, images of all processes, latent)``; of a single one ``z`` itself.
            first: the place of the first image of z among them.
        """
        return self(everyone)


class KernelEntropy(EntropyEstimate):
    """Kernel density estimate −log 1/K Σ_k N(z; z_k, temperature), kernels at the views of the batch, as in InfoNCE.

    Args:
        temperature: the kernels' variance.
        unit_norm: puts z on the unit sphere first.
        with_self: whether a view is one of its own kernels.
        chunk: views compared at a time. A smaller batch is compared at once; for a larger one memory grows with
            chunk × views, and the backward pass recomputes.
    """

    def __init__(
        self, temperature: float = 0.5, *, unit_norm: bool = True, with_self: bool = False, chunk: int = 2048
    ) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1 view, got {chunk}")
        self.temperature = temperature
        self.unit_norm = unit_norm
        self.with_self = with_self
        self.chunk = chunk

    def forward(self, z: Tensor) -> Tensor:
        return self.of_share(z, z, 0)

    def of_share(self, z: Tensor, everyone: Tensor, first: int) -> Tensor:
        """The views of this process compared with those of all: ``views × views of all`` pairs."""
        kernels = self._embedded(everyone)
        flat = kernels if everyone is z else self._embedded(z)
        if len(kernels) < 2 and not self.with_self:
            raise ProgramError("the kernel entropy needs 2 views in the batch at least, or with_self=True; got 1")
        place = torch.arange(len(kernels), device=z.device).view(everyone.shape[:2])
        own = place[:, first : first + z.shape[1]].flatten()
        if len(flat) <= self.chunk:
            total = self._log_sums(flat, kernels, own)
        else:
            # Logits are recomputed in the backward pass instead of kept for all pairs of views.
            parts = [
                checkpoint(self._log_sums, some, kernels, its_own, use_reentrant=False, preserve_rng_state=False)
                for some, its_own in zip(flat.split(self.chunk), own.split(self.chunk), strict=True)
            ]
            total = torch.stack(parts).sum()
        compared = len(kernels) if self.with_self else len(kernels) - 1
        constant = math.log(compared) + 0.5 * z.shape[-1] * (LOG_2PI + math.log(self.temperature))
        return z.shape[0] * constant - total / z.shape[1]

    def _embedded(self, z: Tensor) -> Tensor:
        """z as it is compared, shape ``(view × image, latent)``."""
        return (functional.normalize(z, dim=-1) if self.unit_norm else z).flatten(0, 1)

    def _log_sums(self, some: Tensor, kernels: Tensor, own: Tensor) -> Tensor:
        """Σ over some views of log Σ_k exp(−|z − z_k|²/2T); ``own`` are their places among the kernels."""
        norms = kernels.square().sum(-1)
        squared = some.square().sum(-1, keepdim=True) + norms - 2 * some @ kernels.mT
        logits = -0.5 * squared / self.temperature
        if not self.with_self:
            others = own.unsqueeze(-1) != torch.arange(len(kernels), device=some.device)
            logits = logits.where(others, -torch.inf)
        return logits.logsumexp(-1).sum()


class GaussianEntropy(EntropyEstimate):
    """Gaussian entropy ½ log det(2πe C), C the covariance of all z of the batch.

    Args:
        shrinkage: share of C that is replaced by its mean variance on every axis: with few images or constant axes C
            alone is singular.
    """

    def __init__(self, shrinkage: float = 0.01) -> None:
        super().__init__()
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage is a share in [0, 1], got {shrinkage}")
        self.shrinkage = shrinkage

    def forward(self, z: Tensor) -> Tensor:
        rows, axes = z.shape[0] * z.shape[1], z.shape[-1]
        if rows < 2 or (self.shrinkage == 0 and rows <= axes):
            raise ProgramError(
                f"the covariance of {rows} views in a batch has no determinant on {axes} axes; take a larger batch"
                + (f" (more than {axes} views), or shrinkage > 0" if self.shrinkage == 0 else " (2 views at least)")
            )
        covariance = covariance_of(z.flatten(0, 1))
        eye = torch.eye(axes, dtype=z.dtype, device=z.device)
        # Where all z are equal the mean variance is zero, too: a floor below rounding keeps the loss finite.
        floor = torch.finfo(z.dtype).eps ** 2
        spherical = eye * (self.shrinkage * covariance.trace() / axes + floor)
        shrunk = (1 - self.shrinkage) * covariance + spherical
        return 0.5 * z.shape[0] * (torch.linalg.slogdet(shrunk).logabsdet + axes * (LOG_2PI + 1))


class VICRegEntropy(EntropyEstimate):
    """VICReg regularizer −variance · Σ_j v(z_j) − covariance · Σ_j c(z_j), a surrogate of ½ log det C.

    v is the mean over axes of max(0, 1 − standard deviation), c the sum of squared covariances off the diagonal divided
    by the number of axes. Bardes et al. (2022, arXiv 2105.04906) add the variance terms of both views, their code
    averages them: half the ``variance``.

    Args:
        variance: weight μ.
        covariance: weight ν.
    """

    def __init__(self, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        for name, value in {"variance": variance, "covariance": covariance}.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        self.variance = variance
        self.covariance = covariance

    def forward(self, z: Tensor) -> Tensor:
        if z.shape[1] < 2:
            raise ProgramError("variances over the batch need 2 images in it at least; got 1")
        hinge = functional.relu(1 - (z.var(1) + 1e-4).sqrt()).mean(-1).sum()
        squared = [covariance_of(view).square() for view in z]
        off_diagonal = torch.stack([entries.sum() - entries.diagonal().sum() for entries in squared]).sum()
        return -self.variance * hinge - self.covariance * off_diagonal / z.shape[-1]


def covariance_of(rows: Tensor) -> Tensor:
    """Unbiased covariance of rows, shape ``(axis, axis)``."""
    centred = rows - rows.mean(0)
    return centred.mT @ centred / (len(rows) - 1)

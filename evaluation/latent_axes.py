"""Latent axes: the divergence of posterior and prior in each axis of z, and which are active."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pp_simve.evaluation.probes.base import Array, checked, checked_features
from pp_simve.evaluation.records import NotApplicableError
from pp_simve.inference import Guide, draw
from pp_simve.inference.tools import seeds, unit_range
from pp_simve.models import Prior, SimVE


@torch.no_grad()
def active_units(means: Array, threshold: float = 0.01) -> int:
    """Number of latent axes whose posterior mean has a variance over images above ``threshold``; others are collapsed.

    Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2016, arXiv 1509.00519), whose 0.01 is meant
    for a prior of variance 1. The variance of means ``(image, latent)`` is about their mean, divided by their number.
    Raises `ValueError` for means of another shape, or not finite.
    """
    means = checked_features(means, "posterior mean").double()
    return int((means.var(dim=0, correction=0) > threshold).sum())


@torch.no_grad()
def kl_by_axis(means: Tensor, variances: Tensor, prior_variance: float | Tensor = 1.0) -> Tensor:
    """Mean over images of KL(N(mean, variance) ‖ N(0, prior variance)) in each latent axis, in nats, float64
    ``(latent,)``.

    An axis near 0 has collapsed to its prior: it is independent of the image. Means and variances of the posterior are
        of
    shape ``(image, latent)``; the prior's, τ² + Σ for the additive Gaussian prior, is one number or ``(latent,)``.

    Raises:
        ValueError: shapes that do not agree, values that are not finite, or variances that are not positive.
    """
    means = checked_features(means, "posterior mean").double()
    variances = checked(variances, "posterior variances", *means.shape, dtype="floating point").double()
    prior = torch.as_tensor(prior_variance, dtype=torch.float64, device=means.device)
    prior = prior.expand(means.shape[1]) if prior.ndim == 0 else prior
    prior = checked(prior, "prior_variance", means.shape[1], dtype="real")
    for name, values in (("posterior variances", variances), ("prior_variance", prior)):
        if (values <= 0).any():
            raise ValueError(f"{name} must be positive, got values from {values.min()} to {values.max()}")
    posterior = Normal(means, variances.sqrt(), validate_args=False)
    return kl_divergence(posterior, Normal(torch.zeros_like(prior), prior.sqrt(), validate_args=False)).mean(dim=0)


@torch.no_grad()
def axis_divergence(
    guide: Guide, prior: Prior, images: Tensor, *, seed: int, draws: int = 64, batch_size: int = 512
) -> Tensor:
    """`kl_by_axis` of the guide's z given one view of each image, from the moments of draws.

    The guide's distribution is replaced by the Gaussian with the mean and variance of its draws. Where it is Gaussian
    the estimate is unbiased for any number of draws. Images are uint8 or float in [0, 1].

    Raises:
        ValueError: fewer than 4 draws, a guide without density (the divergence of points is infinite), or a prior whose
            axes have no known variances.
    """
    if draws < 4:
        raise ValueError(f"moments need at least 4 draws, got {draws}")
    variances = axis_variances(prior)
    if not guide.has_density:
        raise NotApplicableError("the guide's z is deterministic, and its KL infinite")
    model = SimVE(prior)  # without pixels: z of the guide does not depend on them
    moments = []
    for chunk, of_chunk in zip(torch.split(images, batch_size), seeds(seed), strict=False):
        z = draw(model, guide, unit_range(chunk)[None], draws, seed=of_chunk).z[:, 0].double()
        moments.append(torch.stack(torch.var_mean(z, dim=0)))
    variance, mean = torch.cat(moments, dim=1)
    of_prior = (variances[0] + variances[1]).detach().to(mean)
    # E[mean²] is too large by variance / draws, E[log variance] too small by that of a χ² over its degrees of freedom.
    half = torch.tensor((draws - 1) / 2, dtype=torch.float64)
    log_bias = float(torch.digamma(half)) - math.log(half)
    return kl_by_axis(mean, variance, of_prior) - (variance / of_prior).mean(0) / (2 * draws) + log_bias / 2


def axis_variances(prior: Prior) -> tuple[Tensor, Tensor]:
    """Variances τ² and Σ of content and style in each axis of z."""
    if (variances := prior.axis_variances()) is None:
        raise NotApplicableError(f"under {type(prior).__name__} the axes of z have no Gaussian with known variances")
    return variances

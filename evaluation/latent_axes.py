"""Latent axes: their prior variances, the divergence of posterior and prior in each, and which are active."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pp_simve.evaluation.features import checked_features
from pp_simve.inference import Guide, draw
from pp_simve.inference.tools import unit_range
from pp_simve.models import Prior, SimVE


def gaussian_axes(prior: Prior) -> tuple[Tensor, Tensor]:
    """Variances of content and of style in each axis of z, each of shape ``(latent,)``, under a Gaussian prior.

    Axes that views do not share have content variance 0.

    Raises:
        ValueError: content or style is not Gaussian with independent axes, or is improper.
    """
    variances = prior.axis_variances()
    if variances is None:
        raise ValueError(
            f"under {type(prior).__name__} the axes of z have no Gaussian with known variances; this is for "
            "GaussianPrior, StandardPrior and BlockPrior of these"
        )
    content, style = variances
    return content.detach(), style.detach()


@torch.no_grad()
def active_units(means: Tensor, threshold: float = 0.01) -> int:
    """Number of latent axes whose posterior mean has a variance over images above ``threshold``; others are collapsed.

    Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2016, arXiv 1509.00519), whose 0.01 is meant
    for a prior of variance 1. The variance is about the mean of the given rows, divided by their number.

    Args:
        means: posterior means, shape ``(image, latent)``.
        threshold: in units of z².

    Raises:
        ValueError: means of the wrong shape, or not finite.
    """
    means = checked_features(means, "posterior mean").double()
    return int((means.var(dim=0, correction=0) > threshold).sum())


@torch.no_grad()
def kl_by_axis(means: Tensor, variances: Tensor, prior_variance: float | Tensor = 1.0) -> Tensor:
    """Mean over images of KL(N(mean, variance) ‖ N(0, prior variance)) in each latent axis, in nats.

    An axis near 0 has collapsed to its prior: it is independent of the image.

    Args:
        means, variances: of the posterior, shape ``(image, latent)``.
        prior_variance: of z, positive: one number or shape ``(latent,)``. τ² + Σ for the additive Gaussian prior.

    Returns:
        float64, shape ``(latent,)``.

    Raises:
        ValueError: shapes that do not agree, values that are not finite, or variances that are not positive.
    """
    means = checked_features(means, "posterior mean").double()
    variances = checked_features(variances, "posterior variance", width=means.shape[1]).double()
    if len(variances) != len(means):
        raise ValueError(f"there are {len(means)} rows of posterior means but {len(variances)} of variances")
    prior = torch.as_tensor(prior_variance, dtype=torch.float64, device=means.device)
    if prior.ndim > 1 or (prior.ndim == 1 and len(prior) != means.shape[1]):
        raise ValueError(
            f"prior_variance must be a number or have shape ({means.shape[1]},), got shape {tuple(prior.shape)}"
        )
    for name, values in (("posterior variances", variances), ("prior_variance", prior)):
        if not (values.isfinite() & (values > 0)).all():
            raise ValueError(f"{name} must be positive and finite, got values from {values.min()} to {values.max()}")
    posterior = Normal(means, variances.sqrt(), validate_args=False)
    return kl_divergence(posterior, Normal(torch.zeros_like(prior), prior.sqrt(), validate_args=False)).mean(dim=0)


@torch.no_grad()
def axis_divergence(
    guide: Guide, prior: Prior, images: Tensor, *, seed: int, draws: int = 64, batch_size: int = 512
) -> Tensor:
    """`kl_by_axis` of the guide's z given one view of each image, from the moments of draws.

    The guide's distribution is replaced by the Gaussian with the mean and variance of its draws. Where it is Gaussian
    the estimate is unbiased for any number of draws.

    Args:
        guide: on the device of the images.
        prior: of the model, with Gaussian axes (see `gaussian_axes`).
        images: uint8 or float in [0, 1], shape ``(image, channel, height, width)``.
        seed: of the draws; torch's global generators are not changed.
        draws: per image, at least 4.
        batch_size: images per pass.

    Returns:
        Nats, means over the images, float64, shape ``(latent,)``.

    Raises:
        ValueError: fewer draws, a guide without density (the divergence of points is infinite), or another prior.
    """
    if draws < 4:
        raise ValueError(f"moments need at least 4 draws, got {draws}")
    if not guide.has_density:
        raise ValueError("the guide has no density: the divergence of points from a prior is infinite")
    content, style = gaussian_axes(prior)
    model = SimVE(prior)  # without pixels: z of the guide does not depend on them
    generator = torch.Generator().manual_seed(seed)
    means, variances = [], []
    for chunk in torch.split(images, batch_size):
        chunk_seed = int(torch.randint(2**62, (1,), generator=generator))
        variance, mean = torch.var_mean(
            draw(model, guide, unit_range(chunk)[None], draws, seed=chunk_seed).z[:, 0].double(), dim=0
        )
        means.append(mean)
        variances.append(variance)
    mean, variance = torch.cat(means), torch.cat(variances)
    of_prior = (content + style).to(mean)
    # E[mean²] is too large by variance / draws, E[log variance] too small by that of a χ² over its degrees of freedom.
    half = torch.tensor((draws - 1) / 2, dtype=torch.float64)
    log_bias = float(torch.digamma(half)) - math.log(half)
    return kl_by_axis(mean, variance, of_prior) - (variance / of_prior).mean(0) / (2 * draws) + log_bias / 2

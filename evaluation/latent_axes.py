"""Axes of z: the variances that a prior gives them, and how far the posterior of an image is from it in each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pp_simve.evaluation.information import kl_by_axis
from pp_simve.inference import Guide, draw
from pp_simve.inference.tools import unit_range
from pp_simve.models import Prior, SimVE


def gaussian_axes(prior: Prior) -> tuple[Tensor, Tensor]:
    """Variances of content and of style in each axis of z, each of shape ``(latent,)``, where all is Gaussian.

    What views do not share has no content variance: 0.

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
def axis_divergence(
    guide: Guide, prior: Prior, images: Tensor, *, seed: int, draws: int = 64, batch_size: int = 512
) -> Tensor:
    """`kl_by_axis` of the guide's z given one view of each image, from the moments of draws.

    The Gaussian with the mean and variance of the draws stands for the guide's distribution; where that is Gaussian,
    too, the estimate is unbiased, whatever the number of draws. An axis at 0 has collapsed.

    Args:
        guide: on the device of the images.
        prior: of the model, with Gaussian axes (see `gaussian_axes`).
        images: uint8 or float in [0, 1], shape ``(image, channel, height, width)``.
        seed: of the draws; torch's own generators are left as they were.
        draws: of each image, at least 4.
        batch_size: images a pass.

    Returns:
        Nats, means over the images, float64, shape ``(latent,)``.

    Raises:
        ValueError: fewer draws, a guide without density (its points are infinitely far), or another prior.
    """
    if draws < 4:
        raise ValueError(f"moments need at least 4 draws, got {draws}")
    if not guide.has_density:
        raise ValueError("the guide answers by points, whose divergence from any density is infinite")
    content, style = gaussian_axes(prior)
    model = SimVE(prior)  # without pixels, which z does not depend on once the guide has drawn it
    generator = torch.Generator().manual_seed(seed)
    means, variances = [], []
    for chunk in torch.split(images, batch_size):
        seed_of_chunk = int(torch.randint(2**62, (1,), generator=generator))
        variance, mean = torch.var_mean(
            draw(model, guide, unit_range(chunk)[None], draws, seed=seed_of_chunk).z[:, 0].double(), dim=0
        )
        means.append(mean)
        variances.append(variance)
    mean, variance = torch.cat(means), torch.cat(variances)
    of_prior = (content + style).to(mean)
    # E[mean²] is too large by variance / draws, E[log variance] too small by that of a χ² over its degrees of freedom.
    half = torch.tensor((draws - 1) / 2, dtype=torch.float64)
    of_log = float(torch.digamma(half)) - math.log(half)
    return kl_by_axis(mean, variance, of_prior) - (variance / of_prior).mean(0) / (2 * draws) + of_log / 2

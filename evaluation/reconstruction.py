"""Reconstruction error and bits per dimension of unseen images."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pp_simve.evaluation.bound import importance_weighted_bound
from pp_simve.evaluation.generation import reconstruct
from pp_simve.inference import Guide
from pp_simve.inference.tools import evaluation_mode, unit_range
from pp_simve.models import SimVE


@torch.no_grad()
def reconstruction_scores(
    model: SimVE, guide: Guide, images: Tensor, *, seed: int, draws: int = 16, batch_size: int = 512
) -> dict[str, Any]:
    """Error of the posterior-mean reconstruction of images, and an upper bound on their bits per dimension.

    Bits per dimension are the code length per color value of a pixel: `importance_weighted_bound` of a single view of
    each image, in bits, divided by the number of values of an image. It depends on the likelihood:

    - Densities, such as a Gaussian: the bound of `dequantized` images plus log₂ 256, the change of scale from [0, 1] to
      steps: an upper bound on the bits of the 8-bit values under the model that assigns to each the density's mass over
      its step (Theis, van den Oord and Bethge 2016, arXiv 1511.01844, section 3.1). The density *at* the 8-bit values
      is unbounded and is never reported.
    - Probabilities, such as a Bernoulli's of black and white images: the bound itself. Cross-entropies of gray values
      are neither probabilities nor a density: None.

    Args:
        images: clean images that were not fitted to, uint8, shape ``(image, channel, height, width)``.
        seed: of the noise and of the guide's draws; torch's global generators are not changed.
        draws: per image in the bound; 1 gives the ELBO.

    Returns:
        ``"mse"``: mean squared error of color values in [0, 1]. ``"psnr"``: mean over the images of −10·log₁₀ of their
        error, in dB; None where the error of an image is 0. ``"bits_per_dim"``, None where it is undefined; then
        ``"notes"`` says why.

    Raises:
        ValueError: images of another type or shape or none, ``draws`` below 1, or pixels are not modelled, or are of
            views of several modalities.
    """
    if images.ndim != 4 or images.numel() == 0 or images.dtype != torch.uint8:
        raise ValueError(
            "images must be uint8, because bits are those of 8-bit values, of shape (image, channel, height, width), "
            f"and hold some, got {images.dtype} {tuple(images.shape)}; round 255 times values in [0, 1]"
        )
    with evaluation_mode(model), evaluation_mode(guide):
        errors = []
        for chunk in torch.split(images, batch_size):
            views = unit_range(chunk)[None]
            errors.append((reconstruct(model, guide, views) - views)[0].double().square().flatten(1).mean(1))
        support = model.likelihood_of()(guide.posterior(unit_range(images[:1])[None]).z).support
    error = torch.cat(errors)
    psnr = -10 * error.log10().mean()
    scores: dict[str, Any] = {"mse": float(error.mean()), "psnr": float(psnr) if psnr.isfinite() else None}
    discrete: bool = support.is_discrete
    reason = ""
    if not guide.has_density:
        reason = "the guide is deterministic and has no density, so nothing bounds the likelihood"
    elif model.prior.depends_on_batch:
        reason = "the prior consists of the images of the batch, so a single image has no probability"
    elif not model.prior.proper:
        reason = "the prior on content is improper, so images have no probability"
    elif discrete and not all(bool(support.check(unit_range(chunk)).all()) for chunk in torch.split(images, 512)):
        reason = "gray values are outside the likelihood's support: their cross-entropies are not log probabilities"
    if reason:
        return {**scores, "bits_per_dim": None, "notes": {"bits_per_dim": reason}}
    values = unit_range(images) if discrete else dequantized(images, seed=seed)
    nats = importance_weighted_bound(model, guide, values[None], draws=draws, seed=seed, batch_size=batch_size)
    bits = -float(nats.double().mean()) / math.log(2) / images[0].numel()
    return {**scores, "bits_per_dim": bits if discrete else bits + 8}


def dequantized(images: Tensor, *, seed: int) -> Tensor:
    """Uniform dequantization of uint8 values: (value + u) / 256, u uniform on [0, 1), float32 in [0, 1).

    A mean log density of these, less log 256 a value, is no more than the log probability of the 8-bit values, each
    being given the density's mass over its step (Jensen; Theis et al. 2016, as in `reconstruction_scores`).
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"only 8-bit values can be dequantized: images must be uint8, got {images.dtype}")
    generator = torch.Generator(images.device).manual_seed(seed)
    noise = torch.rand(images.shape, generator=generator, device=images.device)
    # Or else rounding would carry some values over into the next step: 2⁻¹⁶ is float32's precision at 255.
    return (images + noise.clamp_max(1 - 2**-16)) / 256

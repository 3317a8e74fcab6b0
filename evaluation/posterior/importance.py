"""Importance weights of a guide's draws: whether they can mend it, by how much its bound is low, and what they mend."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.evaluation.posterior.arviz_versions import FEWEST_DRAWS, psis
from pp_simve.evaluation.posterior.batches import image_batches, seeds
from pp_simve.inference import Guide, draw
from pp_simve.inference.objectives.importance import log_mean_weight
from pp_simve.models import SimVE, Views

TOLERATED_SHARE = 0.05
"""Images with k̂ above the threshold that are no alarm: k̂ is an estimate, and some images are always odd."""

TOLERATED_GAP = 0.5
"""Nats an image: as much as a Gaussian guide loses whose mean is off by one standard deviation in one direction."""


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation over draws of an image, shape ``(image, ...)`` each, float64."""

    mean: Tensor
    sd: Tensor


@dataclass(frozen=True)
class WeightCheck:
    """What the importance weights p(views, latents) / q(latents | views) of each image say of the guide.

    All is on the CPU in float64, shape ``(image,)`` unless said otherwise.

    Attributes:
        khat: shape k̂ of the largest weights' Pareto tail. Below ``threshold`` estimates by weights can be used, and the
            guide covers the posterior as far as its draws tell; above it they cannot, with so many draws; −∞ where all
            weights are equal, as those of the posterior itself. It cannot see what no draw has come near (another
            mode), nor a guide that is somewhat too wide, whose weights are bounded.
        threshold: min(1 − 1/log₁₀ S, 0.7) for S draws (Vehtari, Simpson, Gelman, Yao and Gabry 2024, JMLR 25(72)).
        elbo: mean log weight, nats: a lower bound on log p(views). Under an improper prior all bounds are up to a
            constant. −∞ where the model excludes a draw.
        bound: log of the mean of the S weights, nats: a bound that is at least as close (Burda, Grosse and
            Salakhutdinov 2016, arXiv 1509.00519).
        gap: bound − ELBO, nats. As S grows it goes to KL(q ‖ posterior), from below: at S it cannot see a divergence
            much above log S, and of one that rare large weights make up (high k̂) only a part. 0 with the posterior
            itself.
        gap_error: Monte-Carlo standard error of ``gap``, by its influence function. Too small where k̂ is above 0.5.
        ess: effective number of draws, 1 / Σ w² of the smoothed normalised weights, at most S. It is about means of
            what the weights do not depend on, and as blind as k̂.
        log_weight: smoothed normalised log weights, for `weighted_moments`, shape ``(draw, image)``.
    """

    khat: Tensor
    threshold: float
    elbo: Tensor
    bound: Tensor
    gap: Tensor
    gap_error: Tensor
    ess: Tensor
    log_weight: Tensor

    @property
    def share_above(self) -> float:
        """Share of images whose k̂ is above the threshold."""
        return float((self.khat > self.threshold).double().mean())

    @property
    def khat_alarm(self) -> bool:
        """Whether more than `TOLERATED_SHARE` of the images are above the threshold."""
        return self.share_above > TOLERATED_SHARE

    @property
    def mean_gap(self) -> tuple[float, float]:
        """Mean of ``gap`` over the images, and its Monte-Carlo standard error, nats an image."""
        return float(self.gap.mean()), float(self.gap_error.square().sum().sqrt()) / len(self.gap)

    @property
    def gap_alarm(self) -> bool:
        """Whether the mean gap is above `TOLERATED_GAP` by two standard errors, or infinite."""
        mean, error = self.mean_gap
        return mean == math.inf or mean - 2 * error > TOLERATED_GAP

    def worst(self, count: int) -> Tensor:
        """Places of the images with the largest k̂, the largest first."""
        return self.khat.argsort(descending=True, stable=True)[:count]


@torch.no_grad()
def check_weights(model: SimVE, guide: Guide, views: Views, *, draws: int = 500, seed: int) -> WeightCheck:
    """`weigh` of draws of the guide for all images, some images at a time.

    Args:
        views: ``(view, image, channel, height, width)`` in [0, 1], or one such tensor per modality.
        draws: S, of each image.
        seed: of the draws; torch's own generators are left as they were.

    Raises:
        ValueError: as `weigh`.
    """
    if draws < FEWEST_DRAWS:
        raise ValueError(_too_few(draws))
    _check_density(guide)
    of_batch = seeds(seed)
    batches = image_batches(views, model.prior.latent_dim, draws)
    weights = [draw(model, guide, batch, draws, seed=next(of_batch)).log_weight.cpu() for _, batch in batches]
    return weigh(torch.cat(weights, 1))


@torch.no_grad()
def weigh(log_weight: Tensor) -> WeightCheck:
    """What log weights say.

    Args:
        log_weight: ``Draws.log_weight``, shape ``(draw, image)``, nats.

    Raises:
        ValueError: another shape, too few draws, or log weights that are NaN, +∞ or −∞ in every draw.
    """
    if log_weight.ndim != 2 or not log_weight.numel():
        raise ValueError(f"log weights must have shape (draw, image) and hold some, got {tuple(log_weight.shape)}")
    draws = len(log_weight)
    if draws < FEWEST_DRAWS:
        raise ValueError(_too_few(draws))
    log_weight = log_weight.double().cpu()
    found, shape = psis(log_weight.numpy())
    smoothed, khat = torch.from_numpy(found), torch.from_numpy(shape)
    elbo = log_weight.mean(0)
    bound = log_mean_weight(log_weight)
    influence = (log_weight - bound).exp() - log_weight  # of one draw on bound − ELBO, up to a constant
    return WeightCheck(
        khat=khat,
        threshold=min(1 - 1 / math.log10(draws), 0.7),
        elbo=elbo,
        bound=bound,
        gap=bound - elbo,
        gap_error=influence.std(0) / math.sqrt(draws),
        ess=(-(2 * smoothed).logsumexp(0)).exp(),
        log_weight=smoothed,
    )


@torch.no_grad()
def weighted_moments(values: Tensor, log_weight: Tensor | None = None) -> Moments:
    """Means and standard deviations of the posterior, estimated by weighting the guide's draws.

    Trust them for images whose k̂ is below the threshold, and only there; with smoothed weights the bias is then small.

    Args:
        values: ``content``, ``style`` or ``z`` of `Draws`, or anything of shape ``(draw, ..., image, number)``.
        log_weight: normalised, shape ``(draw, image)``, of the same draws: ``WeightCheck.log_weight``. None weights
            all draws alike, and gives the guide's own moments.

    Returns:
        Shape ``(..., image, number)``, on the values' device.

    Raises:
        ValueError: shapes that do not agree, or weights that do not sum to 1.
    """
    if log_weight is None:
        log_weight = values.new_full((len(values), values.shape[-2]), -math.log(len(values)), dtype=torch.float64)
    if values.ndim < 3 or log_weight.shape != (len(values), values.shape[-2]):
        raise ValueError(
            f"values must be (draw, ..., image, number) and log weights (draw, image) of the same draws, got "
            f"{tuple(values.shape)} and {tuple(log_weight.shape)}"
        )
    weight = log_weight.double().exp().to(values.device)
    if not torch.allclose(weight.sum(0), weight.new_ones(())):
        raise ValueError("weights must sum to 1 over draws; take WeightCheck.log_weight, or subtract their logsumexp")
    weight = weight.view(len(values), *(1,) * (values.ndim - 3), -1, 1)
    mean = (weight * values).sum(0)
    return Moments(mean, (weight * (values - mean).square()).sum(0).sqrt())


def _check_density(guide: Guide) -> None:
    if not guide.has_density:
        raise ValueError(
            f"draws of {type(guide).__name__} are points without a density: k̂, the gap of the bound, effective draws "
            "and weighted estimates have no meaning; predictive checks still have"
        )


def _too_few(draws: int) -> str:
    return (
        "k̂, the gap of the bound, effective draws and weighted estimates compare draws: they have no meaning for "
        f"fewer than {FEWEST_DRAWS}, got {draws}; take some hundreds"
    )

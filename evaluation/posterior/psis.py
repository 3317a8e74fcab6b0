"""Importance weights of a guide's draws: PSIS k̂, the gap of the bound, effective draws and weighted moments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pp_simve.evaluation.posterior.arviz_versions import psis
from pp_simve.evaluation.posterior.batches import GuideFor, batches_of_draws
from pp_simve.inference import Guide
from pp_simve.inference.objectives.importance import log_mean_weight
from pp_simve.inference.tools import seeds
from pp_simve.models import PlainViews, SimVE

TOLERATED_SHARE = 0.05
"""Share of images with k̂ above the threshold that raises no alarm: k̂ is an estimate."""

TOLERATED_GAP = 0.5
"""Nats per image: the KL divergence of a Gaussian whose mean is off by one standard deviation in one direction."""


class Moments(NamedTuple):
    """Mean and standard deviation over draws of an image, shape ``(image, ...)`` each, float64."""

    mean: Tensor
    sd: Tensor


@dataclass(frozen=True)
class WeightCheck:
    """Diagnostics of the importance weights w = p(views, latents) / q(latents | views) of each image.

    All on the CPU in float64, shape ``(image,)`` unless noted.

    Attributes:
        khat: Pareto shape k̂ of the tail of the weights (PSIS). Below ``threshold``, importance-weighted estimates are
            reliable; −∞ if all weights are equal, as for the exact posterior.
        threshold: min(1 − 1/log₁₀ S, 0.7) for S draws (Vehtari, Simpson, Gelman, Yao and Gabry 2024, JMLR 25(72)).
        elbo: mean log weight, nats: a lower bound on log p(views), up to a constant under an improper prior.
        bound: log mean weight, nats: the importance-weighted bound of S draws (Burda, Grosse and Salakhutdinov 2016,
            arXiv 1509.00519).
        gap, gap_error: bound − ELBO, nats, which tends to KL(q ‖ posterior) from below as S grows, and its Monte-Carlo
            standard error, by its influence function; too small if k̂ is above 0.5.
        ess: effective sample size 1 / Σ w² of the smoothed normalized weights, at most S.
        log_weight: smoothed normalized log weights, for `weighted_moments`, shape ``(draw, image)``.
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
        """Mean of ``gap`` over the images, and its Monte-Carlo standard error, nats per image."""
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
def check_weights(
    model: SimVE, guide: Guide, views: PlainViews, *, draws: int = 500, seed: int, guide_for: GuideFor | None = None
) -> WeightCheck:
    """Draws from the guide for all images, some at a time, and `weigh`s them.

    Args:
        views: ``(view, image, channel, height, width)`` in [0, 1], or one such tensor per modality.
        draws: S, of each image.
        seed: of the draws; torch's own generators are left as they were.
        guide_for: makes a guide for given views, such as a refined one; None takes ``guide``.

    Raises:
        ValueError: as `weigh`, or a guide without a density.
    """
    if not guide.has_density:
        raise ValueError(
            f"draws of {type(guide).__name__} are points without a density: k̂, the gap of the bound, effective draws "
            "and weighted estimates have no meaning; predictive checks still have"
        )
    batches = batches_of_draws(model, guide, views, draws, seeds(seed), guide_for)
    return weigh(torch.cat([drawn.log_weight.cpu() for _, _, drawn in batches], 1))


@torch.no_grad()
def weigh(log_weight: Tensor) -> WeightCheck:
    """Diagnostics of log weights ``Draws.log_weight``, shape ``(draw, image)``, nats.

    Raises:
        ValueError: another shape, too few draws, or log weights that are NaN, +∞ or −∞ in every draw.
    """
    log_weight, draws = log_weight.double().cpu(), len(log_weight)
    smoothed, khat = map(torch.from_numpy, psis(log_weight.numpy()))
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
    """Importance-weighted moments, ``(..., image, number)``, reliable for images whose k̂ is below the threshold only.

    Args:
        values: ``content``, ``style`` or ``z`` of `Draws`, or anything of shape ``(draw, ..., image, number)``.
        log_weight: ``WeightCheck.log_weight`` of the same draws; None gives the guide's own moments.

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

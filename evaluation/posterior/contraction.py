"""Posterior contraction of each latent axis, and the aggregated posterior against the prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.stats import ks_2samp, wasserstein_distance
from torch import Tensor

from pp_simve.evaluation.posterior.batches import batches_of_draws, one_view_each
from pp_simve.inference import Guide
from pp_simve.inference.tools import evaluation_mode, random_state_kept, seeds
from pp_simve.models import PlainViews, SimVE

EMPTY = 0.05
"""An axis whose contraction is smaller in magnitude is empty: its posterior is as wide as its prior."""

SURE = 4.0
"""Standard errors below 0 at which a contraction is an alarm: by chance one axis in 30,000."""

PRIOR_DRAWS = 2**14
"""Draws of the prior to compare with: its variances are then known to 1 %."""


@dataclass(frozen=True)
class AxisCheck:
    """Axis check of one latent (content, style or z), shape ``(axis,)`` each, float64.

    The aggregated posterior is the mixture of all images' posteriors, represented by one draw per image. For the exact
    posterior of a well-specified model it is the prior.

    Attributes:
        prior_mean, prior_sd: of draws of the prior, in whose units ``shift``, ``spread`` and ``wasserstein`` are.
        contraction: 1 − mean over images of posterior variance / prior variance: 0 if views do not inform an axis, 1 if
            they determine it. Non-negative in expectation for the exact posterior (law of total variance).
        contraction_error: its standard error, over images and draws of guide and prior.
        shift: mean of the aggregated posterior less the prior's.
        spread: standard deviation of the aggregated posterior. Below 1, parts of the prior have no images, and the
            decoder was not fitted there; above 1 the prior is too narrow.
        wasserstein: 1-Wasserstein distance of aggregated posterior and prior.
        kolmogorov, p_values: of the two-sample Kolmogorov–Smirnov test of the two.
        level: probability of a false alarm among all ``curves`` axes of all latents.
    """

    prior_mean: Tensor
    prior_sd: Tensor
    contraction: Tensor
    contraction_error: Tensor
    shift: Tensor
    spread: Tensor
    wasserstein: Tensor
    kolmogorov: Tensor
    p_values: Tensor
    level: float
    curves: int

    @property
    def empty(self) -> list[int]:
        """Axes whose contraction is within `EMPTY` of 0."""
        return _places(self.contraction.abs() < EMPTY)

    @property
    def wider(self) -> list[int]:
        """Axes whose contraction is below 0 by `SURE` standard errors: the guide is wider than the prior."""
        return _places(self.contraction < -SURE * self.contraction_error)

    @property
    def failing(self) -> list[int]:
        """Axes whose aggregated posterior differs from the prior."""
        return _places(self.p_values <= self.level / self.curves)

    @property
    def alarm(self) -> bool:
        """Whether any axis fails or is wider than the prior; empty axes raise none."""
        return bool(self.failing or self.wider)


def _places(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


@dataclass(frozen=True)
class AxesCheck:
    """Axis checks by latent (content, style, z) with axes and a proper prior; reasons where one is left out."""

    latents: Mapping[str, AxisCheck]
    notes: Mapping[str, str]

    @property
    def alarm(self) -> bool:
        return any(check.alarm for check in self.latents.values())


@torch.no_grad()
def check_axes(
    model: SimVE, guide: Guide, views: PlainViews, *, draws: int = 100, seed: int, level: float = 0.01
) -> AxesCheck:
    """Compares posterior variances and the aggregated posterior with the prior, axis by axis.

    Arguments as of `check_weights`. Style and z are those of one view of each image, views in turn. ``level`` is the
    probability of a false alarm.

    Raises:
        ValueError: fewer than two draws, or latents that are NaN.
    """
    if draws < 2:
        raise ValueError(f"contraction has no meaning for fewer than 2 draws, a variance needs as many; got {draws}")
    of_batch = seeds(seed)
    prior, notes = _prior_draws(model, next(of_batch))
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in prior}
    for start, _, drawn in batches_of_draws(model, guide, views, draws, of_batch):
        for name, of_name in parts.items():
            values: Tensor = getattr(drawn, name)
            values = (values if name == "content" else one_view_each(values, start)).double()
            of_name.append((values.var(0).cpu(), values[0].cpu()))
    curves = sum(values.shape[-1] for values in prior.values())
    checks = {}
    for name, pairs in parts.items():
        variance, once = map(torch.cat, zip(*pairs, strict=True))
        if variance.isnan().any():
            raise ValueError(f"draws of {name} are NaN; look for what made them in the guide")
        checks[name] = _compared(prior[name], variance, draws, once, level, curves)
    return AxesCheck(checks, notes)


def _prior_draws(model: SimVE, seed: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Draws of each latent that has any axes, ``(draw, axis)``, on the CPU, and why others are left out."""
    prior, notes = model.prior, {}
    parameter = next((tensor for tensor in [*prior.parameters(), *prior.buffers()]), torch.empty(0))
    with evaluation_mode(model), random_state_kept(parameter.device):
        torch.manual_seed(seed)
        of_content = prior.content()
        shape = torch.Size((1, PRIOR_DRAWS))
        content = of_content.sample(shape) if prior.proper else parameter.new_zeros(*shape, *of_content.event_shape)
        style = prior.style(content).sample()
        found = {"content": content, "style": style, "z": prior.compose(content, style)}
    if not prior.proper:
        reason = f"the prior {type(prior).__name__} is improper: there is nothing to compare with"
        found, notes = {"style": style}, {"content": reason, "z": reason}
    if not content.shape[-1]:
        notes["content"] = f"the prior {type(prior).__name__} shares nothing between views"
    return {name: value[0].double().cpu() for name, value in found.items() if value.shape[-1]}, notes


def _compared(prior: Tensor, variance: Tensor, draws: int, once: Tensor, level: float, curves: int) -> AxisCheck:
    """Of prior draws ``(draw, axis)``, posterior variances of so many draws, and one draw, ``(image, axis)`` each."""
    sd, mean = torch.std_mean(prior, 0)
    images, kept = len(variance), variance.mean(0) / sd.square()
    # The spread of a few images' variances may be small by chance; it is at least that of Gaussian draws.
    of_images = (variance.var(0) / images).sqrt() / sd.square() if images > 1 else torch.zeros_like(sd)
    of_draws = kept * math.sqrt(2 / (images * (draws - 1)))
    error = (torch.maximum(of_images, of_draws).square() + kept.square() * 2 / PRIOR_DRAWS).sqrt()
    pairs = zip(prior.numpy().T, once.numpy().T, strict=True)
    tests = [(wasserstein_distance(*pair), *ks_2samp(*pair, method="asymp")) for pair in pairs]
    distances, statistics, p_values = torch.tensor(tests, dtype=torch.float64).T
    return AxisCheck(
        prior_mean=mean,
        prior_sd=sd,
        contraction=1 - kept,
        contraction_error=error,
        shift=(once.mean(0) - mean) / sd,
        spread=(once.std(0) if len(once) > 1 else torch.full_like(sd, math.nan)) / sd,
        wasserstein=distances / sd,
        kolmogorov=statistics,
        p_values=p_values,
        level=level,
        curves=curves,
    )

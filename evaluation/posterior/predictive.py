"""Posterior predictive checks: statistics of views against those of their replicates, and the statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.evaluation.posterior.batches import batches_of_draws
from pp_simve.inference import Guide
from pp_simve.inference.sampling import PIXELS_AT_ONCE
from pp_simve.inference.tools import evaluation_mode, random_state_kept, seeds
from pp_simve.models import PlainViews, SimVE, Views, ViewsLike

Statistic = Callable[[Tensor], Tensor]
"""From images ``(..., channel, height, width)`` to numbers ``(...)``."""


def mean(images: Tensor) -> Tensor:
    """Mean of all pixels: brightness."""
    return images.mean((-3, -2, -1))


def contrast(images: Tensor) -> Tensor:
    """Standard deviation of all pixels."""
    return images.std((-3, -2, -1), correction=0)


def sharpness(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, horizontal and vertical (gradient energy, noise included)."""
    height, width = images.shape[-2:]
    total = images.diff(dim=-1).square().sum((-2, -1)) + images.diff(dim=-2).square().sum((-2, -1))
    return total.mean(-1) / max(1, height * (width - 1) + (height - 1) * width)


def ink(images: Tensor) -> Tensor:
    """Share of pixels above ½."""
    return (images > 0.5).to(images.dtype).mean((-3, -2, -1))


STATISTICS: Mapping[str, Statistic] = {"mean": mean, "contrast": contrast, "sharpness": sharpness, "ink": ink}


@dataclass(frozen=True)
class StatisticCheck:
    """Check of one statistic of views and of their replicates x ~ p(x | z), z from the guide.

    Attributes:
        observed, replicated: of the views, and the mean over the replicates of each, shape ``(view, image)``.
        p_values: share of replicates whose statistic exceeds the view's, ties counted as halves, same shape.
        overall: two-sided p-value of the mean over all views and images among the means of replicated data sets: small
            if replicates differ from the views on average.
        level: ``overall`` up to this probability is an alarm.
    """

    observed: Tensor
    replicated: Tensor
    p_values: Tensor
    overall: float
    level: float

    @property
    def alarm(self) -> bool:
        return self.overall <= self.level


@dataclass(frozen=True)
class PredictiveCheck:
    """Posterior predictive checks: whether model and guide together reproduce the views.

    The p-values are conservative, gathered around ½ for the exact posterior, because latents were inferred from the
    same views: a small one is strong evidence, a large one weak.

    Gelman, Meng, Stern, "Posterior predictive assessment of model fitness via realized discrepancies" (1996, Statistica
    Sinica 6).

    Attributes:
        statistics: by the statistic's name; ``MODALITY NAME`` with several modalities.
        draws: replicates of each view.
    """

    statistics: Mapping[str, StatisticCheck]
    draws: int

    @property
    def failing(self) -> tuple[str, ...]:
        """Statistics that raise an alarm; their levels add up to that of the check."""
        return tuple(name for name, check in self.statistics.items() if check.alarm)

    @property
    def alarm(self) -> bool:
        return bool(self.failing)


@torch.no_grad()
def check_predictions(
    model: SimVE,
    guide: Guide,
    views: PlainViews,
    *,
    draws: int = 1000,
    seed: int,
    statistics: Mapping[str, Statistic] = STATISTICS,
    level: float = 0.01,
) -> PredictiveCheck:
    """Compares ``statistics`` of views with those of replicates; other arguments as of `check_weights`.

    ``draws`` are replicates of each view; they limit how small a p-value can be. ``level`` is of the alarms of all
    statistics together, shared equally.

    Raises:
        ValueError: pixels are not modelled, too few draws to reach the level, NaN, or a statistic of another shape.
    """
    if not statistics:
        raise ValueError("predictive checks compare statistics: give at least one, by name")
    count = len(Views.of(views).modalities) * len(statistics)
    each = level / count
    if 2 / (draws + 1) > each:
        raise ValueError(
            f"with {draws} draws no p-value can reach the level of one of {count} statistics, "
            f"{each:g}; take at least {int(2 / each)} draws, or a higher level"
        )
    of_batch = seeds(seed)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for _, batch, drawn in batches_of_draws(model, guide, views, draws, of_batch):
        for modality, replicated in replicates(model, drawn.z, batch, statistics, seed=next(of_batch)).items():
            observed = measured(statistics, Views.of(batch).tensor(modality))
            for name in statistics:
                parts.setdefault(label(modality, name), []).append((observed[name], replicated[name]))
    checks = {}
    for name, pairs in parts.items():
        of_views, of_draws = (torch.cat(of, -1) for of in zip(*pairs, strict=True))
        if of_views.isnan().any() or of_draws.isnan().any():
            raise ValueError(f"the statistic {name!r} is NaN for some views or replicates: NaN compares with nothing")
        of_data, of_replicates = of_views.mean(), of_draws.mean((1, 2))
        rarer = min(int((of_replicates >= of_data).sum()), int((of_replicates <= of_data).sum())) + 1
        checks[name] = StatisticCheck(
            observed=of_views,
            replicated=of_draws.mean(0),
            p_values=((of_draws > of_views).double() + 0.5 * (of_draws == of_views).double()).mean(0),
            overall=min(1.0, 2 * rarer / (draws + 1)),
            level=each,
        )
    return PredictiveCheck(checks, draws)


def replicates(
    model: SimVE, z: Tensor, views: ViewsLike, statistics: Mapping[str, Statistic], *, seed: int
) -> dict[str | None, dict[str, Tensor]]:
    """Statistics ``(draw, view, image)`` of images drawn given z ``(draw, view, image, latent)``, by modality."""
    views = Views.of(views)
    found: dict[str | None, dict[str, Tensor]] = {}
    with evaluation_mode(model), random_state_kept(z.device):
        torch.manual_seed(seed)
        for modality, of_modality in views.split(z):
            size = max(1, PIXELS_AT_ONCE // max(1, views.tensor(modality).numel()))
            chunks = [
                measured(statistics, model.likelihood_of(modality)(some).sample()) for some in of_modality.split(size)
            ]
            found[modality] = {name: torch.cat([chunk[name] for chunk in chunks]) for name in statistics}
    return found


def label(modality: str | None, name: str) -> str:
    """Name of a statistic of a modality."""
    return name if modality is None else f"{modality} {name}"


def measured(statistics: Mapping[str, Statistic], images: Tensor) -> dict[str, Tensor]:
    """Each statistic of images ``(..., channel, height, width)``, float64 of shape ``(...)`` on the CPU."""
    found = {}
    for name, statistic in statistics.items():
        value = statistic(images)
        if value.shape != images.shape[:-3]:
            raise ValueError(
                f"the statistic {name!r} must give one number an image, shape {tuple(images.shape[:-3])}, "
                f"got {tuple(value.shape)}"
            )
        found[name] = value.to(torch.float64).cpu()
    return found

"""Posterior predictive checks: do images that the program makes of an image's latents look like the image?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.evaluation.posterior.batches import image_batches, seeds
from pp_simve.evaluation.posterior.image_statistics import STATISTICS, Statistic, measured
from pp_simve.inference import Guide, draw
from pp_simve.inference.sampling import PIXELS_AT_ONCE
from pp_simve.inference.tools import evaluation_mode, random_state_kept
from pp_simve.models import SimVE
from pp_simve.models.modalities import PlainViews as Views
from pp_simve.models.modalities import split_by_modality


@dataclass(frozen=True)
class StatisticCheck:
    """One statistic of views and of their replicates, x ~ p(x | z) with z from the guide.

    Attributes:
        observed: of the views, shape ``(view, image)``.
        replicated: mean over the replicates of each, same shape.
        p_values: share of replicates whose statistic is above the view's, ties counted as halves, same shape.
        overall: two-sided p-value of the mean over all views and images, among the means of as many replicated data
            sets: small where the program makes images that differ in the mean from those it was shown.
        level: probability up to which ``overall`` is an alarm.
    """

    observed: Tensor
    replicated: Tensor
    p_values: Tensor
    overall: float
    level: float

    @property
    def alarm(self) -> bool:
        """Whether ``overall`` is at most the level."""
        return self.overall <= self.level


@dataclass(frozen=True)
class PredictiveCheck:
    """Posterior predictive checks (Gelman, Meng and Stern 1996, Statistica Sinica 6).

    They ask whether program and guide together reproduce what they were shown. Their p-values are conservative:
    replicates come from latents inferred from the very view they are compared with, so that p-values gather around ½
    where all is well; a small one means more than it says, a large one little. They cannot see a guide that is wrong
    where the views still come back, nor errors of what no statistic looks at. Of grey images a Bernoulli's replicates
    are black and white: their contrast and sharpness are then above the views', which is the likelihood's misfit and no
    guide's.

    Attributes:
        statistics: by the statistic's name; ``KIND NAME`` where views are of several modalities.
        draws: replicates of each view.
    """

    statistics: Mapping[str, StatisticCheck]
    draws: int

    @property
    def alarm(self) -> bool:
        """Whether any statistic gives one; their levels add up to that of the check."""
        return bool(self.failing)

    @property
    def failing(self) -> tuple[str, ...]:
        """Statistics that give an alarm."""
        return tuple(name for name, check in self.statistics.items() if check.alarm)


@torch.no_grad()
def check_predictions(
    model: SimVE,
    guide: Guide,
    views: Views,
    *,
    draws: int = 1000,
    seed: int,
    statistics: Mapping[str, Statistic] = STATISTICS,
    level: float = 0.01,
) -> PredictiveCheck:
    """Compares statistics of views with those of replicates.

    Args:
        views: ``(view, image, channel, height, width)`` in [0, 1], or one such tensor per modality.
        draws: replicates of each view; they decide how small a p-value can be.
        seed: decides them; torch's own generators are left as they were.
        statistics: from images to numbers, by name; of all modalities alike.
        level: of the alarms of all statistics together, shared equally.

    Raises:
        ValueError: pixels are not modelled, too few draws to reach the level, NaN, or a statistic of another shape.
    """
    if not statistics:
        raise ValueError("predictive checks compare statistics: give at least one, by name")
    modalities = 1 if isinstance(views, Tensor) else len(views)
    each = level / (modalities * len(statistics))
    if 2 / (draws + 1) > each:
        raise ValueError(
            f"with {draws} draws no p-value can reach the level of one of {modalities * len(statistics)} statistics, "
            f"{each:g}; take at least {int(2 / each)} draws, or a higher level"
        )
    of_batch = seeds(seed)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for _, batch in image_batches(views, model.prior.latent_dim, draws):
        z = draw(model, guide, batch, draws, seed=next(of_batch)).z
        for name, observed, replicated in _both(model, z, batch, statistics, next(of_batch)):
            parts.setdefault(name, []).append((observed, replicated))
    checks = {}
    for name, pairs in parts.items():
        observed = torch.cat([pair[0] for pair in pairs], 1)
        checks[name] = _checked(name, observed, torch.cat([pair[1] for pair in pairs], 2), each)
    return PredictiveCheck(checks, draws)


def replicates(
    model: SimVE, z: Tensor, views: Views, statistics: Mapping[str, Statistic], *, seed: int
) -> dict[str | None, dict[str, Tensor]]:
    """Statistics of images drawn from the likelihood, some draws at a time: by modality (None where there is but one).

    Args:
        z: of all views in the order of the modalities, shape ``(draw, view, image, latent)``.
        views: of which only the modalities and their numbers count.
        seed: torch's own generators are left as they were.

    Returns:
        Shape ``(draw, view, image)`` each, float64 on the CPU.
    """
    parts: dict[str | None, Tensor] = {None: z} if isinstance(views, Tensor) else dict(split_by_modality(z, views))
    found: dict[str | None, dict[str, Tensor]] = {}
    with evaluation_mode(model), random_state_kept(z.device):
        torch.manual_seed(seed)
        for modality, of_modality in parts.items():
            like = views if isinstance(views, Tensor) else views[str(modality)]
            size = max(1, PIXELS_AT_ONCE // max(1, like.numel()))
            chunks = [
                measured(statistics, model.likelihood_of(modality)(some).sample()) for some in of_modality.split(size)
            ]
            found[modality] = {name: torch.cat([chunk[name] for chunk in chunks]) for name in statistics}
    return found


def label(modality: str | None, name: str) -> str:
    """What a statistic of a modality is called."""
    return name if modality is None else f"{modality} {name}"


def _both(
    model: SimVE, z: Tensor, views: Views, statistics: Mapping[str, Statistic], seed: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    for modality, of_modality in replicates(model, z, views, statistics, seed=seed).items():
        observed = measured(statistics, views if isinstance(views, Tensor) else views[str(modality)])
        for name, replicated in of_modality.items():
            yield label(modality, name), observed[name], replicated


def _checked(name: str, observed: Tensor, replicated: Tensor, level: float) -> StatisticCheck:
    """Of shapes ``(view, image)`` and ``(draw, view, image)``."""
    if observed.isnan().any() or replicated.isnan().any():
        raise ValueError(f"the statistic {name!r} is NaN for some views or replicates, and NaN compares with nothing")
    of_data, of_replicates = observed.mean(), replicated.mean((1, 2))
    above, below = ((of_replicates >= of_data).sum() + 1, (of_replicates <= of_data).sum() + 1)
    overall = min(1.0, 2 * float(torch.minimum(above, below)) / (len(replicated) + 1))
    return StatisticCheck(
        observed=observed,
        replicated=replicated.mean(0),
        p_values=((replicated > observed).double() + 0.5 * (replicated == observed).double()).mean(0),
        overall=overall,
        level=level,
    )

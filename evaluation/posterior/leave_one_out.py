"""Leave-one-view-out prediction: log scores and probability integral transforms of a view given the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.evaluation.posterior.batches import GuideFor, batches_of_draws
from pp_simve.evaluation.posterior.predictive import STATISTICS, Statistic, label, measured, replicates
from pp_simve.evaluation.posterior.ranks import Uniformity, rank_among, rank_uniformity
from pp_simve.inference import Draws, Guide, draw
from pp_simve.inference.objectives.importance import log_mean_weight
from pp_simve.inference.sampling import without_groups
from pp_simve.inference.tools import evaluation_mode, random_state_kept, seeds
from pp_simve.models import PlainViews, SimVE, Views


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-view-out: each view predicted from the content of the image's other views and fresh style.

    Attributes:
        score: log p(view | other views), nats, shape ``(view, image)``, views over all modalities: the importance-
            weighted bound of all views less that of all but one. Exact for a guide whose weights are all equal;
            otherwise off by the difference of the two bounds' gaps, of either sign. None if the guide has no density.
        error: Monte-Carlo standard error of ``score``, too small if the weights have a heavy tail; None as above.
        pit: probability integral transforms (Dawid 1984) by statistic: ranks of the view's statistic among those of
            replicates from content of the other views and fresh style, a row per image and a column per view; uniform
            if the prediction is right. All columns of all statistics share the level of false alarms.
    """

    score: Tensor | None
    error: Tensor | None
    pit: Mapping[str, Uniformity]

    @property
    def mean_score(self) -> tuple[float, float] | None:
        """Mean of ``score`` over views and images, and its standard error over images, nats per view."""
        if self.score is None:
            return None
        of_image = self.score.mean(0)
        spread = float(of_image.std()) if len(of_image) > 1 else math.nan
        return float(of_image.mean()), spread / math.sqrt(len(of_image))

    @property
    def failing(self) -> tuple[str, ...]:
        """Statistics and views whose columns of ``pit`` leave their band."""
        return tuple(name for uniformity in self.pit.values() for name in uniformity.failing)

    @property
    def alarm(self) -> bool:
        return bool(self.failing)


@torch.no_grad()
def leave_one_view_out(
    model: SimVE,
    guide: Guide,
    views: PlainViews,
    *,
    draws: int = 500,
    seed: int,
    statistics: Mapping[str, Statistic] = STATISTICS,
    level: float = 0.01,
    guide_for: GuideFor | None = None,
) -> LeaveOneOut:
    """Predicts each view of each image from its other views.

    Arguments as of `check_weights` and `check_predictions`: ``draws`` of the guide, for each view left out, are weights
    of the score and give the replicates the view is ranked among.

    Raises:
        ValueError: a single view, no draws, no statistics, pixels are not modelled, or NaN.
    """
    model = without_groups(model)
    count, images = Views.of(views).n_views, Views.of(views).n_images
    if count < 2:
        raise ValueError(f"a view is predicted from the others: each image needs at least 2, got {count}")
    if draws < 2 or not statistics:
        raise ValueError(f"leaving out views needs 2 draws and a statistic at least, got {draws} and {len(statistics)}")
    of_batch = seeds(seed)
    generator = torch.Generator().manual_seed(next(of_batch))
    scores, errors = torch.empty(2, count, images, dtype=torch.float64)
    ranks: dict[str, dict[int, list[Tensor]]] = {}
    for start, batch, everything in batches_of_draws(model, guide, views, draws, of_batch, guide_for):
        here = slice(start, start + Views.of(batch).n_images)
        bound, variance = _bound(everything)
        for place, (modality, index, view, others) in enumerate(_each_left_out(batch)):
            of = guide if guide_for is None else guide_for(others)
            drawn = draw(model, of, others, draws, seed=next(of_batch))
            without, variance_without = _bound(drawn)
            scores[place, here], errors[place, here] = bound - without, (variance + variance_without).sqrt()
            with evaluation_mode(model), random_state_kept(drawn.content.device):
                torch.manual_seed(next(of_batch))
                content = drawn.content.unsqueeze(1)
                z = model.prior.compose(content, model.prior.style(content).sample())
            alone = Views.by_modality({modality: view[None]}).plain
            found = replicates(model, z, alone, statistics, seed=next(of_batch))[modality]
            observed = measured(statistics, view)
            for name in statistics:
                rank = rank_among(observed[name], found[name][:, 0], generator)
                ranks.setdefault(label(modality, name), {}).setdefault(index, []).append(rank)
    pit = {}
    for name, by_view in ranks.items():
        columns = torch.stack([torch.cat(parts) for parts in by_view.values()], 1)
        of_view = [f"{name} of view {index}" for index in by_view]
        pit[name] = rank_uniformity(columns, draws, of_view, level=level, curves=count * len(statistics))
    return LeaveOneOut(scores, errors, pit) if guide.has_density else LeaveOneOut(None, None, pit)


def _bound(draws: Draws) -> tuple[Tensor, Tensor]:
    """Log of the mean weight of each image, and its estimate's variance, ``(image,)``; NaN for draws of points."""
    weight = (draws.log_p if draws.log_q is None else draws.log_weight).double().cpu()
    if draws.log_q is None:
        weight = torch.full_like(weight, math.nan)
    bound = log_mean_weight(weight)
    return bound, (weight - bound).exp().var(0) / len(weight)


def _each_left_out(views: PlainViews) -> Iterator[tuple[str | None, int, Tensor, PlainViews]]:
    """Modality of a view, its place in the modality, the view of every image, and the other views."""
    parts = dict(Views.of(views).items())
    for modality, batch in parts.items():
        for place in range(len(batch)):
            rest = {**parts, modality: torch.cat([batch[:place], batch[place + 1 :]])}
            # A modality whose only view is left out is missing, which guides accept.
            others = Views.by_modality({name: part for name, part in rest.items() if len(part)}).plain
            yield modality, place, batch[place], others

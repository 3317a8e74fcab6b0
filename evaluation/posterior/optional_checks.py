"""Checks on demand: refinement of each image's variational parameters, and comparison with NUTS."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from pp_simve.evaluation.posterior import (
    Reference,
    WeightCheck,
    distance_to_reference,
    leave_one_view_out,
    nuts_reference,
    refine,
    weigh,
    weights_figure,
)
from pp_simve.evaluation.posterior.batches import image_batches, seeds
from pp_simve.evaluation.posterior.check import Check
from pp_simve.evaluation.posterior.suite import Finding, Subject, finite
from pp_simve.inference import Guide, draw
from pp_simve.inference.mcmc import ProgressBar
from pp_simve.models import PlainViews, Views

CHAINS = 4
REFERENCE_DRAWS = 200
WARMUP = 100
COMPARED_DRAWS = 2000
"""Of the guide, for each image that is compared with NUTS."""

DISTINGUISHED = 0.6
"""Accuracy of the classifier between the two samples above which the check alarms: .5 is chance."""


def refined(subject: Subject, steps: int) -> Finding:
    """Bound, importance weights and predictions before and after some steps on per-image variational parameters."""
    before = subject.weights

    def better(views: PlainViews) -> Guide:
        return refine(subject.model, subject.guide, views, steps=steps, seed=subject.seed)

    after = _weights(subject, better)
    left_out_before, left_out_after = (
        leave_one_view_out(
            subject.model, subject.guide, subject.views, draws=subject.draws, seed=subject.seed, guide_for=guide_for
        ).mean_score
        for guide_for in (None, better)
    )
    assert left_out_before is not None
    assert left_out_after is not None
    measures: list[list[str | float | None]] = [
        ["ELBO, nats an image", float(before.elbo.mean()), float(after.elbo.mean())],
        ["gap of the bound, nats an image", before.mean_gap[0], after.mean_gap[0]],
        [f"images with k̂ above {before.threshold:.2f}, %", 100 * before.share_above, 100 * after.share_above],
        [
            "k̂, median of images",
            *(finite(float(torch.quantile(of.khat, 0.5, interpolation="nearest"))) for of in (before, after)),
        ],
        ["each view from the others, nats a view", left_out_before[0], left_out_after[0]],
    ]
    gain = after.elbo - before.elbo
    check: Check = {
        "name": "refined",
        "title": f"After {steps} steps of refinement",
        "value": float(gain.mean()),
        "unit": "nats an image gained by the ELBO",
        "alarm": None,
        "how": "The amortization gap: each image's variational parameters were optimized separately, with the model "
        "fixed. Refinement is worth its time where k̂ falls below its threshold.",
        "limitations": "the gap of the guide's family, which refinement does not close.",
        "rows": {"columns": ["measure", "before", "after"], "rows": measures, "measures": True},
    }
    return Finding(check, {"": weights_figure(after, subject.pictures)})


def compared_with_reference(subject: Subject, images: int, steps: int, progress: ProgressBar) -> Finding:
    """Compares draws of the guide, and of the refined guide, with those of NUTS.

    Args:
        images: how many, the first ones.
        steps: of refinement; 0 for none.
        progress: called after each draw of NUTS.
    """
    views = Views.of(subject.views)[slice(images)].plain
    reference = nuts_reference(
        subject.model,
        views,
        guide=subject.guide if subject.guide.has_density else None,
        draws=REFERENCE_DRAWS,
        warmup=WARMUP,
        chains=CHAINS,
        seed=subject.seed,
        progress=progress,
    )
    guides = {"guide": subject.guide}
    if steps:
        guides["refined"] = refine(subject.model, subject.guide, views, steps=steps, seed=subject.seed)
    distances = {
        name: distance_to_reference(reference, draw(subject.model, guide, views, COMPARED_DRAWS, seed=subject.seed))
        for name, guide in guides.items()
    }
    accuracies = distances["guide"].accuracy
    judged = np.isfinite(accuracies)
    accuracy = float(accuracies[judged].mean()) if judged.any() else math.nan
    error = float(np.sqrt(np.square(distances["guide"].accuracy_error[judged]).sum())) / max(1, int(judged.sum()))
    summaries = {name: distance.summary() for name, distance in distances.items()}
    check: Check = {
        "name": "reference",
        "title": "Guide compared with NUTS",
        "value": finite(accuracy),
        "unit": f"of held-out draws classified correctly (± {error:.2g}); 0.5 is chance",
        "alarm": accuracy - 2 * error > DISTINGUISHED,
        "how": f"NUTS samples the posteriors of {images} images with the model fixed; a classifier is trained to "
        f"distinguish its draws from the guide's. {_of_reference(reference)}",
        "limitations": "modes that no chain found, and other images.",
        "rows": {
            "columns": ["measure", *summaries],
            "rows": [
                [_measure(name), *(finite(summary[name]) for summary in summaries.values())]
                for name in summaries["guide"]
            ],
            "measures": True,
        },
    }
    return Finding(check, {})


def _weights(subject: Subject, guide_for: Callable[[PlainViews], Guide]) -> WeightCheck:
    of_batch = seeds(subject.seed)
    parts = []
    for _, batch in image_batches(subject.views, subject.model.prior.latent_dim, subject.draws):
        drawn = draw(subject.model, guide_for(batch), batch, subject.draws, seed=next(of_batch))
        parts.append(drawn.log_weight.cpu())
    return weigh(torch.cat(parts, 1))


def _measure(name: str) -> str:
    """Label of an entry of `Distance.summary`."""
    latent, _, statistic = name.partition("_")
    return {
        "shift": f"{latent}: shift of the means, sds of NUTS",
        "spread": f"{latent}: sd, in those of NUTS",
    }.get(statistic, {"noise": "Monte-Carlo error of shifts", "accuracy": "accuracy of the classifier"}.get(name, name))


def _of_reference(reference: Reference) -> str:
    settings, converged = reference.settings, int(reference.converged.sum())
    return (
        f"NUTS: {settings['chains']} chains of {settings['warmup']} + {settings['draws']} draws; {converged} of "
        f"{len(reference.rhat)} images converged (R-hat at most {reference.rhat.max():.3f}, effective draws at least "
        f"{reference.ess.min():.0f}, {int(reference.diverging.sum())} divergences), "
        f"{reference.leapfrogs.mean():.1f} gradients a draw, {reference.seconds:.0f} s."
    )

"""The checks of every diagnosis, as entries that say how each is read and what it cannot see."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pp_simve.diagnosing.subject import Finding, Subject, finite, is_mixture, uniformity_rows
from pp_simve.evaluation.posterior import (
    Uniformity,
    axes_figure,
    calibrate,
    check_axes,
    check_predictions,
    leave_one_view_out,
    predictive_figure,
    prototype_use,
    ranks_figure,
    weights_figure,
)
from pp_simve.evaluation.posterior.check import Check

PREDICTIVE_DRAWS = 1000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
RANKS = ["ranked", "curves", "outside", "worst", "its p"]


def khat(subject: Subject) -> Finding:
    """k̂ of each image."""
    weights = subject.weights
    quantiles = torch.quantile(weights.khat, torch.tensor(QUANTILES, dtype=torch.float64), interpolation="nearest")
    rows: list[list[str | float | None]] = [
        [f"{share:.0%} of images below", finite(value)]
        for share, value in zip(QUANTILES, quantiles.tolist(), strict=True)
    ]
    check: Check = {
        "name": "khat",
        "title": "k̂ of the importance weights",
        "value": 100 * weights.share_above,
        "unit": f"% of images above {weights.threshold:.2f}",
        "alarm": weights.khat_alarm,
        "how": f"Below {weights.threshold:.2f} an image's draws can be weighted into its posterior; far below it, they "
        "hardly need to be. A dash is a weight that is the same for all draws, as with the posterior itself.",
        "blind": "parts of the posterior that no draw came near, and a guide that is too wide.",
        "rows": {"columns": ["quantile", "k̂"], "rows": rows},
    }
    return Finding(check, {"": weights_figure(weights, subject.pictures)})


def gap(subject: Subject) -> Finding:
    """The bound's distance to one by importance weights."""
    weights = subject.weights
    mean, error = weights.mean_gap
    check: Check = {
        "name": "gap",
        "title": "Gap of the bound",
        "value": mean,
        "unit": f"nats an image (± {error:.2g})",
        "alarm": weights.gap_alarm,
        "how": "How much lower the ELBO is than a bound by all draws together: nearly the divergence of the guide from "
        "the posterior. 0 is the posterior itself; half a nat is a mean that is one standard deviation off.",
        "blind": f"divergences much above log {subject.draws} = {torch.tensor(subject.draws).log():.1f} nats, which it "
        "shows as too small.",
        "rows": {
            "columns": ["measure", "value"],
            "rows": [
                ["ELBO, nats an image", float(weights.elbo.mean())],
                [f"bound of {subject.draws} draws, nats an image", float(weights.bound.mean())],
                ["gap, nats an image", mean],
                ["largest gap of an image, nats", float(weights.gap.max())],
                [f"effective draws of {subject.draws}, median image", float(weights.ess.median())],
            ],
            "measures": True,
        },
    }
    return Finding(check, {})


def calibration(subject: Subject) -> Finding:
    """Simulation-based calibration."""
    found = calibrate(subject.model, subject.guide, subject.views, simulations=subject.simulations, seed=subject.seed)
    curves = sum(len(of.names) for of in found.ranks.values())
    notes = "".join(f" Here, {note}." for note in dict.fromkeys(found.notes.values()))
    check: Check = {
        "name": "calibration",
        "title": "Simulation-based calibration",
        "value": len(found.failing),
        "unit": f"of {curves} curves outside their band",
        "alarm": found.alarm,
        "how": f"Of {subject.simulations} images drawn from the model itself, the true latents are ranked among the "
        "guide's draws; ranks that are not uniform leave the band. ∪: too narrow, ∩: too wide, a slope: shifted.",
        "blind": "what the guide does with real images, which the model would not draw; axes cannot see a guide that "
        f"ignores the image, which is why the log likelihood is ranked, too.{notes}",
        "rows": {"columns": RANKS, "rows": uniformity_rows({**found.ranks, **_pooled(found.pooled)})},
    }
    figures = {"": ranks_figure(found.ranks)}
    if found.pooled:
        figures["pooled"] = ranks_figure(found.pooled)
    return Finding(check, figures)


def predictions(subject: Subject) -> Finding:
    """Posterior predictive checks."""
    kinds = 1 if isinstance(subject.views, Tensor) else len(subject.views)  # more statistics want smaller p-values
    found = check_predictions(
        subject.model, subject.guide, subject.views, draws=kinds * PREDICTIVE_DRAWS, seed=subject.seed
    )
    check: Check = {
        "name": "predictions",
        "title": "Posterior predictive checks",
        "value": len(found.failing),
        "unit": f"of {len(found.statistics)} statistics that draws do not reproduce",
        "alarm": found.alarm,
        "how": "Views are decoded and drawn again from the guide's latents; statistics of the draws should be those of "
        "the views. The p-value is of the mean over all views.",
        "blind": "a guide that is wrong where images still come back, and what no statistic looks at; p-values near "
        "one half say little, because the views were seen. Under a Bernoulli likelihood draws are black and white, so "
        "that contrast and sharpness of grey images differ by that alone.",
        "rows": {
            "columns": ["statistic", "of views", "of draws", "p"],
            "rows": [
                [name, float(of.observed.mean()), float(of.replicated.mean()), of.overall]
                for name, of in found.statistics.items()
            ],
        },
    }
    return Finding(check, {"": predictive_figure(found)})


def left_out(subject: Subject) -> Finding:
    """Leave-one-view-out prediction."""
    found = leave_one_view_out(subject.model, subject.guide, subject.views, draws=subject.draws, seed=subject.seed)
    score = found.mean_score
    check: Check = {
        "name": "left-out",
        "title": "Each view from the others",
        "value": None if score is None else score[0],
        "unit": None if score is None else f"nats a view (± {score[1]:.2g} over images)",
        "alarm": found.alarm,
        "how": "The log probability of a view given the image's other views: higher is better, among runs of the same "
        "images and likelihood. The alarm is of statistics of the view, ranked among views predicted from the content "
        "of the others.",
        "blind": "whether the model or the guide is to blame; and a guide that says nothing is calibrated, too: only "
        "its score is poor.",
        "rows": {"columns": RANKS, "rows": uniformity_rows(found.pit)},
    }
    return Finding(check, {"": ranks_figure(found.pit)})


def axes(subject: Subject) -> Finding:
    """Contraction, and the aggregated posterior against the prior."""
    found = check_axes(subject.model, subject.guide, subject.views, seed=subject.seed)
    if not found.latents:
        raise ValueError("; ".join(found.notes.values()))
    curves = sum(len(of.contraction) for of in found.latents.values())
    check: Check = {
        "name": "axes",
        "title": "Axes, posterior and prior",
        "value": sum(len({*of.failing, *of.wider}) for of in found.latents.values()),
        "unit": f"of {curves} axes where all images together are not the prior, or one is wider than it",
        "alarm": found.alarm,
        "how": "Contraction: 0 where views say nothing of an axis, 1 where they fix it; an empty axis is no fault. All "
        "images' posteriors together should be the prior: a spread below 1 leaves parts of it without images, where "
        "samples from the prior look like nothing.",
        "blind": "whether certainty is justified, and dependence between axes.",
        "rows": {
            "columns": [
                "latent",
                "axes",
                "empty",
                "contraction",
                "spread, prior sd",
                "distance, prior sd",
                "not the prior",
                "wider",
            ],
            "rows": [
                [
                    name,
                    len(of.contraction),
                    len(of.empty),
                    float(of.contraction.mean()),
                    float(of.spread.nanmean()),
                    float(of.wasserstein.mean()),
                    len(of.failing),
                    len(of.wider),
                ]
                for name, of in found.latents.items()
            ],
        },
    }
    return Finding(check, {"": axes_figure(found)})


def prototypes(subject: Subject) -> Finding | None:
    """Use of a mixture's prototypes; nothing where content is no mixture's."""
    if not is_mixture(subject.model):
        return None
    found = prototype_use(subject.model, subject.guide, subject.views, seed=subject.seed)
    order = found.use.argsort(descending=True)[:12].tolist()
    check: Check = {
        "name": "prototypes",
        "title": "Prototypes of the mixture",
        "value": found.effective,
        "unit": f"of {len(found.use)} in use",
        "alarm": None,
        "how": f"The number used, were all used alike. An image's largest responsibility is {found.certainty:.2f} on "
        "average: 1 means it belongs to one prototype.",
        "blind": "whether prototypes mean anything. Their numbers do not: over fits, match them first, by "
        "match_prototypes.",
        "rows": {
            "columns": ["prototype", "share of images"],
            "rows": [[str(place), float(found.use[place])] for place in order],
        },
    }
    return Finding(check, {})


def _pooled(groups: Mapping[str, Uniformity]) -> dict[str, Uniformity]:
    return {f"{name}, pooled": of for name, of in groups.items()}


CHECKS: Mapping[str, Callable[[Subject], Finding | None]] = {
    "k̂ of the importance weights": khat,
    "the gap of the bound": gap,
    "simulation-based calibration": calibration,
    "posterior predictive checks": predictions,
    "leave-one-view-out prediction": left_out,
    "axes against the prior": axes,
    "prototypes": prototypes,
}
"""By what a note calls them where they have no meaning."""

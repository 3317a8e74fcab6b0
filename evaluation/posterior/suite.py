"""All posterior checks of a fitted pair as one table, and what each reports: `diagnose`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

from pp_simve.evaluation.posterior.calibration import calibrate
from pp_simve.evaluation.posterior.check import FIGURES, Check, Rows
from pp_simve.evaluation.posterior.check_figures import axes_figure, predictive_figure, ranks_figure, weights_figure
from pp_simve.evaluation.posterior.contraction import check_axes
from pp_simve.evaluation.posterior.importance import WeightCheck, weigh
from pp_simve.evaluation.posterior.leave_one_out import leave_one_view_out
from pp_simve.evaluation.posterior.predictive import check_predictions
from pp_simve.evaluation.posterior.prototypes import prototype_use
from pp_simve.evaluation.posterior.ranks import Uniformity
from pp_simve.evaluation.posterior.tree import Values, posterior
from pp_simve.inference import Guide
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.inference.data import Pixels
from pp_simve.inference.tools import unit_range
from pp_simve.models import Atoms, PlainViews, SimVE, Views

PREDICTIVE_DRAWS = 1000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SHOWN_PROTOTYPES = 12

NO_MEANING = (ArithmeticError, RuntimeError, ValueError)
"""Errors of a check that has no meaning for a pair, or cannot be computed."""


@dataclass(frozen=True)
class Finding:
    """Result of a check.

    Attributes:
        check: its entry in diagnostics.json.
        figures: by the suffix of their names; empty for the figure that is named after the check alone.
    """

    check: Check
    figures: Mapping[str, Figure]

    def named_figures(self) -> dict[str, Figure]:
        """The figures by file name, without extension."""
        return {
            f"{FIGURES}{self.check['name']}{f'-{suffix}' if suffix else ''}": figure
            for suffix, figure in self.figures.items()
        }


@dataclass(frozen=True)
class Subject:
    """What a check gets: a fitted pair, views of some images, and the log weights of the guide's draws.

    Attributes:
        model, guide: on the device of the views.
        views: ``(view, image, channel, height, width)`` in [0, 1], or one such tensor per modality.
        pictures: the images, float in [0, 1], ``(image, channel, height, width)``, on the CPU; None shows none.
        log_weight: log p − log q of the guide's draws, ``(draw, image)``; None if it has no meaning.
        draws: of the guide, of each image.
        simulations: images simulated for calibration.
        seed: of all draws.
    """

    model: SimVE
    guide: Guide
    views: PlainViews
    pictures: Tensor | None
    log_weight: Tensor | None
    draws: int
    simulations: int
    seed: int

    @cached_property
    def weights(self) -> WeightCheck:
        """Diagnostics of the importance weights.

        Raises:
            ValueError: they have no meaning for this pair.
        """
        if self.log_weight is None:
            why = (
                "pixels are not modelled, so there is no posterior to weigh draws by"
                if self.model.likelihood is None
                else f"draws of {type(self.guide).__name__} are points without a density"
            )
            raise ValueError(f"{why}: importance weights have no meaning")
        return weigh(self.log_weight)


CheckFunction = Callable[[Subject], Finding | None]
"""A check: its finding, or None if it does not concern the pair. One of `NO_MEANING` is reported as a note."""


@dataclass(frozen=True)
class Diagnosis:
    """Results of all checks.

    Attributes:
        findings: in the order of the checks.
        notes: why a check has no result, a sentence each.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def checks(self) -> list[Check]:
        """The entries of diagnostics.json."""
        return [finding.check for finding in self.findings]

    def figures(self) -> dict[str, Figure]:
        """All figures by file name, without extension."""
        return {name: figure for finding in self.findings for name, figure in finding.named_figures().items()}


def diagnose(
    model: SimVE,
    guide: Guide,
    images: Pixels | Mapping[str, Pixels],
    policy: AugmentationPolicy | Mapping[str, AugmentationPolicy] | None = None,
    *,
    views: int | None = None,
    draws: int = 500,
    simulations: int = 500,
    seed: int = 0,
    checks: Mapping[str, CheckFunction] | None = None,
    labels: Values | None = None,
    pictures: Tensor | None = None,
    to: Path | str | None = None,
    configuration: Mapping[str, Any] | None = None,
    commit: str | None = None,
    announce: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Diagnosis:
    """Draws posteriors of some images and runs all checks on them.

    Args:
        model, guide: fitted, on one device.
        images, policy, views, labels: as in `posterior`.
        draws: of the guide, of each image.
        simulations: images simulated from the model for calibration.
        seed: of views and draws.
        checks: by name; by default `CHECKS`, to which others may be added: ``{**CHECKS, "mine": my_check}``.
        pictures: to show in figures, ``(image, channel, height, width)``; by default images of a single modality.
        to, configuration, commit: of the netCDF file, as in `posterior`.
        announce: called with the name of each check; the check runs in the context that it returns.

    Raises:
        ValueError, TypeError, OSError: as `posterior`.

    Example:
        >>> diagnosis = diagnose(model, guide, images[:64], policy)  # doctest: +SKIP
        >>> {check["name"]: check["alarm"] for check in diagnosis.checks}  # doctest: +SKIP
    """
    tree = posterior(
        (model, guide),
        images,
        views=views,
        draws=draws,
        policy=policy,
        labels=labels,
        seed=seed,
        view_seed=seed,
        to=to,
        configuration=configuration,
        commit=commit,
    )
    with closing(tree):
        drawn, log_weight = _views(tree), _log_weight(tree)
    device = next((parameter.device for parameter in [*model.parameters(), *guide.parameters()]), torch.device("cpu"))
    if pictures is None and not isinstance(images, Mapping) and images.ndim == 4:
        pictures = unit_range(torch.as_tensor(images))
    subject = Subject(
        model=model,
        guide=guide,
        views=Views.by_modality({modality: batch.to(device) for modality, batch in Views.of(drawn).items()}).plain,
        pictures=None if pictures is None else pictures.cpu(),
        log_weight=log_weight,
        draws=draws,
        simulations=simulations,
        seed=seed,
    )
    findings, notes = [], []
    for name, check in (CHECKS if checks is None else checks).items():
        try:
            # Unchecked: `posterior` has checked the pair, and NaN for some image must show in the results.
            with announce(name), pyro.validation_enabled(False):
                found = check(subject)
        except NO_MEANING as error:
            notes.append(f"No {name}: {error}.")
        else:
            findings.extend([found] if found is not None else [])
    return Diagnosis(tuple(findings), tuple(notes))


def importance_khat(subject: Subject) -> Finding:
    """PSIS k̂ of each image."""
    weights = subject.weights
    quantiles = torch.quantile(weights.khat, torch.tensor(QUANTILES, dtype=torch.float64), interpolation="nearest")
    check: Check = {
        "name": "khat",
        "title": "k̂ of the importance weights",
        "value": 100 * weights.share_above,
        "unit": f"% of images above {weights.threshold:.2f}",
        "alarm": weights.khat_alarm,
        "how": f"Below {weights.threshold:.2f}, weighted draws of the guide estimate an image's posterior reliably; "
        "far below it, they hardly need weights. A dash: all weights are equal, as for the exact posterior.",
        "limitations": "misses parts of the posterior that no draw came near, and a guide that is too wide.",
        "rows": {
            "columns": ["quantile", "k̂"],
            "rows": [
                [f"{share:.0%} of images below", finite(value)]
                for share, value in zip(QUANTILES, quantiles.tolist(), strict=True)
            ],
        },
    }
    return Finding(check, {"": weights_figure(weights, subject.pictures)})


def bound_gap(subject: Subject) -> Finding:
    """Gap between the ELBO and the importance-weighted bound."""
    weights = subject.weights
    mean, error = weights.mean_gap
    check: Check = {
        "name": "gap",
        "title": "Gap of the bound",
        "value": mean,
        "unit": f"nats an image (± {error:.2g})",
        "alarm": weights.gap_alarm,
        "how": "How much lower the ELBO is than the importance-weighted bound of all draws: nearly the KL divergence "
        "of the guide from the posterior. 0 is the posterior itself; half a nat is a mean that is one standard "
        "deviation off.",
        "limitations": f"underestimates divergences much above log {subject.draws} = {math.log(subject.draws):.1f} "
        "nats.",
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
    notes = "".join(f" Here, {note}." for note in dict.fromkeys(found.notes.values()))
    pooled = {f"{name}, pooled": of for name, of in found.pooled.items()}
    check: Check = {
        "name": "calibration",
        "title": "Simulation-based calibration",
        "value": len(found.failing),
        "unit": f"of {sum(len(of.names) for of in found.ranks.values())} curves outside their band",
        "alarm": found.alarm,
        "how": f"For {subject.simulations} images simulated from the model, the true latents are ranked among the "
        "guide's draws; ranks that are not uniform leave the band. ∪: too narrow, ∩: too wide, a slope: shifted.",
        "limitations": "tests simulated images, not real ones; ranks of axes are uniform for a guide that ignores the "
        f"image, which is why the log likelihood is ranked, too.{notes}",
        "rows": uniformity_rows({**found.ranks, **pooled}),
    }
    figures = {"": ranks_figure(found.ranks)}
    if found.pooled:
        figures["pooled"] = ranks_figure(found.pooled)
    return Finding(check, figures)


def predictions(subject: Subject) -> Finding:
    """Posterior predictive checks."""
    draws = PREDICTIVE_DRAWS * len(Views.of(subject.views).modalities)  # more statistics need smaller p-values
    found = check_predictions(subject.model, subject.guide, subject.views, draws=draws, seed=subject.seed)
    check: Check = {
        "name": "predictions",
        "title": "Posterior predictive checks",
        "value": len(found.failing),
        "unit": f"of {len(found.statistics)} statistics that draws do not reproduce",
        "alarm": found.alarm,
        "how": "Replicates of the views are drawn from the guide's latents; their statistics should be those of the "
        "views. The p-value is of the mean over all views.",
        "limitations": "misses errors of the guide that leave reconstructions unchanged, and everything no statistic "
        "measures; p-values near one half say little, because latents were inferred from the same views. Under a "
        "Bernoulli likelihood replicates are black and white, so that contrast and sharpness of grey images differ by "
        "that alone.",
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
        "limitations": "does not tell errors of the model from errors of the guide; a guide that ignores the views is "
        "calibrated, too: only its score is poor.",
        "rows": uniformity_rows(found.pit),
    }
    return Finding(check, {"": ranks_figure(found.pit)})


def axes(subject: Subject) -> Finding:
    """Posterior contraction, and the aggregated posterior against the prior."""
    found = check_axes(subject.model, subject.guide, subject.views, seed=subject.seed)
    if not found.latents:
        raise ValueError("; ".join(found.notes.values()))
    columns = ["latent", "axes", "empty", "contraction", "spread, prior sd", "distance, prior sd", "not the prior"]
    check: Check = {
        "name": "axes",
        "title": "Axes, posterior and prior",
        "value": sum(len({*of.failing, *of.wider}) for of in found.latents.values()),
        "unit": f"of {sum(len(of.contraction) for of in found.latents.values())} axes whose aggregated posterior is "
        "not the prior, or whose posterior is wider",
        "alarm": found.alarm,
        "how": "Contraction: 0 if views do not inform an axis, 1 if they determine it; an empty axis is no fault. All "
        "images' posteriors together should be the prior: a spread below 1 leaves parts of it without images, where "
        "samples from the prior look like nothing.",
        "limitations": "does not show whether narrow posteriors are justified, nor dependence between axes.",
        "rows": {
            "columns": [*columns, "wider"],
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
    """Use of a mixture's prototypes; None if content is no mixture's."""
    prior = subject.model.prior
    if not (prior.depends_on_batch or isinstance(prior.content(), Atoms)):
        return None
    found = prototype_use(subject.model, subject.guide, subject.views, seed=subject.seed)
    order = found.use.argsort(descending=True)[:SHOWN_PROTOTYPES].tolist()
    check: Check = {
        "name": "prototypes",
        "title": "Prototypes of the mixture",
        "value": found.effective,
        "unit": f"of {len(found.use)} in use",
        "alarm": None,
        "how": f"The effective number in use. An image's largest responsibility is {found.certainty:.2f} on average: 1 "
        "means that it belongs to one prototype.",
        "limitations": "does not show whether prototypes mean anything. Their indices are arbitrary: over fits, match "
        "them first, by match_prototypes.",
        "rows": {
            "columns": ["prototype", "share of images"],
            "rows": [[str(place), float(found.use[place])] for place in order],
        },
    }
    return Finding(check, {})


CHECKS: Mapping[str, CheckFunction] = {
    "k̂ of the importance weights": importance_khat,
    "gap of the bound": bound_gap,
    "simulation-based calibration": calibration,
    "posterior predictive checks": predictions,
    "leave-one-view-out prediction": left_out,
    "axes against the prior": axes,
    "prototypes": prototypes,
}
"""The checks that every diagnosis runs, by the names that notes use."""


def uniformity_rows(groups: Mapping[str, Uniformity]) -> Rows:
    """A row per group of ranks: its name, curves, how many leave the band, and the worst with its p-value."""
    rows: list[list[str | float | None]] = []
    for name, of in groups.items():
        worst = int(of.p_values.argmin())
        rows.append([name, len(of.names), len(of.failing), of.names[worst], float(of.p_values[worst])])
    return {"columns": ["ranked", "curves", "outside", "worst", "its p"], "rows": rows}


def finite(value: float) -> float | None:
    """The number, or None, as in JSON, if it is not finite."""
    return value if np.isfinite(value) else None


def _views(tree: xr.DataTree) -> PlainViews:
    """The views of a posterior's tree as programs take them, on the CPU."""
    found: dict[str | None, Tensor] = {}
    for name, pixels in tree["observed_data"].data_vars.items():
        modality = str(name).removeprefix("x").removeprefix("_") or None
        values = torch.from_numpy(np.array(pixels.transpose(..., *pixels.dims[-3:])))
        found[modality] = values.transpose(0, 1)
    return Views.by_modality(found).plain


def _log_weight(tree: xr.DataTree) -> Tensor | None:
    """Log weights of the only chain, ``(draw, image)``; None if they were left out."""
    stats = tree["sample_stats"].data_vars if "sample_stats" in tree.children else {}
    if "log_weight" not in stats:
        return None
    return torch.from_numpy(np.array(stats["log_weight"].isel(chain=0).transpose("draw", "image")))

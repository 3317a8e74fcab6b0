"""All posterior checks of a fitted pair as one table, and what each reports: `diagnose`; two more on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

from pp_simve.evaluation.posterior.calibration import calibrate
from pp_simve.evaluation.posterior.check import FIGURES, Cell, Check, Rows
from pp_simve.evaluation.posterior.check_figures import axes_figure, predictive_figure, ranks_figure, weights_figure
from pp_simve.evaluation.posterior.contraction import check_axes
from pp_simve.evaluation.posterior.leave_one_out import leave_one_view_out
from pp_simve.evaluation.posterior.predictive import check_predictions
from pp_simve.evaluation.posterior.prototype_use import prototype_use
from pp_simve.evaluation.posterior.psis import WeightCheck, check_weights, weigh
from pp_simve.evaluation.posterior.ranks import Uniformity
from pp_simve.evaluation.posterior.reference import LATENTS, distance_to_reference, nuts_reference
from pp_simve.evaluation.posterior.tree import device_of, posterior
from pp_simve.inference import Guide, draw
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.inference.data import Pixels
from pp_simve.inference.mcmc import ProgressBar
from pp_simve.inference.refinement import refine
from pp_simve.inference.tools import unit_range
from pp_simve.models import Atoms, PlainViews, SimVE, Views

PREDICTIVE_DRAWS = 1000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SHOWN_PROTOTYPES = 12
CHAINS, REFERENCE_DRAWS, WARMUP = 4, 200, 100
COMPARED_DRAWS = 2000
"""Of the guide, for each image that is compared with NUTS."""

DISTINGUISHED = 0.6
"""Accuracy of the classifier between the two samples above which the check alarms: .5 is chance."""

NO_MEANING = (ArithmeticError, RuntimeError, ValueError)
"""Errors of a check that has no meaning for a pair, or cannot be computed."""


@dataclass(frozen=True)
class Finding:
    """Entry of a check in diagnostics.json, and its figures by the suffix of their names (empty: the check's own)."""

    check: Check
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Subject:
    """Input of a check: a fitted pair, views of some images, and the log weights of the guide's draws.

    Attributes:
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

    @property
    def pair(self) -> tuple[SimVE, Guide, PlainViews]:
        """Model, guide and views."""
        return self.model, self.guide, self.views

    @cached_property
    def weights(self) -> WeightCheck:
        """Diagnostics of the importance weights; raises `ValueError` if they have no meaning for this pair."""
        if self.log_weight is None:
            if self.model.likelihood is None:
                raise ValueError("pixels are not modelled, so there is no posterior to weigh draws by")
            raise ValueError(f"draws of {type(self.guide).__name__} are points without a density to weigh them by")
        return weigh(self.log_weight)


CheckFunction = Callable[[Subject], Finding | None]
"""A check: its finding, or None if it does not concern the pair. One of `NO_MEANING` is reported as a note."""


@dataclass(frozen=True)
class Diagnosis:
    """Findings in the order of the checks, and why a check has no result, a sentence each."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def checks(self) -> list[Check]:
        """The entries of diagnostics.json."""
        return [finding.check for finding in self.findings]

    def figures(self) -> dict[str, Figure]:
        """All figures by file name, without extension."""
        return {
            f"{FIGURES}{finding.check['name']}{f'-{suffix}' if suffix else ''}": figure
            for finding in self.findings
            for suffix, figure in finding.figures.items()
        }


def diagnose(
    model: SimVE,
    guide: Guide,
    images: Pixels | Mapping[str, Pixels],
    policy: AugmentationPolicy | Mapping[str, AugmentationPolicy] | None = None,
    *,
    draws: int = 500,
    simulations: int = 500,
    seed: int = 0,
    checks: Mapping[str, CheckFunction] | None = None,
    pictures: Tensor | None = None,
    announce: Callable[[str], AbstractContextManager[object]] = nullcontext,
    **of_posterior: Any,
) -> Diagnosis:
    """Draws posteriors of some images and runs all checks on them.

    Args:
        model: fitted.
        guide: fitted, on the same device.
        images: as in `posterior`.
        policy: as in `posterior`.
        draws: of the guide, of each image.
        simulations: images simulated from the model for calibration.
        seed: of views and draws.
        checks: by name; by default `CHECKS`, to which others may be added: ``{**CHECKS, "mine": my_check}``.
        pictures: to show in figures, ``(image, channel, height, width)``; by default images of a single modality.
        announce: called with the name of each check; the check runs in the context that it returns.
        of_posterior: views, labels, classes, to, configuration and commit; errors are those of `posterior`, too.

    Examples:
        >>> diagnosis = diagnose(model, guide, images[:64], policy)  # doctest: +SKIP
        >>> {check["name"]: check["alarm"] for check in diagnosis.checks}  # doctest: +SKIP
    """
    options: dict[str, Any] = {"policy": policy, "draws": draws, "seed": seed, "view_seed": seed, **of_posterior}
    with closing(posterior((model, guide), images, **options)) as tree:
        drawn = _views(tree, device_of(model, guide))
        stats = tree["sample_stats"].to_dataset() if "sample_stats" in tree.children else xr.Dataset()
        log_weight = torch.from_numpy(stats["log_weight"][0].to_numpy()) if "log_weight" in stats else None
    if pictures is None and not isinstance(images, Mapping) and images.ndim == 4:
        pictures = unit_range(torch.as_tensor(images))
    pictures = None if pictures is None else pictures.cpu()
    subject = Subject(model, guide, drawn, pictures, log_weight, draws, simulations, seed)
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


TEXTS: Mapping[str, tuple[str, str, str]] = {
    "khat": (
        "k̂ of the importance weights",
        "Below {threshold:.2f}, weighted draws of the guide estimate an image's posterior reliably; far below it, they "
        "hardly need weights. A dash: all weights are equal, as for the exact posterior.",
        "misses parts of the posterior that no draw falls in, and a guide that is too wide.",
    ),
    "gap": (
        "Gap of the bound",
        "How much lower the ELBO is than the importance-weighted bound of all draws: nearly the KL divergence of the "
        "guide from the posterior. 0 is the posterior itself; half a nat is a mean that is one standard deviation off.",
        "underestimates divergences much above log {draws} = {log_draws:.1f} nats.",
    ),
    "calibration": (
        "Simulation-based calibration",
        "For {simulations} images simulated from the model, the true latents are ranked among the guide's draws; ranks "
        "that are not uniform leave the band. ∪: too narrow, ∩: too wide, a slope: shifted.",
        "tests simulated images, not real ones; ranks of axes are uniform for a guide that ignores the image, which is "
        "why the log likelihood is ranked, too.{notes}",
    ),
    "predictions": (
        "Posterior predictive checks",
        "Replicates of the views are drawn from the guide's latents; their statistics should be those of the views. "
        "The p-value is of the mean over all views.",
        "misses errors of the guide that leave reconstructions unchanged, and everything that the statistics do not "
        "measure; p-values near one half are weak evidence, because latents were inferred from the same views. Under a "
        "Bernoulli likelihood replicates are black and white, so that contrast and sharpness of grey images differ by "
        "that alone.",
    ),
    "left-out": (
        "Each view from the others",
        "The log probability of a view given the image's other views: higher is better, among runs of the same images "
        "and likelihood. The alarm is of statistics of the view, ranked among views predicted from the content of the "
        "others.",
        "does not separate errors of the model from errors of the guide; a guide that ignores the views is calibrated, "
        "too: only its score is poor.",
    ),
    "axes": (
        "Axes, posterior and prior",
        "Contraction: 0 if views do not inform an axis, 1 if they determine it; an empty axis is not a fault. All "
        "images' posteriors together should be the prior: with a spread below 1, parts of it have no images, and "
        "samples from there are not like images.",
        "does not show whether narrow posteriors are justified, nor dependence between axes.",
    ),
    "prototypes": (
        "Prototypes of the mixture",
        "The effective number in use. An image's largest responsibility is {certainty:.2f} on average: 1 means that it "
        "belongs to one prototype.",
        "does not show whether prototypes mean anything. Their indices are arbitrary: over fits, match them first, by "
        "match_prototypes.",
    ),
    "refined": (
        "After {steps} steps of refinement",
        "The amortization gap: each image's variational parameters were optimized separately, with the model fixed. "
        "Refinement is worth its time where k̂ falls below its threshold.",
        "the gap of the guide's family, which refinement does not close.",
    ),
    "reference": (
        "Guide compared with NUTS",
        "NUTS samples the posteriors of {images} images with the model fixed; a classifier is trained to distinguish "
        "its draws from the guide's. NUTS: {chains} chains of {warmup} + {draws} draws; {converged} of {images} images "
        "converged (R-hat at most {rhat:.3f}, effective draws at least {ess:.0f}, {divergences} divergences), "
        "{leapfrogs:.1f} gradients a draw, {seconds:.0f} s.",
        "modes that no chain found, and other images.",
    ),
}
"""Of each check: its title, how to read it, and its limitations, with the words that `_finding` fills in."""


def _finding(
    name: str,
    value: float | None,
    unit: str | None,
    alarm: bool | None,
    table: Rows,
    figures: Mapping[str, Figure] | None = None,
    **words: object,
) -> Finding:
    title, how, limitations = (text.format(**words) for text in TEXTS[name])
    check = Check(name=name, title=title, value=value, unit=unit, alarm=alarm, how=how, limitations=limitations)
    return Finding({**check, "rows": table}, figures or {})


def importance_khat(subject: Subject) -> Finding:
    """PSIS k̂ of each image."""
    weights = subject.weights
    quantiles = torch.quantile(weights.khat, torch.tensor(QUANTILES, dtype=torch.float64), interpolation="nearest")
    rows = [
        [f"{share:.0%} of images below", _finite(q)] for share, q in zip(QUANTILES, quantiles.tolist(), strict=True)
    ]
    table: Rows = {"columns": ["quantile", "k̂"], "rows": rows}
    value, unit = 100 * weights.share_above, f"% of images above {weights.threshold:.2f}"
    figures = {"": weights_figure(weights, subject.pictures)}
    return _finding("khat", value, unit, weights.khat_alarm, table, figures, threshold=weights.threshold)


def bound_gap(subject: Subject) -> Finding:
    """Gap between the ELBO and the importance-weighted bound."""
    weights, draws = subject.weights, subject.draws
    mean, error = weights.mean_gap
    rows: list[list[Cell]] = [
        ["ELBO, nats an image", float(weights.elbo.mean())],
        [f"bound of {draws} draws, nats an image", float(weights.bound.mean())],
        ["gap, nats an image", mean],
        ["largest gap of an image, nats", float(weights.gap.max())],
        [f"effective draws of {draws}, median image", float(weights.ess.median())],
    ]
    table: Rows = {"columns": ["measure", "value"], "rows": rows, "measures": True}
    unit = f"nats an image (± {error:.2g})"
    return _finding("gap", mean, unit, weights.gap_alarm, table, draws=draws, log_draws=math.log(draws))


def calibration(subject: Subject) -> Finding:
    """Simulation-based calibration."""
    found = calibrate(*subject.pair, simulations=subject.simulations, seed=subject.seed)
    pooled = {f"{name}, pooled": of for name, of in found.pooled.items()}
    return _finding(
        "calibration",
        len(found.failing),
        f"of {sum(len(of.names) for of in found.ranks.values())} curves outside their band",
        found.alarm,
        _uniformity_table({**found.ranks, **pooled}),
        {"": ranks_figure(found.ranks)} | ({"pooled": ranks_figure(found.pooled)} if found.pooled else {}),
        simulations=subject.simulations,
        notes="".join(f" Here, {note}." for note in dict.fromkeys(found.notes.values())),
    )


def predictions(subject: Subject) -> Finding:
    """Posterior predictive checks."""
    draws = PREDICTIVE_DRAWS * len(Views.of(subject.views).modalities)  # more statistics need smaller p-values
    found = check_predictions(*subject.pair, draws=draws, seed=subject.seed)
    rows: list[list[Cell]] = [
        [name, float(of.observed.mean()), float(of.replicated.mean()), of.overall]
        for name, of in found.statistics.items()
    ]
    table: Rows = {"columns": ["statistic", "of views", "of draws", "p"], "rows": rows}
    unit = f"of {len(found.statistics)} statistics that draws do not reproduce"
    return _finding("predictions", len(found.failing), unit, found.alarm, table, {"": predictive_figure(found)})


def left_out(subject: Subject) -> Finding:
    """Leave-one-view-out prediction."""
    found = leave_one_view_out(*subject.pair, draws=subject.draws, seed=subject.seed)
    score, unit = None, None
    if found.mean_score is not None:
        score, unit = found.mean_score[0], f"nats a view (± {found.mean_score[1]:.2g} over images)"
    return _finding("left-out", score, unit, found.alarm, _uniformity_table(found.pit), {"": ranks_figure(found.pit)})


def axes(subject: Subject) -> Finding:
    """Posterior contraction, and the aggregated posterior against the prior."""
    found = check_axes(*subject.pair, seed=subject.seed)
    if not found.latents:
        raise ValueError("; ".join(found.notes.values()))
    columns = ["latent", "axes", "empty", "contraction", "spread, prior sd", "distance, prior sd", "not the prior"]
    rows: list[list[Cell]] = []
    for name, of in found.latents.items():
        means = [float(values.nanmean()) for values in (of.contraction, of.spread, of.wasserstein)]
        rows.append([name, len(of.contraction), len(of.empty), *means, len(of.failing), len(of.wider)])
    return _finding(
        "axes",
        sum(len({*of.failing, *of.wider}) for of in found.latents.values()),
        f"of {sum(len(of.contraction) for of in found.latents.values())} axes whose aggregated posterior is "
        "not the prior, or whose posterior is wider",
        found.alarm,
        {"columns": [*columns, "wider"], "rows": rows},
        {"": axes_figure(found)},
    )


def prototypes(subject: Subject) -> Finding | None:
    """Use of a mixture's prototypes; None if content is no mixture's."""
    prior = subject.model.prior
    if not (prior.depends_on_batch or isinstance(prior.content(), Atoms)):
        return None
    found = prototype_use(*subject.pair, seed=subject.seed)
    order = found.use.argsort(descending=True)[:SHOWN_PROTOTYPES].tolist()
    rows: list[list[Cell]] = [[str(place), float(found.use[place])] for place in order]
    table: Rows = {"columns": ["prototype", "share of images"], "rows": rows}
    unit = f"of {len(found.use)} in use"
    return _finding("prototypes", found.effective, unit, None, table, certainty=found.certainty)


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


def refined(subject: Subject, steps: int) -> Finding:
    """Bound, importance weights and predictions before and after some steps on per-image variational parameters."""
    model, guide, views = subject.pair
    seed, draws, before = subject.seed, subject.draws, subject.weights

    def better(views: PlainViews) -> Guide:
        return refine(model, guide, views, steps=steps, seed=seed)

    after = check_weights(model, guide, views, draws=draws, seed=seed, guide_for=better)
    left_out = [
        leave_one_view_out(model, guide, views, draws=draws, seed=seed, guide_for=guide_for).mean_score
        for guide_for in (None, better)
    ]
    both = (before, after)
    medians = (float(torch.quantile(of.khat, 0.5, interpolation="nearest")) for of in both)
    rows: list[list[Cell]] = [
        ["ELBO, nats an image", *(float(of.elbo.mean()) for of in both)],
        ["gap of the bound, nats an image", *(of.mean_gap[0] for of in both)],
        [f"images with k̂ above {before.threshold:.2f}, %", *(100 * of.share_above for of in both)],
        ["k̂, median of images", *map(_finite, medians)],
        ["each view from the others, nats a view", *(None if score is None else score[0] for score in left_out)],
    ]
    table: Rows = {"columns": ["measure", "before", "after"], "rows": rows, "measures": True}
    gain, figures = float((after.elbo - before.elbo).mean()), {"": weights_figure(after, subject.pictures)}
    return _finding("refined", gain, "nats an image gained by the ELBO", None, table, figures, steps=steps)


def compared_with_reference(subject: Subject, images: int, steps: int, progress: ProgressBar) -> Finding:
    """Compares draws of the guide, and after some steps of refinement of the refined guide, with those of NUTS.

    ``images`` is how many of the first are compared; ``progress`` is called after each draw of NUTS.
    """
    model, guide, seed, views = subject.model, subject.guide, subject.seed, Views.of(subject.views)[:images].plain
    sampler: dict[str, Any] = {"draws": REFERENCE_DRAWS, "warmup": WARMUP, "chains": CHAINS}
    whitening = guide if guide.has_density else None
    reference = nuts_reference(model, views, guide=whitening, **sampler, seed=seed, progress=progress)
    guides = {"guide": guide} | ({"refined": refine(model, guide, views, steps=steps, seed=seed)} if steps else {})
    distances = {
        name: distance_to_reference(reference, draw(model, of, views, COMPARED_DRAWS, seed=seed))
        for name, of in guides.items()
    }
    summaries = {name: distance.summary() for name, distance in distances.items()}
    labels = {"noise": "Monte-Carlo error of shifts", "accuracy": "accuracy of the classifier"}
    for latent in LATENTS:
        labels[f"{latent}_shift"] = f"{latent}: shift of the means, sds of NUTS"
        labels[f"{latent}_spread"] = f"{latent}: sd, in those of NUTS"
    rows = [[labels[name], *(_finite(of[name]) for of in summaries.values())] for name in summaries["guide"]]
    known = np.isfinite(distances["guide"].accuracy)
    error = float(np.sqrt(np.square(distances["guide"].accuracy_error[known]).sum())) / max(1, int(known.sum()))
    accuracy = summaries["guide"]["accuracy"]
    return _finding(
        "reference",
        _finite(accuracy),
        f"of held-out draws classified correctly (± {error:.2g}); 0.5 is chance",
        accuracy - 2 * error > DISTINGUISHED,
        {"columns": ["measure", *summaries], "rows": rows, "measures": True},
        **sampler,
        images=images,
        converged=int(reference.converged.sum()),
        rhat=reference.rhat.max(),
        ess=reference.ess.min(),
        divergences=int(reference.diverging.sum()),
        leapfrogs=reference.leapfrogs.mean(),
        seconds=reference.seconds,
    )


def _uniformity_table(groups: Mapping[str, Uniformity]) -> Rows:
    """A row per group of ranks: its name, curves, how many leave the band, the worst and its p-value."""
    rows: list[list[Cell]] = []
    for name, of in groups.items():
        worst = int(of.p_values.argmin())
        rows.append([name, len(of.names), len(of.failing), of.names[worst], float(of.p_values[worst])])
    return {"columns": ["ranked", "curves", "outside", "worst", "its p"], "rows": rows}


def _finite(value: float) -> float | None:
    """The number, or None, as in JSON, if it is not finite."""
    return value if np.isfinite(value) else None


def _views(tree: xr.DataTree, device: torch.device) -> PlainViews:
    """The views of a posterior's tree as programs take them."""
    found: dict[str | None, Tensor] = {}
    for name, pixels in tree["observed_data"].data_vars.items():
        modality = str(name).removeprefix("x").removeprefix("_") or None
        found[modality] = torch.from_numpy(pixels.to_numpy()).transpose(0, 1).to(device)
    return Views.by_modality(found).plain

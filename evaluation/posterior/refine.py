"""A better posterior for a few images: some gradient steps on parameters of their own, from the guide's answer on."""

from __future__ import annotations

import math

import pyro
import torch
from torch import Tensor

from pp_simve.evaluation.posterior.target import is_discrete
from pp_simve.inference import ELBO, AmortizedGuide, Guide, StructuredGuide, draw
from pp_simve.inference.refinement import Family, GaussianLatents, GaussianPotentials, RefinedGuide
from pp_simve.inference.tools import frozen, random_state_kept
from pp_simve.models import ExactPrior, SimVE
from pp_simve.models.modalities import PlainViews as Views

START_DRAWS = 1000
"""Of a guide of another modality, for the moments of z."""


def refine(
    model: SimVE,
    guide: Guide,
    views: Views,
    *,
    steps: int = 200,
    lr: float = 0.1,
    draws: int = 16,
    judged: int = 500,
    seed: int = 0,
) -> RefinedGuide:
    """Maximises the ELBO of each image over parameters of its own, starting from the guide.

    What an encoder loses by having to answer for all images is the amortization gap; what remains afterwards is that of
    the family (Cremer, Li and Duvenaud 2018, arXiv 1801.03558). So the family is that of the guide:

    - `StructuredGuide`: the potential of each view, starting at the encoder's;
    - `AmortizedGuide`: the Gaussian of each view's z, starting at the encoder's;
    - any other whose model's prior is an `ExactPrior`: such Gaussians with the mean and variance of the guide's draws
      of z. Of a `FlowGuide`, whose draws are not Gaussian, this loses something before it gains.

    Images do not share anything and are refined side by side, by Adam with a step size that falls to 0. Images that are
    no better at the end than at the start (by the same draws) are put back to the start. Model and guide are left as
    they were.

    Args:
        model: in which pixels are modelled.
        views: ``(view, image, channel, height, width)`` in [0, 1], or one such tensor per modality; all in one pass,
            so a batch of some tens of large images.
        steps: of Adam; 0 gives the start.
        lr: in standard deviations of the start.
        draws: of each image in each step.
        judged: draws that decide between start and end, and as many that measure each ELBO afterwards.
        seed: of all draws; torch's own generators are left as they were.

    Raises:
        ValueError: numbers out of range; pixels are not modelled; a guide whose z has no spread, or one of another
            modality under a prior that cannot infer content from z.
    """
    for name, number, least in (("steps", steps, 0), ("draws", draws, 1), ("judged", judged, 2)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    model.likelihood_of(None if isinstance(views, Tensor) else next(iter(views)))  # says so if there is none
    like = views if isinstance(views, Tensor) else next(iter(views.values()))
    numbers = torch.Generator().manual_seed(seed)
    seeds = [int(torch.randint(2**62, (1,), generator=numbers)) for _ in range(5)]
    with frozen(model, guide), pyro.validation_enabled(False), random_state_kept(like.device):
        with torch.no_grad():
            refined = RefinedGuide(views, guide.posterior(views).backbone, _family(model, guide, views, seeds[0]))
        at_start = _log_weights(model, refined, views, judged, seeds[1])
        torch.manual_seed(seeds[2])
        _ascend(model, refined, views, steps, lr, draws)
        gain = (_log_weights(model, refined, views, judged, seeds[1]) - at_start).mean(0)
        refined.moved = gain > 0  # not where it is NaN
        refined.family.return_to_start(~refined.moved)
        after = _log_weights(model, refined, views, judged, seeds[3])
        before = torch.full_like(after, torch.nan)
        if guide.has_density:
            before = _log_weights(model, guide, views, judged, seeds[4])
    for parameter in refined.family.parameters():
        parameter.grad = None
    refined.elbo_before, refined.elbo_after = before.mean(0), after.mean(0)
    refined.elbo_error = ((before.var(0) + after.var(0)) / judged).sqrt()
    return refined


def _ascend(model: SimVE, refined: RefinedGuide, views: Views, steps: int, lr: float, draws: int) -> None:
    """Gradient steps on the refined guide's own parameters, those of the model being frozen."""
    own = [refined.family.shift, refined.family.log_factor]
    objective = ELBO(model, refined, alpha=0.0, particles=draws, scale=1.0)
    optimizer = torch.optim.Adam(own, lr=lr)
    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            objective(views)["loss"].backward()
            optimizer.step()


def _log_weights(model: SimVE, guide: Guide, views: Views, draws: int, seed: int) -> Tensor:
    return draw(model, guide, views, draws, seed=seed).log_weight


def _family(model: SimVE, guide: Guide, views: Views, seed: int) -> Family:
    if isinstance(guide, StructuredGuide):
        if is_discrete(guide.messages.content()):
            raise ValueError(
                "a StructuredGuide draws content first, and discrete content passes no gradient to its potentials; "
                "take a guide that draws z first, such as AmortizedGuide"
            )
        potentials = guide.potentials(guide.recognition.features(views))
        guide.messages.remember(potentials[0])
        return GaussianPotentials(guide.prior, guide.messages, *potentials)
    if not isinstance(model.prior, ExactPrior):
        raise ValueError(
            f"refine keeps the family of a StructuredGuide; for {type(guide).__name__} it needs content given z, "
            f"which {type(model.prior).__name__} does not know: derive the prior from ExactPrior"
        )
    if isinstance(guide, AmortizedGuide):
        q = guide.recognition(views)
        return GaussianLatents(model.prior, q.mean, q.stddev)
    z = draw(model, guide, views, START_DRAWS, seed=seed).z
    scale = z.std(0)
    if not (scale > 0).all():
        raise ValueError(
            f"draws of z of {type(guide).__name__} do not vary, so there is no Gaussian to start from; "
            "refine a guide with a density"
        )
    return GaussianLatents(model.prior, z.mean(0), scale)

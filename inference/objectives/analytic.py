"""The evidence lower bound with its divergence in closed form, and free bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.objectives.elbo import checked_weight
from pp_simve.inference.tracing import ProgramError, run_pair, site_infer
from pp_simve.models import QuadraticPrior, SimVE, Views, ViewsLike
from pp_simve.models.schedules import Schedule


class AnalyticELBO(Objective):
    """ELBO E_q[log p(views | z)] − β · KL(q(content, style | views) ‖ p) with the divergence in closed form.

    The same bound as `ELBO` where both are defined, with less variance, and with the divergence of each latent axis. It
    is valid in two cases, and refuses others, where a closed form site by site would belong to another bound:

    - guides that draw Gaussian z first and content from its exact conditional (`AmortizedGuide`) under a
      `QuadraticPrior`: KL(q(z_1..J) ‖ p(z_1..J)), content integrated out
    - guides that draw the model's own sites in its order, all diagonal Gaussians (`StructuredGuide`): the divergence of
      each site given those before it, which are drawn.

    The terms are per image, in nats: ``reconstruction``, ``divergence`` (the KL, not negative) and
    ``loss`` = β · Σ_axes max(free_bits, KL of the axis, mean over the batch) − reconstruction.

    Args:
        model: the generative program.
        guide: the variational program over its latent sites.
        beta: weight of the divergence, or its schedule.
        free_bits: nats per image of each latent axis (over all views) that are free (Kingma et al. 2016).
    """

    def __init__(self, model: SimVE, guide: nn.Module, *, beta: float | Schedule = 1.0, free_bits: float = 0.0) -> None:
        super().__init__()
        if free_bits < 0:
            raise ValueError(f"free_bits must not be negative, got {free_bits}")
        self.model = model
        self.guide = guide
        self.beta = checked_weight("beta", beta)
        self.free_bits = free_bits

    def forward(self, views: ViewsLike) -> dict[str, Tensor]:
        views = Views.of(views)
        model_trace, guide_trace = run_pair(self.model, self.guide, views)
        model_trace.compute_log_prob(lambda _, site: _is_data(site))
        observed = [site["log_prob_sum"] for site in model_trace.nodes.values() if _is_data(site)]
        reconstruction = torch.stack(observed).sum() / views.n_images
        by_axis = axis_divergences(self.model, model_trace, guide_trace)
        paid = by_axis.clamp(min=self.free_bits) if self.free_bits else by_axis
        return {
            "loss": self.beta() * paid.sum() - reconstruction,
            "reconstruction": reconstruction.detach(),
            "divergence": by_axis.detach().sum(),
        }


def axis_divergences(model: SimVE, model_trace: Trace, guide_trace: Trace) -> Tensor:
    """KL of each latent axis, over all views, mean over the batch's images: nats, one dimension.

    Raises:
        ProgramError: there is no closed form.
    """
    latent = {name: site for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
    auxiliary = {name: site for name, site in latent.items() if site_infer(site, "is_auxiliary")}
    if not auxiliary:
        return _of_sites(model_trace, guide_trace)
    prior = model.prior
    content = latent.get("content")
    z = auxiliary.get("z")
    exact = content is not None and site_infer(content, "is_exact_conditional")
    if not exact or z is None or len(auxiliary) > 1 or not isinstance(prior, QuadraticPrior) or not _gaussian(z["fn"]):
        raise ProgramError(
            "the divergence of this guide has no closed form: that needs Gaussian z with content exact given it, under "
            "a prior quadratic in z (gaussian, flat, standard, blocks of them), or a guide without auxiliary sites "
            "(StructuredGuide); ELBO samples it for any pair"
        )
    q: Any = z["fn"]
    entropy = q.base_dist.entropy().sum(-3)
    try:
        return (-entropy - prior.expected_log_marginal(q.mean, q.variance)).mean(0)
    except TypeError as error:
        raise ProgramError(str(error)) from None


def _of_sites(model_trace: Trace, guide_trace: Trace) -> Tensor:
    names = [name for name, site in guide_trace.nodes.items() if site["type"] == "sample"]
    order = [name for name in model_trace.nodes if name in names]
    if names != order:
        raise ProgramError(
            f"the guide samples {', '.join(names)} and the model {', '.join(order)}: a divergence site by site needs "
            "the model's order; ELBO samples it for any pair"
        )
    found = []
    for name in names:
        q: Any = guide_trace.nodes[name]["fn"]
        p: Any = model_trace.nodes[name]["fn"]
        improper = isinstance(p, dist.ImproperUniform)
        if not _gaussian(q) or not (improper or _gaussian(p)):
            raise ProgramError(
                f"the divergence of site {name!r} has no closed form here ({type(q).__name__} from "
                f"{type(p).__name__}); it needs diagonal Gaussians; ELBO samples it for any pair"
            )
        q = q.base_dist
        by_axis = -q.entropy() if improper else torch.distributions.kl_divergence(q, p.base_dist)
        # (view or 1, image, axis): summed over views, mean over images.
        found.append(by_axis.sum(-3).mean(0))
    return torch.cat(found)


def _is_data(site: Mapping[str, Any]) -> bool:
    return site["type"] == "sample" and site["is_observed"] and not site_infer(site, "_deterministic")


def _gaussian(q: object) -> bool:
    return isinstance(q, dist.Independent) and isinstance(q.base_dist, dist.Normal) and len(q.event_shape) == 1

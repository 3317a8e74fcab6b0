"""Latents and views drawn from the program itself: what the truth is where it is known."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pp_simve.inference.sampling import Draws
from pp_simve.inference.tools import evaluation_mode, random_state_kept
from pp_simve.inference.tracing import site_infer
from pp_simve.models import EmpiricalPrior, SimVE
from pp_simve.models.modalities import PlainViews as Views
from pp_simve.models.modalities import view_and_image_counts


@torch.no_grad()
def simulate(model: SimVE, like: Views, images: int, *, seed: int) -> tuple[Views, Draws]:
    """Views drawn from the model, and the latents they were drawn from.

    Args:
        model: with pixels and a proper prior.
        like: views, of which only the shapes, modalities and device count, not how many images they are of.
        images: how many to draw.
        seed: decides them; torch's own generators are left as they were.

    Returns:
        Views as the likelihood draws them, which of a Bernoulli are black and white and of a Gaussian leave [0, 1]; and
        their latents as one draw, without ``log_q``.

    Raises:
        ValueError: pixels are not modelled, or the prior cannot be drawn from.
    """
    if model.likelihood is None:
        raise ValueError("the model has no likelihood: without pixels there are no views to simulate")
    if any(isinstance(part, EmpiricalPrior) and part.memory is None for part in model.prior.modules()):
        raise ValueError("the prior is made of the images at hand, so nothing can be drawn before there are images")
    first = like if isinstance(like, Tensor) else next(iter(like.values()))
    template = _template(like, images)
    with evaluation_mode(model), random_state_kept(first.device), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        _check_proper(model)
        program = poutine.uncondition(partial(torch.nn.Module.__call__, without_groups(model)))
        trace = prune_subsample_sites(poutine.trace(program).get_trace(template))
        trace.compute_log_prob(lambda _, site: not site_infer(site, "_deterministic"))
    return _observed(trace, template), _latents(trace, template)


def _check_proper(model: SimVE) -> None:
    try:
        model.prior.content().sample()
    except NotImplementedError:
        raise ValueError(
            f"the prior {type(model.prior).__name__} is improper, so nothing can be drawn from it: checks that "
            "simulate from the model (calibration) have no meaning"
        ) from None


def without_groups(model: SimVE) -> SimVE:
    """The program of pixels alone: which image a view came from is no part of a posterior, and needs several views."""
    likelihood: Any = model.likelihood  # a module already, also where it is of several modalities
    return model if model.group is None else SimVE(model.prior, likelihood)


def _template(like: Views, images: int) -> Views:
    """Zeros of the shape of views, of another number of images, without the memory."""
    if not isinstance(like, Tensor):
        return {modality: _zeros(batch, images) for modality, batch in like.items()}
    return _zeros(like, images)


def _zeros(like: Tensor, images: int) -> Tensor:
    return torch.zeros((), device=like.device).expand(like.shape[0], images, *like.shape[2:])


def _observed(trace: Trace, template: Views) -> Views:
    if isinstance(template, Tensor):
        return _value(trace, "x").expand(template.shape)
    return {modality: _value(trace, f"x_{modality}").expand(like.shape) for modality, like in template.items()}


def _value(trace: Trace, site: str) -> Tensor:
    value: Tensor | None = trace.nodes[site]["value"]
    assert value is not None
    return value


def _latents(trace: Trace, template: Views) -> Draws:
    count, images = view_and_image_counts(template)
    log_prior: list[Tensor] = []
    log_likelihood: list[Tensor] = []
    for site in trace.nodes.values():
        if site["type"] != "sample" or site_infer(site, "_deterministic"):
            continue
        log_prob: Tensor = site["log_prob"]
        if site_infer(site, "was_observed"):
            log_likelihood.append(log_prob)
        else:
            log_prior.append((log_prob.sum(-2) if log_prob.ndim > 1 else log_prob).expand(images))
    content, style, z = (_value(trace, name) for name in ("content", "style", "z"))
    return Draws(
        content=content.expand(1, images, content.shape[-1]),
        style=style.expand(1, count, images, style.shape[-1]),
        z=z.expand(1, count, images, z.shape[-1]),
        log_prior=torch.stack(log_prior).sum(0)[None],
        log_likelihood=torch.cat(log_likelihood)[None],
        log_q=None,
    )

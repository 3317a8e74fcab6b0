"""Posterior sampling: draws of a guide with their log densities, and simulation of views and latents from the model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import evaluation_mode, random_state_kept
from pp_simve.inference.tracing import GROUP, densities, run_pair, site_infer
from pp_simve.models import PlainViews, SimVE, Views, ViewsLike

PIXELS_AT_ONCE = 2**23
"""Decoded numbers a pass, over all draws, views and images: 32 MiB in float32, some ten times that with a decoder."""


@dataclass(frozen=True)
class Draws:
    """Draws from q(content, style | views), and their log densities in nats. Views are counted over all modalities.

    Attributes:
        content: shape ``(draw, image, content)``; of width zero under a prior without content.
        style: shape ``(draw, view, image, style)``.
        z: shape ``(draw, view, image, latent)``.
        log_prior: log p(content, style), shape ``(draw, image)``. Under an improper prior up to a constant.
        log_likelihood: log p(view | z) of each view, shape ``(draw, view, image)``; None where pixels are not modelled.
        log_q: log q(content, style | views), shape ``(draw, image)``; None where the guide has no density.
    """

    content: Tensor
    style: Tensor
    z: Tensor
    log_prior: Tensor
    log_likelihood: Tensor | None
    log_q: Tensor | None

    @property
    def log_p(self) -> Tensor:
        """log p(views, content, style), shape ``(draw, image)``.

        Raises:
            ValueError: pixels are not modelled.
        """
        if self.log_likelihood is None:
            raise ValueError("the model has no likelihood of pixels, so there is no posterior to sample")
        return self.log_prior + self.log_likelihood.sum(1)

    @property
    def log_weight(self) -> Tensor:
        """log p(views, content, style) − log q(content, style | views), shape ``(draw, image)``.

        Raises:
            ValueError: pixels are not modelled, or the guide has no density.
        """
        if self.log_q is None:
            raise ValueError("the guide has no density (its draws are points), so importance weights are undefined")
        return self.log_p - self.log_q


@torch.no_grad()
def draw(model: nn.Module, guide: Guide, views: ViewsLike, draws: int, *, seed: int) -> Draws:
    """Posterior draws of the guide for a batch of images, with log densities under model and guide.

    Programs run in evaluation mode. The site ``group``, an image's place in its batch, is left out.

    Args:
        views: ``(view, image, channel, height, width)`` in [0, 1], or one such tensor per modality.
        draws: of each image, made in parts as memory allows; the result itself may be large.
        seed: determines the draws; torch's global generators are left as they were.

    Raises:
        ValueError: ``draws`` below 1.
        ProgramError: with Pyro's validation on, for programs that do not match.

    Examples:
        >>> from pp_simve import AmortizedGuide, Bernoulli, GaussianPrior, MLPDecoder, MLPEncoder, SimVE
        >>> prior = GaussianPrior(8)
        >>> model = SimVE(prior, Bernoulli(MLPDecoder(8, (1, 16, 16))))
        >>> guide = AmortizedGuide(MLPEncoder((1, 16, 16)), prior)
        >>> drawn = draw(model, guide, torch.rand(2, 3, 1, 16, 16), draws=10, seed=0)
        >>> drawn.content.shape, drawn.log_weight.shape  # (draw, image, latent), (draw, image)
        (torch.Size([10, 3, 8]), torch.Size([10, 3]))
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    views = Views.of(views)
    at_once = max(1, PIXELS_AT_ONCE // max(1, sum(batch.numel() for batch in views.tensors())))
    with evaluation_mode(model), evaluation_mode(guide), random_state_kept(views.device):
        torch.manual_seed(seed)
        parts = [_draw(model, guide, views, min(at_once, draws - start)) for start in range(0, draws, at_once)]
    joined: dict[str, list[Any]] = {
        entry.name: [getattr(part, entry.name) for part in parts] for entry in fields(Draws)
    }
    found: dict[str, Any] = {name: None if of[0] is None else torch.cat(of) for name, of in joined.items()}
    return Draws(**found)


def _draw(model: nn.Module, guide: Guide, views: Views, draws: int) -> Draws:
    count, images = views.n_views, views.n_images
    model_trace, guide_trace = run_pair(model, guide, views, particles=draws)
    latents = _latents(model_trace, draws, count, images)
    of_prior: list[Tensor] = []
    of_pixels: list[Tensor] = []
    of_guide: list[Tensor] = []
    for density in densities(model_trace, guide_trace):
        # Pyro's improper density is a zero on the CPU, whatever the device.
        log_prob = density.log_prob.to(latents["z"].device)
        if density.term == "reconstruction":
            of_pixels.append(log_prob.expand(draws, *log_prob.shape[-2:]))
        elif density.term != GROUP:
            (of_prior if density.sign > 0 else of_guide).append(_by_image(log_prob).expand(draws, images))
    return Draws(
        **latents,
        log_prior=torch.stack(of_prior).sum(0),
        log_likelihood=torch.cat(of_pixels, 1) if of_pixels else None,
        log_q=torch.stack(of_guide).sum(0) if guide.has_density else None,
    )


def _value(trace: Trace, site: str) -> Tensor:
    value: Tensor | None = trace.nodes[site]["value"]
    assert value is not None
    return value


def _latents(trace: Trace, draws: int, count: int, images: int) -> dict[str, Tensor]:
    content, style, z = (_value(trace, name) for name in ("content", "style", "z"))
    return {
        "content": content.expand(draws, 1, images, content.shape[-1]).squeeze(1),
        "style": style.expand(draws, count, images, style.shape[-1]),
        "z": z.expand(draws, count, images, z.shape[-1]),
    }


def _by_image(log_prob: Tensor) -> Tensor:
    """Summed over views, for a site of each view."""
    return log_prob.sum(-2) if log_prob.ndim > 1 else log_prob


@torch.no_grad()
def simulate(model: SimVE, like: PlainViews, images: int, *, seed: int) -> tuple[PlainViews, Draws]:
    """Views drawn from the model, and the latents that generated them.

    Args:
        model: with pixels and a proper prior.
        like: views that give the shapes, modalities, number of views and device; their number of images is not used.
        images: how many to draw.
        seed: decides them; torch's own generators are left as they were.

    Returns:
        Views as the likelihood draws them (binary for a Bernoulli, outside [0, 1] too for a Gaussian), and their
        latents as one draw, without ``log_q``.

    Raises:
        ValueError: pixels are not modelled, or the prior cannot be sampled.
    """
    if model.likelihood is None:
        raise ValueError("the model has no likelihood: without pixels there are no views to simulate")
    prior = type(model.prior).__name__
    if model.prior.depends_on_batch:
        raise ValueError(f"the prior {prior} is made of the images at hand: without images there is nothing to sample")
    if not model.prior.proper:
        raise ValueError(
            f"the prior {prior} is improper and cannot be sampled: nothing can be simulated from the model"
        )
    device = Views.of(like).device
    shapes = {modality: (len(batch), images, *batch.shape[2:]) for modality, batch in Views.of(like).items()}
    nothing = torch.zeros((), device=device)
    template = Views.by_modality({modality: nothing.expand(shape) for modality, shape in shapes.items()}).plain
    with evaluation_mode(model), random_state_kept(device), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        program = poutine.uncondition(partial(nn.Module.__call__, without_groups(model)))
        trace = prune_subsample_sites(poutine.trace(program).get_trace(template))
        trace.compute_log_prob(lambda _, site: not site_infer(site, "_deterministic"))
    log_prior, log_likelihood = [], []
    for site in trace.nodes.values():
        if site["type"] == "sample" and not site_infer(site, "_deterministic"):
            if site_infer(site, "was_observed"):
                log_likelihood.append(site["log_prob"])
            else:
                log_prior.append(_by_image(site["log_prob"]).expand(images))
    latents = Draws(
        **_latents(trace, 1, Views.of(template).n_views, images),
        log_prior=torch.stack(log_prior).sum(0)[None],
        log_likelihood=torch.cat(log_likelihood)[None],
        log_q=None,
    )
    sites = {modality: "x" if modality is None else f"x_{modality}" for modality in shapes}
    views = {modality: _value(trace, sites[modality]).expand(shape) for modality, shape in shapes.items()}
    return Views.by_modality(views).plain, latents


def without_groups(model: SimVE) -> SimVE:
    """The program of pixels alone: the group's site needs several views and is no part of the posterior."""
    likelihood: Any = model.likelihood  # a module already, also with several modalities
    return model if model.group is None else SimVE(model.prior, likelihood)

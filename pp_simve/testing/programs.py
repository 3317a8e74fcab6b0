"""Tiny networks, images and programs that the suites of guides and objectives run on, and what is read off a trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pp_simve.inference import ELBO, Guide
from pp_simve.inference.objectives.importance import log_weights_and_terms
from pp_simve.models import Gaussian, GaussianPrior, Prior, SimVE
from pp_simve.testing.checks import NUMBERS, must_run, seeded, skip

# All different, so that no two dimensions can be taken for one another.
VIEWS, LATENT, IMAGES, FEATURES = 3, 4, 5, 6
SHAPE = (1, 4, 4)
PIXELS = math.prod(SHAPE)
DOUBLE = torch.float64
PROGRAM = (
    "content of batch (..., 1, image) and style of batch (..., view, image), both vectors: end their distributions "
    "with .to_event(1), keep the view's dimension of content (keepdim=True), and open the plates by name: "
    "pyro.plate('image', images, dim=-1), pyro.plate('view', views, dim=-2)"
)
GRADIENT = "expected one from the loss for each that `without_gradient` does not name"


# Model and guide on small images.


class TinyEncoder(nn.Sequential):
    """Tanh features of the pixels: differentiable everywhere, for finite differences."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(PIXELS, FEATURES), nn.Tanh())
        self.features = FEATURES


def tiny_model(prior: Prior) -> SimVE:
    """The program on 4x4 images with a smooth decoder, from the current random state."""
    decoder = nn.Sequential(nn.Linear(prior.latent_dim, 7), nn.Tanh(), nn.Linear(7, PIXELS), nn.Unflatten(-1, SHAPE))
    return SimVE(prior, Gaussian(decoder, variance=0.125))


def tiny_views(views: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    """Grey noise, shape ``(view, image, channel, height, width)``, the same at every call."""
    with seeded(7):
        return torch.rand(views, IMAGES, *SHAPE, dtype=DOUBLE).to(dtype)


class Pair(nn.Module):
    """Model and guide over one prior, as one module."""

    def __init__(self, model: SimVE, guide: Guide) -> None:
        super().__init__()
        self.model, self.guide = model, guide


# What a guide's program draws.


def traced(guide: nn.Module, views: Tensor, particles: int | None = None) -> Trace:
    """The guide's trace under Pyro's checks, without the plates' own sites.

    Raises:
        AssertionError: it does not run, or the shapes of its sites do not go with their plates.
    """
    program: Callable[[Tensor], None] = partial(nn.Module.__call__, guide)
    if particles is not None:
        program = pyro.plate("particles", particles, dim=-3)(program)
    within = "" if particles is None else f" in a plate of {particles} particles"
    ran = f"the guide on views of shape {tuple(views.shape)}{within}"
    with must_run(ran, f"{PROGRAM}. {NUMBERS}"), pyro.validation_enabled(True):
        return prune_subsample_sites(poutine.trace(program).get_trace(views))


def sample_sites(trace: Trace) -> dict[str, dict[str, Any]]:
    """What a trace draws, by name."""
    nodes: dict[str, Any] = trace.nodes
    return {name: site for name, site in nodes.items() if site["type"] == "sample"}


def density_of_reordered(guide: Guide, views: Tensor, plate: str, order: Tensor) -> tuple[Tensor, Tensor]:
    """log q of one draw by image, and log q given views in another order of that draw in the same order.

    Args:
        plate: which dimension of views to reorder, ``view`` or ``image``.
        order: of its entries; or some of them.

    Returns:
        Both in the new order, shape ``(image,)``.
    """
    with seeded(), torch.no_grad():
        drawn = traced(guide, views)
    values: dict[str, Tensor] = {}
    for name, site in sample_sites(drawn).items():
        values[name] = site["value"]
        for frame in site["cond_indep_stack"]:
            if frame.name == plate:
                values[name] = site["value"].index_select(frame.dim - site["fn"].event_dim, order)
    reordered = views.index_select({"view": 0, "image": 1}[plate], order)
    program: Callable[[Tensor], None] = partial(nn.Module.__call__, guide)
    with torch.no_grad(), pyro.validation_enabled(False):
        conditioned = poutine.trace(poutine.condition(program, data=values)).get_trace(reordered)
        first, second = (_by_image(prune_subsample_sites(trace)) for trace in (drawn, conditioned))
    return first[order] if plate == "image" else first, second


def _by_image(trace: Trace) -> Tensor:
    """log q of all sites, shape ``(image,)``."""
    trace.compute_log_prob()
    sites = [site["log_prob"] for site in sample_sites(trace).values()]
    return torch.stack([log_prob.sum(-2) if log_prob.ndim > 1 else log_prob for log_prob in sites]).sum(0)


# The linear model, whose evidence is a dense Gaussian.


def relative_weights(make: Callable[[nn.Module, Prior], Guide], prior: Prior) -> tuple[Tensor, Tensor]:
    """log p(views, latents) / q(latents | views) / p(views) in the linear model, after a short fit of q.

    Args:
        make: the guide, from an encoder and the prior.
        prior: of two latent dimensions.

    Returns:
        The log weights, shape ``(draw, image)``, and the relative standard error of p(views), shape ``(image,)``.
    """
    guide = make(_LinearEncoder(), prior)
    model = _linear_model(prior)
    nn.ModuleList([model, guide]).double()
    views = _linear_views()
    with must_run("a short fit in a linear model", f"it to pass: {PROGRAM}. {NUMBERS}"):
        _fit_guide(model, guide, views)
        guide.eval()
        with torch.no_grad():
            log_weights, _ = log_weights_and_terms(model, guide, views, samples=20_000)
    log_evidence, error = _log_evidence(model, views)
    return log_weights - log_evidence, error


class _LinearEncoder(nn.Sequential):
    """Linear features of 4 pixels, which is all that a Gaussian posterior's mean needs."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(4, FEATURES))
        self.features = FEATURES


def _linear_model(prior: Prior) -> SimVE:
    """x = W z + b + ε on 2x2 images, W's columns orthogonal, ε ~ N(0, 1): views say little, posteriors are wide."""
    decoder = nn.Linear(prior.latent_dim, 4)
    with torch.no_grad():
        decoder.weight.copy_(torch.linalg.qr(decoder.weight).Q)
    decoder.requires_grad_(False)
    return SimVE(prior, Gaussian(nn.Sequential(decoder, nn.Unflatten(-1, (1, 2, 2))), variance=1.0))


def _linear_views() -> Tensor:
    """Two views each of three images, shape ``(2, 3, 1, 2, 2)``."""
    shared = torch.randn(1, 3, 1, 2, 2, dtype=DOUBLE)
    return shared + 0.7 * torch.randn(2, 3, 1, 2, 2, dtype=DOUBLE)


def _fit_guide(model: SimVE, guide: Guide, views: Tensor, steps: int = 150, lr: float = 0.05) -> None:
    """Adam on the ELBO of these views, its rate falling to zero."""
    parameters = [parameter for parameter in guide.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    objective = ELBO(model, guide, particles=8)
    guide.train()
    with pyro.validation_enabled(False):
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            optimizer.zero_grad()
            objective(views)["loss"].backward()
            optimizer.step()


@torch.no_grad()
def _log_evidence(model: SimVE, views: Tensor, draws: int = 50_000) -> tuple[Tensor, Tensor]:
    """log p(views) of each image, and the relative standard error of p(views): shape ``(image,)`` each.

    Under the Gaussian prior a dense Gaussian over the pixels of all views; under others a mean over draws of the prior.
    """
    prior, likelihood, count = model.prior, model.likelihood, len(views)
    assert likelihood is not None  # `tiny_model` has one
    if type(prior) is GaussianPrior:
        decoder = next(module for module in likelihood.modules() if isinstance(module, nn.Linear))
        weight, bias = decoder.weight, decoder.bias
        shared = weight * prior.content_variance() @ weight.T
        own = weight * prior.style_variance() @ weight.T + torch.eye(len(bias), dtype=DOUBLE)
        covariance = torch.kron(torch.ones(count, count, dtype=DOUBLE), shared)
        covariance += torch.kron(torch.eye(count, dtype=DOUBLE), own)
        joint = torch.distributions.MultivariateNormal(bias.repeat(count), covariance)
        log_evidence = joint.log_prob(views.flatten(2).transpose(0, 1).flatten(1))
        return log_evidence, torch.zeros_like(log_evidence)
    try:
        content = prior.content().sample(torch.Size([draws, 1, 1]))
    except NotImplementedError:
        skip("content cannot be drawn from this prior (it is improper), so there is no evidence to compare with")
    style = prior.style(content).expand(torch.Size([draws, count, 1])).sample()
    log_likelihood: Tensor = likelihood(prior.compose(content, style)).log_prob(views).sum(-2)
    log_evidence = log_likelihood.logsumexp(0) - math.log(draws)
    return log_evidence, (log_likelihood - log_evidence).exp().std(0) / draws**0.5

"""The evidence lower bound, in named terms and without device read-back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer.util import is_validation_enabled
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor, nn

PLATES = 2  # image (dim -1) and view (dim -2)


class ProgramError(ValueError):
    """Model and guide do not fit together, or cannot be fitted by this objective."""


class ELBO(nn.Module):
    """E_q[log p(views, content, style) − log q(content, style | views)], by reparametrised samples.

    Value and gradient equal those of ``pyro.infer.Trace_ELBO`` bit for bit (with ``scale=1``), but nothing is read back
    from the device: no ``.item()``, and no checks unless Pyro's validation is on.

    The terms are per image, in nats, and named

    - ``reconstruction``: log p(x | z), summed over views
    - ``content``: log p(content) − log q(content)
    - ``style``: log p(style | content) − log q(style), summed over views
    - ``entropy``: −log q of the guide's auxiliary sites (z in most guides)
    - ``loss``: −(reconstruction + beta · (content + style + entropy)), the only one with a gradient.

    Args:
        model: the generative program.
        guide: the variational program over its latent sites.
        beta: weight of everything but the reconstruction (β-VAE; Higgins et al. 2017).
        particles: samples of the guide, averaged.
        scale: factor of the sum over images; None is 1 / images in the batch, the mean.
    """

    def __init__(
        self, model: nn.Module, guide: nn.Module, *, beta: float = 1.0, particles: int = 1, scale: float | None = None
    ) -> None:
        super().__init__()
        if beta < 0:
            raise ValueError(f"beta must not be negative, got {beta}")
        if particles < 1:
            raise ValueError(f"particles must be at least 1, got {particles}")
        self.model = model
        self.guide = guide
        self.beta = beta
        self.particles = particles
        self.scale = scale

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Terms for ``views`` of shape ``(view, image, channel, height, width)``, each a scalar."""
        guide_trace = poutine.trace(self._program(self.guide)).get_trace(views)
        model_trace = poutine.trace(poutine.replay(self._program(self.model), trace=guide_trace)).get_trace(views)
        return self.terms(model_trace, guide_trace, images=views.shape[1])

    def terms(self, model_trace: Trace, guide_trace: Trace, images: int) -> dict[str, Tensor]:
        """The terms from a pair of traces of the programs on a batch of ``images`` images."""
        model_trace, guide_trace = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
        if is_validation_enabled():
            _validate(model_trace, guide_trace, plates=PLATES + (self.particles > 1))
        scale = 1 / images if self.scale is None else self.scale
        terms: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        model_trace.compute_log_prob(lambda _, site: not _infer(site, "_deterministic"))
        for name, site in model_trace.nodes.items():
            if site["type"] == "sample" and not _infer(site, "_deterministic"):
                log_p = site["log_prob_sum"]
                term = "reconstruction" if site["is_observed"] else name
                terms[term] = log_p.detach()
                weighted.append(self._weight(log_p, term))
        guide_trace.compute_log_prob()
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample":
                log_q = site["log_prob_sum"]
                term = "entropy" if _infer(site, "is_auxiliary") else name
                terms[term] = terms[term] - log_q.detach() if term in terms else -log_q.detach()
                weighted.append(self._weight(-log_q, term))
        # Summed site by site in the programs' order, as Trace_ELBO does: floating point addition is not associative.
        loss = -reduce(torch.add, weighted)
        if scale != 1 or self.particles > 1:
            loss = loss * scale / self.particles
            terms = {name: value * scale / self.particles for name, value in terms.items()}
        return {"loss": loss, **terms}

    def _program(self, module: nn.Module) -> Callable[[Tensor], None]:
        program = _without_parameter_statements(module)
        if self.particles == 1:
            return program
        # The plate belongs inside the replay: a value that was replayed already is no longer broadcast.
        particles: Callable[[Tensor], None] = pyro.plate("particles", self.particles, dim=-PLATES - 1)(program)
        return particles

    def _weight(self, log_density: Tensor, term: str) -> Tensor:
        return log_density if term == "reconstruction" or self.beta == 1 else self.beta * log_density


def _infer(site: Mapping[str, Any], key: str) -> Any:
    return (site["infer"] or {}).get(key)


def _without_parameter_statements(module: nn.Module) -> Callable[[Tensor], None]:
    """The module's forward pass without PyroModule's parameter statements.

    Those would file every parameter in Pyro's global store, where the parameters of the next model have the same names,
    and would cost a millisecond a step. Parameters here are the module's own.
    """
    return partial(nn.Module.__call__, module)


def _validate(model_trace: Trace, guide_trace: Trace, plates: int) -> None:
    """Raises for programs that do not fit together, or whose samples carry no gradient."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # pyro only warns of a site that one program lacks
        try:
            check_model_guide_match(model_trace, guide_trace, plates)
        except UserWarning as mismatch:
            raise ProgramError(f"model and guide do not match: {mismatch}") from None
    for name, site in [*model_trace.nodes.items(), *guide_trace.nodes.items()]:
        if site["type"] == "param":
            raise ProgramError(
                f"pyro.param({name!r}) lives in Pyro's global store, where the optimizer does not see it; "
                "make it a torch.nn.Parameter or a PyroParam of the module"
            )
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample" and not getattr(site["fn"], "has_rsample", False):
            raise ProgramError(
                f"the guide's site {name!r} is not reparametrised ({type(site['fn']).__name__}), so no gradient "
                "reaches the guide; use a distribution with has_rsample, or pyro.infer.Trace_ELBO"
            )
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
        for site in trace.nodes.values():
            if site["type"] == "sample":
                check_site_shape(site, plates)

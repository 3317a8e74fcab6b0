"""Traces of model and guide on a batch, the log densities of their sites, and checks that the two match."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import pyro.poutine as poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor, nn

from pp_simve.models import Views, ViewsLike

PLATES = 2  # image (dim -1) and view (dim -2)
IMAGE_PLATE = -1
SHARED = "make it a parameter (torch.nn.Parameter) of the prior or the likelihood, fitted with the networks"
GROUP = "group"  # the site of which image a view came from
RECONSTRUCTION = "reconstruction"


class ProgramError(ValueError):
    """Model and guide that do not match, or cannot be fitted by this objective."""


@dataclass(frozen=True)
class Density:
    """The log density of one site as it enters the bound: added in the model, subtracted in the guide.

    Attributes:
        term: ``reconstruction`` for what is observed, ``group`` apart; ``entropy`` for auxiliary sites; else the
            site's name.
        log_prob: a value for each place in the site's plates.
        total: their sum.
        sign: 1 in the model, −1 in the guide.
    """

    term: str
    log_prob: Tensor
    total: Tensor
    sign: int


def run_pair(
    model: nn.Module, guide: nn.Module, views: ViewsLike, targets: ViewsLike | None = None, particles: int = 1
) -> tuple[Trace, Trace]:
    """Traces of the model on targets (default: the views) and of the guide on views.

    Args:
        particles: draws of the guide, in a plate on the left where there are several.

    Raises:
        ProgramError: with Pyro's validation on, for programs that do not match or carry no gradient.
    """
    # Programs are called with a tensor or a dictionary, whatever wraps them here.
    seen = views.plain if isinstance(views, Views) else views
    explained = seen if targets is None else targets.plain if isinstance(targets, Views) else targets
    with _explained("guide", guide):
        guide_trace = poutine.trace(_program(guide, particles)).get_trace(seen)
    with _explained("model", model):
        replayed = poutine.replay(_program(model, particles), trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(explained)
    return checked_pair(model_trace, guide_trace, particles)


def checked_pair(model_trace: Trace, guide_trace: Trace, particles: int = 1) -> tuple[Trace, Trace]:
    """The traces without the plates' own sites, checked where Pyro's validation is on.

    Raises:
        ProgramError: the programs do not match.
    """
    model_trace, guide_trace = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
    if is_validation_enabled():
        with _explained("pair of model and guide"):
            _validate(model_trace, guide_trace, plates=PLATES + (particles > 1))
    return model_trace, guide_trace


def densities(model_trace: Trace, guide_trace: Trace) -> Iterator[Density]:
    """Log densities of all sites, the model's before the guide's, each in the order of its program."""
    model_trace.compute_log_prob(lambda _, site: not site_infer(site, "_deterministic"))
    for name, site in model_trace.nodes.items():
        if site["type"] == "sample" and not site_infer(site, "_deterministic"):
            term = RECONSTRUCTION if site["is_observed"] and name != GROUP else name
            yield Density(term, site["log_prob"], site["log_prob_sum"], 1)
    guide_trace.compute_log_prob()
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample":
            term = "entropy" if site_infer(site, "is_auxiliary") else name
            yield Density(term, site["log_prob"], site["log_prob_sum"], -1)


def site_infer(site: Mapping[str, Any], key: str) -> Any:
    """An entry of a site's ``infer`` dictionary, None where it has none."""
    return (site["infer"] or {}).get(key)


@contextmanager
def _explained(what: str, program: nn.Module | None = None) -> Iterator[None]:
    """Turns a ValueError of Pyro's checks into a `ProgramError` that names the program."""
    try:
        yield
    except ProgramError:
        raise
    except ValueError as error:
        if not is_validation_enabled():
            raise
        name = f" {type(program).__name__}" if program is not None else ""
        raise ProgramError(
            f"the {what}{name} breaks a rule of the program (plates `view` at dim -2 and `image` at dim -1, one event "
            f"dimension a latent, three an image): {error}"
        ) from error


def _program(module: nn.Module, particles: int) -> Callable[[ViewsLike], None]:
    """The module's forward pass, without PyroModule's parameter statements.

    Those would register every parameter in Pyro's global store, where the parameters of the next model have the same
    names, and would cost a millisecond a step. Parameters belong to the module.
    """
    program: Callable[[ViewsLike], None] = partial(nn.Module.__call__, module)
    if particles == 1:
        return program
    # The plate belongs inside the replay: a value that was replayed already is no longer broadcast.
    repeated: Callable[[ViewsLike], None] = pyro.plate("particles", particles, dim=-PLATES - 1)(program)
    return repeated


def _latents(trace: Trace) -> set[str]:
    """The sites that are sampled and not observed."""
    return {name for name, site in trace.nodes.items() if site["type"] == "sample" and not site["is_observed"]}


def _validate(model_trace: Trace, guide_trace: Trace, plates: int) -> None:
    """Raises `ProgramError` for programs that do not match, or whose samples carry no gradient."""
    for trace in (model_trace, guide_trace):
        for name in _latents(trace):
            if all(frame.dim != IMAGE_PLATE for frame in trace.nodes[name]["cond_indep_stack"]):
                raise ProgramError(
                    f"the latent {name!r} is outside of the plate `image`, where all images share it: {SHARED}"
                )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Pyro only warns of a site that one program lacks
        try:
            check_model_guide_match(model_trace, guide_trace, plates)
        except UserWarning as mismatch:
            other = _latents(model_trace) - _latents(guide_trace) - {"content", "style"}
            hint = f". Is {', '.join(sorted(other))} what all images share? Then {SHARED}" if other else ""
            raise ProgramError(f"model and guide do not match: {mismatch}{hint}") from None
    for name, site in [*model_trace.nodes.items(), *guide_trace.nodes.items()]:
        if site["type"] == "param":
            raise ProgramError(
                f"pyro.param({name!r}) lives in Pyro's global store, where the optimizer does not see it; "
                "make it a torch.nn.Parameter or a PyroParam of the module"
            )
    for name, site in guide_trace.nodes.items():
        if site["type"] != "sample" or site_infer(site, "is_exact_conditional"):
            continue
        if not getattr(site["fn"], "has_rsample", False):
            raise ProgramError(
                f"the guide's site {name!r} is not reparametrised ({type(site['fn']).__name__}), so no gradient "
                "reaches the guide; use a distribution with has_rsample, a guide that draws z first "
                "(AmortizedGuide), or pyro.infer.Trace_ELBO"
            )
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
        for site in trace.nodes.values():
            if site["type"] == "sample":
                check_site_shape(site, plates)

"""Helpers of objectives on z alone: checks of the model, the z drawn for each view, and slower copies of a guide."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from pp_simve.inference.sampling import without_groups
from pp_simve.inference.tracing import ProgramError, run_pair
from pp_simve.models import SimVE, ViewsLike

M = TypeVar("M", bound=nn.Module)


def check_observes_nothing(model: SimVE) -> None:
    """Raises ValueError for a model of pixels or groups, which an objective on z alone would not fit."""
    if model.likelihood is not None or model.group is not None:
        raise ValueError(
            "this objective is a function of z alone, so it needs a model that observes nothing: SimVE(prior), as in "
            "the method vicreg"
        )


def latents_of_views(model: SimVE, guide: nn.Module, views: ViewsLike, least: int = 2) -> Tensor:
    """z of each view, as the guide draws it, shape ``(view, image, latent)``.

    Raises:
        ProgramError: fewer than ``least`` views, or several particles.
    """
    model_trace, _ = run_pair(without_groups(model), guide, views)
    z = model_trace.nodes["z"]["value"]
    assert isinstance(z, Tensor)
    if z.ndim != 3:
        raise ProgramError(f"this objective needs z of shape (view, image, latent), got {tuple(z.shape)}")
    if len(z) < least:
        raise ProgramError(f"agreement is between views of an image, so it needs {least} views or more; got {len(z)}")
    return z


def momentum_copy(module: M, momentum: float) -> M:
    """A copy of a module without gradients, which `follow` moves.

    Raises:
        ValueError: a momentum outside [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), the share of the copy that a step keeps, got {momentum}")
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, module: nn.Module, momentum: float) -> None:
    """Moves each parameter of a copy to momentum · copy's + (1 − momentum) · the module's.

    To be called before a training step. BYOL and MoCo update after the optimizer's step: the copy is not used between
    there and here, so this is the same and needs no hook in the loop; the first update, of an exact copy, changes
    nothing.
    """
    torch._foreach_lerp_(list(target.parameters()), list(module.parameters()), 1 - momentum)

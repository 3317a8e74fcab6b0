"""Helpers of objectives on z alone: a check that the model observes nothing, and the z drawn for each view."""

from __future__ import annotations

from torch import Tensor, nn

from pp_simve.inference.tracing import ProgramError, run_pair
from pp_simve.models import SimVE, ViewsLike


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
    model_trace, _ = run_pair(model, guide, views)
    z = model_trace.nodes["z"]["value"]
    assert isinstance(z, Tensor)
    if z.ndim != 3:
        raise ProgramError(f"this objective needs z of shape (view, image, latent), got {tuple(z.shape)}")
    if len(z) < least:
        raise ProgramError(f"agreement is between views of an image, so it needs {least} views or more; got {len(z)}")
    return z

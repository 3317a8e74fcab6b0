"""Features of images: posterior means given all views of each, and standard deviations of the guide's draws."""

from __future__ import annotations

import torch
from torch import Tensor

from pp_simve.inference.guides.base import Guide
from pp_simve.inference.sampling import draw, without_groups
from pp_simve.inference.tools import evaluation_mode
from pp_simve.models import PlainViews, SimVE


@torch.no_grad()
def view_features(
    model: SimVE, guide: Guide, views: PlainViews, *, draws: int = 0, seed: int = 0
) -> dict[str, Tensor | None]:
    """Features of a batch given all views of each image, in evaluation mode, each ``(image, feature)``.

    ``content`` is the mean of q(content | all views): views of small variance count more, where the guide and prior
    say so. A view has a ``backbone``, ``z`` and ``style`` of its own, whose means over the views these are;
    ``backbone`` is None where views are of several modalities.

    Args:
        views: ``(view, image, channel, height, width)`` in [0, 1], or by modality.
        draws: of the guide, whose standard deviations of content, z and style are ``content_sd``, ``z_sd`` and
            ``style_sd``: those of the approximate posterior, not of the exact one. None by default.
        seed: of the draws; torch's global generators are left as they were.
    """
    with evaluation_mode(guide):
        posterior = guide.posterior(views)
    backbones = [posterior.backbone] if isinstance(posterior.backbone, Tensor) else [*posterior.backbone.values()]
    found = {
        "content": posterior.content,
        "z": posterior.z.mean(0),
        "style": posterior.style.mean(0),
        "backbone": backbones[0].mean(0) if len(backbones) == 1 else None,
    }
    if draws:
        drawn = draw(without_groups(model), guide, views, draws, seed=seed)
        found["content_sd"] = drawn.content.std(0)
        found |= {"z_sd": drawn.z.mean(1).std(0), "style_sd": drawn.style.mean(1).std(0)}
    return found

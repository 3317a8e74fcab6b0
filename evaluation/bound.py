"""The bound on unseen images."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from pp_simve.inference.views import ViewPolicy, draw_views


@torch.no_grad()
def bound_terms(
    objective: nn.Module, images: Tensor, policy: ViewPolicy, *, views: int, seed: int, batch_size: int = 512
) -> dict[str, float]:
    """The objective's terms on views of images it was not fitted to, means per image in nats.

    Args:
        objective: module from views to named terms that are means over the images of a batch.
        images: uint8, shape ``(image, channel, height, width)``.
        policy: draws the views.
        views: views an image, as in the fit: bounds of other numbers of views are not comparable.
        seed: of views and samples; the global random state is left as it was.
        batch_size: images a pass.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    training = objective.training
    objective.eval()
    totals: dict[str, Tensor] = {}
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for batch in torch.split(images, batch_size):
            drawn, _ = draw_views(policy, batch, views, generator=generator)
            for name, value in objective(drawn).items():
                totals[name] = totals.get(name, 0.0) + value * len(batch)
    objective.train(training)
    return {name: float(total) / len(images) for name, total in totals.items()}

"""The bound on unseen images."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from pp_simve.inference.sources import Source


@torch.no_grad()
def bound_terms(objective: nn.Module, source: Source, *, seed: int, batch_size: int = 512) -> dict[str, float]:
    """The objective's terms on views of images it was not fitted to, means per image in nats.

    Args:
        objective: module from views to named terms that are means over the images of a batch.
        source: draws the views, on the objective's device; as many an image as in the fit, because bounds of other
            numbers of views are not comparable.
        seed: of views and samples; the global random state is left as it was.
        batch_size: images a pass.
    """
    device = source.device
    generator = torch.Generator(device).manual_seed(seed)
    training = objective.training
    objective.eval()
    totals: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for batch in torch.split(torch.arange(len(source), device=device), batch_size):
            for name, value in objective(source.draw(batch, generator)).items():
                totals[name] = totals.get(name, 0.0) + value * len(batch)
    objective.train(training)
    return {name: float(total) / len(source) for name, total in totals.items()}

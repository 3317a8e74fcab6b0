"""Bounds on unseen images: the objective itself, and the importance-weighted one."""

from __future__ import annotations

import math

import pyro
import torch
from torch import Tensor, nn

from pp_simve.inference import Guide, draw
from pp_simve.inference.data import Source


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


@torch.no_grad()
def importance_weighted_bound(
    model: nn.Module, guide: Guide, views: Tensor, *, draws: int, seed: int, batch_size: int = 512
) -> Tensor:
    """A bound on log p(views) of each image, by all its views at once: log of the mean of K importance weights.

    In expectation no more than log p(views), and no lower with every further draw; with one it is the ELBO. Burda,
    Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (2016, arXiv 1509.00519), equation 8.

    Args:
        model: with a likelihood; under a proper prior on content, else the bound is that of no probability.
        views: float in [0, 1], shape ``(view, image, channel, height, width)``; images are independent of one another.
        draws: K, of each image.
        seed: of the draws; torch's own generators are left as they were.
        batch_size: images a pass.

    Returns:
        Nats, shape ``(image,)``.

    Raises:
        ValueError: ``draws`` below 1, pixels are not modelled, or the guide has no density.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for chunk in torch.split(views, batch_size, dim=1):
        seed_of_chunk = int(torch.randint(2**62, (1,), generator=generator))
        weight = draw(model, guide, chunk, draws, seed=seed_of_chunk).log_weight
        found.append(weight.logsumexp(0) - math.log(draws))
    return torch.cat(found)

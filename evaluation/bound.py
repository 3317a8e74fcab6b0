"""Bounds on the log likelihood of unseen images: the objective's own, and the importance-weighted bound."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from pp_simve.inference import Guide, draw
from pp_simve.inference.data import Source
from pp_simve.inference.objectives.importance import log_mean_weight
from pp_simve.inference.tools import evaluation_mode, random_state_kept, seeds


@torch.no_grad()
def bound_terms(objective: nn.Module, source: Source, *, seed: int, batch_size: int = 512) -> dict[str, float]:
    """The objective's terms on views of images it was not fitted to, means per image in nats.

    The views of ``source`` are as many per image as in the fit, because bounds of other numbers of views are not
    comparable. ``seed`` is of views and samples; torch's global generators are not changed.
    """
    generator = torch.Generator(source.device).manual_seed(seed)
    totals: dict[str, Tensor] = {}
    with evaluation_mode(objective), random_state_kept(source.device), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for batch in torch.split(torch.arange(len(source), device=source.device), batch_size):
            for name, value in objective(source.draw(batch, generator)).items():
                totals[name] = totals.get(name, 0.0) + value * len(batch)
    return {name: float(total) / len(source) for name, total in totals.items()}


@torch.no_grad()
def importance_weighted_bound(
    model: nn.Module, guide: Guide, views: Tensor, *, draws: int, seed: int, batch_size: int = 512
) -> Tensor:
    """Lower bound on log p(views) of each image, all its views together: log of the mean of K importance weights, in
    nats.

    In expectation at most log p(views), and not lower with every further draw; with one it is the ELBO. Burda, Grosse
    and Salakhutdinov, "Importance Weighted Autoencoders" (2016, arXiv 1509.00519), equation 8. The model has a
    likelihood and a proper prior on content: otherwise there is no probability to bound. Views are float in [0, 1],
    ``(view, image, channel, height, width)``; torch's global generators are not changed.

    Raises:
        ValueError: ``draws`` below 1, pixels are not modelled, or the guide has no density.
    """
    chunks = zip(torch.split(views, batch_size, dim=1), seeds(seed), strict=False)
    return torch.cat(
        [log_mean_weight(draw(model, guide, chunk, draws, seed=each).log_weight) for chunk, each in chunks]
    )

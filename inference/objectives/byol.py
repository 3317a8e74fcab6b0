"""BYOL and SimSiam: each view predicts the embeddings of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.objectives.embeddings import (
    check_observes_nothing,
    follow,
    latents_of_views,
    momentum_copy,
)
from pp_simve.models import SimVE, ViewsLike, apply_network
from pp_simve.models.networks import normed_layers


class BYOL(Objective):
    """BYOL and SimSiam: Σ_{i≠j} cos(h(z_j), z_i) with z_i held fixed, for a predictor network h.

    Content is the other view's embedding. A cosine is, up to a constant, the log density of a von Mises-Fisher
    distribution around the predicted direction, of concentration 1. Without an entropy one point for all images is the
    optimum, which fits avoid by the predictor and the targets without gradient.

    The loss is minus the sum over ordered pairs of views. For two views it is twice that of SimSiam (Chen and He 2021,
    arXiv 2011.10566, eq. 4), and that of BYOL (Grill et al. 2020, arXiv 2006.07733, eq. 2), 2 − 2 cos in both
    directions, is 4 + 2 · loss. Terms, sums over an image's ordered pairs of views and means over images:
    ``agreement`` and ``loss``.

    Args:
        model: a prior and nothing observed, ``SimVE(prior)``.
        guide: draws z; without noise in the papers, `DeltaGuide`.
        hidden: widths of the predictor's layers between z and the predicted z, each with batch norm and ReLU. The norm
            is over all views of a batch together, where the papers' code takes those of one view at a time.
        momentum: None takes targets from the guide itself (SimSiam). A number in [0, 1) takes them from a copy of the
            guide (BYOL): before each training step a parameter of the copy becomes momentum · copy's +
            (1 − momentum) · guide's. Its batch norm is updated by the same batches.

    Raises:
        ValueError: the model observes something; a layer without units; a momentum outside [0, 1).
        ProgramError: when called with one view of each image.
    """

    def __init__(
        self, model: SimVE, guide: nn.Module, *, hidden: Sequence[int] = (64,), momentum: float | None = None
    ) -> None:
        super().__init__()
        check_observes_nothing(model)
        if any(units < 1 for units in hidden):
            raise ValueError(f"hidden is a list of the predictor's widths, each at least 1, got {list(hidden)}")
        self.model = model
        self.guide = guide
        latent_dim = model.prior.latent_dim
        self.predictor = nn.Sequential(
            *normed_layers(latent_dim, hidden), nn.Linear(hidden[-1] if hidden else latent_dim, latent_dim)
        )
        self.momentum = momentum
        self.target = None if momentum is None else momentum_copy(guide, momentum)

    def forward(self, views: ViewsLike) -> dict[str, Tensor]:
        z = latents_of_views(self.model, self.guide, views)
        predicted = functional.normalize(apply_network(self.predictor, z, event_dim=1), dim=-1)
        targets = functional.normalize(self._targets(views, z), dim=-1)
        of_others = targets.sum(0) - targets
        agreement = (predicted * of_others).sum((0, 2)).mean()
        return {"loss": -agreement, "agreement": agreement.detach()}

    @torch.no_grad()
    def _targets(self, views: ViewsLike, z: Tensor) -> Tensor:
        """The targets, without gradient; z is that of the guide."""
        if self.target is None or self.momentum is None:
            return z.detach()
        if self.training:
            follow(self.target, self.guide, self.momentum)
        return latents_of_views(self.model, self.target, views)

"""VAE objectives on augmented views and their original image: CR-VAE and AAVAE."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.objectives.elbo import ELBO
from pp_simve.inference.tracing import ProgramError, run_pair, site_infer
from pp_simve.models import Views, ViewsLike
from pp_simve.models.schedules import Schedule


class ConsistencyELBO(Objective):
    """CR-VAE: the ELBO of an image and its views, less ``weight`` · Σ_j KL(q(z | view_j) ‖ q(z | image)).

    With a `StandardPrior` the objective of Sinha and Dieng (2021): views are given the posterior of their image.

    The terms are those of `ELBO`, and ``consistency``, −Σ_j KL in nats per image.

    Args:
        model: the generative program.
        guide: draws a diagonal Gaussian auxiliary site ``z`` for each view (`AmortizedGuide`, `PointGuide`).
        weight: λ of the paper.
        beta: as in `ELBO`.
    """

    original_first: ClassVar[bool] = True

    def __init__(
        self, model: nn.Module, guide: nn.Module, *, weight: float = 0.1, beta: float | Schedule = 1.0
    ) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight must not be negative, got {weight}")
        self.elbo = ELBO(model, guide, beta=beta)
        self.weight = weight

    def forward(self, views: ViewsLike) -> dict[str, Tensor]:
        both = original_and_views(views)
        images = both.shape[1]
        model_trace, guide_trace = run_pair(self.elbo.model, self.elbo.guide, both)
        terms = self.elbo.terms(model_trace, guide_trace, images=images)
        site = guide_trace.nodes.get("z")
        q = getattr(site["fn"], "base_dist", None) if site and site_infer(site, "is_auxiliary") else None
        if not isinstance(q, torch.distributions.Normal):
            raise ProgramError(
                "consistency compares the Gaussians q(z | view) of a guide's auxiliary site 'z', which this guide "
                "does not draw; use AmortizedGuide or PointGuide"
            )
        of_original = torch.distributions.Normal(q.loc[:1], q.scale[:1])
        of_views = torch.distributions.Normal(q.loc[1:], q.scale[1:])
        consistency = -torch.distributions.kl_divergence(of_views, of_original).sum() / images
        return {**terms, "loss": terms["loss"] - self.weight * consistency, "consistency": consistency.detach()}


class DenoisingELBO(Objective):
    """AAVAE: the ELBO of the original image, decoded from each of its views.

    With a `StandardPrior` and β = 0 the objective of Falcon et al. (2021), where views replace the divergence; for
    β > 0 it is kept.

    The terms are those of `ELBO`.

    Args:
        model: the generative program.
        guide: the variational program over its latent sites.
        beta: as in `ELBO`.
    """

    original_first: ClassVar[bool] = True

    def __init__(self, model: nn.Module, guide: nn.Module, *, beta: float | Schedule = 0.0) -> None:
        super().__init__()
        self.elbo = ELBO(model, guide, beta=beta)

    def forward(self, views: ViewsLike) -> dict[str, Tensor]:
        both = original_and_views(views)
        original, seen = both[:1], both[1:]
        terms: dict[str, Tensor] = self.elbo(seen, targets=original.expand_as(seen))
        return terms


def original_and_views(views: ViewsLike) -> Tensor:
    """The views, the original image the first of them.

    Raises:
        ProgramError: there is none beside it, or they are of several modalities.
    """
    plain = Views.of(views).plain
    if not isinstance(plain, Tensor):
        raise ProgramError("this objective compares views with the original image, so it needs views of one modality")
    if len(plain) < 2:
        raise ProgramError(
            "this objective needs the original image and at least one view of it, so 2 views or more; got 1"
        )
    return plain

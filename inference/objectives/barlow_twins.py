"""Barlow Twins: cross-correlations of the axes of two views."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor, nn

from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.objectives.embeddings import check_observes_nothing, latents_of_views
from pp_simve.inference.tracing import ProgramError
from pp_simve.models import SimVE, ViewsLike
from pp_simve.models.distributed import gathered

EPS = 1e-5  # added to variances, as batch norm does; an axis that is constant correlates with nothing


class BarlowTwins(Objective):
    """Barlow Twins: Σ_i (1 − C_ii)² + redundancy · Σ_{i≠k} C_ik², C the cross-correlations of axes of two views' z.

    For two views the loss of Zbontar et al. (2021, arXiv 2103.03230, eq. 1-2). On z standardised over the batch
    the mean over images of (z_i − z'_i)² is 2 (1 − C_ii). Under a flat prior −log p(z, z') of that z is therefore
    Σ_i (1 − C_ii) / (2 Σ_i) plus a constant, Σ_i the style variance: the invariance here is the same pull squared, with
    the same optimum and another gradient. Redundancy takes the place of the entropy.

    Terms, sums over the unordered pairs of views: ``invariance``, ``redundancy`` (before its weight) and ``loss``. They
    are statistics of the batch; in training mode that is the batch of all processes, and each has the same terms.

    Args:
        model: a prior and nothing observed, ``SimVE(prior)``.
        guide: draws z; without noise in the paper, `DeltaGuide`.
        redundancy: weight λ of the correlations off the diagonal.

    Raises:
        ValueError: the model observes something; a weight that is negative or not finite.
        ProgramError: when called with one view of each image, or with one image.
    """

    def __init__(self, model: SimVE, guide: nn.Module, *, redundancy: float = 0.005) -> None:
        super().__init__()
        check_observes_nothing(model)
        if not 0 <= redundancy < math.inf:
            raise ValueError(f"redundancy must be finite and not negative, got {redundancy}")
        self.model = model
        self.guide = guide
        self.redundancy = redundancy

    def forward(self, views: ViewsLike) -> dict[str, Tensor]:
        z = latents_of_views(self.model, self.guide, views)
        # As in the group likelihood: evaluation mode is for one process alone.
        everyone, _ = gathered(z, dim=1) if self.training else (z, 0)
        images = everyone.shape[1]
        if images < 2:
            raise ProgramError("correlations over the batch need 2 images in it at least; got 1")
        centred = everyone - everyone.mean(1, keepdim=True)
        standard = centred * (centred.square().mean(1, keepdim=True) + EPS).rsqrt()
        pairs = combinations(standard.unbind(), 2)
        correlations = torch.stack([one.mT @ other / images for one, other in pairs])
        diagonal = correlations.diagonal(dim1=-2, dim2=-1)
        invariance = (1 - diagonal).square().sum()
        # Taken off rather than subtracted after squaring, where rounding could make the sum negative.
        redundancy = (correlations - diagonal.diag_embed()).square().sum()
        return {
            "loss": invariance + self.redundancy * redundancy,
            "invariance": invariance.detach(),
            "redundancy": redundancy.detach(),
        }

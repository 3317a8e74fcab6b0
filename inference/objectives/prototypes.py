"""Objectives on the prototype of each view, the component of a mixture: SwAV and instance discrimination."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.objectives.embeddings import check_observes_nothing, latents_of_views
from pp_simve.inference.tracing import ProgramError
from pp_simve.models import MixturePrior, SimVE, ViewsLike
from pp_simve.models.distributed import gathered


class SwAV(Objective):
    """SwAV: Σ_{i≠j} E_{q_i(k)}[log p(prototype k | z_j)], swapped prediction of prototype assignments.

    The assignments q_i are the densities p(prototype k, z_i), sharpened, and balanced so that over the batch every
    prototype has the same share (Sinkhorn; in its limit the same as from responsibilities); they have no gradient.
    With z and prototypes of unit norm this is SwAV (Caron et al. 2020, arXiv 2006.09882, eq. 1-5): its temperature τ is
    the prior's style variance, its ε that divided by the sharpness. Terms, nats per image: ``assignment``, summed over
    ordered pairs of views, and ``loss``.

    Args:
        model: a mixture and nothing observed, ``SimVE(MixturePrior(...))``.
        guide: draws z; without noise in SwAV, ``DeltaGuide(..., unit_norm=True)``.
        sharpness: exponent of those densities before they are balanced.
        iterations: of Sinkhorn's algorithm.
    """

    def __init__(self, model: SimVE, guide: nn.Module, *, sharpness: float = 2.0, iterations: int = 3) -> None:
        super().__init__()
        if not 0 < sharpness < math.inf:
            raise ValueError(f"sharpness must be positive and finite, got {sharpness}")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.model = model
        _mixture(model)
        self.guide = guide
        self.sharpness = sharpness
        self.iterations = iterations

    def forward(self, views: ViewsLike) -> dict[str, Tensor]:
        z = latents_of_views(self.model, self.guide, views)
        log_joint = _mixture(self.model).log_joint_by_view(z)
        codes = self._codes(log_joint.detach())
        of_others = codes.sum(0) - codes
        assignment = (of_others * log_joint.log_softmax(-1)).sum((0, 2)).mean()
        return {"loss": -assignment, "assignment": assignment.detach()}

    @torch.no_grad()
    def _codes(self, log_joint: Tensor) -> Tensor:
        """Balanced assignments of each view, probabilities ``(view, image, K)``, from those of all processes."""
        images = log_joint.shape[1]
        logits, first = gathered(self.sharpness * log_joint, 1) if self.training else (self.sharpness * log_joint, 0)
        return balanced(logits, self.iterations)[:, first : first + images]


class InstanceDiscrimination(Objective):
    """Instance discrimination: Σ_j log p(prototype n | z_j), one prototype for each training image n.

    The prototypes are a memory bank: after each step those of its images move towards their views' z. With z and
    prototypes of unit norm this is the non-parametric softmax of Wu et al. (2018, arXiv 1805.01978, eq. 2), whose
    temperature τ is the prior's style variance, over all images and not a sample of them. Terms, nats per image:
    ``instance``, summed over views, and ``loss``.

    Args:
        model: a mixture of as many prototypes as training images, not learned, and nothing observed.
        guide: draws z; without noise in the paper, ``DeltaGuide(..., unit_norm=True)``.
        momentum: share of a prototype that is kept at each step.
    """

    indexed: ClassVar[bool] = True

    def __init__(self, model: SimVE, guide: nn.Module, *, momentum: float = 0.5) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.model = model
        if isinstance(_mixture(model).points, nn.Parameter):
            raise ValueError(
                "the prototypes of instance discrimination are a memory and not parameters; build the mixture with "
                "learn_prototypes=False"
            )
        self.guide = guide
        self.momentum = momentum
        self.known_images = len(_mixture(model).points)

    def forward(self, views: ViewsLike, index: Tensor | None = None) -> dict[str, Tensor]:
        if index is None:
            raise ProgramError("instance discrimination needs the images' places in the data: pass index")
        z = latents_of_views(self.model, self.guide, views, least=1)
        right = index.expand(z.shape[:2]).unsqueeze(-1)
        log_prob = _mixture(self.model).log_joint_by_view(z).log_softmax(-1).gather(-1, right)
        instance = log_prob.sum() / len(index)
        if self.training:
            self._remember(z.detach().mean(0), index)
        return {"loss": -instance, "instance": instance.detach()}

    @torch.no_grad()
    def _remember(self, contents: Tensor, index: Tensor) -> None:
        # Every process keeps the whole bank, so it needs the images of the others.
        (contents, _), (index, _) = gathered(contents, 0), gathered(index, 0)
        prior = _mixture(self.model)
        points = prior.points
        moved = torch.lerp(contents.to(points.dtype), points[index], self.momentum)
        if prior.unit_norm:
            moved = functional.normalize(moved, dim=-1)
        # Not in place: this step's graph still holds the old tensor.
        prior.points = points.index_copy(0, index, moved)


@torch.no_grad()
def balanced(logits: Tensor, iterations: int) -> Tensor:
    """Sinkhorn-balanced exp(logits): in each view every image has probability 1 and every prototype an equal share.

    In the log domain, prototypes first and images last, so that the images' sums are exact.

    Args:
        logits: shape ``(view, image, K)``.
        iterations: rounds.
    """
    for _ in range(iterations):
        logits = logits - logits.logsumexp(-2, keepdim=True)
        logits = logits - logits.logsumexp(-1, keepdim=True)
    return logits.exp()


def _mixture(model: SimVE) -> MixturePrior:
    check_observes_nothing(model)
    if not isinstance(model.prior, MixturePrior):
        raise ValueError(
            f"the model's prior must be a MixturePrior, which has prototypes, got {type(model.prior).__name__}"
        )
    return model.prior

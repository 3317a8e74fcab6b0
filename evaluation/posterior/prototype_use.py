"""Prototypes of a mixture prior: their use in one fit, and their matching between two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pp_simve.evaluation.posterior.batches import batches_of_draws
from pp_simve.inference import Guide
from pp_simve.inference.tools import seeds
from pp_simve.models import Atoms, ExactPrior, PlainViews, SimVE

USED = 0.1
"""A prototype is unused if its share of the images is below this times 1 / K."""


@dataclass(frozen=True)
class PrototypeUse:
    """Prototype use: responsibilities of the K prototypes of a fit. A random split of the data is even as well.

    Attributes:
        responsibilities: mean over draws of p(content is prototype k | z of all views), shape ``(image, K)``, float64.
        use: mean of them over images: sums to 1, shape ``(K,)``.
        effective: exp of the entropy of ``use``: K if all are used alike, 1 if only one is.
        certainty: mean over images of the largest responsibility, from 1 / K to 1.
    """

    responsibilities: Tensor
    use: Tensor
    effective: float
    certainty: float

    @property
    def unused(self) -> list[int]:
        """Prototypes with less than `USED` times the share they would have if all were used alike."""
        return (self.use < USED / len(self.use)).nonzero().flatten().tolist()


@dataclass(frozen=True)
class PrototypeMatch:
    """Prototypes of one fit matched to those of another, because their indices are arbitrary (label switching).

    Attributes:
        order: ``order[k]`` is the prototype of the second fit matched to prototype k of the first, int64, ``(K,)``.
        overlap: shared responsibilities, Σ_image first_k second_l / images, shape ``(K, K)``; its sum is 1.
        before: share of images whose most probable prototypes have the same index in both fits.
        after: the same after matching; by chance alone about 1 / K and more.
    """

    order: Tensor
    overlap: Tensor
    before: float
    after: float

    @property
    def switched(self) -> bool:
        """Whether any prototype has another index in the second fit."""
        return bool((self.order != torch.arange(len(self.order))).any())


@torch.no_grad()
def prototype_use(model: SimVE, guide: Guide, views: PlainViews, *, draws: int = 20, seed: int) -> PrototypeUse:
    """Responsibilities of the prototypes for images, averaged over draws of z; arguments as of `check_weights`.

    Raises:
        ValueError: content is not one of K points (`MixturePrior`, `EmpiricalPrior`, or a `BlockPrior` of these).
    """
    parts = []
    for _, _, drawn in batches_of_draws(model, guide, views, draws, seeds(seed)):
        content = model.prior.content_posterior(drawn.z) if isinstance(model.prior, ExactPrior) else None
        if not isinstance(content, Atoms):
            raise ValueError(
                f"content under {type(model.prior).__name__} is not one of K prototypes, so it has no labels to "
                "switch; this check is for mixtures (MixturePrior)"
            )
        parts.append(content.probabilities.squeeze(-3).double().mean(0).cpu())
    found = torch.cat(parts)
    use = found.mean(0)
    return PrototypeUse(found, use, float(torch.special.entr(use).sum().exp()), float(found.amax(-1).mean()))


def match_prototypes(first: Tensor, second: Tensor) -> PrototypeMatch:
    """Matches prototypes so that the shared responsibility of two fits, ``(image, K)``, is largest (Hungarian method).

    Raises:
        ValueError: shapes that do not agree, or rows that are not probabilities.
    """
    if first.shape != second.shape or first.ndim != 2 or not first.numel():
        raise ValueError(
            f"responsibilities must be of the same images and as many prototypes, (image, K), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    first, second = first.double().cpu(), second.double().cpu()
    both = torch.cat([first, second])
    if not ((both >= 0).all() and torch.allclose(both.sum(1), both.new_ones(()), atol=1e-4)):
        raise ValueError("responsibilities must be probabilities, each row not negative and summing to 1")
    overlap = first.T @ second / len(first)
    _, columns = linear_sum_assignment(overlap.numpy(), maximize=True)
    order = torch.from_numpy(columns).long()
    mine, theirs = first.argmax(1), second.argmax(1)
    before, after = (float((guess == theirs).double().mean()) for guess in (mine, order[mine]))
    return PrototypeMatch(order, overlap, before, after)

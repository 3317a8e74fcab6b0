"""Prototypes of a mixture: which are used, and which of one fit are which of another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pp_simve.evaluation.posterior.batches import image_batches, seeds
from pp_simve.inference import Guide, draw
from pp_simve.models import Atoms, ExactPrior, SimVE
from pp_simve.models.modalities import PlainViews as Views

USED = 0.1
"""Share of the images, in units of 1 / K, below which one of K prototypes counts as unused."""


@dataclass(frozen=True)
class PrototypeUse:
    """Which of K prototypes the images of one fit belong to.

    It says nothing of whether prototypes mean anything: a mixture that splits the data at random is used evenly too.

    Attributes:
        responsibilities: mean over draws of p(content is prototype k | z of all views), shape ``(image, K)``, float64.
        use: mean of them over images: sums to 1, shape ``(K,)``.
        effective: exp of the entropy of ``use``: K where all are used alike, 1 where only one is.
        certainty: mean over images of the largest responsibility: 1 / K where images belong to none, 1 to one.
    """

    responsibilities: Tensor
    use: Tensor
    effective: float
    certainty: float

    @property
    def unused(self) -> list[int]:
        """Prototypes used less than `USED` times as much as if all were used alike."""
        return (self.use < USED / len(self.use)).nonzero().flatten().tolist()


@dataclass(frozen=True)
class PrototypeMatch:
    """Prototypes of one fit as those of another, by which images belong to them.

    Names of prototypes mean nothing: two fits that agree in all but the names have the same posterior of everything but
    content's index. So anything said of prototype k over several fits (R-hat, means) is about names until matched.

    Attributes:
        order: ``order[k]`` is the prototype of the second fit matched to prototype k of the first, int64, shape
            ``(K,)``.
        overlap: responsibilities shared, Σ_image first_k second_l / images, shape ``(K, K)``; its sum is 1.
        before: share of images whose most probable prototypes have the same number in both fits.
        after: the same, once the second fit's are renamed. Low where the fits disagree in more than names; by chance
            alone about 1 / K and more.
    """

    order: Tensor
    overlap: Tensor
    before: float
    after: float

    @property
    def switched(self) -> bool:
        """Whether any prototype has another number in the second fit."""
        return bool((self.order != torch.arange(len(self.order))).any())


@torch.no_grad()
def prototype_use(model: SimVE, guide: Guide, views: Views, *, draws: int = 20, seed: int) -> PrototypeUse:
    """Responsibilities of the prototypes for images, averaged over draws of z.

    Args:
        views: ``(view, image, channel, height, width)`` in [0, 1], or one such tensor per modality.
        draws: of the guide, of each image.
        seed: of the draws; torch's own generators are left as they were.

    Raises:
        ValueError: content is not one of K points (`MixturePrior`, `EmpiricalPrior`, or a `BlockPrior` of these).
    """
    of_batch = seeds(seed)
    parts = []
    for _, batch in image_batches(views, model.prior.latent_dim, draws):
        z = draw(model, guide, batch, draws, seed=next(of_batch)).z
        parts.append(_responsibilities(model, z).double().mean(0).cpu())
    found = torch.cat(parts)
    use = found.mean(0)
    return PrototypeUse(found, use, float(torch.special.entr(use).sum().exp()), float(found.amax(-1).mean()))


@torch.no_grad()
def match_prototypes(first: Tensor, second: Tensor) -> PrototypeMatch:
    """Renames the prototypes of a second fit so that images share as much responsibility as they can.

    The assignment is the best of all K! (Hungarian method).

    Args:
        first, second: responsibilities of the same images in two fits, shape ``(image, K)``, not negative, each row
            summing to 1.

    Raises:
        ValueError: shapes that do not agree, or rows that are no probabilities.
    """
    if first.shape != second.shape or first.ndim != 2 or not first.numel():
        raise ValueError(
            f"responsibilities must be of the same images and as many prototypes, (image, K), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    first, second = first.double().cpu(), second.double().cpu()
    for name, rows in (("first", first), ("second", second)):
        if not ((rows >= 0).all() and torch.allclose(rows.sum(1), rows.new_ones(()), atol=1e-4)):
            raise ValueError(f"{name} responsibilities must be probabilities, each row not negative and summing to 1")
    overlap = first.T @ second / len(first)
    _, columns = linear_sum_assignment(overlap.numpy(), maximize=True)
    order = torch.from_numpy(columns).long()
    mine, theirs = first.argmax(1), second.argmax(1)
    return PrototypeMatch(
        order=order,
        overlap=overlap,
        before=float((mine == theirs).double().mean()),
        after=float((order[mine] == theirs).double().mean()),
    )


def _responsibilities(model: SimVE, z: Tensor) -> Tensor:
    """Shape ``(draw, image, K)``."""
    content = model.prior.content_posterior(z) if isinstance(model.prior, ExactPrior) else None
    if not isinstance(content, Atoms):
        raise ValueError(
            f"content under {type(model.prior).__name__} is not one of K prototypes, so it has no labels to switch; "
            "this check is for mixtures (MixturePrior)"
        )
    return content.probabilities.squeeze(-3)

"""The group likelihood: which image of the batch a view came from is an observed variable, too."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional


class GroupLikelihood(nn.Module, ABC):
    """p(group | z) = softmax over candidates of log N(z; candidate, temperature).

    The batch's own embeddings are the candidates for content, as under an `EmpiricalPrior`; the right one is a view of
    the same image. Each view is asked once for each other view of its image.

    Args:
        temperature: the variance around a candidate; the temperature of contrastive losses where z has unit norm.
        unit_norm: puts z on the unit sphere first, so that candidates compare by cosine.
        width: how many of the first axes of z speak of the group (the content block); default all.
    """

    def __init__(self, temperature: float = 0.5, *, unit_norm: bool = True, width: int | None = None) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if width is not None and width < 1:
            raise ValueError(f"width must be at least 1 axis, got {width}")
        self.temperature = temperature
        self.unit_norm = unit_norm
        self.width = width

    def forward(self, z: Tensor) -> tuple[dist.Independent, Tensor]:
        """The distribution of the groups of all views, and the groups observed.

        Args:
            z: shape ``(..., view, image, latent)``.

        Returns:
            Batch ``(..., view, image)``, event ``(view − 1,)``, and indices of that shape.

        Raises:
            ValueError: a single view, which has no other to be found among candidates; fewer axes than ``width``.
        """
        views = z.shape[-3]
        if views < 2:
            raise ValueError("the group likelihood compares views of an image, so it needs 2 views or more; got 1")
        if self.width is not None and self.width > z.shape[-1]:
            raise ValueError(f"the group likelihood is of the first {self.width} axes of z, which has {z.shape[-1]}")
        embedded = z if self.width is None else z[..., : self.width]
        if self.unit_norm:
            embedded = functional.normalize(embedded, dim=-1)
        logits, groups = self._compare(embedded)
        return dist.Categorical(logits=logits).to_event(1), groups

    @abstractmethod
    def _compare(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(..., view, image, view − 1, candidate)`` and the right candidates ``(view, image, view − 1)``."""

    def _log_densities(self, z: Tensor, candidates: Tensor) -> Tensor:
        """log N(z; candidate, temperature) without what all candidates share: ``(..., z, candidate)``."""
        # A matrix product: differences would need a tensor of (z, candidate, latent).
        return (z @ candidates.mT - 0.5 * candidates.square().sum(-1).unsqueeze(-2)) / self.temperature


class AmongViews(GroupLikelihood):
    """Candidates are all other views of the batch: with two views SimCLR's NT-Xent (Chen et al. 2020), 2B − 1 of them.

    With more, the further views of the image itself are left out.
    """

    def _compare(self, z: Tensor) -> tuple[Tensor, Tensor]:
        views, images = z.shape[-3:-1]
        flat = z.flatten(-3, -2)
        logits = self._log_densities(flat, flat)
        place = torch.arange(views * images, device=z.device).view(views, images)
        image = place.flatten() % images
        own = image.unsqueeze(-1) == image
        asked, right = [], []
        for offset in range(1, views):
            other = place.roll(-offset, 0)
            left_out = own & (place.flatten() != other.flatten().unsqueeze(-1))
            asked.append(logits.masked_fill(left_out, -torch.inf).unflatten(-2, (views, images)))
            right.append(other)
        return torch.stack(asked, -2), torch.stack(right, -1)


class AmongImages(GroupLikelihood):
    """Candidates are one other view of each image: InfoNCE (van den Oord et al. 2018), B of them, in all directions."""

    def _compare(self, z: Tensor) -> tuple[Tensor, Tensor]:
        views, images = z.shape[-3:-1]
        asked = [self._log_densities(z, z.roll(-offset, -3)) for offset in range(1, views)]
        right = torch.arange(images, device=z.device).view(1, images, 1).expand(views, images, views - 1)
        return torch.stack(asked, -2), right

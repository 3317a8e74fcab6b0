"""The interface of guides: a Pyro program over the model's sites that also answers for representations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pyro.nn import PyroModule
from torch import Tensor

from pp_simve.inference.tools import evaluation_mode, unit_range
from pp_simve.models import Views

Features = Tensor | dict[str, Tensor]
"""Backbone features, ``(..., image, feature)``; by modality where views are of several, each with its own width."""


@dataclass(frozen=True)
class Representation:
    """Posterior means of a batch of images, one row an image (or one row a view, see `Guide.posterior`).

    Attributes:
        backbone: the encoder's features, before any latent, shape ``(..., image, feature)``; by modality where views
            are of several.
        z: mean of the latent an image is decoded from, shape ``(..., image, latent)``.
        content: mean of what an image shares with its other views, shape ``(image, content)``. Zero wide under a prior
            that shares nothing between views.
        style: mean of what sets a view apart, shape ``(..., image, style)``.
    """

    backbone: Features
    z: Tensor
    content: Tensor
    style: Tensor

    def squeeze_view(self) -> Representation:
        """The same for a single view: the leading view dimension of length 1 is dropped."""
        backbone = self.backbone if isinstance(self.backbone, Tensor) else next(iter(self.backbone.values()))
        return Representation(
            backbone=backbone.squeeze(0), z=self.z.squeeze(0), content=self.content, style=self.style.squeeze(0)
        )

    def as_dict(self) -> dict[str, Tensor]:
        """The tensors of a single view by name.

        Raises:
            ValueError: of several views.
        """
        if not isinstance(self.backbone, Tensor):
            raise ValueError(
                f"the backbones of {', '.join(self.backbone)} are not one tensor; embed one modality at a time"
            )
        return {"backbone": self.backbone, "z": self.z, "content": self.content, "style": self.style}


class Guide(PyroModule):
    """q(content, style | views): the guide of the SimVE program.

    A guide is called with ``views`` of shape ``(view, image, channel, height, width)``, or by modality, and samples the
    model's sites ``content`` and ``style``, in plates named ``image`` (dim -1) and ``view`` (dim -2). It may use
    auxiliary sites.

    Attributes:
        has_density: whether its draws have one. Points do not: objectives are then no bounds, and weights mean nothing.
        amortized: whether it answers for any images; one with parameters for certain images answers for these alone.
    """

    has_density: ClassVar[bool] = True
    amortized: ClassVar[bool] = True

    def forward(self, views: Views) -> None:
        """Samples ``content``, ``(..., 1, image, content)``, and ``style``, ``(..., view, image, style)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(views)")

    def posterior(self, views: Views) -> Representation:
        """Posterior means given all views of each image: one content an image, one z and style a view.

        Where views are of several modalities, any of them may be missing: content is inferred from those there are,
            and z
        and style come in the order of the views' modalities.
        """
        raise NotImplementedError(f"{type(self).__name__} must define posterior(views)")

    def embed(self, images: Views) -> Representation:
        """Posterior means given one view of each image.

        Args:
            images: shape ``(image, channel, height, width)``; where views are of several modalities, ``{modality:
                images}``.

        Raises:
            ValueError: images of more modalities than one; take `posterior`.
        """
        if isinstance(images, Tensor):
            return self.posterior(images.unsqueeze(0)).squeeze_view()
        if len(images) != 1:
            raise ValueError(
                f"embed takes one view of each image, got modalities {', '.join(images)}; use posterior(views)"
            )
        return self.posterior({modality: batch.unsqueeze(0) for modality, batch in images.items()}).squeeze_view()

    @torch.no_grad()
    def embed_batches(self, images: Views, batch_size: int = 512) -> Representation:
        """`embed` in evaluation mode, without gradients, a batch at a time.

        Args:
            images: as `embed`, float in [0, 1] or uint8 in 0..255.
            batch_size: images a forward pass.
        """
        with evaluation_mode(self):
            parts = [self.embed(unit_range(chunk)).as_dict() for chunk in _chunks(images, batch_size)]
        return Representation(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _chunks(images: Views, size: int) -> Iterator[Views]:
    if isinstance(images, Tensor):
        yield from torch.split(images, size)
        return
    for parts in zip(*(torch.split(batch, size) for batch in images.values()), strict=True):
        yield dict(zip(images, parts, strict=True))

"""The interface of guides: a Pyro program over the model's sites that also answers for representations."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from pyro.nn import PyroModule
from torch import Tensor


@dataclass(frozen=True)
class Representation:
    """Posterior means of a batch of images, one row an image (or one row a view, see `Guide.posterior`).

    Attributes:
        backbone: the encoder's features, before any latent, shape ``(..., image, feature)``.
        z: mean of the latent an image is decoded from, shape ``(..., image, latent)``.
        content: mean of what an image shares with its other views, shape ``(image, content)``. Zero wide under a prior
            that shares nothing between views.
        style: mean of what sets a view apart, shape ``(..., image, style)``.
    """

    backbone: Tensor
    z: Tensor
    content: Tensor
    style: Tensor

    def squeeze_view(self) -> Representation:
        """The same for a single view: the leading view dimension of length 1 is dropped."""
        return Representation(
            backbone=self.backbone.squeeze(0), z=self.z.squeeze(0), content=self.content, style=self.style.squeeze(0)
        )

    def as_dict(self) -> dict[str, Tensor]:
        """The tensors by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Guide(PyroModule):
    """q(content, style | views): the guide of the SimVE program.

    A guide is called with ``views`` of shape ``(view, image, channel, height, width)`` and samples the model's sites
    ``content`` and ``style``, in plates named ``image`` (dim -1) and ``view`` (dim -2). It may use auxiliary sites.

    Attributes:
        has_density: whether its draws have one. Points do not: objectives are then no bounds, and weights mean nothing.
    """

    has_density: ClassVar[bool] = True

    def forward(self, views: Tensor) -> None:
        """Samples ``content``, ``(..., 1, image, content)``, and ``style``, ``(..., view, image, style)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(views)")

    def posterior(self, views: Tensor) -> Representation:
        """Posterior means given all views of each image: one content an image, one z and style a view."""
        raise NotImplementedError(f"{type(self).__name__} must define posterior(views)")

    def embed(self, images: Tensor) -> Representation:
        """Posterior means given one view of each image, ``images`` of shape ``(image, channel, height, width)``."""
        return self.posterior(images.unsqueeze(0)).squeeze_view()

    @torch.no_grad()
    def embed_batches(self, images: Tensor, batch_size: int = 512) -> Representation:
        """`embed` in evaluation mode, without gradients, a batch at a time.

        Args:
            images: float in [0, 1] or uint8 in 0..255, shape ``(image, channel, height, width)``.
            batch_size: images a forward pass.
        """
        training = self.training
        self.eval()
        try:
            parts = [self.embed(unit_range(chunk)).as_dict() for chunk in torch.split(images, batch_size)]
        finally:
            self.train(training)
        return Representation(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def unit_range(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]; float images as they are."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images

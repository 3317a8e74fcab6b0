"""The interface of guides: a Pyro program over the model's sites that also returns representations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import ClassVar

import torch
from torch import Tensor

from pp_simve.inference.images import ImagesError, PlainImages, as_images, describes_shapes, mismatch
from pp_simve.inference.tools import evaluation_mode, unit_range
from pp_simve.models import PlainViews
from pp_simve.models.pyro_program import PyroProgram
from pp_simve.models.views import map_modalities

Features = Tensor | dict[str, Tensor]
"""Backbone features, ``(..., image, feature)``; by modality where views are of several, widths may differ."""

ImagesLike = PlainImages | Mapping[str, PlainImages]
"""One view of each image, ``(image, channel, height, width)``; ``{modality: images}`` where there are several."""


@dataclass(frozen=True)
class Representation:
    """Posterior means of a batch of images, one row an image (or one row a view, see `Guide.posterior`).

    Attributes:
        backbone: the encoder's features, before any latent, shape ``(..., image, feature)``; by modality where views
            are of several.
        z: mean of the latent an image is decoded from, shape ``(..., image, latent)``.
        content: mean of the latent that an image's views share, shape ``(image, content)``. Of width zero under a
            prior without content.
        style: mean of the latent of a single view, shape ``(..., image, style)``.
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


class Guide(PyroProgram):
    """Guide q(content, style | views) of the SimVE program.

    A guide is called with ``views`` of shape ``(view, image, channel, height, width)``, or by modality, and samples the
    model's sites ``content`` and ``style``, in plates named ``image`` (dim -1) and ``view`` (dim -2). It may use
    auxiliary sites.

    Attributes:
        has_density: whether its draws have a density. Where some are points they do not: objectives are then no
            bounds, and importance weights are undefined.
        amortized: whether it is defined for any images; otherwise it has parameters per image, for certain images.
    """

    has_density: ClassVar[bool] = True
    amortized: ClassVar[bool] = True

    def forward(self, views: PlainViews) -> None:
        """Samples ``content``, ``(..., 1, image, content)``, and ``style``, ``(..., view, image, style)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(views)")

    def posterior(self, views: PlainViews) -> Representation:
        """Posterior means given all views of each image: one content an image, one z and style a view.

        Where views are of several modalities, any of them may be missing: content is inferred from those given, and z
        and style are in the order of the views' modalities.
        """
        raise NotImplementedError(f"{type(self).__name__} must define posterior(views)")

    def embed(self, images: ImagesLike) -> Representation:
        """Posterior means given one view of each image.

        Args:
            images: tensor or array of shape ``(image, channel, height, width)``, uint8 in 0..255 or float in [0, 1];
                where views are of several modalities, ``{modality: images}``. The range of a tensor's values is not
                checked, because that would read from its device; `embed_batches` does.

        Raises:
            ValueError: values that are not images, that the encoder does not take, or of more modalities than one, for
                which there is `posterior`.
        """
        checked = _checked(images, values=False)
        if isinstance(checked, dict) and len(checked) != 1:
            raise ValueError(
                f"embed takes one view of each image, got modalities {', '.join(checked)}; use posterior(views)"
            )
        like = next(self.parameters(), None)
        views = map_modalities(lambda batch: _unit_view(batch, like), checked)
        try:
            return self.posterior(views).squeeze_view()
        except RuntimeError as error:
            if not describes_shapes(error):
                raise
            raise ImagesError(mismatch(f"{type(self).__name__} cannot embed", checked, self, error)) from error

    @torch.no_grad()
    def embed_batches(self, images: ImagesLike, batch_size: int = 512) -> Representation:
        """`embed` in evaluation mode, without gradients, a batch at a time.

        Args:
            images: as `embed`, or a torch ``Dataset`` of images; all on one device, or in main memory.
            batch_size: images a forward pass.

        Raises:
            ValueError: as `embed`; values outside [0, 1].
        """
        checked = _checked(images, values=True)
        with evaluation_mode(self):
            parts = [self.embed(chunk).as_dict() for chunk in _chunks(checked, batch_size)]
        return Representation(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _checked(images: ImagesLike, *, values: bool) -> Tensor | dict[str, Tensor]:
    if isinstance(images, Mapping):
        return {modality: as_images(of, f"images of {modality}", values=values) for modality, of in images.items()}
    return as_images(images, values=values)


def _unit_view(images: Tensor, like: Tensor | None) -> Tensor:
    """Images as one view in [0, 1], of the type and on the device of a parameter."""
    return unit_range(images)[None] if like is None else unit_range(images.to(like.device)).to(like.dtype)[None]


def _chunks(images: Tensor | dict[str, Tensor], size: int) -> Iterator[ImagesLike]:
    """Images, ``size`` at a time."""
    n_images = len(images if isinstance(images, Tensor) else next(iter(images.values())))
    for start in range(0, max(1, n_images), size):
        yield map_modalities(itemgetter(slice(start, start + size)), images)

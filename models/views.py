"""Views of one modality or of several, such as an image and its attributes, or two halves of a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

PlainViews = Tensor | Mapping[str, Tensor]
"""Views as programs are called with them: ``(view, image, channel, height, width)``, or one tensor per modality."""


class Views:
    """A batch of views of images: one tensor, or one for each modality, each ``(view, image, channel, height, width)``.

    The entrance for whatever takes views: ``Views.of`` wraps a plain tensor or a mapping, and what follows need not
    tell them apart. The modality of a plain tensor is None. A vector is an image of one pixel with many channels: 40
    attributes are ``(view, image, 40, 1, 1)``.

    Args:
        views: a tensor, or a mapping from modality to tensor, all of the same images.

    Attributes:
        plain: the views as programs are called with them: the tensor, or a dictionary by modality.
        n_views: views of each image, of all modalities together.
        n_images: images.

    Raises:
        ValueError: another shape or dtype, no modality, or modalities of different numbers of images.

    Examples:
        >>> views = Views.of({"image": torch.rand(2, 5, 1, 8, 8), "label": torch.rand(1, 5, 10, 1, 1)})
        >>> views.n_views, views.n_images
        (3, 5)
        >>> {modality: z.shape for modality, z in views.split(torch.rand(3, 5, 4))}
        {'image': torch.Size([2, 5, 4]), 'label': torch.Size([1, 5, 4])}
    """

    __slots__ = ("_parts", "n_images", "n_views", "plain")

    plain: Tensor | dict[str, Tensor]

    def __init__(self, views: PlainViews) -> None:
        self._parts: Mapping[str | None, Tensor]
        for batch in [views] if isinstance(views, Tensor) else views.values():
            if batch.ndim != 5 or not batch.is_floating_point():
                raise ValueError(
                    "views must be float in [0, 1], (view, image, channel, height, width), got "
                    f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}; draw them with "
                    "pp_simve.inference.augmentations.draw_views, or take uint8 images as one view, images[None] / 255"
                )
        if isinstance(views, Tensor):
            self.plain = views
            self._parts = {None: views}
            self.n_views, self.n_images = views.shape[0], views.shape[1]
            return
        self.plain = dict(views)
        self._parts = dict(self.plain.items())
        counts = {modality: batch.shape[1] for modality, batch in self.plain.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"views of every modality must be of the same images, got numbers of images {counts}")
        self.n_views = sum(len(batch) for batch in self.plain.values())
        self.n_images = next(iter(counts.values()))

    @classmethod
    def of(cls, views: ViewsLike) -> Views:
        """The views of a tensor or a mapping by modality; `Views` are returned as they are."""
        return views if isinstance(views, Views) else cls(views)

    @property
    def modalities(self) -> tuple[str | None, ...]:
        """Names in order; ``(None,)`` for a plain tensor."""
        return tuple(self._parts)

    @property
    def device(self) -> torch.device:
        """The device of the views."""
        return self.tensors()[0].device

    def tensors(self) -> list[Tensor]:
        """The tensor of each modality."""
        return list(self._parts.values())

    def items(self) -> Iterator[tuple[str | None, Tensor]]:
        """Modalities and their tensors."""
        return iter(self._parts.items())

    def __getitem__(self, images: slice | list[int] | Tensor) -> Views:
        """Views of some of the images; a list may repeat them."""
        return self.map(lambda batch: batch[:, images])

    def map(self, function: Callable[[Tensor], Tensor]) -> Views:
        """A function applied to each modality."""
        return Views(map_modalities(function, self.plain))

    def select(self, modalities: Iterable[str | None]) -> Views:
        """Views of some modalities, in the order given.

        Raises:
            ValueError: views without one of them.
        """
        wanted = list(modalities)
        if missing := [str(modality) for modality in wanted if modality not in self._parts]:
            raise ValueError(f"there are no views of modality {', '.join(missing)}, only of {self._names()}")
        return Views.by_modality({modality: self._parts[modality] for modality in wanted})

    @classmethod
    def by_modality(cls, parts: Mapping[str | None, Tensor]) -> Views:
        """The inverse of `items`: views from tensors by modality, whose only modality may be None."""
        return cls(parts[None] if None in parts else {str(modality): batch for modality, batch in parts.items()})

    def split(self, z: Tensor) -> Iterator[tuple[str | None, Tensor]]:
        """z of each modality's views, from z of all, ``(..., view, image, latent)``, in the order of `items`."""
        if len(self._parts) == 1:
            return zip(self._parts, (z,), strict=True)
        return zip(self._parts, z.split([len(batch) for batch in self._parts.values()], -3), strict=True)

    def tensor(self, modality: str | None = None) -> Tensor:
        """The tensor of a modality; without a name, of views without modalities.

        Raises:
            ValueError: there are no such views.
        """
        if modality not in self._parts:
            wanted = "views without modalities, one tensor," if modality is None else f"views of modality {modality}"
            raise ValueError(f"{wanted} are needed here, got modalities {self._names()}")
        return self._parts[modality]

    def check_known(self, modalities: Iterable[str]) -> None:
        """Raises ValueError for a modality that is none of ``modalities``, or for views not given by modality."""
        known = list(modalities)
        if None in self._parts:
            raise ValueError(f"views must be given by modality, a dictionary of {', '.join(known)}")
        if unknown := [str(modality) for modality in self._parts if modality not in known]:
            raise ValueError(f"views of an unknown modality: {', '.join(unknown)}; known are {', '.join(known)}")

    def _names(self) -> str:
        return ", ".join("(unnamed)" if modality is None else modality for modality in self._parts)

    def __repr__(self) -> str:
        shapes = {modality: tuple(batch.shape) for modality, batch in self._parts.items()}
        return f"Views({shapes.get(None, shapes)})"


ViewsLike = Views | PlainViews
"""What `Views.of` takes: a tensor ``(view, image, channel, height, width)``, one for each modality, or `Views`."""


def map_modalities(
    function: Callable[[Tensor], Tensor], batch: Tensor | Mapping[str, Tensor]
) -> Tensor | dict[str, Tensor]:
    """A function applied to a tensor, or to the tensor of each modality; images as well as views."""
    if isinstance(batch, Tensor):
        return function(batch)
    return {modality: function(of_modality) for modality, of_modality in batch.items()}


def modality_modules(parts: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """One module per modality.

    Raises:
        ValueError: no modalities, or a name that a module cannot have.
    """
    if not parts:
        raise ValueError("views of several modalities need at least one modality")
    if wrong := [modality for modality in parts if not modality.isidentifier() or hasattr(nn.ModuleDict(), modality)]:
        raise ValueError(
            f"modalities of views are named like variables ('image', 'attributes'), got {', '.join(wrong)}"
        )
    return nn.ModuleDict(dict(parts))

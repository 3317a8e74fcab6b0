"""Views of several modalities (modalities): an image and its attributes, two halves of a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

Views = Tensor | Mapping[str, Tensor]
"""A batch: ``(view, image, channel, height, width)``, or such a tensor for each modality, of the same images.

A vector is an image of one pixel with many channels: 40 attributes are ``(view, image, 40, 1, 1)``.
"""


def view_and_image_counts(views: Views) -> tuple[int, int]:
    """How many views of each image, of all modalities together, and of how many images.

    Raises:
        ValueError: no modality at all, or modalities of different numbers of images.
    """
    if isinstance(views, Tensor):
        return views.shape[0], views.shape[1]
    images = {modality: batch.shape[1] for modality, batch in views.items()}
    if len(set(images.values())) != 1:
        raise ValueError(f"views of every modality must be of the same images, got numbers of images {images}")
    return sum(len(batch) for batch in views.values()), next(iter(images.values()))


def by_modality(views: Views) -> dict[str | None, Tensor]:
    """Views by the name of their modality; None is the name of a single modality."""
    return {None: views} if isinstance(views, Tensor) else {**views}


def from_modalities(batches: Mapping[str | None, Tensor]) -> Views:
    """The inverse of `by_modality`."""
    return batches[None] if None in batches else {str(name): batch for name, batch in batches.items()}


def some_images(views: Views, which: slice | list[int]) -> Views:
    """The views of some of the images, which a list may repeat."""
    if isinstance(views, Tensor):
        return views[:, which]
    return {modality: batch[:, which] for modality, batch in views.items()}


def split_by_modality(z: Tensor, views: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """z of each modality's views, from z of all of them, ``(..., view, image, latent)``, in the views' order."""
    return zip(views, z.split([len(batch) for batch in views.values()], -3), strict=True)


def modality_modules(parts: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """A module of one part per modality.

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


def check_modalities(views: Mapping[str, Tensor], modalities: Iterable[str]) -> None:
    """Raises ValueError for views of a modality that is none of ``modalities``; one of them may be missing."""
    known = list(modalities)
    if unknown := [modality for modality in views if modality not in known]:
        raise ValueError(f"views of an unknown modality: {', '.join(unknown)}; known are {', '.join(known)}")

"""Views of several kinds (modalities): an image and its attributes, two halves of a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

Views = Tensor | Mapping[str, Tensor]
"""A batch: ``(view, image, channel, height, width)``, or such a tensor for each kind of view, of the same images.

A vector is an image of one pixel with many channels: 40 attributes are ``(view, image, 40, 1, 1)``.
"""


def view_and_image_counts(views: Views) -> tuple[int, int]:
    """How many views of each image, of all kinds together, and of how many images.

    Raises:
        ValueError: no kind at all, or kinds of different numbers of images.
    """
    if isinstance(views, Tensor):
        return views.shape[0], views.shape[1]
    images = {kind: batch.shape[1] for kind, batch in views.items()}
    if len(set(images.values())) != 1:
        raise ValueError(f"views of every kind must be of the same images, got numbers of images {images}")
    return sum(len(batch) for batch in views.values()), next(iter(images.values()))


def some_images(views: Views, which: slice | list[int]) -> Views:
    """The views of some of the images, which a list may repeat."""
    if isinstance(views, Tensor):
        return views[:, which]
    return {kind: batch[:, which] for kind, batch in views.items()}


def split_by_kind(z: Tensor, views: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """z of each kind's views, from z of all of them, ``(..., view, image, latent)``, in the views' order."""
    return zip(views, z.split([len(batch) for batch in views.values()], -3), strict=True)


def kinds_module(parts: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """A module of one part a kind.

    Raises:
        ValueError: no kinds, or a name that a module cannot have.
    """
    if not parts:
        raise ValueError("views of several kinds need at least one kind")
    if wrong := [kind for kind in parts if not kind.isidentifier() or hasattr(nn.ModuleDict(), kind)]:
        raise ValueError(f"kinds of views are named like variables ('image', 'attributes'), got {', '.join(wrong)}")
    return nn.ModuleDict(dict(parts))


def check_kinds(views: Mapping[str, Tensor], kinds: Iterable[str]) -> None:
    """Raises ValueError for views of a kind that is none of ``kinds``; one of them may be missing."""
    known = list(kinds)
    if unknown := [kind for kind in views if kind not in known]:
        raise ValueError(f"views of an unknown kind: {', '.join(unknown)}; known are {', '.join(known)}")

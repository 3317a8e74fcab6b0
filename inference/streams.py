"""Streams of batches: a `DataLoader`, or any iterable of image or view batches, as a source of views."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pp_simve.inference.augmentations import AugmentationPolicy, default_policy
from pp_simve.inference.data import Source, image_shape, named_policy, views_of
from pp_simve.inference.images import ImagesError, ImagesWithPolicy, as_images
from pp_simve.inference.plan import FitError
from pp_simve.inference.tools import default_float

ENDLESS_EPOCH = 1000
"""Batches of an epoch where the stream has no length."""


@dataclass
class Stream(Source):
    """Source of views whose batches come from an iterable, in its order.

    The first batch says how large a batch is and what it holds: images, ``(image, channel, height, width)``; or views,
    ``(view, image, channel, height, width)`` or as many tensors of images. Of tuples with something else behind
    (labels, names) the first entry is taken. Smaller batches, such as the last one of a pass, are left out. At the end
    the iterable is iterated again; what its own random draws depend on is torch's global state.

    Each of several processes reads all batches and takes its share of each.

    Attributes:
        batches: iterable that can be iterated again, such as a `DataLoader`, or an endless iterator.
        policy: draws the views of images; None where views are taken as they are.
        n_views: of each image.
        original_first: whether the first view is the image itself.
        seed: of the iterable's random order.
        batch_size: images a batch.
        length: batches of a pass; None where it is not known.
        images: the first batch.

    Raises:
        FitError: an empty stream, a policy or another number of views where views are given.
        ImagesError: batches that are no images.
    """

    batches: Iterable[Any]
    policy: AugmentationPolicy | None
    n_views: int
    original_first: bool
    seed: int
    batch_size: int
    length: int | None
    images: Tensor
    _device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _passes: int = 0
    _drawn: int = 0
    _iterator: Iterator[Any] | None = None

    @classmethod
    def of(
        cls,
        batches: Iterable[Any],
        policy: AugmentationPolicy | str | None,
        views: int | None,
        *,
        original_first: bool,
        seed: int,
    ) -> Stream:
        """The stream of an iterable, whose first batch is read.

        Args:
            batches: as in `Stream`.
            policy: or its name; the default is that of `fit`.
            views: of each image; None for two, or as many as a batch of views holds.
            original_first: as in `Stream`.
            seed: as in `Stream`.
        """
        one_shot = isinstance(batches, Iterator)
        iterator = iter(batches)
        first = next(iterator, None)
        if first is None:
            raise FitError("the stream is empty: it gave no batch")
        batch = _tensor(first)
        ready = batch.ndim == 5
        if ready and (policy is not None or views not in (None, len(batch)) or original_first):
            raise FitError(
                f"the stream gives {len(batch)} views of each image, ready made: leave out policy and views, and "
                "objectives that need the original image, or give a stream of images"
            )
        length = _full_batches(batches)
        if length == 0:
            raise FitError(
                f"the stream has no full batch, and smaller ones are left out: its first has {batch.shape[-4]} images; "
                "choose a batch size of at most that many"
            )
        shape = image_shape(batch)
        drawing = None if ready else named_policy(default_policy(shape) if policy is None else policy, shape)
        return cls(
            batches=chain([first], iterator) if one_shot else batches,
            policy=drawing,
            n_views=len(batch) if ready else 2 if views is None else views,
            original_first=original_first,
            seed=seed,
            batch_size=batch.shape[-4],
            length=length,
            images=batch,
        )

    def __len__(self) -> int:
        return self.batch_size * (ENDLESS_EPOCH if self.length is None else self.length)

    @property
    def device(self) -> torch.device:
        return self._device

    def to(self, device: torch.device) -> Stream:
        self._device = device
        return self

    def order(self, generator: torch.Generator) -> Tensor:
        return torch.arange(len(self), device=self.device)  # the iterable has its own order

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        chosen = self._next().to(self.device, non_blocking=True)
        if len(index) < self.batch_size:  # this process's share
            chosen = chosen[..., index % self.batch_size, :, :, :]
        return views_of(chosen, self.policy, self.n_views, self.original_first, generator)[0]

    def state(self) -> tuple[int, int]:
        """Passes begun, and batches drawn in the last one."""
        return self._passes, self._drawn

    def restore(self, state: tuple[int, int]) -> None:
        """Goes to a `state` by reading and dropping the batches of that pass."""
        passes, drawn = state
        if passes:
            self._passes = passes - 1
            self._begin(skipped=drawn)

    def _next(self) -> Tensor:
        while True:
            if self._iterator is None:
                self._begin()
            assert self._iterator is not None
            for item in self._iterator:
                self._drawn += 1
                batch = _tensor(item)
                if batch.shape == self.images.shape:
                    return batch
                if batch.shape[-4] >= self.batch_size or batch.shape[-3:] != self.images.shape[-3:]:
                    raise ImagesError(
                        f"batch {self._drawn} of the stream has shape {tuple(batch.shape)}, the first had "
                        f"{tuple(self.images.shape)}; all but the last must be alike"
                    )
            if isinstance(self.batches, Iterator):
                raise FitError(
                    f"the stream ended after {self._drawn} batches and cannot be iterated again; give a DataLoader, or "
                    "another iterable whose __iter__ starts anew"
                )
            self._iterator = None

    def _begin(self, skipped: int = 0) -> None:
        """Starts a pass whose random order depends on its number alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1000 + self._passes)
            iterator = iter(self.batches)
            first = list(islice(iterator, 1))  # a DataLoader draws its order with its first batch, or before
            for _ in islice(iterator, max(0, skipped - 1)):
                pass
        self._iterator = iterator if skipped else chain(first, iterator)
        self._passes, self._drawn = self._passes + 1, skipped


def as_batches(images: object) -> Iterable[Any] | None:
    """What `fit` takes as a stream of batches: loaders and other iterables, of lists those of batches."""
    if isinstance(images, list) and images:
        first = images[0]
        return images if isinstance(first, list | tuple) or getattr(first, "ndim", 0) > 3 else None
    in_memory = (Tensor, np.ndarray, Dataset, Mapping, list, tuple, str, ImagesWithPolicy)
    return images if isinstance(images, Iterable) and not isinstance(images, in_memory) else None


def _full_batches(batches: object) -> int | None:
    if (
        isinstance(batches, DataLoader)
        and not batches.drop_last
        and batches.batch_size
        and isinstance(batches.dataset, Sized)
    ):
        return len(batches.dataset) // batches.batch_size
    try:
        return len(batches)  # type: ignore[arg-type]  # a DataLoader of an IterableDataset has a __len__ that raises
    except TypeError:
        return None


def _tensor(item: object) -> Tensor:
    """Images, or views, of what a stream gave."""
    where = "the batches of the stream"
    if isinstance(item, Sequence) and not isinstance(item, str) and item:
        parts = [torch.as_tensor(part) for part in item if isinstance(part, Tensor | np.ndarray)]
        several = len(parts) == len(item) > 1 and all(part.ndim == 4 and part.shape == parts[0].shape for part in parts)
        return torch.stack([_checked(part, where) for part in parts]) if several else _tensor(item[0])
    if isinstance(item, Tensor | np.ndarray) and item.ndim == 5:
        views = torch.as_tensor(item)
        return _checked(views.flatten(0, 1), where).unflatten(0, views.shape[:2])
    return _checked(item, where)


def _checked(images: object, where: str) -> Tensor:
    # A look at the values of a tensor would wait for the device.
    return default_float(as_images(images, where, values=not isinstance(images, Tensor) or images.device.type == "cpu"))

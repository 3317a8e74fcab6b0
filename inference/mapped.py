"""Images that stay in their file: `np.memmap`s, and the reading of batches from them."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pp_simve.inference.images import ImagesError, as_images


class MappedImages(Dataset[Tensor]):
    """Images of a file that may be larger than memory: a data set that reads a batch at a time from an ``np.memmap``.

    `fit` takes every memmap this way. Pages that were read are released, so that they do not count as this process's
    memory; the system keeps them cached while there is room. Pickled is the place of the images, not the images.

    Args:
        images: uint8 or float in [0, 1], shape ``(image, channel, height, width)``.

    Raises:
        ImagesError: an array that is not in a file, or whose file is gone or too short.
    """

    def __init__(self, images: np.ndarray[Any, Any]) -> None:
        if not is_mapped(images):
            raise ImagesError(
                "MappedImages needs images of a file, got an array in memory; open the file: "
                "np.load(file, mmap_mode='r')"
            )
        # Of slices, too, whose own offset is that of the array that they are part of.
        begin = images.offset - images.offset % mmap.ALLOCATIONGRANULARITY
        offset = images.ctypes.data - np.frombuffer(images._mmap, np.uint8).ctypes.data + begin  # type: ignore[attr-defined]
        self.__setstate__((Path(str(images.filename)).absolute(), images.shape, images.dtype, offset, images.strides))

    def __getstate__(self) -> tuple[Any, ...]:
        return self._place

    def __setstate__(self, place: tuple[Any, ...]) -> None:
        self._place = place
        file, shape, dtype, offset, strides = place
        try:
            with file.open("rb") as opened:
                self._mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)  # tensors of it are writable
            self.images: np.ndarray[Any, Any] = np.ndarray(shape, dtype, self._mapping, offset, strides)
        except (OSError, ValueError) as error:
            raise ImagesError(
                f"the file of the images, {file}, was deleted or shortened after it was opened ({error}); write it "
                "again, and open it again"
            ) from error

    @property
    def shape(self) -> tuple[int, ...]:
        """(image, channel, height, width)."""
        return self.images.shape

    def batch(self, index: Tensor) -> Tensor:
        """A copy of the images at those places, whose values are checked."""
        batch = as_images(self.images[index.numpy()])
        if hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)
        return batch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, index: Sequence[int]) -> list[Tensor]:
        return list(self.batch(torch.tensor(index)))


def is_mapped(images: object) -> TypeGuard[np.memmap[Any, Any]]:
    """Whether images are in a file that can be mapped again; copies of parts of a memmap are not."""
    return isinstance(images, np.memmap) and None not in (images.filename, getattr(images, "_mmap", None))

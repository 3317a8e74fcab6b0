"""What a loaded data set is: three splits of images, and the error every source raises."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


class DataError(ValueError):
    """Data cannot be used. The message says what was wrong, what was expected and what to do."""


def tensor_digest(tensors: Iterable[Tensor | None], prefix: str = "") -> str:
    """sha256 (hex) of the shapes, dtypes and values of `tensors`, which lie in main memory, after `prefix`."""
    digest = hashlib.sha256(prefix.encode())
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
        else:
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one split, in a fixed random order, so that the first n of them are a fair sample.

    images:      uint8 (image, channel, height, width)
    labels:      int64 (image,), positions in `ImageData.classes`; None where the data have no labels
    attributes:  bool (image, attribute); None where the data have no attributes
    """

    images: Tensor
    labels: Tensor | None
    attributes: Tensor | None

    def __len__(self) -> int:
        return self.images.shape[0]


ImageShape = tuple[int, int, int]
"""``(channel, height, width)``."""


@dataclass(frozen=True)
class DataShape:
    """What the parts of a program must know of the data they are built for.

    image:       (channel, height, width) of every image
    images:      how many there are to fit
    attributes:  how many each of them has
    """

    image: ImageShape
    images: int = 0
    attributes: int = 0


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in memory. `notes` holds what a person should be told about how it was loaded."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    attribute_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> ImageShape:
        """(channel, height, width) of every image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def shape(self) -> DataShape:
        """What programs for these data are built from."""
        return DataShape(self.image_shape, images=len(self.train), attributes=len(self.attribute_names))

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that change with any pixel, label or attribute of any split, or with their order."""
        splits = (self.train, self.validation, self.test)
        tensors = (tensor for split in splits for tensor in (split.images, split.labels, split.attributes))
        return tensor_digest(tensors)[:12]

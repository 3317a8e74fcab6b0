"""What a loaded data set is: three splits of images, and the error every source raises."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from pp_simve.inference.augmentations import policies
from pp_simve.inference.mapped import MappedImages

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are not UTF-8, line separators


def printable(text: str) -> str:
    r"""A text with what no terminal or text file can hold escaped: ``caf\xe9`` with a byte that is not UTF-8."""

    def shown(char: str) -> str:
        if unicodedata.category(char) not in UNPRINTABLE:
            return char
        byte = ord(char) - 0xDC00  # where Python keeps a byte of a file name that is not UTF-8
        return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else char.encode("unicode_escape").decode()

    return "".join(map(shown, text))


class DataError(ValueError):
    """Data that cannot be used. The message states what was wrong, what was expected and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


SHOWN = 10  # names listed in a line
CHUNK = 4096  # images that are looked at together


def class_name(text: str) -> str:
    """The name of a class as shown: accents composed, so that names that look the same are, and all printable."""
    return printable(unicodedata.normalize("NFC", text))


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes in order: of their numbers where all are whole numbers, else of the alphabet."""
    found = sorted(set(names))
    return tuple(sorted(found, key=int) if all(re.fullmatch(r"-?[0-9]+", name) for name in found) else found)


def count_of(number: int, noun: str) -> str:
    """``1 file``, ``1,200 files``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def chunks(images: Tensor | MappedImages) -> Iterator[Tensor]:
    """Images some at a time; of mapped ones, none stays in memory."""
    for rows in torch.arange(len(images)).split(CHUNK):
        yield images.batch(rows) if isinstance(images, MappedImages) else images[rows[0] : rows[-1] + 1]


def tensor_digest(tensors: Iterable[Tensor | MappedImages | None], prefix: str = "") -> str:
    """sha256 (hex) of the shapes, dtypes and values of `tensors`, which lie in main memory, after `prefix`."""
    digest = hashlib.sha256(prefix.encode())
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
        else:
            kind = torch.uint8 if isinstance(tensor, MappedImages) else tensor.dtype
            digest.update(f"{tuple(tensor.shape)} {kind}".encode())
            for chunk in chunks(tensor):
                digest.update(chunk.contiguous().numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one split, in a fixed random order, so that the first n of them are a fair sample.

    images:      uint8 (image, channel, height, width)
    labels:      int64 (image,), positions in `ImageData.classes`, -1 of training images without a label; None where the
                 data have no labels
    attributes:  bool (image, attribute); None where the data have no attributes
    index:       int64 (image,), positions in the source, where the images come from one
    mapped:      the file that images are mapped from, where they are too large for memory
    """

    images: Tensor
    labels: Tensor | None
    attributes: Tensor | None
    index: Tensor | None = None
    mapped: MappedImages | None = None

    @property
    def pixels(self) -> Tensor | MappedImages:
        """The images, mapped ones from their file: batches of them leave nothing in memory."""
        return self.images if self.mapped is None else self.mapped

    def __len__(self) -> int:
        return self.images.shape[0]

    def labeled(self) -> Self:
        """The images that have a label; all of them where the data have no labels."""
        if self.labels is None or not bool((self.labels < 0).any()):
            return self
        return self._rows(self.labels >= 0)

    def first(self, count: int) -> Self:
        """The first images, as many at most."""
        return self._rows(slice(count))

    def _rows(self, chosen: Tensor | slice) -> Self:
        parts = {name: value[chosen] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **parts, mapped=None)


ImageShape = tuple[int, int, int]
"""``(channel, height, width)``."""


@dataclass(frozen=True)
class DataShape:
    """Shape of the data that a program is built for.

    image:       (channel, height, width) of every image
    images:      how many there are to fit
    attributes:  how many each of them has
    """

    image: ImageShape
    images: int = 0
    attributes: int = 0


def default_policy(name: str, image_shape: ImageShape) -> str:
    """The name of the augmentation policy that data of this name and shape are fitted with unless another is chosen."""
    return "affine" if name == "digits" else policies.default_policy(image_shape)


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """Image data set in three splits, in memory or mapped from a file.

    Attributes:
        name: as given to `load_data`.
        classes: names of the classes, by label; empty without labels.
        attribute_names: names of the columns of ``attributes``.
        notes: messages about what was unusual when the data were loaded.
        source: settings that load the data again, by the names they have in config.json.
        digest: the fingerprint, where it was computed before.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    attribute_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def image_shape(self) -> ImageShape:
        """(channel, height, width) of every image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def __repr__(self) -> str:
        channels, height, width = self.image_shape
        sizes = " / ".join(f"{len(split):,}" for split in (self.train, self.validation, self.test))
        shape = f"{channels}x{height}x{width}"
        return f"{self.name}: {sizes} train / validation / test images, {shape}, {self.class_summary}"

    @property
    def images(self) -> Tensor | MappedImages:
        """The images that are fitted: those of train."""
        return self.train.pixels

    @property
    def default_policy(self) -> str:
        """The name of the augmentation policy that they are fitted with unless another is chosen."""
        return default_policy(self.name, self.image_shape)

    @property
    def shape(self) -> DataShape:
        """What programs for these data are built from."""
        return DataShape(self.image_shape, images=len(self.train), attributes=len(self.attribute_names))

    @property
    def class_summary(self) -> str:
        """How many classes there are, and the first of their names."""
        if not self.classes:
            return "no labels"
        return f"{len(self.classes)} classes: {', '.join(self.classes[:SHOWN])}{', …' * (len(self.classes) > SHOWN)}"

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that change with any pixel, label or attribute of any split, or with their order."""
        splits = (self.train, self.validation, self.test)
        tensors = (tensor for split in splits for tensor in (split.pixels, split.labels, split.attributes))
        return self.digest or tensor_digest(tensors)[:12]

"""Image files to one uint8 tensor: same size, same number of channels, unreadable files reported."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from pp_simve.data.collection import Collection
from pp_simve.data.memory import MEMORY_SHARE, check_memory
from pp_simve.data.pixels import Pixels, Reading, Size, to_uint8
from pp_simve.data.types import DataError, ImageShape, count_of, printable
from pp_simve.inference.tools import memory_at_hand

CHUNK = 128  # files per task, at most: tiny images decode faster than a thread hand-over
CHUNK_BYTES = 2**25  # pixels per task, at most
THREADS = min(16, os.cpu_count() or 1)
SAMPLED = 1000  # files whose sizes are compared before any is decoded
SHOWN = 5  # bad files named in a message
BYTES_PER_PIXEL = 16  # while an image is decoded and converted, at most
_ALONE = Lock()

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", "TGA")
"""Formats of image files, whatever the files are called; of all formats, PIL would start Ghostscript for PostScript."""

REMARKS = {
    "transparent": "with transparency: composited on the background (white, or `--background COLOR`)",
    "animated": "with several frames: the first one of each is read",
}
"""Notes on files, by kind; their number comes first."""


Monitor = Callable[[int, int], None]
"""Called with what is done and the whole."""


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files before any is opened: their paths, and an entry each in the tensors, which are as in `Collection`.

    fingerprint changes with the state of any file; names of files are relative to root. order has their places in the
    source, where that is in another order.
    """

    name: str
    paths: tuple[str, ...]
    part: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    fingerprint: str
    attributes: Tensor | None = None
    attribute_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    root: Path = Path()
    order: Tensor | None = None

    def rows(self, order: Tensor) -> "Listing":
        """The files at some places, in that order."""
        return replace(
            self,
            paths=tuple(self.paths[place] for place in order.tolist()),
            part=self.part[order],
            labels=None if self.labels is None else self.labels[order],
            attributes=None if self.attributes is None else self.attributes[order],
            order=None if self.order is None else self.order[order],
        )


@dataclass
class Found:
    """What decoding the files of a listing gave so far, beside the pixels.

    kept:     places of the files that could be decoded
    bad:      the other files, with why they could not, by place
    remarks:  number of files by `REMARKS`
    """

    kept: list[int] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    remarks: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        """Number of files."""
        return len(self.kept) + len(self.bad)

    def notes(self, listing: Listing, reading: Reading) -> list[str]:
        """On the files; raises DataError where some could not be decoded, without `skip_bad`, or none could."""
        count = f"{count_of(len(self.bad), 'file')} of {len(listing.paths)}"
        more = f" and {len(self.bad) - SHOWN} more" if len(self.bad) > SHOWN else ""
        named = "; ".join(list(self.bad.values())[:SHOWN]) + more
        if self.bad and not reading.skip_bad:
            raise DataError(
                f"{listing.name}: {count} cannot be decoded: {named}. "
                "Replace or remove them, or add `--skip-bad` to leave them out."
            )
        if not self.kept:
            raise DataError(
                f"{listing.name}: none of its {len(listing.paths)} files can be decoded: {named}. Replace them."
            )
        notes = [f"{count} could not be decoded and left out: {named}"] if self.bad else []
        remarks = sorted(self.remarks.items())
        return notes + [f"{number:,} of {len(listing.paths):,} images {REMARKS[remark]}" for remark, number in remarks]

    def collection(self, listing: Listing, images: Pixels, notes: Sequence[str]) -> Collection:
        """The images that could be decoded, with their entries of the listing."""
        listing = listing.rows(torch.tensor(self.kept))
        return Collection(
            images=torch.from_numpy(images),
            part=listing.part,
            labels=listing.labels,
            attributes=listing.attributes,
            classes=listing.classes,
            attribute_names=listing.attribute_names,
            notes=tuple(notes),
            files=tuple(printable(os.path.relpath(path, listing.root)) for path in listing.paths),
            order=listing.order,
        )


def read_listing(
    listing: Listing,
    reading: Reading,
    shape: ImageShape | None = None,
    progress: Monitor = lambda done, count: None,
) -> Collection:
    """Decode files, in order, in threads. Grey (1 channel) where every file is grey, else RGB.

    Files that cannot be decoded are left out and named in a note with `reading.skip_bad`. The notes are those of
    decoding alone, without the listing's. `shape` is the `sampled_shape`, where it is known, and `progress` is called
    with the number of files done and of all.

    Raises DataError for undecodable files (without `skip_bad`), for files of different sizes (without `reading.size`)
    and for pixels that would not fit in memory.
    """
    name, paths = listing.name, listing.paths
    pixels: Pixels | None = None
    found = Found()
    for image in decoded(listing, range(len(paths)), reading, shape or sampled_shape(listing, reading), found):
        done = len(found.kept) - 1
        if pixels is None or image.shape[0] > pixels.shape[1]:  # the first colour image among grey ones: all become RGB
            height, width = image.shape[1:]
            what = f"{name}: {len(paths)} images of {width}x{height}"
            check_memory(len(paths) * image.size, what, "add `--image-size N` to make them smaller")
            grey, pixels = pixels, np.empty((len(paths), *image.shape), dtype=np.uint8)
            if grey is not None:
                pixels[:done] = grey[:done]
        pixels[done] = image
        progress(found.done, len(paths))
    notes = found.notes(listing, reading)
    assert pixels is not None  # or there are no notes, but an error
    return found.collection(listing, pixels[: len(found.kept)], notes)


def decoded(
    listing: Listing, places: Sequence[int], reading: Reading, shape: ImageShape | None, found: Found
) -> Iterator[Pixels]:
    """Pixels of the files at some places, in order, all of the size of a shape; `found` is added to."""
    paths = [listing.paths[place] for place in places]
    size = None if shape is None else shape[1:]
    for place, (path, result) in zip(places, _decode_all(paths, reading, size), strict=True):
        if isinstance(result, str):
            found.bad[place] = f"{path} ({result})"
            continue
        image, remarks = result
        size = size or image.shape[1:]
        found.kept.append(place)
        found.remarks.update(remarks)
        if image.shape[1:] != size:
            raise _different(listing.name, listing.paths[found.kept[0]], size, path, image.shape[1:])
        yield image


def sampled_shape(listing: Listing, reading: Reading) -> ImageShape | None:
    """(channel, height, width) by the headers of a sample of the files, before any is decoded; None where none opens.

    Images may turn out to have 3 channels where the sampled ones have 1.
    """
    name, paths = listing.name, listing.paths
    sizes: dict[Size, str] = {}
    channels = 1
    for path in paths[:: -(-len(paths) // SAMPLED) or 1]:
        with suppress(Exception), _opened(path) as image:  # what cannot be opened is named by decoding
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
            sizes.setdefault(image.size if turned else (image.height, image.width), path)
            channels = channels if _is_grey(image) else 3
        if len(sizes) > 1 and reading.size is None:
            (one, first), (other, path) = sizes.items()
            raise _different(name, first, one, path, other)
    size = reading.size or next(iter(sizes), None)
    return (channels, *size) if size else None


def _different(name: str, first: str, one: Sequence[int], path: str, other: Sequence[int]) -> DataError:
    return DataError(
        f"{name}: images differ in size: {first} is {one[1]}x{one[0]}, {path} is {other[1]}x{other[0]} "
        "(width x height). All must have one size: add `--image-size N` or `--image-size HxW` to resize them, and "
        "`--resize crop` or `--resize pad` to keep their proportions."
    )


Decoded = tuple[Pixels, frozenset[str]]
"""Pixels of a file, and its entries of `REMARKS`."""


def _decode_all(
    paths: Sequence[str], reading: Reading, size: Sequence[int] | None
) -> Iterator[tuple[str, Decoded | str]]:
    """Each path with its pixels, or with why it has none."""
    length = max(1, min(CHUNK, CHUNK_BYTES // (3 * size[0] * size[1]))) if size else CHUNK
    chunks = [paths[start : start + length] for start in range(0, len(paths), length)]
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        tasks = pool.map(lambda chunk: [_decode(path, reading) for path in chunk], chunks)
        try:
            for chunk, images in zip(chunks, tasks, strict=True):
                yield from zip(chunk, images, strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _decode(path: str, reading: Reading) -> Decoded | str:
    try:
        return read_image(path, reading)
    except Exception as error:  # PIL's readers raise nearly anything on a damaged file
        return f"{type(error).__name__}: {error}".replace(f" {path!r}", "")


@cache
def _readable() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of PIL has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its other end
        raise ValueError("it is a pipe, socket or device, expected a regular file")
    with Image.open(path, formats=_readable()) as image:
        yield image


@contextmanager
def _room(image: Image.Image) -> Iterator[None]:
    """Bounds what decoding takes: images too large for all threads to have one are decoded one at a time."""
    needed, memory = BYTES_PER_PIXEL * image.width * image.height, memory_at_hand()
    budget = needed if memory is None else MEMORY_SHARE * memory / 2
    if needed > budget:
        raise ValueError(
            f"its {image.width}x{image.height} pixels take {needed / 2**30:.1f} GiB to decode, and this machine has "
            f"{(memory or 0) / 2**30:.1f} GiB"
        )
    with _ALONE if needed > budget / THREADS else nullcontext():
        yield


def read_image(path: str, reading: Reading) -> Decoded:
    """One file as uint8 (channel, height, width): upright, 1 channel where the file is grey, else RGB.

    Raises ValueError and whatever PIL raises for files that cannot be decoded.
    """
    remarks = set()
    with _opened(path) as opened:
        if reading.size is not None:
            # JPEGs decode several times faster at a fraction of their size; twice the target keeps the resize exact
            # enough to be invisible.
            side = 2 * max(reading.size)
            opened.draft(None, (side, side))
        with _room(opened):
            if opened.format != "MPO" and getattr(opened, "is_animated", False):  # MPO: a photo and its previews
                remarks.add("animated")
            image: Image.Image = ImageOps.exif_transpose(opened)
            image.load()
            image = _eight_bits(image, reading, remarks)
    if reading.size is not None:
        image = _resized(image, reading)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), frozenset(remarks)


def _eight_bits(image: Image.Image, reading: Reading, remarks: set[str]) -> Image.Image:
    """The image in mode L or RGB, without transparency, its values scaled from their range."""
    if _is_deep(image):
        values = np.asarray(image)
        if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:
            values = values.astype(np.uint16)  # PIL reads some 16-bit formats so
        return Image.fromarray(to_uint8(values, reading.range))
    grey = _is_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema()[0] != 255:
            remarks.add("transparent")
            image = Image.composite(image, Image.new("RGBA", image.size, reading.background), alpha)
    image = image.convert("L" if grey else "RGB")
    if isinstance(reading.range, tuple):
        image = Image.fromarray(to_uint8(np.asarray(image), reading.range))
    return image


def _is_deep(image: Image.Image) -> bool:
    """Whether a file has grey levels of more than 8 bits."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA") or _is_deep(image)


def _resized(image: Image.Image, reading: Reading) -> Image.Image:
    (top, left, height, width), (rows, columns) = reading.placement(image.height, image.width)
    if (width, height) != image.size:
        image = image.crop((left, top, left + width, top + height))
    if image.size != (columns, rows):
        image = image.resize((columns, rows), Image.Resampling.BILINEAR)
    if (rows, columns) == reading.size:
        return image
    high, wide = reading.size or (rows, columns)
    fill = tuple(reading.fill(1 if image.mode == "L" else 3).flatten().tolist())
    padded = Image.new(image.mode, (wide, high), fill if len(fill) == 3 else fill[0])
    padded.paste(image, ((wide - columns) // 2, (high - rows) // 2))
    return padded

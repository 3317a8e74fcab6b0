"""Image files to one uint8 tensor: same size, same number of channels, unreadable files reported."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
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
from pp_simve.data.types import DataError, count_of, printable
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


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files before any is opened: their paths, and an entry each in the tensors, which are as in `Collection`.

    fingerprint changes with the state of any file; names of files are relative to root.
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


def read_listing(listing: Listing, reading: Reading) -> Collection:
    """Decode files, in order, in threads. Grey (1 channel) where every file is grey, else RGB.

    Files that cannot be decoded are left out and named in a note with `reading.skip_bad`. The notes are those of
    decoding alone, without the listing's.

    Raises DataError for undecodable files (without `skip_bad`), for files of different sizes (without `reading.size`)
    and for pixels that would not fit in memory.
    """
    name, paths = listing.name, listing.paths
    size = reading.size or _common_size(name, paths)
    pixels: Pixels | None = None
    first = ""
    kept: list[int] = []
    bad: list[str] = []
    remarks = Counter[str]()
    for position, (path, decoded) in enumerate(_decode_all(paths, reading, size)):
        if isinstance(decoded, str):
            bad.append(f"{path} ({decoded})")
            continue
        image, found = decoded
        remarks.update(found)
        if pixels is None:
            first = path
            pixels = _allocate(name, len(paths), image)
        elif image.shape[1:] != pixels.shape[2:]:
            raise _different(name, first, pixels.shape[2:], path, image.shape[1:])
        if image.shape[0] > pixels.shape[1]:
            # The first colour image among grey ones: all become RGB.
            colour = _allocate(name, len(paths), image)
            colour[: len(kept)] = pixels[: len(kept)]
            pixels = colour
        pixels[len(kept)] = image
        kept.append(position)
    count = f"{count_of(len(bad), 'file')} of {len(paths)}"
    named = "; ".join(bad[:SHOWN]) + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
    if bad and not reading.skip_bad:
        raise DataError(
            f"{name}: {count} cannot be decoded: {named}. "
            "Replace or remove them, or add `--skip-bad` to leave them out."
        )
    if pixels is None:
        raise DataError(f"{name}: none of its {len(paths)} files can be decoded: {named}. Replace them.")
    notes = [f"{count} could not be decoded and left out: {named}"] if bad else []
    notes += [f"{number:,} of {len(paths):,} images {REMARKS[remark]}" for remark, number in sorted(remarks.items())]
    return Collection(
        images=torch.from_numpy(pixels[: len(kept)]),
        part=listing.part[kept],
        labels=None if listing.labels is None else listing.labels[kept],
        attributes=None if listing.attributes is None else listing.attributes[kept],
        classes=listing.classes,
        attribute_names=listing.attribute_names,
        notes=tuple(notes),
        files=tuple(printable(os.path.relpath(paths[position], listing.root)) for position in kept),
    )


def _allocate(name: str, count: int, image: Pixels) -> Pixels:
    what = f"{name}: {count} images of {image.shape[2]}x{image.shape[1]}"
    check_memory(count * image.size, what, "add `--image-size N` to make them smaller")
    return np.empty((count, *image.shape), dtype=np.uint8)


def _common_size(name: str, paths: Sequence[str]) -> Size | None:
    """(height, width) by the headers of the first file and a sample of the others, before anything is decoded."""
    sizes: dict[Size, str] = {}
    for path in paths[:: -(-len(paths) // SAMPLED) or 1]:
        with suppress(Exception), _opened(path) as image:  # what cannot be opened is named by decoding
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
            sizes.setdefault(image.size if turned else (image.height, image.width), path)
        if len(sizes) > 1:
            (one, first), (other, path) = sizes.items()
            raise _different(name, first, one, path, other)
    return next(iter(sizes), None)


def _different(name: str, first: str, one: Sequence[int], path: str, other: Sequence[int]) -> DataError:
    return DataError(
        f"{name}: images differ in size: {first} is {one[1]}x{one[0]}, {path} is {other[1]}x{other[0]} "
        "(width x height). All must have one size: add `--image-size N` or `--image-size HxW` to resize them, and "
        "`--resize crop` or `--resize pad` to keep their proportions."
    )


Decoded = tuple[Pixels, frozenset[str]]
"""Pixels of a file, and its entries of `REMARKS`."""


def _decode_all(paths: Sequence[str], reading: Reading, size: Size | None) -> Iterator[tuple[str, Decoded | str]]:
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
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image)
        if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:
            values = values.astype(np.uint16)  # PIL reads some 16-bit formats so
        return Image.fromarray(to_uint8(values, reading.range))
    grey = image.mode in ("1", "L", "LA")
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

"""Image files to one uint8 tensor: same size, same number of channels, unreadable files reported."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from pp_simve.data.collection import Collection
from pp_simve.data.types import DataError

CHUNK = 128  # files per task: tiny images decode faster than a thread hand-over
SHOWN = 5  # bad files named in a message
MEMORY_SHARE = 0.8  # of this machine's memory, above which pixels are refused rather than the process killed

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", "TGA")
"""Formats of image files, whatever the files are called; of all formats, PIL would start Ghostscript for PostScript."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files before any is opened: their paths, and an entry each in the tensors, which are as in `Collection`.

    fingerprint changes with the state of any file; square cuts the largest central square of each image.
    """

    name: str
    paths: tuple[str, ...]
    part: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    fingerprint: str
    attributes: Tensor | None = None
    attribute_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    square: bool = False


def read_listing(listing: Listing, *, image_size: int | None, skip_bad: bool = False) -> Collection:
    """Decode files, in order, in threads. Grey (1 channel) where every file is grey, else RGB.

    `image_size` resizes each to a square of that side. Files that cannot be decoded are left out and named in a note
    with `skip_bad`.

    Raises DataError for undecodable files (without `skip_bad`), for files of different sizes (without `image_size`)
    and for pixels that would not fit in memory.
    """
    name, paths = listing.name, listing.paths
    pixels: Pixels | None = None
    first = ""
    kept: list[int] = []
    bad: list[str] = []
    for position, (path, image) in enumerate(_decode_all(paths, image_size, listing.square)):
        if isinstance(image, str):
            bad.append(f"{path} ({image})")
            continue
        if pixels is None:
            first = path
            pixels = _allocate(name, len(paths), image)
        elif image.shape[1:] != pixels.shape[2:]:
            raise DataError(
                f"{name}: images differ in size: {first} is {pixels.shape[3]}x{pixels.shape[2]}, "
                f"{path} is {image.shape[2]}x{image.shape[1]} (width x height). All must have one size: "
                "add `--image-size N` to resize them to NxN."
            )
        if image.shape[0] > pixels.shape[1]:
            # The first colour image among grey ones: all become RGB.
            colour = _allocate(name, len(paths), image)
            colour[: len(kept)] = pixels[: len(kept)]
            pixels = colour
        pixels[len(kept)] = image
        kept.append(position)
    count = f"{len(bad)} file{'' if len(bad) == 1 else 's'} of {len(paths)}"
    named = "; ".join(bad[:SHOWN]) + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
    if bad and not skip_bad:
        raise DataError(
            f"{name}: {count} cannot be decoded: {named}. "
            "Replace or remove them, or add `--skip-bad` to leave them out."
        )
    if pixels is None:
        raise DataError(f"{name}: none of its {len(paths)} files can be decoded: {named}. Replace them.")
    notes = (f"{count} could not be decoded and left out: {named}",) if bad else ()
    return Collection(
        images=torch.from_numpy(pixels[: len(kept)]),
        part=listing.part[kept],
        labels=listing.labels[kept],
        attributes=None if listing.attributes is None else listing.attributes[kept],
        classes=listing.classes,
        attribute_names=listing.attribute_names,
        notes=(*listing.notes, *notes),
    )


def _allocate(name: str, count: int, image: Pixels) -> Pixels:
    needed, memory = count * image.size, _memory()
    if memory is not None and needed > MEMORY_SHARE * memory:
        raise DataError(
            f"{name}: {count} images of {image.shape[2]}x{image.shape[1]} take {needed / 2**30:.1f} GiB as pixels, "
            f"and this machine has {memory / 2**30:.1f} GiB: add `--image-size N` to make them smaller."
        )
    return np.empty((count, *image.shape), dtype=np.uint8)


def _memory() -> int | None:
    """Bytes of memory of this machine, None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _decode_all(paths: Sequence[str], size: int | None, square: bool) -> Iterator[tuple[str, Pixels | str]]:
    """Each path with its pixels, or with why it has none."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        tasks = pool.map(lambda chunk: [_decode(path, size, square) for path in chunk], chunks)
        try:
            for chunk, images in zip(chunks, tasks, strict=True):
                yield from zip(chunk, images, strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _decode(path: str, size: int | None, square: bool) -> Pixels | str:
    try:
        return read_image(path, size, square)
    except Exception as error:  # PIL's readers raise nearly anything on a damaged file
        return f"{type(error).__name__}: {error}".replace(f" {path!r}", "")


@cache
def _readable() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of PIL has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_image(path: str, size: int | None = None, square: bool = False) -> Pixels:
    """One file as uint8 (channel, height, width): upright, 1 channel where the file is grey, else RGB."""
    with Image.open(path, formats=_readable()) as opened:
        if size is not None:
            # JPEGs decode several times faster at a fraction of their size; twice the target keeps the resize exact
            # enough to be invisible.
            opened.draft(None, (2 * size, 2 * size))
        image: Image.Image = ImageOps.exif_transpose(opened)
        image.load()
    if image.mode.startswith("I;16"):
        # PIL's own conversion clips 16-bit values at 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit (mode {image.mode}), expected 8 or 16 bits a channel")
    elif image.mode in ("1", "L", "LA"):
        image = image.convert("L")
    else:
        if "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert("RGB")
    if square:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

"""One call for every source of images."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.markup import escape
from safetensors import SafetensorError
from torch import Tensor

from pp_simve.data.arrays import read_digits, read_npz
from pp_simve.data.cache import cached, default_folder, file_of, mapped
from pp_simve.data.celeba import CELEBA_SIZE, list_celeba
from pp_simve.data.collection import TEST, TRAIN, UNDIVIDED, VALIDATION, Collection
from pp_simve.data.decode import Listing, read_listing, sampled_shape
from pp_simve.data.folders import has_given_splits, list_folder
from pp_simve.data.memory import fits_memory
from pp_simve.data.official import OFFICIAL, read_official
from pp_simve.data.pixel_file import decode_to_file
from pp_simve.data.pixels import Reading, Size
from pp_simve.data.splits import check_divisible, copies_note, divide, split_positions
from pp_simve.data.types import DataError, ImageData, chunks, printable
from pp_simve.errors import unknown_name
from pp_simve.inference.progress_bar import counted

DATA_NAMES = ("digits", *OFFICIAL, "celeba", "folder:PATH", "npz:FILE")
SplitName = Literal["train", "validation", "test", "all"]
FAINT = 0.1  # of the grey levels, below which images are probably of fewer bits than they are stored in


def load_data(
    name: str,
    root: Path | None = None,
    *,
    seed: int = 0,
    image_size: int | str | Size | None = None,
    resize: str = "auto",
    background: str = "white",
    range: str = "auto",
    layout: str = "auto",
    skip_bad: bool = False,
    cache: Path | None = None,
    progress: bool = True,
) -> ImageData:
    """Images by name, one of `DATA_NAMES`, as uint8 tensors in train, validation and test splits.

    Args:
        name: of the data set; ``folder:PATH`` and ``npz:FILE`` read your own.
        root: folder of downloaded data, default ./data. Where it holds ``<name>/{train,test}/<class>/*``, that image
            folder is read in place of torchvision's files.
        seed: of the splits. Keep it when training seeds change, so that all have the same test images.
        image_size: side in pixels to resize to, or "HEIGHTxWIDTH"; default as stored (digits: 16, CelebA: 64).
        resize: squash, crop (the largest central part) or pad; default squash (CelebA: crop).
        background: color behind transparent pixels of files, and of padding.
        range: "MIN,MAX", values of black and white; "16bit": 0 to 65,535 above 8 bits; default by the type of file
            or array.
        layout: of arrays, "chw" or "hwc" where both are possible, or the shape of flattened images, such as "28x28".
        skip_bad: leave out files that cannot be decoded, and list them in `notes`.
        cache: folder for decoded image files, default $PP_SIMVE_CACHE or the user's cache folder.
        progress: whether a terminal shows a progress bar while files are decoded.

    Raises:
        DataError: the data are missing or cannot be used.

    Examples:
        >>> digits = load_data("digits")
        >>> digits.train.images.shape, digits.train.images.dtype
        (torch.Size([1259, 1, 16, 16]), torch.uint8)
        >>> [len(split) for split in (digits.train, digits.validation, digits.test)]
        [1259, 179, 359]
    """
    reading = Reading.of(image_size, resize, background, range, layout, skip_bad)
    collection = _read(name, root, reading, cache, progress, seed)
    data = divide(printable(name), collection, seed)
    own = () if collection.digest else _own_notes(data)
    source = {
        **{"data": name, "data_root": _folder(root), "image_size": reading.size and "{}x{}".format(*reading.size)},
        **{"resize": resize, "background": background, "range": range, "layout": layout, "skip_bad": skip_bad},
    }
    notes = tuple(printable(note) for note in (*data.notes, *own))
    return replace(data, notes=notes, source=source)


def load_images(
    source: str | Path | Sequence[str | Path],
    root: Path | None = None,
    *,
    split: SplitName = "all",
    cache: Path | None = None,
    **reading: Any,
) -> tuple[Collection, Tensor]:
    """Images that need not be enough to fit, such as one file, in the order of their source.

    Args:
        source: one of `DATA_NAMES`; the path of a folder, an npz file or an image; or paths of images.
        root: as in `load_data`.
        split: that `load_data` makes of them; all by default.
        cache: as in `load_data`.
        reading: ``image_size`` and the further options of `load_data`.

    Returns:
        All images, and the positions of those of the split.

    Raises:
        DataError: as `load_data`; images that cannot be divided only where a split is asked for.
    """
    name, of = _source(source), Reading.of(**reading)
    if isinstance(name, str):
        collection = _read(name, root, of, cache)
    else:
        listing = Listing("files", name, torch.full((len(name),), UNDIVIDED), None, (), "")
        collection = read_listing(listing, of)
    if split == "all":
        return collection, torch.arange(len(collection.images))
    check_divisible(str(name), collection.part, collection.labels, collection.classes)
    which = {"train": TRAIN, "validation": VALIDATION, "test": TEST}[split]
    return collection, split_positions(collection, 0)[which]


def _source(source: str | Path | Sequence[str | Path]) -> str | tuple[str, ...]:
    """The name of data, or paths of image files."""
    if not isinstance(source, str | Path):
        if not source:
            raise DataError("no image files were given.")
        return tuple(map(str, source))
    path = Path(source).expanduser()
    if isinstance(source, str) and (source in DATA_NAMES or ":" in source or not path.exists()):
        return source
    return f"folder:{path}" if path.is_dir() else f"npz:{path}" if path.suffix == ".npz" else (str(path),)


def _own_notes(data: ImageData) -> tuple[str, ...]:
    """Known data sets are taken as they are; in one's own, copies across splits are a mistake worth knowing."""
    notes = (_faint_note(data), copies_note(data)) if ":" in data.name else ()
    return tuple(note for note in notes if note is not None)


def _faint_note(data: ImageData) -> str | None:
    """Note on images with hardly any grey levels, else None."""
    splits = (data.train, data.validation, data.test)
    extremes = [chunk.aminmax() for split in splits for chunk in chunks(split.pixels)]
    low, high = min(int(one.min) for one in extremes), max(int(one.max) for one in extremes)
    if not 0 < high - low < FAINT * 255:
        return None
    return (
        f"all pixels lie between {low:g} and {high:g} of 255: if that is not meant, give the values of black and "
        "white, such as `--range 0,4095` for 12 bits"
    )


def _read(
    name: str, root: Path | None, reading: Reading, cache: Path | None, progress: bool = False, seed: int | None = None
) -> Collection:
    """Images in the order of their source; mapped ones in that of the splits of a seed, if there is one."""
    root = _folder(root)
    cache = default_folder() if cache is None else Path(cache).expanduser()
    try:
        return _collect(name, root, reading, cache, progress, seed)
    except OSError as error:
        raise DataError(
            f"{name}: {error.filename or root} cannot be read ({error.strerror or error}). "
            "Check that it is there, and that you may read it."
        ) from error


def _folder(root: Path | None) -> Path:
    return Path("data") if root is None else Path(root).expanduser()


def _from_files(
    listing: Listing, path: Path, reading: Reading, cache: Path | None, progress: bool, seed: int | None
) -> Collection:
    """Decoded files: in memory where they fit, otherwise mapped from the cache, in the order of a seed's splits."""
    if seed is not None:  # before files are decoded
        check_divisible(listing.name, listing.part, listing.labels, listing.classes)
    source = {"name": listing.name, "path": path.resolve(), "reading": reading}
    bar = partial(counted, Console(stderr=True, quiet=not progress), escape(f"decoding {listing.name}"))
    needed, shape = 0, None
    if cache is not None and (file := file_of(cache, source)[0]).is_file():
        needed = file.stat().st_size
    elif cache is not None and (shape := sampled_shape(listing, reading)) is not None:
        needed = len(listing.paths) * math.prod(shape)

    def in_memory() -> Collection:
        with bar() as monitor:
            return read_listing(listing, reading, shape, monitor)

    if cache is None or fits_memory(needed):
        collection = cached(cache, source, listing.fingerprint, in_memory)
        return replace(collection, notes=(*listing.notes, *collection.notes))
    arranged, order = listing, "source"
    if seed is not None:
        splits = split_positions(listing, seed)
        positions = torch.cat([*splits.values()])
        part = torch.cat([torch.full_like(rows, which) for which, rows in splits.items()])
        arranged, order = replace(listing.rows(positions), part=part, order=positions), f"splits of seed {seed}"

    def in_file(file: Path, identity: str) -> Collection:
        if (room := shutil.disk_usage(file.parent).free + (file.stat().st_size if file.exists() else 0)) < needed:
            raise OSError(f"{room / 2**30:.1f} GiB are free")
        with bar() as monitor:
            expected = shape or sampled_shape(listing, reading) or (3, 1, 1)
            collection = decode_to_file(arranged, reading, expected, file, identity, monitor)
        if seed is None:
            return collection
        data = divide(listing.name, collection, seed)
        return replace(collection, notes=(*collection.notes, *_own_notes(data)), digest=data.fingerprint)

    try:
        collection = mapped(cache, source | {"order": order}, listing.fingerprint, in_file)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{listing.name}: its pixels take {needed / 2**30:.1f} GiB, too much for this machine's memory, and "
            f"{cache}, where they would be kept in a file, cannot be used ({error}): choose a folder with room by the "
            "environment variable PP_SIMVE_CACHE, or add `--image-size N` to make the images smaller."
        ) from error
    return replace(collection, notes=(*listing.notes, *collection.notes))


def _collect(
    name: str, root: Path, reading: Reading, cache: Path | None, progress: bool, seed: int | None
) -> Collection:
    def from_files(listing: Listing, path: Path, reading: Reading = reading) -> Collection:
        return _from_files(listing, path, reading, cache, progress, seed)

    kind, colon, place = name.partition(":")
    if kind in ("folder", "npz") and colon:
        if not place:
            raise DataError(f"{name!r} names no {'folder' if kind == 'folder' else 'file'}. Expected {kind}:PATH.")
        path = Path(place).expanduser()
        return read_npz(name, path, reading) if kind == "npz" else from_files(list_folder(name, path), path)
    if name == "digits":
        return read_digits(reading)
    if name == "celeba":
        chosen = "crop" if reading.resize == "auto" else reading.resize
        return from_files(
            list_celeba(name, root), root, replace(reading, size=reading.size or CELEBA_SIZE, resize=chosen)
        )
    if name not in OFFICIAL:
        if Path(name).expanduser().exists():
            kind = "folder" if Path(name).expanduser().is_dir() else "npz"
            raise DataError(f"unknown data {name!r}. To read that path, write {kind}:{name}.")
        raise DataError(unknown_name("data", name, DATA_NAMES))
    if not has_given_splits(root / name):
        return read_official(name, root, reading)
    collection = from_files(list_folder(name, root / name), root / name)
    note = (
        f"{OFFICIAL[name].title} read from the image folder {root / name}: where its files are lossy copies, "
        "numbers are not comparable with the official pixels"
    )
    return replace(collection, notes=(note, *collection.notes))

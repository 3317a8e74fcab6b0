"""One call for every source of images."""

import difflib
from dataclasses import replace
from pathlib import Path

from pp_simve.data.arrays import read_digits, read_npz
from pp_simve.data.cache import cached, default_folder
from pp_simve.data.celeba import list_celeba, read_celeba
from pp_simve.data.collection import Collection
from pp_simve.data.folders import has_given_splits, list_folder, read_folder
from pp_simve.data.official import OFFICIAL, read_official
from pp_simve.data.splits import copies_note, divide
from pp_simve.data.types import DataError, ImageData

DATA_NAMES = ("digits", *OFFICIAL, "celeba", "folder:PATH", "npz:FILE")


def load(
    name: str,
    root: Path | None = None,
    *,
    seed: int = 0,
    image_size: int | None = None,
    skip_bad: bool = False,
    cache: Path | None = None,
) -> ImageData:
    """Load images by name, one of `DATA_NAMES`, as uint8 tensors in train, validation and test splits.

    root:        folder of downloaded data, default ./data. Where it holds `<name>/{train,test}/<class>/*`, that image
                 folder is read in place of torchvision's files.
    seed:        of the splits. Keep it when training seeds change, so that all see the same test images.
    image_size:  side in pixels to resize to; default as the images are (digits: 16, CelebA: 64).
    skip_bad:    leave out files that cannot be decoded, and name them in `notes`.
    cache:       folder for decoded image files, default $PP_SIMVE_CACHE or the user's cache folder.

    Raises DataError where the data are missing or cannot be used.
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"an image size of {image_size} is not possible. Give the side in pixels, such as 32.")
    root = Path("data") if root is None else Path(root).expanduser()
    cache = default_folder() if cache is None else Path(cache).expanduser()
    try:
        collection = _collect(name, root, image_size, skip_bad, cache)
    except OSError as error:
        raise DataError(
            f"{name}: {error.filename or root} cannot be read ({error.strerror or error}). "
            "Check that it is there, and that you may read it."
        ) from error
    data = divide(name, collection, seed)
    # Known data sets are taken as they are; in one's own, copies across splits are a mistake worth knowing.
    note = copies_note(data) if ":" in name else None
    return data if note is None else replace(data, notes=(*data.notes, note))


def _collect(name: str, root: Path, image_size: int | None, skip_bad: bool, cache: Path | None) -> Collection:
    kind, colon, place = name.partition(":")
    if kind in ("folder", "npz") and colon:
        if not place:
            raise DataError(f"{name!r} names no {'folder' if kind == 'folder' else 'file'}. Expected {kind}:PATH.")
        path = Path(place).expanduser()
        if kind == "npz":
            return read_npz(name, path, image_size)
        return _folder(name, path, image_size, skip_bad, cache)
    if name == "digits":
        return read_digits(image_size)
    if name == "celeba":
        return _celeba(name, root, image_size, skip_bad, cache)
    if name in OFFICIAL:
        return _official(name, root, image_size, skip_bad, cache)
    raise _unknown(name)


def _folder(name: str, path: Path, image_size: int | None, skip_bad: bool, cache: Path | None) -> Collection:
    listing = list_folder(name, path)
    source = {"name": name, "path": path.resolve(), "image_size": image_size, "skip_bad": skip_bad}
    return cached(
        cache, source, listing.fingerprint, lambda: read_folder(listing, image_size=image_size, skip_bad=skip_bad)
    )


def _celeba(name: str, root: Path, image_size: int | None, skip_bad: bool, cache: Path | None) -> Collection:
    listing = list_celeba(name, root)
    source = {"name": name, "path": root.resolve(), "image_size": image_size, "skip_bad": skip_bad}
    return cached(
        cache, source, listing.fingerprint, lambda: read_celeba(listing, image_size=image_size, skip_bad=skip_bad)
    )


def _official(name: str, root: Path, image_size: int | None, skip_bad: bool, cache: Path | None) -> Collection:
    path = root / name
    if not has_given_splits(path):
        return read_official(name, root, image_size)
    collection = _folder(name, path, image_size, skip_bad, cache)
    note = (
        f"{OFFICIAL[name].title} read from the image folder {path}: where its files are lossy copies, "
        "numbers are not comparable with the official pixels"
    )
    return replace(collection, notes=(note, *collection.notes))


def _unknown(name: str) -> DataError:
    names = ", ".join(DATA_NAMES)
    if Path(name).expanduser().exists():
        kind = "folder" if Path(name).expanduser().is_dir() else "npz"
        return DataError(f"unknown data {name!r}. To read that path, write {kind}:{name}. Known: {names}.")
    heads = {known.partition(":")[0]: known for known in DATA_NAMES}
    # Compared without case and dashes, so that "Fashion-MNIST" is at no distance from "fashionmnist".
    plain = "".join(letter for letter in name.partition(":")[0].lower() if letter.isalnum())
    near = difflib.get_close_matches(plain, heads, n=1, cutoff=0.5)
    hint = f" Did you mean {heads[near[0]]}?" if near else ""
    return DataError(f"unknown data {name!r}.{hint} Known: {names}.")

"""One call for every source of images."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from pp_simve.data.arrays import read_digits, read_npz
from pp_simve.data.cache import cached, default_folder
from pp_simve.data.celeba import CELEBA_SIZE, list_celeba
from pp_simve.data.collection import Collection
from pp_simve.data.decode import Listing, read_listing
from pp_simve.data.folders import has_given_splits, list_folder
from pp_simve.data.official import OFFICIAL, read_official
from pp_simve.data.splits import copies_note, divide
from pp_simve.data.types import DataError, ImageData
from pp_simve.errors import unknown_name

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
    def from_files(listing: Listing, path: Path, size: int | None = image_size) -> Collection:
        source = {"name": name, "path": path.resolve(), "image_size": image_size, "skip_bad": skip_bad}
        decode = partial(read_listing, listing, image_size=size, skip_bad=skip_bad)
        return cached(cache, source, listing.fingerprint, decode)

    kind, colon, place = name.partition(":")
    if kind in ("folder", "npz") and colon:
        if not place:
            raise DataError(f"{name!r} names no {'folder' if kind == 'folder' else 'file'}. Expected {kind}:PATH.")
        path = Path(place).expanduser()
        return read_npz(name, path, image_size) if kind == "npz" else from_files(list_folder(name, path), path)
    if name == "digits":
        return read_digits(image_size)
    if name == "celeba":
        return from_files(list_celeba(name, root), root, image_size or CELEBA_SIZE)
    if name not in OFFICIAL:
        if Path(name).expanduser().exists():
            kind = "folder" if Path(name).expanduser().is_dir() else "npz"
            raise DataError(f"unknown data {name!r}. To read that path, write {kind}:{name}.")
        raise DataError(unknown_name("data", name, DATA_NAMES))
    if not has_given_splits(root / name):
        return read_official(name, root, image_size)
    collection = from_files(list_folder(name, root / name), root / name)
    note = (
        f"{OFFICIAL[name].title} read from the image folder {root / name}: where its files are lossy copies, "
        "numbers are not comparable with the official pixels"
    )
    return replace(collection, notes=(note, *collection.notes))

"""Images that are arrays already: scikit-learn's digits and .npz files."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from pp_simve.data.collection import TEST, TRAIN, UNDIVIDED, VALIDATION, Collection
from pp_simve.data.memory import check_memory
from pp_simve.data.pixels import Reading, arrange, resize, to_uint8
from pp_simve.data.types import DataError, class_name, class_order, count_of

DIGITS_SIZE = (16, 16)
# Prefixes of the keys of an npz file that brings its own splits.
GIVEN = {"train_": TRAIN, "validation_": VALIDATION, "val_": VALIDATION, "test_": TEST}
EXPECTED = (
    "Expected `images`, uint8 or floats in [0, 1], as (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, "
    "and optionally `labels` (N,); or `train_images`, `train_labels`, `test_images`, `test_labels`."
)
PACKED = 200  # times its stored bytes, beyond which an array of more than
SMALL = 2**26  # bytes is taken for a zip bomb: images are not that regular
UNLABELED = -1


def read_digits(reading: Reading) -> Collection:
    """scikit-learn's 1,797 handwritten digits, 8×8 in 17 grey levels, enlarged to 16×16 or the size of `reading`."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).unsqueeze(1) * (255 / 16)
    return Collection(
        images=resize(images, replace(reading, size=reading.size or DIGITS_SIZE)),
        part=torch.full((images.shape[0],), UNDIVIDED),
        labels=torch.from_numpy(bunch.target).long(),
        classes=tuple(str(digit) for digit in range(10)),
    )


def read_npz(name: str, path: Path, reading: Reading) -> Collection:
    """Images and labels of an .npz file; raises DataError where its keys, shapes, types or values cannot be used."""
    with _open(name, path) as archive:
        members = _members(name, archive)
        parts, notes = _parts(name, set(members))
        images: dict[str, Tensor] = {}
        shapes = {}
        for prefix in parts:  # one after another: at most one of them is in memory twice
            key = f"{prefix}images"
            images[key] = _images(name, key, _array(name, archive, members[key]), reading)
            shapes[key] = tuple(images[key].shape[1:])
            if reading.size is not None:
                images[key] = resize(images[key], reading)
        labels = {
            key: _label_array(name, key, _array(name, archive, members[key]), len(images[f"{prefix}images"]))
            for prefix in parts
            if (key := f"{prefix}labels") in members
        }
    if len({value.shape[1:] for value in images.values()}) > 1:
        raise DataError(
            f"{name}: images differ in (channel, height, width): {shapes}. All must have one shape: "
            "add `--image-size N` or `--image-size HxW` to resize them; channels must agree."
        )
    if labels and (missing := [key for prefix in parts if (key := f"{prefix}labels") not in labels]):
        raise DataError(f"{name}: {', '.join(missing)} missing, though other parts have labels. Add or remove all.")
    part = torch.cat([torch.full((len(images[f"{prefix}images"]),), parts[prefix]) for prefix in parts])
    positions, classes, unlabeled = _positions(name, labels)
    arrays = list(images.values())
    return Collection(
        images=arrays[0] if len(arrays) == 1 else torch.cat(arrays),
        part=part,
        labels=positions,
        classes=classes,
        notes=(*notes, *unlabeled),
    )


@contextmanager
def _open(name: str, path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        raise DataError(f"{name}: {path.absolute()} {problem}. Expected a file written by numpy.savez.")
    with path.open("rb") as stream:
        if stream.read(6) == b"\x93NUMPY":
            raise DataError(f"{name}: {path.absolute()} is one array, not an npz file. Write it with numpy.savez.")
        with _damage(name):
            archive = zipfile.ZipFile(stream)
        yield archive


@contextmanager
def _damage(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # zipfile, its decompressors and numpy raise nearly anything on a damaged file
        raise DataError(
            f"{name} is not an npz file, or is damaged ({str(error) or type(error).__name__}). "
            f"Write it again with numpy.savez. {EXPECTED}"
        ) from error


def _members(name: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The arrays of an npz file by key."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if (key := member.filename.removesuffix(".npy")) in members:
            raise DataError(f"{name}: it holds two arrays `{key}`. Write it again with numpy.savez.")
        members[key] = member
    return members


def _parts(name: str, keys: set[str]) -> tuple[dict[str, int], list[str]]:
    """Prefixes of the keys that are read, by their split, and a note on those that are not; one choice, or an error."""
    parts = {prefix: part for prefix, part in {"": UNDIVIDED, **GIVEN}.items() if f"{prefix}images" in keys}
    complete = "" in parts or {"train_", "test_"} <= parts.keys()
    wanted = {f"{prefix}{what}" for prefix in parts or ("",) for what in ("images", "labels")}
    wanted |= set() if complete else {"train_images", "test_images"}
    for absent in sorted(wanted - keys):
        others = {key.casefold(): key for key in sorted(keys - wanted)}
        if near := get_close_matches(absent, others, 1, 0.82):
            raise DataError(
                f"{name}: its key `{others[near[0]]}` is not read; did you mean `{absent}`? Rename it. {EXPECTED}"
            )
    if not complete:
        raise DataError(f"{name}: its keys are {', '.join(sorted(keys)) or 'none'}. {EXPECTED}")
    if len(set(parts.values())) < len(parts) or ("" in parts and len(parts) > 1):
        both = " and ".join(f"`{prefix}images`" for prefix in parts)
        raise DataError(f"{name}: it holds {both}, which mean the same or exclude each other. Keep one form of them.")
    ignored = sorted(keys - wanted)
    return parts, [f"keys that are not read: {', '.join(ignored)}"] if ignored else []


def _array(name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array, whose header is checked against the file and the memory at hand before any is allocated."""
    key = member.filename.removesuffix(".npy")
    with _damage(name), archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        stored = member.file_size - stream.tell()
    if dtype.hasobject:
        raise DataError(f"{name}: `{key}` holds Python objects, which are not read. Save it as numbers or strings.")
    needed = math.prod(shape) * dtype.itemsize
    if needed != stored:
        raise DataError(
            f"{name} is damaged: `{key}` should be {shape} of {dtype}, {needed:,} bytes, and {stored:,} are stored. "
            "Write it again with numpy.savez."
        )
    packed = min(member.compress_size, archive.start_dir)
    if needed > max(SMALL, PACKED * packed):
        raise DataError(
            f"{name}: `{key}` would unpack {packed:,} bytes to {needed:,}, which no images do. "
            "If it is genuine, write it with numpy.savez, uncompressed."
        )
    check_memory(needed, f"{name}: `{key}`, {shape} of {dtype},", "save smaller images, or uint8 instead of floats")
    with _damage(name), archive.open(member) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _images(name: str, key: str, array: NDArray[Any], reading: Reading) -> Tensor:
    """uint8 (image, channel, height, width) of one array."""
    try:
        array = arrange(array, reading.layout)
        if 0 in array.shape[1:]:
            raise ValueError(f"has images without pixels, shape {array.shape}")
        return torch.from_numpy(np.ascontiguousarray(to_uint8(array, reading.range)))
    except ValueError as error:
        raise DataError(f"{name}: `{key}` {error}. {EXPECTED}") from error


def _label_array(name: str, key: str, array: NDArray[Any], count: int) -> NDArray[Any]:
    """One label an image, integers or strings: whole floats, one-hot rows and bytes are taken for what they are."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    elif array.ndim == 2 and len(array) and array.dtype.kind in "biuf":
        ones = array == 1
        if (ones.sum(1) == 1).all() and (ones | (array == 0)).all():
            array = ones.argmax(1)
    if array.ndim != 1:
        raise DataError(
            f"{name}: `{key}` has shape {array.shape}, expected one label an image, ({count},), or one-hot rows."
        )
    if array.shape[0] != count:
        raise DataError(f"{name}: {array.shape[0]} `{key}` for {count} images. There must be one label an image.")
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.rint(array)).all():
        array = array.astype(np.int64)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "backslashreplace")
    if array.dtype.kind not in "iubU":
        raise DataError(f"{name}: `{key}` has dtype {array.dtype}, expected whole numbers or strings.")
    return array


def _positions(name: str, labels: dict[str, NDArray[Any]]) -> tuple[Tensor | None, tuple[str, ...], list[str]]:
    """Labels of all parts as positions in the sorted classes, -1 of images without, and a note on those."""
    if not labels:
        return None, (), []
    values, index = np.unique(np.concatenate(list(labels.values())), return_inverse=True)
    # Two classes may be coded as -1 and 1; beside more classes, or none, -1 is the usual mark of no label.
    without = np.issubdtype(values.dtype, np.signedinteger) and UNLABELED in values and len(values) != 2
    names = [None if without and value == UNLABELED else class_name(str(value)) for value in values]
    classes = class_order(label for label in names if label is not None)
    if "train_labels" in labels:
        known = {class_name(str(label)) for label in np.unique(labels["train_labels"])}
        if unseen := [label for label in classes if label not in known]:
            raise DataError(
                f"{name}: classes that train lacks: {', '.join(unseen)}. Every class needs training images: "
                "add some, or remove these classes."
            )
    place = np.array([UNLABELED if label is None else classes.index(label) for label in names])
    positions = torch.from_numpy(place[index.reshape(-1)]).long()
    if not without:
        return positions, classes, []
    count = count_of(int((positions < 0).sum()), "image")
    return positions if classes else None, classes, [f"{count} of {len(positions):,} without a label (-1)"]

"""Images that are arrays already: scikit-learn's digits and .npz files."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from pp_simve.data.collection import TEST, TRAIN, UNDIVIDED, VALIDATION, Collection, resize
from pp_simve.data.types import DataError

DIGITS_SIZE = 16
# Prefixes of the keys of an npz file that brings its own splits.
GIVEN = {"train": TRAIN, "validation": VALIDATION, "val": VALIDATION, "test": TEST}
EXPECTED = (
    "Expected `images`, uint8 or floats in [0, 1], as (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, "
    "and optionally `labels` (N,); or `train_images`, `train_labels`, `test_images`, `test_labels`."
)


def read_digits(image_size: int | None) -> Collection:
    """scikit-learn's 1,797 handwritten digits, 8×8 in 17 grey levels, enlarged to 16×16 or `image_size`."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).unsqueeze(1) * (255 / 16)
    return Collection(
        images=resize(images, image_size or DIGITS_SIZE),
        part=torch.full((images.shape[0],), UNDIVIDED),
        labels=torch.from_numpy(bunch.target).long(),
        classes=tuple(str(digit) for digit in range(10)),
    )


def read_npz(name: str, path: Path, image_size: int | None) -> Collection:
    """Images and labels of an .npz file; raises DataError where its keys, shapes, types or values cannot be used."""
    arrays = _open(name, path)
    if "images" in arrays:
        parts = {"": UNDIVIDED}
    elif {"train_images", "test_images"} <= arrays.keys():
        parts = {f"{prefix}_": part for prefix, part in GIVEN.items() if f"{prefix}_images" in arrays}
    else:
        raise DataError(f"{name}: its keys are {', '.join(sorted(arrays)) or 'none'}. {EXPECTED}")
    images = {prefix: _images(name, f"{prefix}images", arrays[f"{prefix}images"]) for prefix in parts}
    shapes = {f"{prefix}images": tuple(value.shape[1:]) for prefix, value in images.items()}
    if image_size is not None:
        images = {prefix: resize(value, image_size) for prefix, value in images.items()}
    if len({value.shape[1:] for value in images.values()}) > 1:
        raise DataError(
            f"{name}: images differ in (channel, height, width): {shapes}. All must have one shape: "
            "add `--image-size N` to resize them to NxN; channels must agree."
        )
    labels, classes = _labels(name, arrays, {prefix: value.shape[0] for prefix, value in images.items()})
    part = torch.cat([torch.full((value.shape[0],), parts[prefix]) for prefix, value in images.items()])
    return Collection(torch.cat(list(images.values())), part, labels, classes=classes)


def _open(name: str, path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{name}: {path.absolute()} {problem}. Expected a file written by numpy.savez.")
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{name}: {path.absolute()} is one array, not an npz file. Write it with numpy.savez.")
            with file:
                return {key: file[key] for key in file.files}
    except DataError:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{name}: {path.absolute()} is not an npz file, is damaged or holds Python objects ({error}). "
            f"Write it again with numpy.savez. {EXPECTED}"
        ) from error


def _images(name: str, key: str, array: NDArray[np.generic]) -> Tensor:
    """uint8 (image, channel, height, width) of one array."""
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    elif array.ndim != 4 or array.shape[1] not in (1, 3):
        raise DataError(f"{name}: `{key}` has shape {array.shape}. {EXPECTED}")
    if 0 in array.shape[1:]:
        raise DataError(f"{name}: `{key}` has images without pixels, shape {array.shape}. {EXPECTED}")
    if np.issubdtype(array.dtype, np.floating):
        array = _from_float(name, key, array)
    elif array.dtype != np.uint8:
        raise DataError(f"{name}: `{key}` has dtype {array.dtype}. {EXPECTED}")
    return torch.from_numpy(np.ascontiguousarray(array))


def _from_float(name: str, key: str, array: NDArray[np.generic]) -> NDArray[np.uint8]:
    values = np.asarray(array, dtype=np.float64 if array.dtype == np.float64 else np.float32)
    wrong = ~np.isfinite(values)
    if wrong.any():
        first = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise DataError(
            f"{name}: `{key}` has {int(wrong.sum())} NaN or infinite values, the first in image {int(first[0])} at "
            f"(channel, row, column) {tuple(int(axis) for axis in first[1:])}. Remove those images or repair them."
        )
    if values.size and (values.min() < 0 or values.max() > 1):
        raise DataError(
            f"{name}: `{key}` has floats from {values.min():g} to {values.max():g}, expected [0, 1]. "
            "Rescale them (divide by 255 where they are grey levels), or save them as uint8."
        )
    return (values * 255).round().astype(np.uint8)


def _labels(
    name: str, arrays: dict[str, NDArray[np.generic]], counts: dict[str, int]
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels of all parts as positions in the sorted classes; (None, ()) where no part has labels."""
    keys = {f"{prefix}labels": count for prefix, count in counts.items()}
    missing = [key for key in keys if key not in arrays]
    if len(missing) == len(keys):
        return None, ()
    if missing:
        raise DataError(f"{name}: {', '.join(missing)} missing, though other parts have labels. Add or remove all.")
    labels = {key: _label_array(name, key, arrays[key], count) for key, count in keys.items()}
    classes, index = np.unique(np.concatenate(list(labels.values())), return_inverse=True)
    if "train_labels" in labels:
        unseen = sorted({str(label) for label in classes} - {str(label) for label in labels["train_labels"]})
        if unseen:
            raise DataError(
                f"{name}: classes that train lacks: {', '.join(unseen)}. Every class needs training images: "
                "add some, or remove these classes."
            )
    return torch.from_numpy(index.reshape(-1)).long(), tuple(str(label) for label in classes)


def _label_array(name: str, key: str, array: NDArray[np.generic], count: int) -> NDArray[np.generic]:
    if array.shape == (count, 1):
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name}: `{key}` has shape {array.shape}, expected one label an image, ({count},).")
    if array.shape[0] != count:
        raise DataError(f"{name}: {array.shape[0]} `{key}` for {count} images. There must be one label an image.")
    if array.dtype.kind not in "iubU":
        raise DataError(f"{name}: `{key}` has dtype {array.dtype}, expected integers or strings.")
    return array

""".npz files: layouts, types, labels, and every way a file can be wrong."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pp_simve.data import DataError, ImageData, load

from .data_fixtures import assert_disjoint

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 5, 4), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(20) % 2


def save_and_load(folder: Path, image_size: int | None = None, **arrays: Any) -> ImageData:
    np.savez(folder / "data.npz", **arrays)
    return load(f"npz:{folder / 'data.npz'}", image_size=image_size)


def images_of(data: ImageData) -> set[bytes]:
    return {image.numpy().tobytes() for split in (data.train, data.validation, data.test) for image in split.images}


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (GREY, (1, 5, 4)),
        (GREY[:, None], (1, 5, 4)),
        (GREY[..., None], (1, 5, 4)),
        (COLOUR, (3, 5, 4)),
        (COLOUR.transpose(0, 3, 1, 2), (3, 5, 4)),
    ],
)
def test_layouts(tmp_path: Path, images: np.ndarray[Any, Any], shape: tuple[int, int, int]) -> None:
    data = save_and_load(tmp_path, images=images, labels=LABELS)
    assert data.image_shape == shape
    assert save_and_load(tmp_path, 8, images=images).image_shape == (shape[0], 8, 8)
    expected = GREY[:, None] if shape[0] == 1 else COLOUR.transpose(0, 3, 1, 2)
    assert images_of(data) == {image.tobytes() for image in expected}
    assert_disjoint(data, 20)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_scaled(tmp_path: Path, dtype: type) -> None:
    data = save_and_load(tmp_path, images=(GREY / 255).astype(dtype), labels=LABELS)
    whole = save_and_load(tmp_path, images=GREY, labels=LABELS)
    assert data.train.images.dtype == torch.uint8
    difference = (data.train.images.int() - whole.train.images.int()).abs().max()
    assert difference <= (1 if dtype == np.float16 else 0)


def test_labels_become_positions(tmp_path: Path) -> None:
    data = save_and_load(tmp_path, images=GREY, labels=np.where(LABELS == 0, 70, -5)[:, None])
    assert data.classes == ("-5", "70")
    named = save_and_load(tmp_path, images=GREY, labels=np.where(LABELS == 0, "zebra", "ant"))
    assert named.classes == ("ant", "zebra")
    assert named.train.labels is not None
    assert data.train.labels is not None
    assert torch.equal(named.train.labels, data.train.labels)
    assert data.train.labels.dtype == torch.int64


def test_given_splits(tmp_path: Path) -> None:
    data = save_and_load(
        tmp_path, train_images=GREY[:14], train_labels=LABELS[:14], test_images=GREY[14:], test_labels=LABELS[14:]
    )
    assert [len(split) for split in (data.train, data.validation, data.test)] == [12, 2, 6]
    assert_disjoint(data, 20)
    arrays = {"train": slice(0, 10), "val": slice(10, 14), "test": slice(14, 20)}
    data = save_and_load(tmp_path, **{f"{name}_images": GREY[part] for name, part in arrays.items()})
    assert [len(split) for split in (data.train, data.validation, data.test)] == [10, 4, 6]


def broken(value: float) -> np.ndarray[Any, Any]:
    images = GREY / 255
    images[3, 1, 2] = images[5] = value
    return images


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": GREY}, r"its keys are pictures.*Expected `images`"),
        ({}, "its keys are none"),
        ({"train_images": GREY}, "its keys are train_images"),
        ({"images": GREY[0]}, r"shape \(5, 4\)"),
        ({"images": RNG.integers(0, 9, (20, 5, 4, 2), dtype=np.uint8)}, r"shape \(20, 5, 4, 2\)"),
        ({"images": GREY[:, :0]}, "without pixels"),
        ({"images": GREY.astype(np.int64)}, "dtype int64"),
        ({"images": GREY.astype(np.float32)}, r"floats from 0 to 255, expected \[0, 1\]"),
        ({"images": GREY / 255 - 0.5}, r"floats from -0\.5"),
        ({"images": broken(np.nan)}, r"21 NaN or infinite values, the first in image 3 .*\(0, 1, 2\)"),
        ({"images": broken(-np.inf)}, "21 NaN or infinite"),
        ({"images": GREY, "labels": LABELS[:-1]}, "19 `labels` for 20 images"),
        ({"images": GREY, "labels": np.eye(20)}, r"`labels` has shape \(20, 20\)"),
        ({"images": GREY, "labels": LABELS / 2}, "dtype float64, expected integers or strings"),
        ({"images": GREY, "labels": LABELS * 0}, "one class only"),
        ({"images": GREY, "labels": np.arange(20) // 19}, r"class '1' \(1\)"),
        ({"images": GREY[:0]}, "no images"),
        ({"images": GREY[:1]}, "one image only"),
        ({"train_images": GREY, "train_labels": LABELS, "test_images": GREY}, "test_labels missing"),
        (
            {"train_images": GREY, "train_labels": LABELS, "test_images": GREY, "test_labels": LABELS + 1},
            "classes that train lacks: 2",
        ),
        ({"train_images": GREY, "test_images": GREY[:, :4]}, r"differ.*--image-size N"),
    ],
)
def test_wrong_files(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        save_and_load(tmp_path, **arrays)


def compressed() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, images=GREY)
    return file.getvalue()


WHOLE = compressed()
HALF = len(WHOLE) // 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an npz file"),
        (b"words", "not an npz file"),
        (WHOLE[:HALF], r"data\.npz is not an npz file, is damaged"),
        (WHOLE[:HALF] + bytes(8) + WHOLE[HALF + 8 :], r"data\.npz is not an npz file, is damaged"),
        (GREY, "one array, not an npz"),
        (np.array([{"a": 1}, None], dtype=object), "Python objects"),
        (None, "does not exist"),
    ],
)
def test_files_that_are_no_npz(tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "data.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        with file.open("wb") as stream:
            np.save(stream, content)
    with pytest.raises(DataError, match=message):
        load(f"npz:{file}")
    with pytest.raises(DataError, match="is a folder"):
        load(f"npz:{tmp_path}")

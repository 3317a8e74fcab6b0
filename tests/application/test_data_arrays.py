""".npz files: layouts, types, labels, and every way a file can be wrong."""

import io
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pp_simve.data import DataError, ImageData, load_data, memory

from .data_fixtures import assert_disjoint

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 5, 4), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(20) % 2


def save_and_load(folder: Path, image_size: int | None = None, *, layout: str = "auto", **arrays: Any) -> ImageData:
    np.savez(folder / "data.npz", **arrays)
    return load_data(f"npz:{folder / 'data.npz'}", image_size=image_size, layout=layout)


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


GIVEN_LABELS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "whole floats": (LABELS.astype(np.float32), ("0", "1")),
    "one-hot": (np.eye(2)[LABELS], ("0", "1")),
    "one-hot booleans": (np.eye(2, dtype=bool)[LABELS], ("0", "1")),
    "bytes": (np.where(LABELS == 0, b"ant", "ünix".encode()), ("ant", "ünix")),
    "bytes that are not UTF-8": (np.where(LABELS == 0, b"ant", b"caf\xe9"), ("ant", r"caf\xe9")),
    "booleans": (LABELS == 1, ("False", "True")),
    "numbers as texts": (np.where(LABELS == 0, "9", "10"), ("9", "10")),
    "a code of two": (2 * LABELS - 1, ("-1", "1")),
    "equal names": (np.where(LABELS == 0, "b", np.where(np.arange(20) < 10, "e\u0301", "é")), ("b", "é")),
    "an empty name": (np.where(LABELS == 0, "", "x"), ("", "x")),
}


@pytest.mark.parametrize(("labels", "classes"), GIVEN_LABELS.values(), ids=GIVEN_LABELS)
def test_labels_as_they_come(tmp_path: Path, labels: Any, classes: tuple[str, ...]) -> None:
    data = save_and_load(tmp_path, images=GREY, labels=labels)
    assert (data.classes, data.notes) == (classes, ())
    for split in (data.train, data.validation, data.test):
        assert split.labels is not None
        for image, label in zip(split.images, split.labels.tolist(), strict=True):
            assert label == LABELS[(image[0].numpy() == GREY).all((1, 2))].item()


@pytest.mark.parametrize("given", [False, True])
def test_images_without_a_label_are_fitted_only(tmp_path: Path, given: bool) -> None:
    labels = np.where(np.arange(20) < 6, -1, LABELS)
    arrays = {"images": GREY, "labels": labels}
    if given:  # some of them in test
        order = np.r_[2:18, 0:2, 18:20]
        parts = {"train": order[:15], "test": order[15:]}
        arrays = {f"{part}_images": GREY[index] for part, index in parts.items()}
        arrays |= {f"{part}_labels": labels[index] for part, index in parts.items()}
    data = save_and_load(tmp_path, **arrays)
    assert data.classes == ("0", "1")
    assert data.notes[0] == "6 images of 20 without a label (-1)"
    assert "fitted but not evaluated" in data.notes[1]
    assert data.train.labels is not None
    assert int((data.train.labels == -1).sum()) == (4 if given else 6)
    labeled = data.train.labeled()
    assert labeled.labels is not None
    assert len(labeled) == int((data.train.labels >= 0).sum()) == len(labeled.labels)
    for split in (data.validation, data.test):
        assert split.labels is not None
        assert split.labels.min() == 0
        assert split.labeled() is split
    assert_disjoint(data, 18 if given else 20)


def test_labels_that_say_nothing(tmp_path: Path) -> None:
    for labels, note in ((np.full(20, -1), "20 images of 20 without"), (LABELS * 0, "one class only (0)")):
        data = save_and_load(tmp_path, images=GREY, labels=labels)
        assert (data.train.labels, data.classes, data.class_summary) == (None, (), "no labels")
        assert data.notes[0].startswith(note)


@pytest.mark.parametrize(
    ("images", "layout", "expected"),
    [
        (GREY.reshape(20, 20), "5x4", GREY[:, None]),
        (COLOUR.reshape(20, 60), "5x4x3", COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2).reshape(20, 60), "3x5x4", COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR[:, :3], "hwc", COLOUR[:, :3].transpose(0, 3, 1, 2)),
        (COLOUR[:, :3], "chw", COLOUR[:, :3]),
        (GREY > 127, "auto", 255 * (GREY > 127)[:, None]),
        (GREY.astype(np.uint16) * 257, "auto", GREY[:, None]),
        (GREY / 255 * 1.0005, "auto", np.rint(GREY * 1.0005).clip(0, 255)[:, None]),
    ],
)
def test_other_images(tmp_path: Path, images: Any, layout: str, expected: Any) -> None:
    data = save_and_load(tmp_path, images=images, layout=layout)
    assert data.notes == ()
    assert images_of(data) == {image.tobytes() for image in expected.astype(np.uint8)}


def test_keys_that_are_not_read_are_named(tmp_path: Path) -> None:
    data = save_and_load(tmp_path, images=GREY, labels=LABELS, meta=np.array([{}]), y=LABELS)
    assert data.notes == ("keys that are not read: meta, y",)


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
        ({"images": GREY.astype(np.int64)}, "int64 values from 0 to 255, .*`--range 0,255`"),
        ({"images": GREY.astype(np.float32)}, r"float32 values from 0 to 255, expected \[0, 1\].*`--range 0,255`"),
        ({"images": GREY / 255 - 0.5}, r"float64 values from -0\.5.*`--range -0\.5,0\.5`"),
        ({"images": GREY / 255 * 1.01}, r"float64 values from 0 to 1\.01, expected \[0, 1\]"),
        ({"images": GREY.astype(str)}, "dtype <U3, expected numbers"),
        ({"images": GREY.reshape(20, 20)}, r"shape \(20, 20\)\. Flattened .*`--layout 4x4`"),
        ({"images": COLOUR[:, :3]}, r"shape \(20, 3, 4, 3\), channels first or last: .*chw.*hwc"),
        ({"images": broken(np.nan)}, r"21 NaN .* at \(image, channel, row, column\) \(3, 0, 1, 2\)"),
        ({"images": broken(-np.inf)}, "21 NaN or infinite"),
        ({"images": GREY, "labels": LABELS[:-1]}, "19 `labels` for 20 images"),
        ({"images": GREY, "labels": np.ones((20, 3))}, r"`labels` has shape \(20, 3\).*one-hot"),
        ({"images": GREY, "labels": LABELS / 2}, "dtype float64, expected whole numbers or strings"),
        ({"images": GREY, "labels": LABELS * np.nan}, "dtype float64, expected whole numbers or strings"),
        ({"images": GREY, "label": LABELS}, "its key `label` is not read; did you mean `labels`"),
        ({"Images": GREY}, "its key `Images` is not read; did you mean `images`"),
        ({"train_images": GREY, "test_image": GREY}, "did you mean `test_images`"),
        ({"images": GREY, "train_images": GREY, "test_images": GREY}, "`images` and `train_images`"),
        (
            {f"{name}_images": GREY for name in ("train", "test", "val", "validation")},
            "`validation_images` and `val_images`",
        ),
        ({"images": GREY, "labels": np.array([None] * 20)}, "`labels` holds Python objects"),
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


def archive(
    header: tuple[int, ...] = (20, 5, 4), zeros: int = 400, claimed: int = 0, compression: int = 8, twice: bool = False
) -> bytes:
    """An npz file of so many zeros, whose headers claim another shape, size or compression."""
    array, file = io.BytesIO(), io.BytesIO()
    entries = {"descr": "|u1", "fortran_order": False, "shape": header if zeros == 400 else (zeros, 1, 1)}
    np.lib.format.write_array_header_1_0(array, entries)
    array.write(bytes(zeros))
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as stored:
        warnings.simplefilter("ignore")
        for _ in range(1 + twice):
            stored.writestr("images.npy", array.getvalue())
    content = bytearray(file.getvalue())
    entry = content.index(b"PK\x01\x02")
    content[entry + 10 : entry + 12] = compression.to_bytes(2, "little")
    if claimed:
        content[entry + 24 : entry + 28] = min(claimed, 2**32 - 2).to_bytes(4, "little")
    return bytes(content)


def test_an_array_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_at_hand", lambda: 450)
    with pytest.raises(DataError, match=r"`images`, \(20, 5, 4\) of uint8, take .* GiB.*save smaller"):
        save_and_load(tmp_path, images=GREY)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_large_file_is_in_memory_twice_at_most(tmp_path: Path, dtype: type) -> None:
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not os.access(reset, os.W_OK):
        pytest.skip("this system does not measure the peak of a process's memory")

    def resident(name: str) -> int:
        return 1024 * int(re.findall(rf"{name}:\s+(\d+) kB", status.read_text())[0])

    images = RNG.integers(0, 2, (24_000, 32, 32, 3), dtype=np.uint8).astype(dtype)
    size = images.nbytes
    np.savez(tmp_path / "data.npz", images=images)
    del images
    reset.write_text("5")
    before = resident("VmRSS")
    load_data(f"npz:{tmp_path / 'data.npz'}")
    assert resident("VmHWM") - before < 2.2 * size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an npz file"),
        (b"words", "not an npz file"),
        (WHOLE[:HALF], r"data\.npz is not an npz file, or is damaged"),
        (WHOLE[:HALF] + bytes(8) + WHOLE[HALF + 8 :], r"data\.npz is not an npz file, or is damaged"),
        (GREY, "one array, not an npz"),
        (np.array([{"a": 1}, None], dtype=object), "one array, not an npz"),
        (
            archive(header=(10**6, 1000, 1000)),
            r"should be \(1000000, 1000, 1000\) of uint8, 1,000,000,000,000 bytes, and",
        ),
        (archive(header=(-4, 5)), "is damaged"),
        (archive(zeros=2**27), "`images` would unpack 1..,... bytes to 134,217,728, which no images do"),
        (archive(claimed=10**11), "is damaged|would unpack"),
        (archive(compression=99), "is damaged .*compression"),
        (archive(twice=True), "two arrays `images`"),
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
        load_data(f"npz:{file}")
    with pytest.raises(DataError, match="is a folder"):
        load_data(f"npz:{tmp_path}")

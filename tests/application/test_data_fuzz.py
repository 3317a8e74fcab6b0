"""Damaged data files of every type that is read: images or a `DataError`, never another exception or a hang."""

from __future__ import annotations

import io
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pp_simve.data import DataError, ImageData, celeba, load_data
from pp_simve.data.decode import Listing, read_listing
from pp_simve.data.pixels import Reading

from .data_fixtures import write_celeba, write_classes
from .test_data_official import cifar_files, idx_files, put

TRIES = int(os.environ.get("PP_SIMVE_FUZZ_TRIES", "300"))  # of each type; more for a longer search
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 10), dtype=np.uint8)


def mutated(content: bytes, random: random.Random) -> bytes:
    """Bytes with one to four places changed: bits flipped, extreme values, pieces cut, doubled or of zeros."""
    data = bytearray(content)
    for _ in range(random.randint(1, 4)):
        # Headers, which decide most, are short: half of the changes are among the first or last bytes.
        place = random.choice([random.randrange(len(data)), random.randrange(min(64, len(data)))]) if data else 0
        if random.random() < 0.25:
            place = max(0, len(data) - place - 1)
        length = random.choice([1, 2, 4, 16])
        piece = bytes(data[place : place + length])
        data[place : place + length] = random.choice(
            [
                bytes(byte ^ 1 << random.randrange(8) for byte in piece),
                bytes([random.choice([0, 1, 127, 128, 255])]) * len(piece),
                b"",
                piece * 2,
                random.randbytes(len(piece)),
            ]
        )
        if random.random() < 0.1:
            del data[place:]
    return bytes(data)


def picture(suffix: str, mode: str) -> tuple[str, bytes]:
    file = io.BytesIO()
    deep = {"I;16": GREY.astype(np.uint16) * 257, "F": GREY.astype(np.float32) / 255}
    image = Image.fromarray(deep[mode]) if mode in deep else Image.fromarray(GREY).convert(mode)
    frames = {"save_all": True, "append_images": [image.rotate(180)]} if suffix in ("gif", "webp", "apng") else {}
    image.save(
        file, format={"jpg": "JPEG", "apng": "PNG"}.get(suffix) or Image.registered_extensions()[f".{suffix}"], **frames
    )
    return f"a.{suffix}", file.getvalue()


Image.init()
PICTURES = [
    *(("png", "L"), ("png", "RGBA"), ("png", "P"), ("png", "I;16"), ("apng", "RGB"), ("jpg", "RGB"), ("jpg", "CMYK")),
    *(("bmp", "RGB"), ("tif", "I;16"), ("tif", "F"), ("tif", "RGB"), ("gif", "L"), ("webp", "RGBA"), ("pgm", "I;16")),
    *(("ppm", "RGB"), ("tga", "RGBA"), ("jp2", "RGB"), ("avif", "RGB")),
]


@pytest.mark.parametrize(
    ("suffix", "mode"), [pair for pair in PICTURES if f".{pair[0]}" in {*Image.registered_extensions(), ".apng"}]
)
def test_image_files(tmp_path: Path, suffix: str, mode: str) -> None:
    name, content = picture(suffix, mode)
    path, random_ = tmp_path / name, random.Random(f"{suffix} {mode}")
    for size in (None, "8x9"):
        listing = Listing("fuzz", (str(path),), torch.zeros(1), None, (), "")
        path.write_bytes(content)
        assert len(read_listing(listing, Reading.of(size)).images) == 1
        for _ in range(TRIES // 2):
            path.write_bytes(mutated(content, random_))
            try:
                images = read_listing(listing, Reading.of(size, "pad")).images
            except DataError:
                continue
            assert images.dtype == torch.uint8
            assert images.shape[1] in (1, 3)


def damage(
    path: Path, read: Callable[[], ImageData], seed: str, content: bytes | None = None, change: Any = mutated
) -> tuple[int, set[str]]:
    """Reads with that file damaged, over and over: how often it was read, and the fingerprints."""
    content, random_ = path.read_bytes() if content is None else content, random.Random(seed)
    done, found = 0, set[str]()
    for _ in range(TRIES):
        path.write_bytes(change(content, random_))
        try:
            data = read()
        except DataError as error:
            str(error).encode()
            continue
        done += 1
        found.add(data.fingerprint)
        for split in (data.train, data.validation, data.test):
            assert split.images.dtype == torch.uint8
            assert split.labels is None or -1 <= int(split.labels.min()) <= int(split.labels.max()) < len(data.classes)
    path.write_bytes(content)
    return done, found


def npz(save: Callable[..., None], **arrays: Any) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


LABELS = np.arange(12) % 2
NPZ = {
    "stored": npz(np.savez, images=RNG.integers(0, 256, (12, 5, 4), dtype=np.uint8), labels=LABELS),
    "compressed": npz(np.savez_compressed, images=RNG.random((12, 5, 4, 3), dtype=np.float32), labels=LABELS),
    "texts": npz(np.savez, images=np.zeros((12, 2, 2), np.uint16), labels=np.where(LABELS, "a", "b")),
}


@pytest.mark.parametrize("kind", NPZ)
def test_npz_files(tmp_path: Path, kind: str) -> None:
    done, found = damage(tmp_path / "a.npz", lambda: load_data(f"npz:{tmp_path / 'a.npz'}"), kind, NPZ[kind])
    assert len(found) <= 2, "pixels have checksums; without labels, or as they were"
    assert done < TRIES


def test_numbers_in_an_npz_file(tmp_path: Path) -> None:
    """Arrays that are damaged below the checksums of the file."""
    arrays = {}
    for name, array in {"images": RNG.random((12, 5, 4), dtype=np.float32), "labels": LABELS}.items():
        file = io.BytesIO()
        np.save(file, array)
        arrays[name] = file.getvalue()

    def rewritten(content: bytes, random: random.Random) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, member in arrays.items():
                archive.writestr(f"{name}.npy", mutated(member, random) if random.random() < 0.7 else member)
        return file.getvalue()

    damage(tmp_path / "a.npz", lambda: load_data(f"npz:{tmp_path / 'a.npz'}"), "numbers", b"", rewritten)


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_idx_files(tmp_path: Path, file: str) -> None:
    put(tmp_path, idx_files("MNIST"))
    damage(tmp_path / "MNIST" / "raw" / file, lambda: load_data("mnist", tmp_path), file)


@pytest.mark.parametrize("file", ["data_batch_3", "batches.meta"])
def test_cifar_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    put(tmp_path, cifar_files(monkeypatch))
    before = load_data("cifar10", tmp_path).fingerprint
    done, found = damage(tmp_path / "cifar-10-batches-py" / file, lambda: load_data("cifar10", tmp_path), file)
    assert found <= {before}
    assert done <= TRIES / 50  # where nothing was changed


@pytest.mark.parametrize("file", [celeba.ATTRIBUTES, celeba.PARTITION])
def test_celeba_lists(tmp_path: Path, file: str) -> None:
    write_celeba(tmp_path, 20, size=(8, 8))
    damage(
        tmp_path / "celeba" / file, lambda: load_data("celeba", tmp_path, image_size=4, cache=tmp_path / "cache"), file
    )


def test_caches(tmp_path: Path) -> None:
    write_classes(tmp_path / "source", {"a": 4, "b": 4})

    def read() -> ImageData:
        return load_data(f"folder:{tmp_path / 'source'}", cache=tmp_path / "cache")

    before = read().fingerprint
    (file,) = (tmp_path / "cache").iterdir()
    assert damage(file, read, "cache") == (TRIES, {before})

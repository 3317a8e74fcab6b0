"""The cache of decoded images: used when it fits, rebuilt when it does not, done without when it cannot be written."""

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pp_simve.data import DataError, ImageData, cache, decode, load_data

from .data_fixtures import write_classes, write_image


class Folder:
    """A small image folder and its cache."""

    def __init__(self, base: Path) -> None:
        self.source, self.cache = base / "source", base / "cache"
        self.source.mkdir()
        write_classes(self.source, {"a": 5, "b": 5})

    def load(self, **options: bool | int | None) -> ImageData:
        return load_data(f"folder:{self.source}", cache=self.cache, **options)  # type: ignore[arg-type]

    def file(self) -> Path:
        (file,) = self.cache.iterdir()
        return file


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_second_load_decodes_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folder.load()
    monkeypatch.delattr(decode, "read_image")
    second = folder.load()
    assert second.fingerprint == first.fingerprint
    assert second.classes == first.classes
    assert second.notes == ()
    with pytest.raises(DataError, match="cannot be decoded"):
        folder.load(image_size=4)


def test_a_changed_source_replaces_its_file(folder: Folder) -> None:
    before = folder.load()
    file = folder.file()
    write_image(folder.source / "a" / "0000.png", 77)
    os.utime(folder.source / "a" / "0000.png", ns=(1, 1))
    after = folder.load()
    assert after.fingerprint != before.fingerprint
    assert "source files changed" in after.notes[0]
    assert folder.file() == file
    assert folder.load().notes == ()


@pytest.mark.parametrize("damage", ["truncated", "pickle", "flipped byte", "no checksum", "shapes", "another's"])
def test_a_damaged_file_is_rebuilt(folder: Folder, damage: str) -> None:
    good = folder.load()
    file = folder.file()
    content = file.read_bytes()
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
    tensors = load_file(file)
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "pickle":
        torch.save({"images": torch.zeros(2)}, file)
    elif damage == "flipped byte":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "no checksum":
        save_file(tensors, file, metadata={key: value for key, value in metadata.items() if key != "checksum"})
    elif damage == "shapes":
        tensors["part"] = tensors["part"][:-1].clone()
        checksum = cache.tensor_digest((tensors.get(key) for key in cache.TENSORS), metadata["about"])
        save_file(tensors, file, metadata={**metadata, "checksum": checksum})
    else:
        folder.load(image_size=4)
        folder.load(skip_bad=True)
        others = sorted(set(folder.cache.iterdir()) - {file})
        assert len(others) == 2, "options have their own files"
        os.replace(others[0], file)
        others[1].unlink()
    rebuilt = folder.load()
    assert (rebuilt.fingerprint, rebuilt.image_shape) == (good.fingerprint, good.image_shape)
    (note,) = rebuilt.notes
    assert "cache rebuilt" in note
    assert str(file) in note
    assert folder.load().notes == ()


def test_an_older_format_is_not_read(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.load()
    monkeypatch.setattr(cache, "FORMAT", "next")
    assert folder.load().notes == ()
    assert len(list(folder.cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_done_without(folder: Folder) -> None:
    good = folder.load()
    for file in folder.cache.iterdir():
        file.unlink()
    folder.cache.rmdir()
    folder.cache.write_text("a regular file where the folder should be")
    data = folder.load()
    assert data.fingerprint == good.fingerprint
    assert len(data.notes) == 1
    assert "not cached" in data.notes[0]


def test_a_full_disk_leaves_no_piece(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    data = folder.load()
    assert "No space left" in data.notes[0]
    assert list(folder.cache.iterdir()) == []


def test_default_folder(folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    places = {"PP_SIMVE_CACHE": tmp_path / "own", "XDG_CACHE_HOME": tmp_path / "xdg"}
    for name, place in places.items():
        monkeypatch.setenv(name, str(place))
    for name, expected in zip(places, (tmp_path / "own", tmp_path / "xdg" / "pp_simve"), strict=True):
        assert cache.default_folder() == expected
        monkeypatch.delenv(name)
    assert cache.default_folder() == tmp_path / ".cache" / "pp_simve"

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert load_data(f"folder:{folder.source}").image_shape == (3, 6, 6)  # not cached

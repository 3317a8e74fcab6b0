"""Images too large for memory: decoded into a file, once, whatever interrupts it, and the same as those in memory."""

import io
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from pp_simve.data import DataError, ImageData, decode, load, load_data, memory, pixel_file
from pp_simve.data.load import load_images
from pp_simve.inference import MappedImages
from pp_simve.run.folder import RunFolder

from .command import SMALL, interrupted_at, run
from .data_fixtures import write_classes, write_image

IMAGES = 40


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PP_SIMVE_CACHE", str(folder))
    monkeypatch.setattr(pixel_file, "BLOCK_BYTES", 8 * 3 * 36)  # eight images
    return folder


def use_memory(monkeypatch: pytest.MonkeyPatch, *, little: bool = True) -> None:
    monkeypatch.setattr(memory, "memory_at_hand", lambda: 4000 if little else 2**30)  # 40 RGB images take 4320


def both(monkeypatch: pytest.MonkeyPatch, source: str, **options: Any) -> tuple[ImageData, ImageData]:
    """The data in memory, and mapped."""
    use_memory(monkeypatch, little=False)
    resident = load_data(source, **options)
    for file in Path(os.environ["PP_SIMVE_CACHE"]).iterdir():
        file.unlink()
    use_memory(monkeypatch)
    return resident, load_data(source, **options)


def assert_same(data: ImageData, expected: ImageData) -> None:
    assert isinstance(data.images, MappedImages)
    assert data.fingerprint == expected.fingerprint
    assert data.notes == expected.notes
    for name in ("train", "validation", "test"):
        for part, values in vars(getattr(expected, name)).items():
            found = getattr(getattr(data, name), part)
            assert part == "mapped" or (found is values is None) or torch.equal(found, values)
        split = getattr(data, name)
        assert torch.equal(split.mapped.batch(torch.arange(len(split))), split.images)


def labelled(folder: Path, mode: str = "RGB") -> None:
    write_classes(folder, {"a": 20, "b": 20}, mode=mode)


def in_splits(folder: Path) -> None:
    write_classes(folder / "train", {"a": 15, "b": 10})
    write_classes(folder / "test", {"a": 10, "b": 5})  # copies of train's


def without_classes(folder: Path) -> None:
    write_classes(folder, {"": IMAGES})


def mixed(folder: Path) -> None:
    """Grey images, and one of colour that is not in the sample of headers."""
    labelled(folder, "L")
    write_image(folder / "b" / "0013.png", 99)


def bad(folder: Path) -> None:
    labelled(folder)
    (folder / "a" / "0004.png").write_bytes(b"")


FOLDERS: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "classes": (labelled, {}),
    "splits": (in_splits, {}),
    "no classes": (without_classes, {"seed": 3}),
    "resized": (labelled, {"image_size": 7, "range": "100,120"}),
    "grey and colour": (mixed, {}),
}


@pytest.mark.parametrize(("make", "options"), FOLDERS.values(), ids=FOLDERS)
def test_mapped_data_are_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], options: dict[str, Any]
) -> None:
    make(tmp_path)
    monkeypatch.setattr(decode, "SAMPLED", 2)
    resident, data = both(monkeypatch, f"folder:{tmp_path}", **options)
    assert resident.train.mapped is None
    assert_same(data, resident)
    monkeypatch.delattr(decode, "read_image")
    monkeypatch.delattr(load, "copies_note")
    assert_same(load_data(f"folder:{tmp_path}", **options), resident)


def test_files_that_cannot_be_decoded_are_left_out(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad(tmp_path)
    use_memory(monkeypatch)
    with pytest.raises(DataError, match=r"1 file of 40 cannot be decoded: .*0004.png"):
        load_data(f"folder:{tmp_path}")
    assert [file.suffix for file in cache.iterdir()] == [".lock"]
    data = load_data(f"folder:{tmp_path}", skip_bad=True)
    assert "1 file of 40 could not be decoded and left out" in data.notes[0]
    splits = (data.train, data.validation, data.test)
    assert sorted(torch.cat([split.index for split in splits]).tolist()) == [*range(4), *range(5, 40)]  # type: ignore[misc]


def test_images_to_embed_are_in_the_order_of_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled(tmp_path)
    use_memory(monkeypatch, little=False)
    expected, _ = load_images(tmp_path)
    _, positions = load_images(tmp_path, split="test")
    for file in Path(os.environ["PP_SIMVE_CACHE"]).iterdir():
        file.unlink()
    use_memory(monkeypatch)
    read, rows = load_images(tmp_path, split="test")
    assert read.mapped is not None
    assert torch.equal(read.images, expected.images)
    assert (read.files, rows.tolist()) == (expected.files, positions.tolist())


def interrupted(monkeypatch: pytest.MonkeyPatch, source: str, files: int) -> None:
    """Loads and is interrupted in a file after so many."""
    read, left = decode.read_image, iter(range(files))

    def interrupt(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return read(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(decode, "read_image", interrupt)
        with pytest.raises(KeyboardInterrupt) as stopped:
            load_data(source)
    assert "goes on from there" in stopped.value.__notes__[0]


@pytest.mark.parametrize("damage", ["", "journal", "pixels", "source"])
def test_an_interrupted_load_goes_on_after_the_last_whole_block(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    labelled(tmp_path)
    resident, _ = both(monkeypatch, f"folder:{tmp_path}")
    for file in cache.iterdir():
        file.unlink()
    interrupted(monkeypatch, f"folder:{tmp_path}", 20)
    assert not list(cache.glob("*.safetensors"))  # nothing that would be used
    (journal,), (pixels,) = cache.glob("*.journal"), cache.glob("*.pixels")
    if damage == "journal":
        journal.write_text(journal.read_text()[:-1])
    elif damage == "pixels":
        pixels.write_bytes(b"half")
    elif damage == "source":
        os.utime(tmp_path / "a" / "0000.png", ns=(1, 1))
    else:
        pixels.write_bytes(pixels.read_bytes() + b"of a block that was not whole")
    decoded: list[str] = []
    read = decode.read_image
    monkeypatch.setattr(decode, "read_image", lambda path, reading: decoded.append(path) or read(path, reading))
    assert_same(load_data(f"folder:{tmp_path}"), resident)
    assert len(decoded) == (IMAGES if damage else IMAGES - 16)
    assert sorted(file.suffix for file in cache.iterdir()) == [".lock", ".pixels", ".safetensors"]


@pytest.mark.parametrize("damage", ["truncated", "other bytes", "missing", "source"])
def test_a_damaged_file_is_rebuilt(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    labelled(tmp_path)
    resident, _ = both(monkeypatch, f"folder:{tmp_path}")
    (pixels,) = cache.glob("*.pixels")
    if damage == "truncated":
        os.truncate(pixels, 1000)
    elif damage == "other bytes":
        pixels.write_bytes(bytes(pixels.stat().st_size))
    elif damage == "missing":
        pixels.unlink()
    else:
        os.utime(tmp_path / "a" / "0000.png", ns=(1, 1))
    data = load_data(f"folder:{tmp_path}")
    assert data.fingerprint == resident.fingerprint
    assert re.search(r"cache rebuilt: (.*\.pixels changed|the source files changed)", data.notes[0])
    assert load_data(f"folder:{tmp_path}").notes == ()


def test_one_process_decodes_and_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled(tmp_path)
    use_memory(monkeypatch)
    decoded: list[str] = []
    read = decode.read_image
    monkeypatch.setattr(decode, "read_image", lambda path, reading: decoded.append(path) or read(path, reading))
    with ThreadPoolExecutor(3) as pool:
        found = [*pool.map(lambda _: load_data(f"folder:{tmp_path}").fingerprint, range(3))]
    assert len(set(found)) == 1
    assert len(decoded) == IMAGES


def test_a_cache_without_room_is_an_error(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled(tmp_path)
    use_memory(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(load.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
        with pytest.raises(DataError, match=r"memory, and .*0.0 GiB are free.*PP_SIMVE_CACHE"):
            load_data(f"folder:{tmp_path}")
    (cache / "file").touch()
    monkeypatch.setenv("PP_SIMVE_CACHE", str(cache / "file"))
    with pytest.raises(DataError, match=r"cannot be used .*PP_SIMVE_CACHE"):
        load_data(f"folder:{tmp_path}")


@pytest.mark.parametrize("little", [False, True])
def test_a_terminal_shows_what_is_decoded_and_quiet_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, little: bool
) -> None:
    labelled(tmp_path)
    use_memory(monkeypatch, little=little)
    for options, words in (({"seed": 1}, "40/40"), ({"seed": 1}, ""), ({"image_size": 5, "progress": False}, "")):
        shown = io.StringIO()
        made = partial(Console, file=shown, force_terminal=True, width=400)
        monkeypatch.setattr(load, "Console", lambda *, stderr, quiet, made=made: made(quiet=quiet))
        load_data(f"folder:{tmp_path}", **options)  # type: ignore[arg-type]
        assert (words in shown.getvalue()) if words else not shown.getvalue()


def test_a_fit_to_mapped_data_is_that_to_data_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "images", {"a": 60, "b": 60})
    settings = (*SMALL, "--data", f"folder:{tmp_path / 'images'}", "--evaluate", "none", "--quiet")
    assert run(*settings, "--out", str(tmp_path / "resident")) == 0
    use_memory(monkeypatch)
    with monkeypatch.context() as patched:
        interrupted_at(patched, 5)
        assert run(*settings, "--out", str(tmp_path / "mapped")) == 130
    assert run("--resume", str(tmp_path / "mapped"), "--quiet") == 0
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("resident", "mapped")]
    assert metrics[0] == metrics[1]
    assert len({RunFolder(tmp_path / name).read_config().fingerprint for name in ("resident", "mapped")}) == 1


def test_halves_of_mapped_data_are_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "images", {"a": 60, "b": 60})
    use_memory(monkeypatch)
    options = ("--data", f"folder:{tmp_path / 'images'}", "--modalities", "halves", "--evaluate", "none", "--quiet")
    assert run(*SMALL, *options, "--out", str(tmp_path / "run")) == 0

"""Files that are written whole or not at all, and validated when read."""

from __future__ import annotations

import errno
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from pp_simve.inference import CheckpointError, CheckpointFile
from pp_simve.inference.tools import write_whole

STATE: dict[str, Any] = {"weights": torch.arange(300.0), "nested": [{"steps": 3, "name": "a"}], "none": None}


@pytest.fixture
def file(tmp_path: Path) -> CheckpointFile:
    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt")
    checkpoint.save(STATE)
    return checkpoint


def names(file: CheckpointFile) -> list[str]:
    return sorted(path.name for path in file.path.parent.iterdir())


class FullDisk(io.BytesIO):
    """Takes a few bytes, then reports that the disk is full, as a buffered file does."""

    def write(self, data: Any) -> int:
        super().write(bytes(data)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_was_saved_is_loaded(file: CheckpointFile) -> None:
    assert file.exists()
    state = file.load()
    assert torch.equal(state["weights"], STATE["weights"])
    assert state["nested"] == STATE["nested"]
    assert names(file) == ["checkpoint.pt"]


def test_a_later_save_replaces_an_earlier_one(file: CheckpointFile) -> None:
    file.save({"steps": 4})
    assert file.load() == {"steps": 4}
    assert names(file) == ["checkpoint.pt"]


FULL = OSError(errno.ENOSPC, "No space left on device")
ERRORS = {
    "writing": FULL,
    "flushing": FULL,
    "flushing, interrupted": KeyboardInterrupt(),
    "renaming": PermissionError(errno.EACCES, "Permission denied"),
}


@pytest.mark.parametrize("place", ERRORS)
def test_an_error_leaves_the_old_file_and_no_other(
    file: CheckpointFile, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    before, error, real_open = file.path.read_bytes(), ERRORS[place], Path.open

    def fail(*_: Any) -> None:
        raise error

    def open_full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode:
            real_open(path, mode).close()  # the name is taken before the space runs out
            return FullDisk()
        return real_open(path, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        if place == "writing":
            patch.setattr(Path, "open", open_full)
        elif place == "renaming":
            patch.setattr(Path, "replace", fail)
        else:
            patch.setattr(os, "fsync", fail)
        with pytest.raises(type(error)):
            file.save({"steps": 4})
    assert file.path.read_bytes() == before
    assert names(file) == ["checkpoint.pt"]


def test_the_bytes_are_on_the_disk_before_they_get_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), real_fsync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda *paths: (events.append("rename"), real_replace(*paths))[1])
    write_whole(tmp_path / "file", b"data")
    assert events == ["fsync", "rename"]
    assert (tmp_path / "file").read_bytes() == b"data"


def test_a_missing_folder_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        CheckpointFile(tmp_path / "nowhere" / "checkpoint.pt").save(STATE)


def test_a_missing_file_does_not_exist_and_cannot_be_loaded(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoint.pt")
    assert not file.exists()
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read as a checkpoint .*start a new fit"):
        file.load()


JUNK = torch.randint(0, 256, (2000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize(
    "content",
    [*(bytes(JUNK[:size]) for size in (10, 2000)), b"hello\n", b"{}", b"\x80\x04.", b"PK\x03\x04", b"\n" * 100],
    ids=lambda content: repr(content[:6]),
)
def test_a_file_of_anything_else_is_refused(file: CheckpointFile, content: bytes) -> None:
    file.path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        file.load()


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(file: CheckpointFile, fraction: float) -> None:
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        file.load()


class Malicious:
    """Would create a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("through_torch", [True, False])
def test_code_inside_a_file_is_not_run(file: CheckpointFile, through_torch: bool) -> None:
    trap = file.path.with_name("sprung")
    content = {"a": Malicious(trap)}
    if through_torch:
        torch.save(content, file.path)
    else:
        file.path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        file.load()
    assert not trap.exists()


def test_a_tensor_alone_is_no_checkpoint(file: CheckpointFile) -> None:
    torch.save(torch.ones(3), file.path)
    with pytest.raises(CheckpointError, match="holds a Tensor and no checkpoint"):
        file.load()

"""Runs and their data are found again: from other directories, in other places, under names that are not valid text."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pp_simve import diagnose, evaluate, fit
from pp_simve.errors import ConfigError
from pp_simve.run.files import read_json
from pp_simve.run.folder import RunFolder, load_run
from pp_simve.run.output import lenient_output

from .command import SMALL, interrupted_at, run, write_npz
from .data_fixtures import write_classes

pytestmark = pytest.mark.usefixtures("evaluated_quickly")

Refused = Callable[..., str]
FEW = ("--images", "8", "--draws", "20", "--simulations", "20", "--device", "cpu", "--quiet")


@pytest.fixture
def of_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of images in an npz file beside it, stopped at step 4."""
    write_npz(folder / "images.npz", (60, 16, 16))
    with monkeypatch.context() as patched:
        interrupted_at(patched, step=4)
        assert run(*SMALL, "--data", "npz:images.npz", "--out", "run", "--quiet") == 130
    return folder / "run"


def test_a_run_is_resumed_and_evaluated_from_another_directory(
    of_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (of_images.parent / "below").mkdir()
    monkeypatch.chdir("below")
    assert run("--resume", str(of_images), "--quiet") == 0
    assert diagnose.main([str(of_images), *FEW]) == 0


def test_data_that_have_moved_are_named(of_images: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move("images.npz", "moved.npz")
    assert "images.npz" in refused("--resume", "run")
    write_npz(of_images.parent / "other.npz", (61, 16, 16))
    words = "are not those run was started with; say where those are (--data, --data-root), or start a new run"
    assert words in refused("--resume", "run", "--data", "npz:other.npz")
    assert run("--resume", "run", "--data", "npz:moved.npz", "--quiet") == 0
    assert diagnose.main(["run", "--data", "npz:moved.npz", *FEW]) == 0
    assert diagnose.main(["run", "--data", "npz:other.npz", *FEW]) == 2
    monkeypatch.setattr("pp_simve.commands.run_evaluate.evaluate_run", lambda *_: [])
    assert evaluate.main(["run", "--data", "npz:moved.npz", "--quiet"]) == 0


def test_a_run_of_a_gpu_is_not_resumed_without_one(
    stopped_run: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = RunFolder(stopped_run).checkpoint
    state = checkpoint.load()
    state["random"][0]["cuda"] = torch.zeros(16, dtype=torch.uint8)
    checkpoint.save(state)
    assert "it ran on cuda, whose random numbers this fit on cpu cannot go on with" in refused(
        "--resume", str(stopped_run)
    )
    entries = read_json(stopped_run / "config.json")
    entries["config"]["device"] = "cuda"
    monkeypatch.setattr(RunFolder, "_entries", lambda self: entries)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = refused("--resume", str(stopped_run))
    assert "was fitted on a GPU, and no CUDA device is visible" in message
    assert "resume it where there is one, or start a new run" in message
    assert "--device" not in message


def test_fits_of_the_same_second_have_folders_of_their_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    for _ in range(2):
        assert run(*SMALL, "--quiet") == 0
    with RunFolder(folder / "runs" / "digits-simve-20260101-000000").writing(new=True, apart=True) as third:
        assert third.path.name == "digits-simve-20260101-000000-3"
    assert sorted(path.name for path in (folder / "runs").iterdir()) == [
        "digits-simve-20260101-000000",
        "digits-simve-20260101-000000-2",
    ]


def test_a_run_folder_may_be_a_text(finished_run: Path) -> None:
    assert RunFolder(str(finished_run)).read_config() == RunFolder(finished_run).read_config()  # type: ignore[arg-type]
    assert load_run(str(finished_run)) is not None


def test_the_shape_of_other_data_is_refused(finished_run: Path, folder: Path) -> None:
    path = Path(shutil.copytree(finished_run, folder / "run"))
    entries = read_json(path / "config.json")
    entries["data_shape"]["images"] += 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunFolder, "_entries", lambda self: entries)
        assert diagnose.main([str(path), *FEW]) == 2


@pytest.mark.parametrize("name", [b"caf\xe9", b"tab\tbell\a", "ж".encode()], ids=["latin-1", "control", "utf-8"])
def test_names_that_are_no_text_can_be_classes_and_runs(folder: Path, name: bytes) -> None:
    write_classes(folder / "pictures", {"a": 30, "b": 30})
    (folder / "pictures" / "b").rename(folder / "pictures" / os.fsdecode(name))
    out = os.fsdecode(b"run-" + name)
    assert run(*SMALL, "--batch-size", "16", "--data", "folder:pictures", "--out", out, "--quiet") == 0
    assert diagnose.main([out, *FEW]) == 0
    (folder / out / "report.html").read_text()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_the_letters_gets_others(finished_run: Path, encoding: str) -> None:
    script = (
        "import sys; from rich.console import Console; from pp_simve.run.output import lenient_output\n"
        "with lenient_output():\n"
        "    Console().print('0.5 ± 0.1 – β ж \\udce9')\n"
        "    print('–', file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=True)
    shown = done.stdout.decode(encoding)
    assert shown.replace("±", "+/-").replace("–", "-") == "0.5 +/- 0.1 - \\u03b2 \\u0436 \\udce9\n"
    assert done.stderr.decode(encoding).strip() in "–-"


def test_a_reader_that_goes_away_ends_nothing(folder: Path) -> None:
    """As in ``python -m pp_simve.fit | head -1``."""
    script = (
        "import sys, pathlib; from pp_simve.run.output import lenient_output\n"
        "with lenient_output():\n"
        "    sys.stdin.readline()\n"
        "    for _ in range(100): print('line', flush=True)\n"
        "    pathlib.Path('whole').touch()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:  # type: ignore[call-overload]
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait() == 0
        assert process.stderr.read() == b""
    assert (folder / "whole").exists()


def test_streams_that_were_closed_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with lenient_output():
        print("nowhere")
    assert fit.main(["--steps", "0"]) == 2


def test_no_run_at_all_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is no run folder"), RunFolder(folder).writing():
        pass

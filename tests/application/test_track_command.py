"""--track: a run logs each step once, to files and to the trackers given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pp_simve.inference.loop import Loop

from .command import SMALL, STEPS, interrupted_at, run

OWN = """
import json

from pp_simve.run.tracking import Tracker


class Diary(Tracker):
    def __init__(self, folder, name="diary"):
        self.path = folder.parent / f"{name}.jsonl"

    def write(self, *entry):
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\\n")

    def start(self, config, steps):
        self.write("start", config["data"], steps)

    def log(self, rows):
        self.write("log", [row["step"] for row in rows])

    def finish(self, results):
        self.write("finish", sorted(results)[:1])
"""


@pytest.fixture
def diary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracker of one's own, which writes beside the run's folder."""
    (folder / "diaries.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    return "diaries:Diary"


def entries(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_stopped_run_is_finished_without_results_and_starts_again(
    folder: Path, diary: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupted_at(patch, step=4)
        assert run(*SMALL, "--out", "run", "--track", diary) == 130
    assert entries(folder / "diary.jsonl") == [["start", "digits", 0], ["log", [1, 2, 3, 4]], ["finish", []]]
    assert "--resume run --trust-parts" in " ".join(capsys.readouterr().out.split())
    again = ("--resume", "run", "--track", f"{diary}(name='other')")
    assert run(*again) == 2
    assert "diaries:Diary. Importing a module runs its code" in capsys.readouterr().err
    assert run(*again, "--trust-parts") == 0  # told both: the tracker of the run, and another
    assert "run: importing diaries:Diary (--trust-parts)" in capsys.readouterr().out
    assert entries(folder / "diary.jsonl")[3] == ["start", "digits", 4]
    assert entries(folder / "other.jsonl")[0] == ["start", "digits", 4]
    assert entries(folder / "other.jsonl")[-1] == ["finish", ["batch_size"]]
    assert entries(folder / "diary.jsonl")[3:] == entries(folder / "other.jsonl")
    logged = [step for entry in entries(folder / "other.jsonl")[1:-1] for step in entry[1]]
    assert logged == list(range(5, STEPS + 1))


def test_a_failed_run_is_finished_without_results(folder: Path, diary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(loop: Loop) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Loop, "step", full)
    assert run(*SMALL, "--out", "run", "--track", diary) == 2
    assert entries(folder / "diary.jsonl") == [["start", "digits", 0], ["finish", []]]
    assert not (folder / "run").exists()

"""One process writes to a run folder at a time; leftovers of killed processes do not block the next."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pp_simve import diagnose, evaluate, fit
from pp_simve.errors import ConfigError
from pp_simve.run import lock
from pp_simve.run.folder import RunFolder

from .command import SMALL, run
from .test_resume import WHOLE

pytestmark = pytest.mark.usefixtures("evaluated_quickly")

Main = Callable[[Sequence[str]], int]


def assert_equal_fits(one: Path, other: Path) -> None:
    for name in WHOLE:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture
def fitted(finished_run: Path, folder: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished_run, folder / "run"))


@pytest.mark.parametrize(
    ("main", "flags"), [(fit.main, ["--resume"]), (evaluate.main, []), (diagnose.main, [])], ids=["fit", "ev", "di"]
)
def test_a_second_writer_is_refused(
    fitted: Path, capsys: pytest.CaptureFixture[str], main: Main, flags: list[str]
) -> None:
    before = {path: path.read_bytes() for path in fitted.rglob("*") if path.is_file()}
    with RunFolder(fitted).writing():
        assert main([*flags, str(fitted)]) == 2
    message = capsys.readouterr().err
    assert f"run is being written by process {os.getpid()} on " in message
    assert " since 20" in message
    assert "wait until it ends, or stop it" in message
    assert {path: path.read_bytes() for path in fitted.rglob("*") if path.is_file()} == before


def test_a_second_fit_into_a_new_folder_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder(folder / "run").writing(new=True):
        assert run(*SMALL, "--out", "run") == 2
        assert "run is being written by process" in capsys.readouterr().err
        assert [path.name for path in (folder / "run").iterdir()] == [lock.LOCK]
    assert list(folder.iterdir()) == [], "a folder that nothing was written to is gone"


def test_a_killed_writer_is_none(stopped_run: Path, finished_run: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from pp_simve.run.lock import locked\n"
        f"with locked(Path({str(stopped_run)!r})):\n"
        "    print('locked', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError, match=f"is being written by process {writer.pid} on"):
            RunFolder(stopped_run).writing().__enter__()
        writer.kill()
    assert (stopped_run / lock.LOCK).exists()
    assert run("--resume", str(stopped_run)) == 0
    assert_equal_fits(stopped_run, finished_run)
    assert not (stopped_run / lock.LOCK).exists()


def test_what_a_killed_process_left_is_removed(
    folder: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while it wrote config.json, and while it wrote others."""
    (folder / "run").mkdir()
    left = [folder / "run" / name for name in (".config.json.123", ".lock")]
    for path in left:
        path.write_text('{"conf')
    assert run("--resume", "run") == 2
    assert "run is no run folder: it has no config.json; --out run starts a run there" in capsys.readouterr().err
    assert run(*SMALL, "--out", "run", "--quiet") == 0
    assert_equal_fits(folder / "run", finished_run)
    names = (".posterior.nc.99", ".model.safetensors.99", "figures/.loss.png.99")
    for name in names:
        (folder / "run" / name).write_text("half")
    (folder / "run" / ".mine.99").write_text("no file of a run")
    assert run("--resume", "run", "--quiet") == 0
    assert [path.name for path in (folder / "run").rglob(".*")] == [".mine.99"]


def test_steps_that_two_writers_logged_are_there_once(stopped_run: Path, finished_run: Path) -> None:
    file = stopped_run / "metrics.jsonl"
    first, second, *rest = file.read_text().splitlines(keepends=True)
    file.write_text("".join([first, second, first, second, *rest, *rest]))
    assert [row["step"] for row in RunFolder(stopped_run).read_metrics()] == [1, 2, 3, 4]
    assert run("--resume", str(stopped_run), "--quiet") == 0
    assert_equal_fits(stopped_run, finished_run)


@pytest.mark.parametrize("damage", [b"\xff", b"}{", b"[" * 50_000, b'"step": NaN,', b"0"])
def test_damaged_lines_of_metrics_are_left_out(
    stopped_run: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    file = stopped_run / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:20] + damage + lines[1][20:]
    file.write_bytes(b"".join(lines))
    assert [row["step"] for row in RunFolder(stopped_run).read_metrics()] == [1, 3, 4]
    assert "metrics.jsonl: 1 of 4 lines are damaged and left out" in caplog.text
    if damage == b"\xff":
        assert run("--resume", str(stopped_run), "--quiet") == 0
        assert [row["step"] for row in RunFolder(stopped_run).read_metrics()] == [1, *range(3, 11)]


def test_a_changed_number_is_a_damaged_line(stopped_run: Path) -> None:
    file = stopped_run / "metrics.jsonl"
    one, *others = file.read_text().splitlines(keepends=True)
    row = json.loads(one) | {"loss": 1.0}
    file.write_text("".join([json.dumps(row) + "\n", *others]))
    assert [row["step"] for row in RunFolder(stopped_run).read_metrics()] == [2, 3, 4]


@pytest.mark.parametrize("main", [evaluate.main, diagnose.main])
@pytest.mark.parametrize("fault", ["read-only", "a folder in the way", "a damaged report"])
def test_what_cannot_be_written_is_found_before_the_work(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], main: Main, fault: str
) -> None:
    monkeypatch.setattr("pp_simve.run.folder.load_data", lambda *_, **__: pytest.fail("loaded the data"))
    if fault == "read-only":

        def denied(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pp_simve.run.lock.os.open", denied)
        words = "run cannot be written to (Permission denied); make it writable, or copy the run elsewhere"
    elif fault == "a folder in the way":
        (fitted / "report.html").unlink()
        (fitted / "report.html").mkdir()
        words = "report.html is a folder, expected a file; remove it"
    else:
        (fitted / "figures" / "loss.png").write_bytes(b"no picture")
        words = "loss.png is damaged"
    assert main([str(fitted)]) == 2
    assert words in capsys.readouterr().err


CHILD = (
    "import os, signal, sys, time; from pathlib import Path\n"
    "signal.signal(signal.SIGTERM, lambda *_: (Path('ended').touch(), sys.exit()))\n"
    "Path('started').touch()\n"
    "for _ in range(600): time.sleep(0.05)"
)
PARENT = "import sys; from pp_simve.run.subprocesses import carry_out\n"
PARENTS = {
    "of its own": PARENT + f"carry_out({{'a': [sys.executable, '-c', {CHILD!r}]}}, 1, print)",
    "forked": PARENT + "carry_out({'a': [sys.executable, '-m', 'child']}, 1, print, ['json'])",
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of the end of its parent")
@pytest.mark.parametrize("program", PARENTS)
def test_the_fits_of_a_comparison_end_with_it(folder: Path, program: str) -> None:
    (folder / "child.py").write_text("def main(arguments):\n" + textwrap.indent(CHILD, "    "))

    def wait_for(name: str) -> None:
        for _ in range(600):
            if (folder / name).exists():
                return
            time.sleep(0.05)
        pytest.fail(f"not {name}")

    with subprocess.Popen([sys.executable, "-c", PARENTS[program]], stdout=subprocess.DEVNULL) as parent:
        wait_for("started")
        parent.send_signal(signal.SIGKILL)
    wait_for("ended")

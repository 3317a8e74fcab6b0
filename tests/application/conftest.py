"""Runs of the command line that several tests look at."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from pp_simve.evaluation import Effort

from .command import SMALL, interrupted_at, run


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a cache of decoded images elsewhere."""
    monkeypatch.setenv("PP_SIMVE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def evaluated_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits are evaluated on few views, where the scores are not looked at."""
    monkeypatch.setattr("pp_simve.run.scores.QUICK", Effort(min_views=100))


@dataclass(frozen=True)
class Ended:
    """A run of the command that has ended: its folder, and what it printed."""

    path: Path
    out: str
    err: str


def _ended(path: Path, code: int) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert run(*SMALL, "--out", str(path)) == code
    return Ended(path, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A run of ten steps on the digits, evaluated. Its folder is shared: do not change it."""
    return _ended(tmp_path_factory.mktemp("finished") / "run", 0)


@pytest.fixture(scope="session")
def finished_run(finished: Ended) -> Path:
    """The folder of that run."""
    return finished.path


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The same run, stopped by Ctrl-C at step 4. Its folder is shared: do not change it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        interrupted_at(monkeypatch, step=4)
        return _ended(tmp_path_factory.mktemp("stopped") / "run", 130)


@pytest.fixture
def stopped_run(stopped: Ended, folder: Path) -> Path:
    """A copy of the stopped run's folder."""
    return Path(shutil.copytree(stopped.path, folder / "stopped"))


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with code 2, a message and no new or changed file; the message on one line."""

    def check(*arguments: str) -> str:
        capsys.readouterr()
        before = {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}
        assert run(*arguments) == 2
        after = {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}
        assert after.keys() == before.keys()
        assert after == before
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return " ".join(word for word in message.split() if word.strip("╭─╮│╰╯"))

    return check

"""Runs of the command line that several tests look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten steps on the digits, judged. Look, but do not touch."""
    path = tmp_path_factory.mktemp("finished") / "run"
    assert run(*SMALL, "--out", str(path)) == 0
    return path


@pytest.fixture(scope="session")
def _stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        interrupted_at(monkeypatch, step=4)
        assert run(*SMALL, "--out", str(path)) == 130
    return path


@pytest.fixture
def stopped_run(_stopped_run: Path, folder: Path) -> Path:
    """The same run, stopped by Ctrl-C at step 4: a copy of one's own."""
    return Path(shutil.copytree(_stopped_run, folder / "stopped"))


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

"""`RunFolder`: files whole or not at all, and folders that cannot be read."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pp_simve.data import DataShape
from pp_simve.errors import ConfigError
from pp_simve.run import folder as run_folder
from pp_simve.run.config import FitConfig
from pp_simve.run.files import read_json
from pp_simve.run.folder import RunFolder, load_run, source_commit

SETTINGS = FitConfig(steps=3).resolve(DataShape((1, 8, 8)))


def created(path: Path) -> RunFolder:
    folder = RunFolder(path)
    with folder.writing(new=True):
        folder.create(SETTINGS, DataShape((1, 8, 8)), "fingerprint")
    return folder


def test_settings_come_back(tmp_path: Path) -> None:
    folder = created(tmp_path / "run")
    assert folder.read_config() == (SETTINGS, "fingerprint", DataShape((1, 8, 8)))


def test_discard_removes_what_was_made_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for where in ("a/b/run", "."):
        folder = RunFolder(Path(where))
        with folder.writing(new=True):
            folder.create(SETTINGS, DataShape((1, 8, 8)), "fingerprint")
            folder.discard()
        assert list(tmp_path.iterdir()) == []
    first, second = RunFolder(tmp_path / "runs" / "one"), RunFolder(tmp_path / "runs" / "two")
    with first.writing(new=True):
        first.create(SETTINGS, DataShape((1, 8, 8)), "fingerprint")
        with second.writing(new=True):
            second.create(SETTINGS, DataShape((1, 8, 8)), "fingerprint")
            second.checkpoint.save({"steps": 1})
            second.discard()  # it has a checkpoint
        first.discard()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["two"]
    assert second.read_config().settings == SETTINGS


def test_half_a_line_is_no_step(tmp_path: Path) -> None:
    folder = created(tmp_path / "run")
    assert folder.read_metrics() == []
    (folder.path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert folder.read_metrics() == [{"step": 1, "loss": 2.0}]


def test_nan_becomes_null(tmp_path: Path) -> None:
    folder = created(tmp_path / "run")
    folder.write_results({"content": {"linear": math.nan, "knn": 0.5}, "bound": {"loss": -math.inf}, "note": None})
    entries = read_json(folder.path / "results.json")
    assert entries == {"content": {"linear": None, "knn": 0.5}, "bound": {"loss": None}, "note": None}


def test_a_figure_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = created(tmp_path / "run")
    folder.write_figure("loss", Figure())
    before = (folder.path / "figures" / "loss.png").read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError("no space")

    monkeypatch.setattr(run_folder, "write_whole", full)
    with pytest.raises(OSError, match="no space"):
        folder.write_figure("loss", Figure(figsize=(1, 1)))
    assert [path.read_bytes() for path in (folder.path / "figures").iterdir()] == [before]


def test_an_unfinished_run_has_no_program(tmp_path: Path) -> None:
    folder = created(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"it has no model\.safetensors; go on with python -m pp_simve\.fit --resume"):
        load_run(folder.path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "of another program"])
def test_damaged_weights_are_refused(finished_run: Path, tmp_path: Path, damage: str) -> None:
    path = Path(shutil.copytree(finished_run, tmp_path / "run"))
    weights = path / "model.safetensors"
    if damage == "of another program":
        entries = read_json(path / "config.json")
        entries["config"]["latent_dim"] = 9
        (path / "config.json").write_text(json.dumps(entries))
    else:
        weights.write_bytes(weights.read_bytes()[:1000] if damage == "truncated" else b"")
    with pytest.raises(ConfigError, match=r"model\.safetensors cannot be loaded .* the run folder is damaged"):
        load_run(path)


def test_the_commit_is_short_or_unknown() -> None:
    commit = source_commit()
    assert commit is None or set(commit.removesuffix("+")) <= set("0123456789abcdef")


def test_the_commit_is_unknown_in_somebody_elses_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "pp_simve"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "theirs.py").touch()
    identity = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    for arguments in (("init", "-q"), ("add", "theirs.py"), (*identity, "commit", "-qm", "theirs")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    monkeypatch.setattr("pp_simve.__file__", str(package / "__init__.py"))
    assert source_commit() is None
    subprocess.run(["git", "add", str(package)], cwd=tmp_path, check=True)
    assert source_commit() is not None

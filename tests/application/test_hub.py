"""Runs on the Hugging Face Hub, against a stand-in for its client."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pp_simve import embed, export, load_run
from pp_simve.errors import ConfigError
from pp_simve.run.files import read_json

from .command import results

REPOSITORY = "someone/digits"


class FakeHub(SimpleNamespace):
    """The calls of huggingface_hub that are used, on a folder; each with its arguments."""

    def __init__(self, root: Path) -> None:
        super().__init__(root=root, calls=[], HfApi=self.api)

    def api(self, token: str | None = None) -> FakeHub:
        self.calls.append(("HfApi", (), {"token": token}))
        return self

    def create_repo(self, *arguments: Any, **options: Any) -> None:
        self.calls.append(("create_repo", arguments, options))

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload_folder", (), options))
        shutil.copytree(options["folder_path"], self.root / options["repo_id"], dirs_exist_ok=True)

    def snapshot_download(self, *arguments: Any, **options: Any) -> str:
        self.calls.append(("snapshot_download", arguments, options))
        if not (self.root / arguments[0]).is_dir():
            raise OSError("404 Client Error.\nRepository Not Found")
        return str(self.root / arguments[0])


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(folder / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)  # type: ignore[arg-type]
    return fake


def test_a_run_is_pushed_and_loaded(hub: FakeHub, finished_run: Path, folder: Path) -> None:
    run = load_run(finished_run)
    assert run.push_to_hub(REPOSITORY, private=True) == f"hub:{REPOSITORY}"
    pushed = folder / "hub" / REPOSITORY
    assert {path.name for path in pushed.iterdir()} == {"README.md", "config.json", "model.safetensors", "results.json"}
    assert str(Path.cwd()) not in (pushed / "config.json").read_text() + (pushed / "README.md").read_text()
    assert ("create_repo", (REPOSITORY,), {"private": True, "exist_ok": True}) in hub.calls
    images = torch.rand(3, 1, 16, 16)
    np.testing.assert_array_equal(load_run(f"hub:{REPOSITORY}").embed(images)["content"], run.embed(images)["content"])
    assert embed.main([f"hub:{REPOSITORY}", "--out", "f.npy", "--split", "test", "--device", "cpu"]) == 0
    assert export.main([f"hub:{REPOSITORY}", "--to", "safetensors"]) == 0
    assert (folder / "encoder.safetensors").is_file()  # here, not in the cache of the hub
    load_run(f"hub:{REPOSITORY}@v1")
    assert hub.calls[-1][2]["revision"] == "v1"


def test_the_model_card_has_the_numbers_of_the_run(hub: FakeHub, finished_run: Path, folder: Path) -> None:
    load_run(finished_run).push_to_hub(REPOSITORY)
    card = (folder / "hub" / REPOSITORY / "README.md").read_text()
    assert f"| class, linear probe of content (accuracy) | {results(finished_run)['content']['linear']:.3f} |" in card
    assert "`simve` fitted to `digits`, images of 1×16×16" in card
    assert f'load_run("hub:{REPOSITORY}")' in card


def test_paths_of_this_machine_stay_here(hub: FakeHub, finished_run: Path, folder: Path) -> None:
    run = Path(shutil.copytree(finished_run, folder / "run"))
    entries = json.loads((run / "config.json").read_text())
    entries.pop(next(name for name in entries if name not in read_json(run / "config.json")))  # the checksum
    entries["config"] |= {"data": "folder:/home/someone/photos", "init": "/home/someone/runs/first"}
    (run / "config.json").write_text(json.dumps(entries))
    load_run(run).push_to_hub(REPOSITORY)
    config = read_json(folder / "hub" / REPOSITORY / "config.json")["config"]
    assert (config["data"], config["init"]) == ("folder:photos", "first")
    assert "/home" not in json.dumps(config)
    assert "/home" not in (folder / "hub" / REPOSITORY / "README.md").read_text()


def test_nothing_of_a_downloaded_run_is_imported(hub: FakeHub, finished_run: Path, folder: Path) -> None:
    load_run(finished_run).push_to_hub(REPOSITORY)
    path = folder / "hub" / REPOSITORY / "config.json"
    entries = read_json(path)
    entries["config"]["prior"] = "module_of_somebody_else:Prior"
    path.write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match="names classes that would be imported: module_of_somebody_else:Prior"):
        load_run(f"hub:{REPOSITORY}")
    assert "module_of_somebody_else" not in sys.modules


@pytest.mark.parametrize("name", ["hub:digits", "hub:someone/else", "hub:someone/else@v1"])
def test_wrong_names(hub: FakeHub, name: str) -> None:
    words = rf"{name} cannot be downloaded \(404 Client Error.\); expected hub:OWNER/NAME"
    with pytest.raises(ConfigError, match=words):
        load_run(name)


def test_an_upload_that_fails(hub: FakeHub, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError("401 Client Error: log in")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(ConfigError, match=r"could not be uploaded to someone/digits \(401 Client Error: log in\)"):
        load_run(finished_run).push_to_hub(REPOSITORY)


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'pp_simve\[hub\]'"):
        load_run("hub:someone/digits")


def test_the_calls_are_those_of_the_package(hub: FakeHub, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_run(finished_run).push_to_hub(REPOSITORY)
    load_run(f"hub:{REPOSITORY}")
    monkeypatch.undo()
    real = pytest.importorskip("huggingface_hub", reason="the extra pp_simve[hub] is not installed")
    for name, arguments, options in hub.calls:
        of = real if hasattr(real, name) and name in ("HfApi", "snapshot_download") else real.HfApi()
        inspect.signature(getattr(of, name)).bind(*arguments, **options)

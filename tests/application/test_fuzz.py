"""Seeded fuzzing of every file of a run: damaged files are refused with a message, never used silently.

``PP_SIMVE_FUZZ=3000`` tries as many mutations of each file (default: 300).
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr

from pp_simve.errors import ConfigError
from pp_simve.evaluation.posterior import storage
from pp_simve.evaluation.posterior.storage import PosteriorFileError, open_posterior
from pp_simve.inference import CheckpointError
from pp_simve.inference.sealing import SEAL
from pp_simve.report.embedding import Embedding
from pp_simve.report.page import _read, page
from pp_simve.run.comparison import _entries
from pp_simve.run.config import Settings
from pp_simve.run.files import read_json, write_json
from pp_simve.run.folder import RunFolder
from pp_simve.run.scores import read_scores

from .test_report import CHECKS, FULL, entries

TRIES = int(os.environ.get("PP_SIMVE_FUZZ", "300"))
REFUSALS = (ConfigError, CheckpointError, PosteriorFileError)


@pytest.fixture(scope="module")
def run_path(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a file of every type."""
    path = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("fuzz") / "run"))
    write_json(path / "evaluation.json", entries(*FULL))
    write_json(path / "diagnostics.json", CHECKS)
    return path


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """A flipped bit, a byte, a part that is missing, doubled, zero or exchanged, or an end that is cut off."""
    data = bytearray(whole)
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.choice((1, 2, 8, 100, 5000)))
    match chance.randrange(7):
        case 0 | 1:
            data[start] ^= 1 << chance.randrange(8)
        case 2:
            data[start] = chance.randrange(256)
        case 3:
            del data[start:end]
        case 4:
            data[start:start] = data[start:end]
        case 5:
            data[start:end] = bytes(end - start)
        case _:
            del data[start:]
    return bytes(data)


def unlike(value: Any, chance: random.Random) -> Any:
    """A JSON value with one part of it replaced, removed or added, however deep."""
    strange = (None, True, -1, 0.5, 10**30, "", "x", "\ud800", [], {}, [None], {"": 1}, [[[]]])
    if isinstance(value, dict | list) and value and chance.random() < 0.9:
        places: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        place, changed = chance.choice(places), value.copy()
        if chance.random() < 0.15:
            del changed[place]
        else:
            changed[place] = unlike(changed[place], chance)
        return changed
    return chance.choice(strange)


def page_of(path: Path) -> object:
    """What a page shows, which is rendered where the files are whole."""
    found = _read(RunFolder(path))
    page(**found | {"embedding": None, "figures": {}})
    return {name: entry for name, entry in found.items() if name not in ("embedding", "figures")}


def plain(state: Any) -> Any:
    """Tensors as lists, which compare."""
    if isinstance(state, torch.Tensor):
        return (str(state.dtype), state.nan_to_num(7.0).tolist() if state.is_floating_point() else state.tolist())
    if isinstance(state, dict):
        return {name: plain(entry) for name, entry in state.items()}
    return [plain(entry) for entry in state] if isinstance(state, list | tuple) else state


def embedding_of(path: Path) -> object:
    found = Embedding.read(path / "map.safetensors")
    return plain({**vars(found), "parameters": dict(found.parameters), "placed": dict(found.placed)})


def settings_of(path: Path) -> object:
    return RunFolder(path).read_config()


READERS: dict[str, Callable[[Path], object]] = {
    "config.json": settings_of,
    "results.json": lambda path: (read_scores(path / "results.json"), _entries(path, evaluated=False)),
    "evaluation.json": lambda path: read_scores(path / "evaluation.json"),
    "diagnostics.json": lambda path: read_json(path / "diagnostics.json"),
    "model.safetensors": lambda path: plain(RunFolder(path).read_weights()),
    "checkpoint.pt": lambda path: plain(RunFolder(path).checkpoint.load()),
    "map.safetensors": embedding_of,
}


@pytest.mark.parametrize("name", READERS)
def test_damage_is_refused_or_harmless(run_path: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "run"
    shutil.copytree(run_path, path)
    whole, expected, chance = (path / name).read_bytes(), READERS[name](path), random.Random(name)
    refused = 0
    for _ in range(TRIES):
        (path / name).write_bytes(damaged(whole, chance))
        try:
            assert READERS[name](path) == expected
        except REFUSALS as error:
            refused += name in str(error)
    assert refused > 0.9 * TRIES


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of h5netcdf, of files it cannot open
def test_a_damaged_posterior_is_refused(tmp_path: Path) -> None:
    file, chance = tmp_path / "posterior.nc", random.Random(0)
    groups = {
        name: xr.Dataset({"z": (("image", "latent"), torch.randn(40, 8).numpy())})
        for name in ("posterior", "observed_data", "constant_data")
    }
    storage.write(file, [groups], {"seed": 1})
    whole, refused = file.read_bytes(), 0
    with open_posterior(file) as tree:
        expected = tree.load()
    for _ in range(TRIES):
        file.write_bytes(damaged(whole, chance))
        try:
            with open_posterior(file) as tree:
                assert tree.load().identical(expected)
        except (*REFUSALS, OSError):  # the latter where the file has lost its checksum, by that of a chunk
            refused += 1
    assert refused > 0.9 * TRIES
    gc.collect()


def test_damaged_lines_of_metrics_are_left_out_and_others_kept(
    run_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run"
    shutil.copytree(run_path, path)
    file, chance = path / "metrics.jsonl", random.Random(0)
    whole, rows = file.read_bytes(), RunFolder(path).read_metrics()
    for _ in range(TRIES):
        file.write_bytes(damaged(whole, chance))
        assert all(row in rows for row in RunFolder(path).read_metrics())


@pytest.mark.parametrize("name", ["config.json", "results.json", "evaluation.json", "diagnostics.json"])
def test_any_json_is_shown_or_refused(run_path: Path, tmp_path: Path, name: str) -> None:
    """Without a checksum, as if edited by hand."""
    path = tmp_path / "run"
    shutil.copytree(run_path, path)
    whole, chance = json.loads((path / name).read_text()), random.Random(name)
    del whole[SEAL]
    shape = RunFolder(path).read_config().shape
    for _ in range(TRIES):
        (path / name).write_text(json.dumps(unlike(whole, chance)))
        for read in (page_of, READERS[name]) if chance.random() < 0.1 else (READERS[name],):
            try:
                found = read(path)
            except ConfigError:
                continue
            if read is settings_of:
                settings, _, _ = found  # type: ignore[misc]
                assert isinstance(settings, Settings)
                settings.as_config().resolve(shape)


@pytest.mark.parametrize("name", ["loss.png"])
def test_damaged_figures(run_path: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "run"
    shutil.copytree(run_path, path)
    file = next(iter(sorted((path / "figures").glob("*.png"))))
    whole, chance = file.read_bytes(), random.Random(name)
    for _ in range(TRIES // 10):
        file.write_bytes(damaged(whole, chance))
        try:
            page({}, figures={file.stem: file.read_bytes()})
        except ConfigError:
            continue

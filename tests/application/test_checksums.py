"""Files of a run that were changed after they were written are refused, by name; none is used without a word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pp_simve.errors import ConfigError
from pp_simve.inference import CheckpointError
from pp_simve.inference.sealing import ChecksumError, read_sealed, sealed
from pp_simve.report import write_report
from pp_simve.report.embedding import Embedding
from pp_simve.run.files import misfit, read_json, write_json
from pp_simve.run.folder import RunFolder, load_run

from .command import run


@pytest.fixture
def fitted(finished_run: Path, folder: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished_run, folder / "run"))


READERS: dict[str, Callable[[Path], object]] = {
    "config.json": lambda path: RunFolder(path).read_config(),
    "model.safetensors": load_run,
    "checkpoint.pt": lambda path: RunFolder(path).checkpoint.load(),
    "results.json": lambda path: write_report(RunFolder(path)),
    "map.safetensors": lambda path: Embedding.read(path / "map.safetensors"),
}


@pytest.mark.parametrize("name", READERS)
def test_one_flipped_bit_is_refused_by_the_name_of_the_file(fitted: Path, name: str) -> None:
    """In the middle of the file, where tensors and numbers are: none of the formats notices by itself."""
    READERS[name](fitted)
    whole = bytearray((fitted / name).read_bytes())
    place = len(whole) // 2
    if name.endswith(".json"):  # a digit for another
        place = next(place for place in range(place, len(whole)) if whole[place] in b"02468")
    whole[place] ^= 1
    (fitted / name).write_bytes(whole)
    with pytest.raises((ConfigError, CheckpointError), match=rf"{name} .*its checksum does not match"):
        READERS[name](fitted)


def test_commands_refuse_a_flipped_bit(fitted: Path, refused: Callable[..., str]) -> None:
    whole = bytearray((fitted / "checkpoint.pt").read_bytes())
    whole[len(whole) // 2] ^= 64
    (fitted / "checkpoint.pt").write_bytes(whole)
    assert "checkpoint.pt cannot be read as a checkpoint (its checksum" in refused("--resume", str(fitted))


def test_who_edits_a_file_on_purpose_takes_its_checksum_out(fitted: Path) -> None:
    file = fitted / "config.json"
    entries = json.loads(file.read_text())
    entries["commit"] = "edited"
    file.write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match=r'if you edited it on purpose, delete its entry "sha256"'):
        read_json(file)
    del entries["sha256"]
    file.write_text(json.dumps(entries))
    assert read_json(file)["commit"] == "edited"


def test_files_without_checksum_are_of_earlier_versions(fitted: Path) -> None:
    """And other programs read those of this one."""
    before = load_run(fitted).objective.state_dict()
    weights = fitted / "model.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(weights), weights)
    checkpoint = fitted / "checkpoint.pt"
    torch.save(torch.load(checkpoint, weights_only=True), checkpoint)
    (fitted / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    for name, value in load_run(fitted).objective.state_dict().items():
        assert torch.equal(value, before[name])
    assert RunFolder(fitted).checkpoint.load()["steps"] == 10
    assert len(RunFolder(fitted).read_metrics()) == 2
    assert run("--resume", str(fitted), "--quiet") == 0


@pytest.mark.parametrize("data", [b"", b"PK\0" * 100, b'{"sha256": "' + b"0" * 64 + b'", "a": 1}'])
def test_a_sealed_file_is_read_and_any_other_is_not(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "file"
    whole = bytes(sealed(data))
    file.write_bytes(whole)
    assert read_sealed(file) == whole
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        in_the_name = whole.index(b'"sha256":') <= place < whole.index(b'"sha256":') + 9
        if not in_the_name:  # without the name there is no checksum, as in earlier versions; nothing else has changed
            with pytest.raises(ChecksumError):
                read_sealed(file)


@pytest.mark.parametrize(
    ("name", "entries", "words"),
    [
        ("config.json", {"config": 3}, "config is 3, expected an object"),
        ("config.json", {"data_shape": {"image": [1, "8", 8]}}, 'data_shape.image.1 is "8", expected a whole number'),
        ("results.json", {"bound": {"loss": "x"}}, 'bound.loss is "x", expected a number or null'),
        ("results.json", {"views": True}, "views is true, expected a whole number"),
        ("results.json", {"records": {}}, "records is {}, expected a list"),
        ("evaluation.json", {"records": [1]}, "records.0 is 1, expected an object"),
        ("diagnostics.json", {"checks": [{"name": "a"}]}, "checks.0 lacks alarm, how, title, value"),
        ("diagnostics.json", {"notes": [None]}, "notes.0 is null, expected text"),
        ("results.json", [], "expected an object"),
    ],
)
def test_entries_of_the_wrong_type_are_named(tmp_path: Path, name: str, entries: object, words: str) -> None:
    (tmp_path / name).write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match="is damaged") as caught:
        read_json(tmp_path / name)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"steps": 1' + "0" * 30 + "}", '{"epochs": 1e999}', '{"seed": NaN}'])
def test_json_that_python_cannot_use_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ConfigError, match="is damaged"):
        read_json(tmp_path / "results.json")


def test_what_is_written_fits(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"epochs": float("nan"), "modalities": ("a", "b"), "of a later version": {}})
    assert read_json(tmp_path / "results.json") == {"epochs": None, "modalities": ["a", "b"], "of a later version": {}}
    assert misfit(1, float) is None
    assert misfit(1.0, int) == "it is 1.0, expected a whole number"

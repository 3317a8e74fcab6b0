"""Trackers: what they write, how a resumed run continues it, and errors for missing libraries."""

from __future__ import annotations

import json
import math
import os
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pp_simve.errors import ConfigError
from pp_simve.run.folder import RunFolder
from pp_simve.run.named_parts import make_part
from pp_simve.run.tracking import TRACKERS, JSONLines, Row, Several, TensorBoard, Tracker, WandB

CONFIG = {"data": "digits", "lr": 0.1 + 0.2, "track": ["wandb"]}
RESULTS = {
    "seed": 3,
    "knows": {"z": {"linear": 0.75, "knn": None}, "notes": {"class": "no labels"}},
    "bound": {"loss": -math.inf},
    "is_bound": True,
}


def rows(*steps: int, **more: float) -> list[dict[str, float]]:
    return [{"step": step, "loss": step / 3, "content": -1e-30 * step, **more} for step in steps]


@pytest.mark.parametrize("steps", [0, 2, 3])
def test_a_resumed_run_forgets_the_steps_it_does_again(steps: int, tmp_path: Path) -> None:
    whole, resumed = JSONLines(tmp_path), JSONLines(tmp_path)
    whole.start(CONFIG, 0)
    assert list(tmp_path.iterdir()) == [], "nothing is written before there is anything to write"
    whole.log(rows(1, 2))
    whole.log(rows(3))
    whole.finish(RESULTS)
    assert RunFolder(tmp_path).read_metrics() == rows(1, 2, 3)
    resumed.start(CONFIG, steps)
    assert RunFolder(tmp_path).read_metrics() == rows(*range(1, steps + 1))
    resumed.log(rows(*range(steps + 1, 6)))
    assert RunFolder(tmp_path).read_metrics() == rows(1, 2, 3, 4, 5)


# Libraries that need not be there


class _WandBRun:
    """Stands for what wandb.init returns."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.rows: list[tuple[dict[str, float], int]] = []
        self.summary: dict[str, Any] = {}
        self.finished: list[int] = []

    def log(self, terms: dict[str, float], step: int) -> None:
        self.rows.append((terms, step))

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)


@pytest.fixture
def wandb_runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A module that stands for wandb, and what its init made."""
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "")  # so that it is put back, whatever is set
    monkeypatch.delenv("WANDB_ERROR_REPORTING")
    runs: list[Any] = []

    def init(**arguments: Any) -> _WandBRun:
        runs.append(_WandBRun(**arguments))
        return runs[-1]

    stand_in = SimpleNamespace(init=init, Settings=dict, Error=_WandBError)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)  # type: ignore[arg-type]
    return runs


class _WandBError(Exception):
    """Stands for wandb.Error."""


def test_wandb_stays_on_this_machine_unless_asked(wandb_runs: list[Any], tmp_path: Path) -> None:
    runs = wandb_runs
    tracker = WandB(tmp_path / "mine", project="x")
    assert runs == []
    tracker.start(CONFIG, 0)
    (run,) = runs
    assert run.arguments == {
        "project": "x",
        "name": "mine",
        "group": "mine",
        "dir": str(tmp_path / "mine"),
        "mode": "offline",
        "config": CONFIG,
        "settings": {"console": "off", "silent": True},
    }
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    tracker.log(rows(1, 2))
    assert run.rows == [({"loss": 1 / 3, "content": -1e-30}, 1), ({"loss": 2 / 3, "content": -2e-30}, 2)]
    tracker.finish(RESULTS)
    assert run.summary == {"results/seed": 3, "results/knows/z/linear": 0.75}
    assert run.finished == [0]


def test_wandb_sends_and_prints_on_request(
    wandb_runs: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent = WandB(tmp_path, online=True)
    sent.start(CONFIG, 0)
    arguments = wandb_runs[-1].arguments
    assert (arguments["mode"], arguments["project"], arguments["settings"]["silent"]) == ("online", "pp_simve", False)
    assert "WANDB_ERROR_REPORTING" not in os.environ
    sent.finish({})
    assert wandb_runs[-1].finished == [1], "a run without results did not end well"

    def refuse(**arguments: Any) -> None:
        raise _WandBError("no API key")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(ConfigError, match=r"W&B did not take the run \(no API key\); `wandb login`"):
        sent.start(CONFIG, 0)


def wandb_records(path: Path) -> Iterator[Any]:
    """Records of a run that W&B keeps: a header of 7 bytes, then pieces in blocks of 32 KiB, as in LevelDB's logs."""
    from wandb.proto import wandb_internal_pb2

    data, at, record = path.read_bytes(), 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:  # no room for a piece's head: the block is filled up
            at += 32768 - at % 32768
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def test_real_wandb_keeps_the_steps_and_results_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    tracker = WandB(tmp_path)
    tracker.start(CONFIG, 0)
    tracker.log(rows(*range(1, 1001)))
    tracker.finish(RESULTS)
    assert capfd.readouterr() == ("", "")
    (kept,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    records = list(wandb_records(kept))
    history = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [{"step": row["_step"], "loss": row["loss"], "content": row["content"]} for row in history] == rows(
        *range(1, 1001)
    )
    updates = [item for record in records for item in record.summary.update]
    summary = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in updates}
    assert summary["results/knows/z/linear"] == 0.75
    assert [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"] == [0]


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_missing_library_is_an_error_that_says_what_to_install(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # which makes its import fail
    with pytest.raises(ConfigError, match=r"--track .* cannot be used .*; pip install 'pp_simve\[tracking\]'"):
        make_part("track", name, TRACKERS, Tracker, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_real_tensorboard_reads_the_steps_of_a_resumed_run_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps, done in ((0, (1, 2, 3)), (2, (3, 4))):
        tracker = TensorBoard(tmp_path)
        tracker.start(CONFIG, steps)
        tracker.log(rows(*done))
        tracker.finish(RESULTS)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3])
    assert events.Scalars("results/knows/z/linear")[-1].value == 0.75
    (text,) = events.Tensors("config/text_summary")[-1].tensor_proto.string_val
    assert json.loads(text.decode().strip("`json\n")) == CONFIG


class Told(Tracker):
    """Remembers what it is told; fails where it is to."""

    def __init__(self, told: list[Any], name: str, fails: str = "") -> None:
        self.told = told
        self.name = name
        self.fails = fails

    def _tell(self, what: str, *more: Any) -> None:
        self.told.append((self.name, what, *more))
        if what == self.fails:
            raise RuntimeError(f"{self.name} fails to {what}")

    def start(self, config: Mapping[str, Any], steps: int) -> None:
        self._tell("start", config, steps)

    def log(self, rows: Sequence[Row]) -> None:
        self._tell("log", rows)

    def finish(self, results: Mapping[str, Any]) -> None:
        self._tell("finish", results)


def test_several_run_in_order_and_those_that_started_finish_once() -> None:
    told: list[Any] = []
    several = Several([Told(told, "a"), Told(told, "b")])
    several.start(CONFIG, 2)
    several.log(rows(3))
    several.finish(RESULTS)
    several.finish(RESULTS)
    calls = [("start", CONFIG, 2), ("log", rows(3)), ("finish", RESULTS)]
    assert told == [(name, *call) for call in calls for name in ("a", "b")]


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        ("finish", ["a start", "b start", "c start", "a finish", "b finish", "c finish"]),
        ("start", ["a start", "b start", "a finish"]),
    ],
)
def test_one_that_fails_keeps_no_other_from_finishing(fails: str, expected: list[str]) -> None:
    told: list[Any] = []
    several = Several([Told(told, "a"), Told(told, "b", fails=fails), Told(told, "c")])

    def start_and_finish() -> None:
        several.start(CONFIG, 0)
        several.finish({})

    with pytest.raises(RuntimeError, match=f"b fails to {fails}"):
        start_and_finish()
    several.finish({})
    assert [" ".join(call[:2]) for call in told] == expected


class Alone:
    """A tracker that is not derived from `Tracker`."""

    def __init__(self, folder: Path, every: int = 1) -> None:
        self.folder, self.every = folder, every

    start = log = finish = lambda self, *arguments: None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pathlib:Path", r"Path is not a class derived from pp_simve\.run\.tracking\.Tracker"),
        (f"{__name__}:Alone(often=2)", "options of .*Alone: every"),
        ("tensorbord", "unknown track 'tensorbord'; did you mean 'tensorboard'"),
    ],
)
def test_own_classes_with_the_three_methods_are_trackers_and_others_are_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    made: Any = make_part("track", f"{__name__}:Alone(every=5)", TRACKERS, Tracker, tmp_path)
    assert (made.folder, made.every) == (tmp_path, 5)
    with pytest.raises(ConfigError, match=message):
        make_part("track", text, TRACKERS, Tracker, tmp_path)

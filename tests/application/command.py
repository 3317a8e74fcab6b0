"""The command `python -m pp_simve.fit`, called in this process with settings that take a second."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pp_simve import fit
from pp_simve.evaluation import Record
from pp_simve.inference.loop import Loop
from pp_simve.run.files import read_json

NETWORKS = ("--encoder", "mlp(hidden=[32])", "--decoder", "mlp(hidden=[32])", "--latent", "8")
STEPS = 10
SMALL = (*NETWORKS, "--batch-size", "32", "--steps", str(STEPS), "--device", "cpu", "--precision", "32")
"""Ten steps on the digits."""


def run(*arguments: str) -> int:
    """The exit code of a command line."""
    try:
        return fit.main(arguments)
    except SystemExit as end:  # tyro's way out
        return int(end.code or 0)


def interrupted_at(monkeypatch: pytest.MonkeyPatch, step: int, signals: Sequence[int] = (signal.SIGINT,)) -> None:
    """Sends this process signals during that step of a fit: SIGINT, as Ctrl-C does."""
    plain = Loop.step

    def step_and_interrupt(loop: Loop) -> None:
        plain(loop)
        if loop.steps == step:
            for number in signals:
                signal.raise_signal(number)

    monkeypatch.setattr(Loop, "step", step_and_interrupt)


def results(path: Path) -> dict[str, Any]:
    """results.json of a run."""
    entries: dict[str, Any] = read_json(path / "results.json")
    return entries


def records(path: Path, file: str = "results.json") -> list[Record]:
    """The score records of a run."""
    return [Record.from_json(entries) for entries in json.loads((path / file).read_text())["records"]]


def scores(path: Path) -> dict[str, Any]:
    """results.json without what differs between equal runs: times and memory."""
    differs = {"seconds_per_epoch", "seconds_evaluating", "peak_memory_mb"}
    return {name: entry for name, entry in results(path).items() if name not in differs}


def write_npz(path: Path, shape: tuple[int, ...] = (40, 16, 16), *, labelled: bool = True, **extra: Any) -> Path:
    """Noise images of that shape in an npz file, two classes by turns."""
    arrays: dict[str, Any] = {"images": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)}
    if labelled:
        arrays["labels"] = np.arange(shape[0]) % 2
    np.savez(path, **(arrays | extra))
    return path

"""Fits on two CPU processes, as torchrun starts them: one parameter set, one history, and the right gradient."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

SCRIPT = '''
import os
import sys
from pathlib import Path

import torch
from torch import nn

from pp_simve.inference import AmortizedGuide, CheckpointFile, MLPEncoder, NonFiniteError, fit
from pp_simve.inference.augmentations import Compose, RandomFlip
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

torch.set_num_threads(1)
folder, devices = Path(sys.argv[1]), int(sys.argv[2])
shape = (1, 4, 4)
images = torch.randint(0, 256, (40, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
settings = {"batch_size": 16, "steps": 7, "fetch_every": 3, "lr": 1e-2, "device": "cpu", "precision": "32"}
results = {}


def build(learned=True):
    torch.manual_seed(0)
    prior = GaussianPrior(3, learn_style=learned)
    model = SimVE(prior, Bernoulli(MLPDecoder(3, shape, hidden=(8,))))
    return model, AmortizedGuide(MLPEncoder(shape, hidden=(8,)), prior)


class Pull(nn.Module):
    """No randomness: the mean over the batch of a function of each image."""

    def __init__(self, guide):
        super().__init__()
        self.guide = guide
        self.first_views = None

    def forward(self, views):
        if self.first_views is None:
            self.first_views = views.clone()
        return {"loss": (self.guide.posterior(views).z - 1).square().mean()}


class Poisoned(nn.Module):
    """NaN at the third call, on one process only."""

    def __init__(self, guide):
        super().__init__()
        self.inner, self.calls = Pull(guide), 0

    def forward(self, views):
        self.calls += 1
        loss = self.inner(views)["loss"]
        bad = self.calls == 3 and os.environ.get("LOCAL_RANK", "0") == "1"
        return {"loss": loss * float("nan") if bad else loss}


def record(name, run):
    results[name] = {"history": run.history, "state": run.objective.state_dict(), "steps": run.steps}


still = Compose([RandomFlip(probability=0.0)], shape)
model, guide = build(learned=False)
record("pull", fit(model, guide, images, objective=Pull(guide), policy=still, devices=devices, **settings))
model, guide = build(learned=False)
halves = {"batch_size": 8, "accumulate": 2, "clip_norm": 0.1, "ema": 0.5}
common = {"objective": Pull(guide), "policy": still, "devices": devices}
record("accumulated", fit(model, guide, images, **common, **settings | halves))

if devices > 1:
    reports = []
    run = fit(*build(), images, devices=devices, monitor=lambda progress: reports.append(progress.step), **settings)
    record("whole", run)
    results["reports"] = reports

    answers = iter([False, True])
    checkpoint = CheckpointFile(folder / "checkpoint.pt")
    # The processes' clocks need not agree on when a checkpoint is due.
    minutes = 0 if os.environ.get("LOCAL_RANK", "0") == "0" else 1000
    common = {"devices": devices, "checkpoint": checkpoint, "checkpoint_minutes": minutes} | settings
    record("stopped", fit(*build(), images, should_stop=lambda: next(answers), **common))
    record("resumed", fit(*build(), images, **common))

    model, guide = build(learned=False)
    alike, objective = images[:1].repeat(16, 1, 1, 1), Pull(guide)
    fit(model, guide, alike, objective=objective, devices=devices, **settings)
    results["drawn"] = objective.first_views

    model, guide = build(learned=False)
    try:
        fit(model, guide, images, objective=Poisoned(guide), devices=devices, **settings)
    except NonFiniteError as error:
        results["error"] = [error.step, error.term]

torch.save(results, folder / f"rank{os.environ.get('LOCAL_RANK', '0')}.pt")
'''


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes saved."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    finished = subprocess.run(
        [sys.executable, *TORCHRUN, str(script), str(folder), "2"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::UserWarning"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def assert_equal_states(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert list(first["state"]) == list(second["state"])
    assert all(torch.equal(value, second["state"][name]) for name, value in first["state"].items())


@pytest.mark.parametrize("fit", ["pull", "accumulated", "whole", "stopped", "resumed"])
def test_both_processes_end_with_the_same_parameters_and_history(ranks: list[dict[str, Any]], fit: str) -> None:
    first, second = (rank[fit] for rank in ranks)
    assert_equal_states(first, second)
    assert first["history"] == second["history"]
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in first["history"])


def test_only_the_first_process_tells_the_monitor(ranks: list[dict[str, Any]]) -> None:
    assert [rank["reports"] for rank in ranks] == [[3, 6, 7], []]


def test_both_stop_where_they_meet_and_go_on_bit_for_bit(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["stopped"]["steps"] == 6
        assert rank["stopped"]["history"] + rank["resumed"]["history"] == rank["whole"]["history"]
        assert_equal_states(rank["resumed"], rank["whole"])


def test_each_process_draws_views_of_its_own(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["drawn"] for rank in ranks)
    assert first.shape == second.shape == (2, 8, 1, 4, 4)
    assert not torch.equal(first, second)


def test_a_nan_on_one_process_is_reported_by_both(ranks: list[dict[str, Any]]) -> None:
    assert [rank["error"] for rank in ranks] == [[3, "loss"]] * 2


def test_two_processes_take_the_steps_of_one_on_the_same_batches(
    ranks: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path), "1"])
    runpy.run_path(str(script))
    for fit in ("pull", "accumulated"):
        one, two = torch.load(tmp_path / "rank0.pt", weights_only=True)[fit], ranks[0][fit]
        for row, other in zip(one["history"], two["history"], strict=True):
            assert other["loss"] == pytest.approx(row["loss"], rel=1e-5)
        for name, value in one["state"].items():
            torch.testing.assert_close(two["state"][name], value, rtol=1e-4, atol=1e-5)

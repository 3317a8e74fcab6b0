"""Which processes a fit has, by what started them; and what is said where they cannot go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pp_simve.inference import FitError
from pp_simve.inference.launching import launch
from pp_simve.inference.processes import STARTER, Processes, _leave_processes, check_alone

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", STARTER)


def torchrun(rank: int, world: int, local: int) -> dict[str, str]:
    """What torchrun sets."""
    values = {"RANK": rank, "LOCAL_RANK": rank % local, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": local}
    return {name: str(value) for name, value in values.items()} | {
        "GROUP_RANK": str(rank // local),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }


def sbatch(tasks: int) -> dict[str, str]:
    """What sbatch sets in its script, which is one process however many tasks there will be."""
    return {"SLURM_NTASKS": str(tasks), "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


def srun(rank: int, tasks: int, nodes: int) -> dict[str, str]:
    """What srun sets in a step."""
    each = tasks // nodes
    places = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % each), "SLURM_NODEID": str(rank // each)}
    step = {"SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_STEP_ID": "0"}
    return sbatch(tasks) | step | places


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without variables of launchers."""
    for name in [name for name in os.environ if name in VARIABLES or name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "asked", "expected"),
    [
        ({}, {}, (1, 1, 0, "")),
        ({}, {"devices": 3}, (3, 1, 0, "")),
        ({}, {"devices": "auto", "device": "cpu"}, (1, 1, 0, "")),
        ({"NODE_RANK": "1"}, {"devices": 3, "nodes": 2}, (3, 2, 3, "")),
        ({"LOCAL_RANK": "1"}, {}, (1, 1, 0, "")),
        ({"LOCAL_RANK": "1", "NODE_RANK": "1"}, {"devices": 2}, (2, 1, 0, "")),
        ({"LOCAL_RANK": "1", STARTER: str(os.getppid())}, {"devices": 2}, (2, 1, 1, "")),
        ({"LOCAL_RANK": "0", STARTER: str(os.getppid())}, {"devices": 2}, (2, 1, 0, "")),
        ({"LOCAL_RANK": "1", STARTER: "1"}, {"devices": 2}, (2, 1, 0, "")),
        (torchrun(3, 4, 2), {}, (2, 2, 3, "torchrun")),
        (torchrun(3, 4, 2), {"devices": 2}, (2, 2, 3, "torchrun")),
        (torchrun(3, 4, 2), {"devices": 4, "nodes": 1}, (2, 2, 3, "torchrun")),
        (torchrun(0, 1, 1), {"devices": 2}, (2, 1, 0, "")),
        (torchrun(1, 2, 1) | srun(0, 2, 2), {"devices": "auto"}, (1, 2, 1, "torchrun")),
        (sbatch(4), {"devices": 1}, (1, 1, 0, "")),
        (sbatch(1), {"devices": 2}, (2, 1, 0, "")),
        (srun(0, 1, 1), {"devices": 2}, (2, 1, 0, "")),
        (srun(5, 6, 3), {}, (2, 3, 5, "srun")),
    ],
)
def test_the_processes_are_those_that_were_started(
    environment: pytest.MonkeyPatch, variables: dict[str, str], asked: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    assert Processes.of(**asked) == Processes(*expected)


@pytest.mark.parametrize(
    ("variables", "asked", "words"),
    [
        ({}, {"devices": 0}, "devices must be at least 1, got 0"),
        ({}, {"nodes": -1}, "nodes must be at least 1, got -1"),
        (torchrun(0, 2, 2), {"devices": 1}, "torchrun started 2 processes, but devices and nodes make 1; leave both"),
        (srun(0, 4, 2), {"nodes": 4}, "srun started 4 .* make 8; .* unset SLURM_STEP_NUM_TASKS if srun did not"),
        (srun(0, 3, 2), {}, r"srun started 3 processes on 2 nodes; start as many on each \(--ntasks-per-node\)"),
    ],
)
def test_other_numbers_than_were_started_are_refused(
    environment: pytest.MonkeyPatch, variables: dict[str, str], asked: dict[str, Any], words: str
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(FitError, match=words):
        Processes.of(**asked)


def test_what_uses_one_process_is_not_done_by_several(environment: pytest.MonkeyPatch) -> None:
    check_alone("evaluate")
    for name, value in torchrun(0, 2, 2).items():
        environment.setenv(name, value)
    with pytest.raises(FitError, match="evaluate uses one process; start it without torchrun"):
        check_alone("evaluate")


def test_processes_that_nobody_can_start_are_refused(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(FitError, match="2 nodes need torchrun or srun on each, or MASTER_ADDR, MASTER_PORT, NODE_RANK"):
        launch(Processes(1, 2, 0, ""), "cpu")
    environment.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.raises(FitError, match="a notebook or console does not have; use devices=1, or"):
        launch(Processes(2, 1, 0, ""), "cpu")


SCRIPT = """
import os
import sys
import time
from datetime import timedelta

import torch

from pp_simve.inference import AmortizedGuide, ELBO, FitError, MLPEncoder, fit, processes
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

lost, devices = sys.argv[1], int(sys.argv[2])
shape = (1, 4, 4)
images = torch.zeros(32, *shape, dtype=torch.uint8)
prior = GaussianPrior(3)
model = SimVE(prior, Bernoulli(MLPDecoder(3, shape, hidden=(8,))))
guide = AmortizedGuide(MLPEncoder(shape, hidden=(8,)), prior)


class Broken(ELBO):
    calls = 0

    def forward(self, views):
        self.calls += 1
        if self.calls == 3 and torch.distributed.get_rank() == 1:
            os._exit(1) if lost == "ends" else time.sleep(1000)
        return super().forward(views)


def monitor(progress):
    time.sleep(6 if lost == "hangs" else 0)


guide.left_out = torch.nn.Linear(2, 3)
settings = {"batch_size": 16, "steps": 9, "fetch_every": 5, "device": "cpu", "devices": devices or None}
for objective in (ELBO(model, guide), ELBO(model, guide), Broken(model, guide)):
    try:
        fit(model, guide, images, objective=objective, monitor=monitor, **settings)
        said = "fitted"
    except FitError as error:
        said = f"{type(error).__name__} {error}"
    os.write(1, f"{said}\\n".encode())  # whole lines, as two processes write them
    guide.left_out.requires_grad_(False)
    processes.STEP = timedelta(seconds=5)  # the first step imports much of torch, on a busy machine for longer
"""
PLACE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29000 + os.getpid() % 1000), "OMP_NUM_THREADS": "1"}


def started(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, env=os.environ | PLACE | variables, stdout=subprocess.PIPE, text=True)


def test_a_process_that_ends_and_a_parameter_without_gradient_are_named() -> None:
    both = [started("-c", SCRIPT, "ends", "0", **srun(rank, 2, 1)) for rank in range(2)]
    first, second = (process.communicate(timeout=120)[0].splitlines() for process in both)
    assert "need a gradient of every parameter, but guide.left_out.weight, guide.left_out.bias do not enter" in first[0]
    assert first[0] == second[0]
    assert first[1:2] == second[1:] == ["fitted"]
    assert first[2].startswith("ProcessError another process of this fit ended or does not answer, so this one ends")
    assert (len(first), [process.returncode for process in both]) == (3, [0, 1])


def test_a_process_that_hangs_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Before, it has waited for the monitor of the first one, which takes longer than a step may."""
    (tmp_path / "script.py").write_text(SCRIPT)
    printed = started(str(tmp_path / "script.py"), "hangs", "2").communicate(timeout=120)[0]  # until both have ended
    words = sorted(line.partition(" ")[0] for line in printed.splitlines())
    assert words == ["FitError", "FitError", "ProcessError", "fitted", "fitted"], printed


def test_the_group_of_processes_is_left_once_and_leaving_none_is_nothing(tmp_path: Path) -> None:
    _leave_processes()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    assert torch.distributed.is_initialized()
    _leave_processes()
    assert not torch.distributed.is_initialized()
    _leave_processes()

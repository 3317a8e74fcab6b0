"""Processes of a fit: which torchrun or srun started, or which a fit starts itself, and which of them this one is."""

from __future__ import annotations

import atexit
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed.distributed_c10d as groups

from pp_simve.inference.device import DeviceName
from pp_simve.inference.plan import FitError

if TYPE_CHECKING:  # it takes as long to import as torch itself
    from lightning_fabric import Fabric

Devices = int | Literal["auto"] | None

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SRUN = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
STARTER = "PP_SIMVE_STARTED_BY"
"""Variable with the id of the process that started the others of its node."""
CHILDREN: list[subprocess.Popen[bytes]] = []
"""Processes that this one started."""

STEP = timedelta(seconds=60)
"""Longest wait for other processes within a step, where all do the same work."""
PAUSE = timedelta(minutes=30)
"""Longest wait for what one process does alone: monitors, checkpoints, a user's own code between fits."""

_set_timeout = getattr(groups, "set_timeout", None) or groups._set_pg_timeout  # of earlier versions


class ProcessError(FitError):
    """Another process of the fit ended, or does not answer."""


@dataclass(frozen=True)
class Processes:
    """The processes of a fit.

    Attributes:
        local: on each node.
        nodes: machines.
        rank: which of all this is, from 0.
        launcher: what started them; empty where the fit starts those of its node.
    """

    local: int
    nodes: int
    rank: int
    launcher: Literal["", "torchrun", "srun"]

    @property
    def several(self) -> bool:
        """Whether this is not the only one."""
        return self.local * self.nodes > 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and reports."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Images of a batch that are this process's.

        Raises:
            FitError: processes would have different numbers.
        """
        if batch_size % (count := self.local * self.nodes):
            nodes = f" on each of {self.nodes} nodes" if self.nodes > 1 else ""
            raise FitError(f"batch_size {batch_size} must be a multiple of devices ({self.local}{nodes})")
        return batch_size // count

    @classmethod
    def of(cls, device: DeviceName = "auto", devices: Devices = None, nodes: int | None = None) -> Processes:
        """Those that are asked for, by default those that torchrun or srun started, else this one alone.

        A process is one of srun's where its step has several; sbatch's own variables start none.

        Args:
            device: as in `fit`.
            devices: processes on each node, or ``auto``, one per GPU.
            nodes: machines.

        Raises:
            FitError: other numbers than were started, or less than one.
        """
        for name, number in {"devices": devices, "nodes": nodes}.items():
            if isinstance(number, int) and number < 1:
                raise FitError(f"{name} must be at least 1, got {number}")
        started = _started()
        if started is None:
            if devices == "auto":
                devices = 0 if device == "cpu" else torch.cuda.device_count()
            local, nodes = devices or 1, nodes or 1
            return cls(local, nodes, _own_rank(local, nodes), "")
        asked = (started.local if devices in (None, "auto") else devices) * (nodes or started.nodes)
        if asked != started.local * started.nodes:
            variable = _TORCHRUN[0] if started.launcher == "torchrun" else _SRUN[0]
            raise FitError(
                f"{started.launcher} started {started.local * started.nodes} processes, but devices and nodes make "
                f"{asked}; leave both out, or unset {variable} if {started.launcher} did not start this process"
            )
        return started


def check_alone(what: str) -> None:
    """Refuses to do something in several processes.

    Args:
        what: is done, such as "evaluate".

    Raises:
        FitError: torchrun or srun started several.
    """
    if (processes := Processes.of()).several:
        raise FitError(f"{what} uses one process; start it without {processes.launcher}, or with one process")


@contextmanager
def lost_processes_named(fabric: Fabric) -> Iterator[None]:
    """Context in which processes wait for each other, and a failed exchange becomes a `ProcessError`."""
    try:
        wait_for_all(fabric)
        yield
        if fabric.world_size > 1:
            _set_timeout(PAUSE)
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower():
            for child in CHILDREN:
                atexit.register(child.kill)  # one that hangs would outlive this one
            raise ProcessError(
                "another process of this fit ended or does not answer, so this one ends too; the other's own message, "
                "on its terminal or in its log, says why"
            ) from error
        raise


def wait_for_all(fabric: Fabric) -> None:
    """Waits until all processes are here, up to `PAUSE`; from then on they wait for each other up to `STEP`."""
    if fabric.world_size > 1:
        _set_timeout(PAUSE)
        fabric.barrier()
        _set_timeout(STEP)


def leave_processes_at_exit() -> None:
    """Destroys the process group when the interpreter exits.

    Fabric does so for NCCL only. Otherwise Gloo's threads occasionally abort a process that has finished.
    """
    atexit.register(_leave_processes)


def _leave_processes() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _started() -> Processes | None:
    """The processes that torchrun or srun started, if several."""
    if all(name in os.environ for name in _TORCHRUN):
        rank, _, world, local = (int(os.environ[name]) for name in _TORCHRUN[:4])
        return Processes(local, world // local, rank, "torchrun") if world > 1 else None
    if all(name in os.environ for name in _SRUN):
        tasks, nodes, rank = (int(os.environ[name]) for name in _SRUN[:3])
        if tasks % nodes:
            raise FitError(
                f"srun started {tasks} processes on {nodes} nodes; start as many on each (--ntasks-per-node)"
            )
        return Processes(tasks // nodes, nodes, rank, "srun") if tasks > 1 else None
    return None


def started_here() -> bool:
    """Whether this process started others for a fit, or was started by one that did.

    Ranks alone do not tell: their variables are easily left over from another program.
    """
    starter = os.environ.get(STARTER)
    if starter == str(os.getppid()):
        return os.environ.get("LOCAL_RANK", "0") != "0"  # otherwise a program that the starter runs for its own purpose
    return starter == str(os.getpid())


def _own_rank(local: int, nodes: int) -> int:
    node = int(os.environ.get("NODE_RANK", 0)) if nodes > 1 else 0
    return node * local + (int(os.environ["LOCAL_RANK"]) if started_here() else 0)

"""Starts the processes of a fit, or meets those that torchrun or srun started, through Lightning Fabric."""

from __future__ import annotations

import os
import sys

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from pp_simve.inference.device import DeviceError, DeviceName, choose_device
from pp_simve.inference.plan import FitError
from pp_simve.inference.processes import CHILDREN, STARTER, Processes, leave_processes_at_exit, started_here


def launch(processes: Processes, device: DeviceName) -> Fabric:
    """Starts those that are not started yet and waits for the others; each must call it.

    Raises:
        DeviceError: no CUDA, or fewer GPUs than processes on this node.
        FitError: processes that cannot be started from here.
    """
    accelerator = choose_device(device)
    if accelerator == "cuda" and processes.local > (found := torch.cuda.device_count()):
        raise DeviceError(
            f"{processes.local} processes need a GPU each, but torch finds {found} on this node; use fewer devices"
        )
    # Chosen here, as Fabric's own choice believes variables that are left over, or are sbatch's and not srun's.
    environment: ClusterEnvironment
    if processes.launcher:
        environment = TorchElasticEnvironment() if processes.launcher == "torchrun" else _Step()
    else:
        environment = LightningEnvironment()
        if processes.several and not started_here():
            _start_here(processes)
    if not processes.several:
        environment.set_global_rank(0)  # Fabric's loggers would read it from the variables
    fabric = Fabric(
        accelerator=accelerator,
        devices=processes.local,
        num_nodes=processes.nodes,
        strategy=DDPStrategy() if processes.several else "auto",
        precision="32-true",
        plugins=[environment],
    )
    fabric.launch()
    if processes.several:
        CHILDREN.extend(getattr(fabric.strategy.launcher, "procs", ()))
        leave_processes_at_exit()
    return fabric


class _Step(SLURMEnvironment):
    """A step of srun, which has told how many processes there are; the superclass insists on options of sbatch."""

    def world_size(self) -> int:
        return int(os.environ["SLURM_STEP_NUM_TASKS"])

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        pass

    @staticmethod
    def _validate_srun_variables() -> None:
        pass


def _start_here(processes: Processes) -> None:
    """Prepares the environment of the processes that Fabric will start."""
    if hasattr(sys, "ps1"):
        raise FitError(
            "each process runs the program from its start, which a notebook or console does not have; use devices=1, "
            f"or python -m pp_simve.fit --devices {processes.local}, or a script"
        )
    several_nodes = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"}
    if processes.nodes > 1 and (missing := several_nodes - set(os.environ)):
        raise FitError(
            f"{processes.nodes} nodes need torchrun or srun on each, or {', '.join(sorted(missing))} in the environment"
        )
    for name in {"LOCAL_RANK", *(several_nodes if processes.nodes == 1 else ())}:
        os.environ.pop(name, None)
    os.environ[STARTER] = str(os.getpid())

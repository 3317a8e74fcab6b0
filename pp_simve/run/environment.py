"""What the commands, and not the library, set for the libraries they import and the threads they use."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pp_simve
from pp_simve.errors import ConfigError

VALUES_A_THREAD = 2**18
"""Pixel values a step from which one more thread is used: in small networks, threads mostly wait for one another."""

_BEFORE_TORCH = "torch" not in sys.modules  # otherwise a program calls the command, and may have set the threads


def prepare_environment() -> None:
    """Sets variables that libraries read when they are imported; what the user has set stays.

    OpenMP's threads wait for one another without spinning: on busy cores, a thread that spins keeps another, which it
    waits for, from running. A Matplotlib
    backend inherited from a notebook, but not installed, would fail at the import.

    Raises:
        ConfigError: a folder in the working directory is taken for the package.
    """
    if getattr(pp_simve, "__file__", None) is None:
        raise ConfigError(
            f"Python takes the folder {next(iter(pp_simve.__path__))} for the installed pp_simve; start the command "
            "from another folder, or rename that one"
        )
    if _BEFORE_TORCH and {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"}.isdisjoint(os.environ):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    backend = os.environ.get("MPLBACKEND", "")
    if backend.startswith("module://") and not _installed(backend.removeprefix("module://")):
        del os.environ["MPLBACKEND"]


@contextmanager
def chosen_threads(values: int | None = None) -> Iterator[None]:
    """Context with `threads_for` the work.

    A number of the user's own stays: ``OMP_NUM_THREADS``, ``MKL_NUM_THREADS``, that of a program that calls a command.

    Args:
        values: pixel values a step of this process; by default there is work for all threads.
    """
    import torch

    before = torch.get_num_threads()
    if not (_BEFORE_TORCH and {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}.isdisjoint(os.environ)):
        yield
        return
    torch.set_num_threads(threads_for(before, values))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(most: int, values: int | None = None) -> int:
    """As many threads as a step keeps busy, and at most one fewer than torch would take, which is one a core.

    A step waits for its slowest thread: with a thread on each core, any other program slows down all of them.
    """
    return max(1, most - 1 if values is None else min(most - 1, values // VALUES_A_THREAD))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # not even its package
        return False

"""Subprocesses: commands that run side by side, some at a time, and what Ctrl-C does to them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import IO, NamedTuple

from pp_simve.run.console import SIGNALS, interruptible, print_error
from pp_simve.run.environment import cores

SECONDS_BETWEEN_LOOKS = 0.05

_PR_SET_PDEATHSIG = 1
# Loaded here, as between fork and exec as little as possible may happen. Other systems have no such call.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class _Running(NamedTuple):
    name: str
    process: subprocess.Popen[bytes] | _Forked
    errors: IO[bytes]
    started: float


class _Forked:
    """A command ``python -m MODULE ...`` in a process forked from one with its libraries; called as a `Popen` is."""

    def __init__(self, command: Sequence[str], errors: str, libraries: Sequence[str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([command[2], *libraries])
        self._process: BaseProcess = context.Process(
            target=_main, args=(command, errors, dict(os.environ), os.getcwd())
        )
        _start_fork_server()
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.pid is not None and self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        self._process.join()


def carry_out(
    commands: Mapping[str, Sequence[str]], at_a_time: int, say: Callable[[str], None], libraries: Sequence[str] = ()
) -> tuple[bool, list[str]]:
    """Runs commands in processes of their own, which share the cores where there are several at a time.

    The first Ctrl-C (or SIGTERM, or SIGHUP) ends them as it would end each alone, a fit with a checkpoint; a second one
    kills them. On Linux they also end so if this process is killed.

    Args:
        commands: a program and its arguments by name; SIGINT must end it in order.
        at_a_time: how many run beside one another.
        say: is told what starts and ends.
        libraries: modules that each imports, whose ``main`` is its program: where one runs after the other on Linux,
            they are imported once, and each command is a fork of the process that did. Not for commands that use a GPU
            or start processes.

    Returns:
        Whether Ctrl-C ended it, and what went wrong with the commands that failed.
    """
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // at_a_time))} if at_a_time > 1 else {}
    waiting, running, failures, stopped = list(commands), list[_Running](), list[str](), False
    with interruptible() as interruption:
        try:
            while running or (waiting and not stopped):
                while waiting and len(running) < at_a_time and not stopped:
                    name = waiting.pop(0)
                    say(f"fitting {name} ({len(commands) - len(waiting)} of {len(commands)})")
                    running.append(_start(name, commands[name], threads, libraries if at_a_time == 1 else ()))
                if interruption() and not stopped:
                    stopped = True
                    for one in running:
                        one.process.send_signal(signal.SIGINT)
                    say("stopping; once more kills the fits that run, and loses what came after their last checkpoints")
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    with one.errors as errors:
                        errors.seek(0)
                        reason = errors.read().decode(errors="replace").strip().removeprefix("error: ")
                    code = one.process.returncode
                    if code == 0:
                        say(f"finished {one.name} in {time.perf_counter() - one.started:.1f} s")
                    elif not stopped:
                        failure = f"{one.name} failed: {reason or f'it ended with code {code}'}"
                        print_error(failure)
                        failures.append(" ".join(failure.split()))
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            for one in running:
                one.process.kill()
                one.process.wait()
                one.errors.close()
    return stopped, failures


def _start(name: str, command: Sequence[str], threads: Mapping[str, str], libraries: Sequence[str]) -> _Running:
    errors = tempfile.NamedTemporaryFile()  # noqa: SIM115, closed when the command ends
    if libraries and sys.platform == "linux" and _importable_again(sys.modules["__main__"]):
        return _Running(name, _Forked(command, errors.name, libraries), errors, time.perf_counter())
    # In a session of its own: a Ctrl-C in the terminal would reach it twice, and two stop a fit without a checkpoint.
    process = subprocess.Popen(
        command,
        env=os.environ | threads,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
        preexec_fn=partial(_end_with, os.getpid()),
    )
    return _Running(name, process, errors, time.perf_counter())


def _start_fork_server() -> None:
    """Starts multiprocessing's server of forks with the signals blocked that this process passes on.

    Sent to the whole process group (by ``timeout``, or a terminal that closes) they would end the server first, and a
    fit that is writing its checkpoint would be taken for one that has failed.
    """
    from multiprocessing import forkserver, resource_tracker  # not on Windows

    resource_tracker.ensure_running()  # which the server's start does otherwise, and it unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _passed_on())
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _passed_on() -> set[signal.Signals]:
    return {signal.Signals[name] for name in SIGNALS}


def _end_with(parent: int) -> None:
    """Has the kernel send this process SIGTERM when its parent ends."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before
            os.kill(os.getpid(), signal.SIGTERM)


def _importable_again(main: ModuleType) -> bool:
    """Whether forks, which import the main module, do no more than that: a script without a guard runs again."""
    file = getattr(main, "__file__", None)  # None in notebooks
    return main.__spec__ is not None or file is None or Path(file).name == "pp-simve"


def _main(command: Sequence[str], errors: str, environment: Mapping[str, str], folder: str) -> None:
    """Carries out ``python -m MODULE ...`` in this process, as if it were one of its own."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _passed_on())
    os.chdir(folder)
    sys.path.insert(0, folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, place in ((1, os.devnull), (2, errors)):
        os.dup2(os.open(place, os.O_WRONLY), number)
    threading.Thread(target=_follow_parent, daemon=True).start()
    sys.exit(import_module(command[2]).main(command[3:]))


def _follow_parent() -> None:
    """Sends this process SIGTERM when the process that started it ends, which is not the one it was forked from."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)

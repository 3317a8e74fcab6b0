"""Subprocesses: commands that run side by side, some at a time, and what Ctrl-C does to them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import IO, NamedTuple

from pp_simve.run.console import interruptible, print_error
from pp_simve.run.environment import cores

SECONDS_BETWEEN_LOOKS = 0.05

_PR_SET_PDEATHSIG = 1
# Loaded here, as between fork and exec as little as possible may happen. Other systems have no such call.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class _Running(NamedTuple):
    name: str
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    started: float


def carry_out(
    commands: Mapping[str, Sequence[str]], at_a_time: int, say: Callable[[str], None]
) -> tuple[bool, list[str]]:
    """Runs commands in processes of their own, which share the cores where there are several at a time.

    The first Ctrl-C (or SIGTERM, or SIGHUP) ends them as it would end each alone, a fit with a checkpoint; a second one
    kills them. On Linux they also end so if this process is killed.

    Args:
        commands: a program and its arguments by name; SIGINT must end it in order.
        at_a_time: how many run beside one another.
        say: is told what starts and ends.

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
                    running.append(_start(name, commands[name], threads))
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


def _start(name: str, command: Sequence[str], threads: Mapping[str, str]) -> _Running:
    errors = tempfile.TemporaryFile()  # noqa: SIM115, closed when the command ends
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


def _end_with(parent: int) -> None:
    """Has the kernel send this process SIGTERM when its parent ends."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before
            os.kill(os.getpid(), signal.SIGTERM)

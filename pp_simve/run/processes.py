"""Commands in processes of their own, some at a time, and what Ctrl-C does to them."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from pp_simve.run.console import interruptible, print_error

SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        name: in messages.
        command: the program and its arguments. SIGINT must end it in order.
    """

    name: str
    command: Sequence[str]


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    started: float

    def failure(self) -> str | None:
        """Why it failed; None if it did not."""
        if self.process.returncode == 0:
            return None
        self.errors.seek(0)
        reason = self.errors.read().decode(errors="replace").strip() or f"it ended with code {self.process.returncode}"
        return f"{self.job.name} failed: {reason.removeprefix('error: ')}"


def carry_out(jobs: Sequence[Job], at_a_time: int, say: Callable[[str], None]) -> tuple[bool, list[str]]:
    """Runs commands in processes of their own, which share the cores.

    The first Ctrl-C ends them as it would end each alone, a fit with a checkpoint; a second one kills them.

    Returns:
        Whether Ctrl-C ended it, and what went wrong with the commands that failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, _cores() // at_a_time))}
    waiting, running, failures = list(jobs), list[_Running](), list[str]()
    stopped = False
    with interruptible() as interruption:
        try:
            while running or (waiting and not stopped):
                while waiting and len(running) < at_a_time and not stopped:
                    job = waiting.pop(0)
                    say(f"fitting {job.name} ({len(jobs) - len(waiting)} of {len(jobs)})")
                    running.append(_start(job, environment))
                if interruption() and not stopped:
                    stopped = True
                    say("stopping; once more kills the fits that run, and loses what came after their last checkpoints")
                    for one in running:
                        one.process.send_signal(signal.SIGINT)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    failure = one.failure()
                    if failure is None:
                        say(f"finished {one.job.name} in {time.perf_counter() - one.started:.1f} s")
                    elif not stopped:
                        print_error(failure)
                        failures.append(" ".join(failure.split()))
                    one.errors.close()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            for one in running:
                one.process.kill()
                one.process.wait()
                one.errors.close()
    return stopped, failures


def _start(job: Job, environment: Mapping[str, str]) -> _Running:
    errors = tempfile.TemporaryFile()  # noqa: SIM115, closed when the command ends
    # In a session of its own: a Ctrl-C in the terminal would reach it twice, and two stop a fit without a checkpoint.
    process = subprocess.Popen(
        job.command, env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
    )
    return _Running(job, process, errors, time.perf_counter())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

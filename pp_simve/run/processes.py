"""Fits in processes of their own, some at a time, ended in order by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from pp_simve.run.config import Settings
from pp_simve.run.console import interruptible, print_error
from pp_simve.run.folder import RunFolder

SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True)
class PlannedFit:
    """A fit of a row of the table, finished or not.

    Attributes:
        label: of the row.
        folder: of the run.
        flags: its command line, without where it goes.
        config: its settings, all choices made.
        fingerprint: of its images.
        trust_parts: whether a stored run may import what its settings name.
    """

    label: str
    folder: RunFolder
    flags: tuple[str, ...]
    config: Settings
    fingerprint: str
    trust_parts: bool = False

    @property
    def finished(self) -> bool:
        """Whether it was judged."""
        return (self.folder.path / "results.json").exists()

    @property
    def command(self) -> list[str]:
        """What fits it, or goes on with it where its folder has settings."""
        command = [sys.executable, "-m", "pp_simve.fit", "--quiet"]
        if (self.folder.path / "config.json").exists():
            return [*command, f"--resume={self.folder.path}", *(["--trust-parts"] if self.trust_parts else [])]
        return [*command, *self.flags, f"--out={self.folder.path}"]


@dataclass(frozen=True)
class _Running:
    fit: PlannedFit
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    started: float

    def failure(self) -> str | None:
        """Why it ended without results; None if it has them."""
        if self.process.returncode == 0:
            return None
        self.errors.seek(0)
        reason = self.errors.read().decode(errors="replace").strip() or f"it ended with code {self.process.returncode}"
        return f"{self.fit.folder.path} failed: {reason.removeprefix('error: ')}"


def carry_out(fits: Sequence[PlannedFit], jobs: int, say: Callable[[str], None]) -> tuple[bool, list[str]]:
    """Runs fits in processes of their own, some at a time.

    The first Ctrl-C ends them as it would end each alone, with a checkpoint; a second one kills them.

    Returns:
        Whether Ctrl-C ended it, and what went wrong with the fits that failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, _cores() // jobs))}
    waiting, running, failures = list(fits), list[_Running](), list[str]()
    stopped = False
    with interruptible() as interruption:
        try:
            while running or (waiting and not stopped):
                while waiting and len(running) < jobs and not stopped:
                    fit = waiting.pop(0)
                    say(f"fitting {fit.folder.path} ({len(fits) - len(waiting)} of {len(fits)})")
                    running.append(_start(fit, environment))
                if interruption() and not stopped:
                    stopped = True
                    say("stopping; once more kills the fits that run, and loses what came after their last checkpoints")
                    for one in running:
                        one.process.send_signal(signal.SIGINT)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    failure = one.failure()
                    if failure is None:
                        say(f"finished {one.fit.folder.path} in {time.perf_counter() - one.started:.1f} s")
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


def _start(fit: PlannedFit, environment: Mapping[str, str]) -> _Running:
    errors = tempfile.TemporaryFile()  # noqa: SIM115, closed when the fit ends
    # In a session of its own: a Ctrl-C in the terminal would reach it twice, and two stop a fit without a checkpoint.
    process = subprocess.Popen(
        fit.command, env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
    )
    return _Running(fit, process, errors, time.perf_counter())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

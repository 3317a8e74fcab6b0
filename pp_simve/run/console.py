"""Shared by the command lines: errors as messages, exit codes, and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from pp_simve.data import DataError
from pp_simve.errors import ConfigError
from pp_simve.inference import CheckpointError, DeviceError, NonFiniteError, ProgramError
from pp_simve.inference.plan import FitError

STOPPED = 130  # what shells use for "ended by Ctrl-C"
WRONG_INPUT = 2

EXPECTED_ERRORS = (
    ConfigError,
    DataError,
    CheckpointError,
    DeviceError,
    FitError,
    NonFiniteError,
    ProgramError,
    OSError,
)
"""Errors that a user can correct; any other is a bug and keeps its traceback."""


def exit_code(command: Callable[[], int]) -> int:
    """What a command returns, or the code of the error or of the Ctrl-C that ended it, with a message on stderr."""
    try:
        return command()
    except EXPECTED_ERRORS as error:
        print_error(error)
        return WRONG_INPUT
    except KeyboardInterrupt as interruption:
        _errors().print("\n".join(["stopped", *getattr(interruption, "__notes__", ())]), markup=False)
        return STOPPED


def each_run(runs: Iterable[Path], done: str, carry_out: Callable[[Path], None]) -> int:
    """Does something with one run after the other, whatever happens to those before.

    Args:
        runs: their folders.
        done: what is not done to one that fails, as a participle.
        carry_out: what is done.

    Returns:
        The exit code.
    """
    code = 0
    for path in runs:
        try:
            carry_out(path)
        except EXPECTED_ERRORS as error:
            error.add_note(f"{path} was not {done}")
            print_error(error)
            code = WRONG_INPUT
    return code


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within it, the first Ctrl-C (or SIGTERM) only makes the returned call return True; the second one interrupts."""
    caught = False

    def catch(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        caught = True
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {name: signal.signal(name, catch) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: caught
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def print_error(error: BaseException | str) -> None:
    """An error's message on stderr, with its notes."""
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    _errors().print(f"error: {error}{notes}", style="red", markup=False)


def _errors() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)

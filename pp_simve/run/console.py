"""Shared by the command lines: parsing, errors as messages, exit codes, and Ctrl-C. Importing it imports no torch."""

from __future__ import annotations

import shutil
import signal
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, make_dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import tyro
from rich.console import Console

from pp_simve.errors import ConfigError
from pp_simve.run.environment import prepare_environment
from pp_simve.run.output import lenient_output

STOPPED = 130  # what shells use for "ended by Ctrl-C"
WRONG_INPUT = 2
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # the last two are not on Windows

C = TypeVar("C")


def parsed(
    config: type[C], arguments: Sequence[str], program: str, *, description: str | None = None, default: C | None = None
) -> C:
    """A configuration dataclass from a command line; help has a group of flags for each base of the class.

    Args:
        config: the class; each field becomes a flag.
        arguments: the command line.
        program: name of the command, for help and errors.
        description: of the command, for help.
        default: values of flags that are not given.

    Raises:
        ConfigError: by the class, a wrong value.
        SystemExit: help, an unknown flag, or a value of the wrong type (answered by tyro, code 2).
    """
    call = _call(arguments, program, description, paired=default is not None)
    groups = [base for base in reversed(config.__bases__) if is_dataclass(base)]
    if len(groups) < 2:
        return tyro.cli(config, default=default, **call)
    given = vars(config() if default is None else default)
    members = []
    for group in groups:
        name = group.__name__.removesuffix("Options").lower()
        values = group(**{entry.name: given[entry.name] for entry in fields(group)})
        members.append((name, group, values))
    whole = tyro.cli(make_dataclass(config.__name__, members), **call)
    return config(**{name: value for group in vars(whole).values() for name, value in vars(group).items()})


def parsed_in_part(
    config: type[C], arguments: Sequence[str], program: str, *, description: str | None = None
) -> tuple[C, list[str]]:
    """`parsed`, and the arguments that are not of the class."""
    return tyro.cli(config, return_unknown_args=True, **_call(arguments, program, description))


def _call(arguments: Sequence[str], program: str, description: str | None, *, paired: bool = False) -> dict[str, Any]:
    # --no-quiet undoes --quiet, but help does not list such flags.
    paired = paired or any(argument.startswith("--no-") for argument in arguments)
    markers = [tyro.conf.OmitArgPrefixes, *([] if paired else [tyro.conf.FlagCreatePairsOff])]
    if description is not None:  # tyro neither wraps it nor keeps line breaks, except before a space
        width = shutil.get_terminal_size().columns
        wrapper = textwrap.TextWrapper(width, subsequent_indent=" ", break_on_hyphens=False)
        description = "\n\n".join(map(wrapper.fill, description.strip().split("\n\n")))
    return {"args": list(arguments), "prog": program, "description": description, "config": markers}


def exit_code(command: Callable[[], int]) -> int:
    """What a command returns, or the code of the error or of the Ctrl-C that ended it, with a message on stderr."""
    with lenient_output():
        return _exit_code(command)


def _exit_code(command: Callable[[], int]) -> int:
    try:
        prepare_environment()
        return command()
    except Exception as error:
        if not expected(error):
            raise
        print_error(error)
        return WRONG_INPUT
    except KeyboardInterrupt as interruption:
        _errors().print("\n".join(["stopped", *getattr(interruption, "__notes__", ())]), markup=False)
        return STOPPED


def expected(error: Exception) -> bool:
    """Whether a user can correct an error; any other is a bug and keeps its traceback."""
    if isinstance(error, ConfigError | OSError):
        return True
    from pp_simve.data import DataError
    from pp_simve.inference import CheckpointError, DeviceError, FitError, NonFiniteError, ProgramError

    return isinstance(error, DataError | CheckpointError | DeviceError | FitError | NonFiniteError | ProgramError)


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
        except Exception as error:
            if not expected(error):
                raise
            error.add_note(f"{path} was not {done}")
            print_error(error)
            code = WRONG_INPUT
    return code


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within it, SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGUSR1 only make the returned call return True.

    A SIGINT after any of them has its usual effect: from the terminal it is a person who does not want to wait. Others
    come from a scheduler, such as a warning (SIGUSR1) and then SIGTERM while the checkpoint is being written. Outside
    the main thread, where Python lets no one handle signals, it is False.
    """
    caught = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def catch(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        caught = True
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    # nohup has SIGHUP ignored, and so it stays.
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, catch) for number in heeded}
    try:
        yield lambda: caught
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def plain(console: Console) -> Callable[[str], None]:
    """Prints a text as it is: no markup, no line breaks, so that paths and commands can be copied."""
    return lambda text: console.print(text, markup=False, soft_wrap=True)


def print_error(error: BaseException | str) -> None:
    """An error's message on stderr, with its notes."""
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    _errors().print(f"error: {error}{notes}", style="red", markup=False)


def _errors() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)

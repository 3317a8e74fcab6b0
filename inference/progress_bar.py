"""What a person watching a fit or its evaluation sees: live in a terminal, of fits plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from pp_simve.inference.progress import Progress

SECONDS_BETWEEN_LINES = 5.0
BAR_WIDTH = 16
"""Columns kept for the bar itself, and the spaces around it."""


def watched_on_stderr() -> AbstractContextManager[Callable[[Progress], None] | None]:
    """A monitor for `fit` that writes to stderr where that is a terminal or a notebook; else None."""
    console = Console(stderr=True)
    # Environment variables such as FORCE_COLOR make a terminal of any file for rich.
    return watched(console) if console.is_jupyter or sys.stderr.isatty() else nullcontext()


@contextmanager
def watched(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A monitor for `fit` that writes to the console."""
    if console.is_terminal or (console.is_jupyter and find_spec("ipywidgets")):
        with Bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[terms]}"),
            console=console,
            transient=True,
        ) as bar:
            task = bar.add_task("", total=1.0, epoch="–", terms="starting")

            def update(progress: Progress) -> None:
                bar.update(
                    task,
                    completed=progress.step / progress.total_steps,
                    epoch=progress.epochs_done,
                    terms=progress.terms(console.width - BAR_WIDTH - len(f"epoch {progress.epochs_done}")),
                )

            yield update
        return

    last = time.perf_counter() - SECONDS_BETWEEN_LINES

    def line(progress: Progress) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= SECONDS_BETWEEN_LINES or progress.step == progress.total_steps:
            last = now
            console.print(str(progress), highlight=False, soft_wrap=True)

    yield line


@contextmanager
def counted(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A monitor that is called with what is done and the whole: a bar in a terminal, nothing elsewhere."""
    with Bar(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def status(console: Console, what: str) -> AbstractContextManager[object]:
    """Context in which a terminal shows what is done; elsewhere nothing is shown."""
    return console.status(escape(what))

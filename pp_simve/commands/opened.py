"""A finished run, opened by a command that reads it and adds files to its folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from pp_simve.commands.options import FittedRunOptions, OneRunOptions
from pp_simve.inference.device import DeviceName, choose_device
from pp_simve.inference.processes import check_alone
from pp_simve.report import check_report
from pp_simve.run.console import plain
from pp_simve.run.environment import chosen_threads
from pp_simve.run.folder import FittedRun, Load, RunFolder, load_fitted, load_run
from pp_simve.run.hub import run_path
from pp_simve.run.loaded import LoadedRun


@contextmanager
def one_run(options: OneRunOptions, console: Console, device: DeviceName = "cpu") -> Iterator[LoadedRun]:
    """Context with the fitted program of a run; the console is told what is imported for it.

    Raises:
        FitError: there are several processes.
        ConfigError: the run cannot be read.
    """
    check_alone("this command")
    assert options.run is not None  # the options refuse it
    chosen, path = torch.device(choose_device(device)), run_path(options.run)
    run = load_run(path, trust_parts=options.trust_parts, notes=plain(console))
    run.objective.to(chosen)
    with chosen_threads():
        yield run


@contextmanager
def opened_run(
    path: Path,
    options: FittedRunOptions,
    device: torch.device,
    images: Load,
    console: Console,
    file: str,
    *others: str,
    on: str | None = None,
) -> Iterator[FittedRun]:
    """Context with a run and its images, whose folder no other process writes to.

    Args:
        path: of the run.
        options: of the command.
        device: where to put the program.
        images: loads the data.
        console: is told what is imported for the run.
        file: that the command writes, and the page shows.
        others: further files that the command writes.
        on: other data than those of the fit.

    Raises:
        FitError: there are several processes.
        ConfigError: the folder cannot be written to, or the run or its page cannot be read.
        DataError: the images cannot be used.
    """
    check_alone("this command")
    folder = RunFolder(path)
    with chosen_threads(), folder.writing(file, *others, "report.html"):
        check_report(folder, file)
        yield load_fitted(
            *(folder, device, images, options.data_root),
            source=options.data,
            on=on,
            trust_parts=options.trust_parts,
            notes=plain(console),
        )

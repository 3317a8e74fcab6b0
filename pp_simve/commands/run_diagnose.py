"""Posterior checks of fitted runs: posterior.nc, diagnostics.json and figures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

import pp_simve
from pp_simve.commands.opened import opened_run
from pp_simve.commands.options import DiagnoseConfig
from pp_simve.errors import ConfigError
from pp_simve.evaluation.posterior.check import FIGURES, Diagnostics
from pp_simve.evaluation.posterior.diagnosis import (
    CHAINS,
    CHECKS,
    Finding,
    Subject,
    compared_with_reference,
    diagnose,
    refined,
)
from pp_simve.evaluation.subject import EVALUATION_SEED
from pp_simve.inference.device import choose_device, device_name
from pp_simve.inference.mcmc import ProgressBar
from pp_simve.inference.progress_bar import counted, status
from pp_simve.inference.tools import unit_range
from pp_simve.report import write_report
from pp_simve.run.console import each_run
from pp_simve.run.files import write_json
from pp_simve.run.folder import FittedRun, load_once, source_commit
from pp_simve.run.numbers import plain
from pp_simve.run.viewing import by_modality

FILE = "diagnostics.json"
POSTERIOR = "posterior.nc"
SETTINGS = ("images", "draws", "simulations", "reference", "refine", "seed")
"""Options that diagnostics.json keeps."""


def diagnose_runs(config: DiagnoseConfig) -> int:
    """Diagnoses one run after the other, whatever happens to those before; the exit code."""
    console = Console(quiet=config.quiet, highlight=False)
    device = torch.device(choose_device(config.device))
    images = load_once(progress=not config.quiet)

    def carry_out(path: Path) -> None:
        with opened_run(path, config, device, images, console, FILE, POSTERIOR) as fitted:
            diagnose_run(fitted, config, console)
        console.print(f"posterior: {path / POSTERIOR}", markup=False, soft_wrap=True)
        console.print(f"report: {path / 'report.html'}", markup=False, soft_wrap=True)

    return each_run(config.runs, "diagnosed", carry_out)


def diagnose_run(fitted: FittedRun, config: DiagnoseConfig, console: Console) -> Diagnostics:
    """Diagnoses a run, prints what was found, and writes its posterior.nc, diagnostics.json, figures and report.

    Returns:
        What diagnostics.json holds.

    Raises:
        ConfigError: the run's weights are not finite.
        OSError: a file cannot be written.
    """
    started = time.perf_counter()
    seed = EVALUATION_SEED if config.seed is None else config.seed
    folder, program, test, viewing = fitted.folder, fitted.program, fitted.data.test, fitted.viewing
    for name, parameter in program.objective.named_parameters():
        if not parameter.isfinite().all():
            raise ConfigError(f"{name} of {folder.path} is NaN or infinite: the fit failed; fit again")
    images = by_modality(lambda part: part[: config.images], viewing.images(test))
    checks = dict(CHECKS)
    if config.refine:
        checks["refinement"] = partial(refined, steps=config.refine)
    if config.reference:
        checks["reference"] = partial(_reference, config=config, console=console)

    def announced(name: str) -> AbstractContextManager[object]:
        return nullcontext() if name == "reference" else status(console, name)  # which has a bar of its own

    diagnosis = diagnose(
        program.model,
        program.guide,
        images,
        viewing.policy,
        views=viewing.views,
        draws=config.draws,
        simulations=config.simulations,
        seed=seed,
        checks=checks,
        labels=None if test.labels is None else test.labels[: config.images].cpu(),
        classes=fitted.data.classes,
        pictures=unit_range(test.images[: config.images]),
        to=folder.path / POSTERIOR,
        configuration=fitted.settings.to_json(),
        commit=source_commit(),
        announce=announced,
    )
    settings = {name: value for name, value in asdict(config).items() if name in SETTINGS}
    diagnostics: Diagnostics = {
        "checks": diagnosis.checks,
        "notes": diagnosis.notes,
        "settings": {**settings, "images": min(config.images, len(test)), "seed": seed},
    }
    entries = {
        "version": pp_simve.__version__,
        "commit": source_commit(),
        "device": device_name(next(program.objective.parameters()).device),
        "seconds": time.perf_counter() - started,
        **diagnostics,
    }
    title = f"{folder.path}: {fitted.settings.method} on {fitted.data.name}"
    console.print(title, markup=False, soft_wrap=True, style="bold")
    print_diagnostics(diagnostics, console)
    write_json(folder.path / FILE, entries)
    for stale in (folder.path / "figures").glob(f"{FIGURES}*.png"):
        stale.unlink()
    with status(console, "figures"):
        for name, figure in diagnosis.figures().items():
            folder.write_figure(name, figure)
    write_report(folder)
    return diagnostics


def _reference(subject: Subject, config: DiagnoseConfig, console: Console) -> Finding:
    with sampling(console, config.reference, CHAINS) as progress:
        return compared_with_reference(subject, config.reference, config.refine, progress)


@contextmanager
def sampling(console: Console, images: int, chains: int) -> Iterator[ProgressBar]:
    """Progress of chains that run one after the other: a live bar in a terminal, a line each tenth elsewhere.

    Yields:
        A function that NUTS calls after each draw.
    """
    with counted(console, f"NUTS, {images} images, {chains} chains") as show:

        def update(chain: int, draw: int, total: int) -> None:
            done, of = chain * total + draw, chains * total
            show(done, of)
            if not console.is_terminal and 10 * done // of > 10 * (done - 1) // of:
                console.print(f"NUTS: {done:,} of {of:,} draws", highlight=False)

        yield update


def print_diagnostics(found: Diagnostics, console: Console) -> None:
    """A table of the checks, then how to read each, and its limitations."""
    table = Table("check", "found", "verdict", title="posterior checks", title_justify="left", title_style="bold")
    verdicts = {True: "[red]alarm[/red]", False: "[green]no alarm[/green]", None: "–"}
    for check in found["checks"]:
        value = "–" if check["value"] is None else plain(check["value"])
        table.add_row(check["title"], f"{value} {check['unit'] or ''}".rstrip(), verdicts[check["alarm"]])
    if found["checks"]:
        console.print(table)
    for check in found["checks"]:
        console.print(check["title"], style="bold", markup=False)
        console.print(Padding(check["how"], (0, 0, 0, 2)), markup=False)
        console.print(Padding(f"Limitations: {check['limitations']}", (0, 0, 0, 2)), markup=False)
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)

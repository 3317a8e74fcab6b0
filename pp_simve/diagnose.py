"""Checks the posterior of a fitted run: python -m pp_simve.diagnose RUN

Writes posterior.nc (an xarray data tree in ArviZ's groups), diagnostics.json and figures to the run folder, and a
section to its report. --reference compares some images with NUTS, --refine refines posteriors image by image.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.padding import Padding
from rich.progress import Progress
from rich.table import Table

import pp_simve
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
from pp_simve.inference.tools import unit_range, write_whole
from pp_simve.report import write_report
from pp_simve.run.config import Place
from pp_simve.run.console import each_run, exit_code
from pp_simve.run.folder import FittedRun, RunFolder, load_fitted, load_once, source_commit
from pp_simve.run.numbers import plain
from pp_simve.run.trust import announce
from pp_simve.run.viewing import by_modality

FILE = "diagnostics.json"
POSTERIOR = "posterior.nc"
SETTINGS = ("images", "draws", "simulations", "reference", "refine", "seed")
"""Options that diagnostics.json keeps."""


@dataclass(frozen=True)
class DiagnoseConfig:
    """Options of the command."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs."""
    images: int = 128
    """Number of first test images to draw posteriors of."""
    draws: int = 500
    """Draws of the guide for each image."""
    simulations: int = 500
    """Images simulated from the model for calibration."""
    reference: int = 0
    """Number of first images to compare with NUTS; twenty of digits take some minutes."""
    refine: int = 0
    """Steps of refining each image's posterior by itself; 200 are many."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is a GPU where there is one."""
    data_root: Place = None
    """Folder of the data sets, if they are no longer where the run found them."""
    seed: int = EVALUATION_SEED
    """Of views and draws; the same for every run, so that runs compare."""
    trust_parts: bool = False
    """Import the parts of your own (package.module:Class) that the settings of a run name. Their code runs, so give it
    only for runs that you trust."""
    quiet: bool = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("there is nothing to diagnose; give the folders of one or more runs")
        least = {"images": 1, "draws": 1, "simulations": 2, "reference": 0, "refine": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ConfigError(f"--{name} must be at least {smallest}, got {getattr(self, name)}")
        if self.reference > self.images:
            raise ConfigError(f"--reference compares some of the images: at most --images {self.images}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = "python -m pp_simve.diagnose"
    return exit_code(lambda: diagnose_runs(tyro.cli(DiagnoseConfig, args=given, prog=program, description=__doc__)))


def diagnose_runs(config: DiagnoseConfig) -> int:
    """Diagnoses one run after the other, whatever happens to those before; the exit code."""
    console = Console(quiet=config.quiet, highlight=False)
    device = torch.device(choose_device(config.device))
    images = load_once()

    def carry_out(path: Path) -> None:
        folder = RunFolder(path)
        if config.trust_parts:
            announce(path, folder.read_settings(trust_parts=True)[0], console)
        fitted = load_fitted(folder, device, images, config.data_root, trust_parts=config.trust_parts)
        found = diagnose_run(fitted, config, console)
        console.print(
            f"{path}: {fitted.settings.method} on {fitted.data.name}", markup=False, soft_wrap=True, style="bold"
        )
        print_diagnostics(found, console)
        console.print(f"posterior: {path / POSTERIOR}", markup=False, soft_wrap=True)
        console.print(f"report: {path / 'report.html'}", markup=False, soft_wrap=True)

    return each_run(config.runs, "diagnosed", carry_out)


def diagnose_run(fitted: FittedRun, config: DiagnoseConfig, console: Console) -> Diagnostics:
    """Diagnoses a run and writes its posterior.nc, diagnostics.json, figures and report; what diagnostics.json holds.

    Raises:
        ConfigError: the run's weights are not finite.
        OSError: a file cannot be written.
    """
    started = time.perf_counter()
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

    def status(name: str) -> AbstractContextManager[object]:
        return nullcontext() if name == "reference" else console.status(name)  # which has a bar of its own

    diagnosis = diagnose(
        program.model,
        program.guide,
        images,
        viewing.policy,
        views=viewing.views,
        draws=config.draws,
        simulations=config.simulations,
        seed=config.seed,
        checks=checks,
        labels=None if test.labels is None else test.labels[: config.images].cpu(),
        classes=fitted.data.classes,
        pictures=unit_range(test.images[: config.images]),
        to=folder.path / POSTERIOR,
        configuration=fitted.settings.to_json(),
        commit=source_commit(),
        announce=status,
    )
    settings = {name: value for name, value in asdict(config).items() if name in SETTINGS}
    diagnostics: Diagnostics = {
        "checks": diagnosis.checks,
        "notes": diagnosis.notes,
        "settings": {**settings, "images": min(config.images, len(test))},
    }
    entries = {
        "version": pp_simve.__version__,
        "commit": source_commit(),
        "device": device_name(next(program.objective.parameters()).device),
        "seconds": time.perf_counter() - started,
        **diagnostics,
    }
    write_whole(folder.path / FILE, (json.dumps(entries, indent=2, allow_nan=False) + "\n").encode())
    for stale in (folder.path / "figures").glob(f"{FIGURES}*.png"):
        stale.unlink()
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
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"NUTS, {images} images, {chains} chains", total=None)

        def update(chain: int, draw: int, total: int) -> None:
            done, of = chain * total + draw, chains * total
            bar.update(task, completed=done, total=of)
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


if __name__ == "__main__":
    sys.exit(main())

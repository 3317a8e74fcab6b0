"""Says where a fitted posterior can be trusted, and where not: python -m pp_simve.diagnose RUN

Writes posterior.nc (an xarray data tree in ArviZ's groups), diagnostics.json and figures to the run's folder, and a
section to its report. --reference compares some images with NUTS, --refine improves posteriors image by image.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pyro
import torch
import tyro
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

import pp_simve
from pp_simve.diagnosing.checks import CHECKS
from pp_simve.diagnosing.progress import sampling
from pp_simve.diagnosing.refinement import CHAINS, compared_with_reference, refined
from pp_simve.diagnosing.subject import Finding, Subject, log_weight_of, views_of
from pp_simve.errors import ConfigError
from pp_simve.evaluation import posterior
from pp_simve.evaluation.posterior.check import Check, Diagnostics
from pp_simve.evaluation.subject import EVALUATION_SEED
from pp_simve.inference.device import choose_device, device_name
from pp_simve.inference.tools import unit_range, write_whole
from pp_simve.report import write_report
from pp_simve.reporting.tables import plain
from pp_simve.run.config import Place
from pp_simve.run.console import each_run, exit_code
from pp_simve.run.folder import FittedRun, RunFolder, load_fitted, load_once, source_commit
from pp_simve.run.trust import announce
from pp_simve.run.viewing import unwrapped

FILE = "diagnostics.json"
POSTERIOR = "posterior.nc"
NO_MEANING = (ArithmeticError, RuntimeError, ValueError)
"""How a check says that it has no meaning for a pair, or cannot be carried out."""


@dataclass(frozen=True)
class DiagnoseConfig:
    """What is diagnosed, and how thoroughly."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs."""
    images: int = 128
    """Test images to draw posteriors of, the first ones."""
    draws: int = 500
    """Draws of the guide for each image."""
    simulations: int = 500
    """Images simulated from the model for calibration."""
    reference: int = 0
    """Images to compare with NUTS, the first ones; twenty of digits take some minutes."""
    refine: int = 0
    """Steps of improving each image's posterior by itself; 200 are many."""
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
        # A fitted pair fits together; what is NaN in it shows in the checks.
        with pyro.validation_enabled(False):
            found = diagnose(fitted, config, console)
        console.print(
            f"{path}: {fitted.settings.method} on {fitted.data.name}", markup=False, soft_wrap=True, style="bold"
        )
        print_diagnostics(found, console)
        console.print(f"posterior: {path / POSTERIOR}", markup=False, soft_wrap=True)
        console.print(f"report: {path / 'report.html'}", markup=False, soft_wrap=True)

    return each_run(config.runs, "diagnosed", carry_out)


def diagnose(fitted: FittedRun, config: DiagnoseConfig, console: Console) -> Diagnostics:
    """Diagnoses a run and writes its posterior.nc, diagnostics.json, figures and report.

    Args:
        fitted: the run.
        config: what to ask.
        console: where progress is shown.

    Returns:
        What was written to diagnostics.json.

    Raises:
        OSError: a file cannot be written.
    """
    started = time.perf_counter()
    subject = subject_of(fitted, config)
    findings, notes = [], []
    for name, check in CHECKS.items():
        with console.status(name):
            try:
                found = check(subject)
            except NO_MEANING as error:
                notes.append(f"No {name}: {error}.")
                continue
        findings.extend([found] if found is not None else [])
    for found, note in _on_demand(subject, config, console):
        findings.extend([found] if found is not None else [])
        notes.extend([note] if note is not None else [])
    diagnostics: Diagnostics = {
        "checks": [found.check for found in findings],
        "notes": notes,
        "settings": {
            "images": len(subject.pictures),
            "draws": config.draws,
            "simulations": config.simulations,
            "reference": config.reference,
            "refine": config.refine,
            "seed": config.seed,
        },
    }
    entries = {
        "version": pp_simve.__version__,
        "commit": source_commit(),
        "device": device_name(next(fitted.program.objective.parameters()).device),
        "seconds": time.perf_counter() - started,
        **diagnostics,
    }
    folder = fitted.folder
    write_whole(folder.path / FILE, (json.dumps(entries, indent=2, allow_nan=False) + "\n").encode())
    for stale in (folder.path / "figures").glob("diagnose-*.png"):
        stale.unlink()
    for found in findings:
        for name, figure in found.named_figures().items():
            folder.write_figure(name, figure)
    write_report(folder)
    return diagnostics


def subject_of(fitted: FittedRun, config: DiagnoseConfig) -> Subject:
    """Draws posteriors of the first test images, and writes them to posterior.nc.

    Raises:
        ConfigError: the run's weights are not finite.
    """
    test, viewing, program = fitted.data.test, fitted.viewing, fitted.program
    for name, parameter in program.objective.named_parameters():
        if not parameter.isfinite().all():
            raise ConfigError(f"{name} of {fitted.folder.path} is NaN or infinite: the fit failed; fit again")
    images = {kind: part[: config.images] for kind, part in viewing.images(test).items()}
    labels = None if test.labels is None else test.labels[: config.images].cpu()
    tree = posterior(
        (program.model, program.guide),
        unwrapped(images),
        views=viewing.views,
        draws=config.draws,
        policy=unwrapped(viewing.policies),
        labels=labels,
        seed=config.seed,
        view_seed=config.seed,
        to=fitted.folder.path / POSTERIOR,
        configuration=fitted.settings.to_json(),
        commit=source_commit(),
    )
    device = next(program.objective.parameters()).device
    with closing(tree):
        views, log_weight = views_of(tree), log_weight_of(tree)
    on_device = (
        views.to(device)
        if isinstance(views, torch.Tensor)
        else {kind: batch.to(device) for kind, batch in views.items()}
    )
    return Subject(
        model=program.model,
        guide=program.guide,
        views=on_device,
        pictures=unit_range(test.images[: config.images].cpu()),
        log_weight=log_weight,
        draws=config.draws,
        simulations=config.simulations,
        seed=config.seed,
    )


def _on_demand(
    subject: Subject, config: DiagnoseConfig, console: Console
) -> Iterator[tuple[Finding | None, str | None]]:
    """What takes longer, and is only done when asked for: a finding each, or a note why there is none."""
    if config.refine:
        try:
            with console.status(f"refining {len(subject.pictures)} posteriors"):
                yield refined(subject, config.refine), None
        except NO_MEANING as error:
            yield None, f"No refinement: {error}."
    if config.reference:
        try:
            with sampling(console, config.reference, CHAINS) as progress:
                found = compared_with_reference(subject, config.reference, config.refine, progress)
            yield found, None
        except NO_MEANING as error:
            yield None, f"No reference: {error}."


def print_diagnostics(found: Diagnostics, console: Console) -> None:
    """A table of the checks, then how to read each and what it cannot see."""
    table = Table(title="is the posterior to be trusted", title_justify="left", title_style="bold")
    table.add_column("check")
    table.add_column("found")
    table.add_column("verdict")
    for check in found["checks"]:
        table.add_row(check["title"], _found(check), _verdict(check))
    if found["checks"]:
        console.print(table)
    for check in found["checks"]:
        console.print(check["title"], style="bold", markup=False)
        console.print(Padding(check["how"], (0, 0, 0, 2)), markup=False)
        console.print(Padding(f"Cannot see: {check['blind']}", (0, 0, 0, 2)), markup=False)
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _found(check: Check) -> str:
    value = "–" if check["value"] is None else plain(check["value"])
    return f"{value} {check['unit']}" if check["unit"] else value


def _verdict(check: Check) -> str:
    return {True: "[red]alarm[/red]", False: "[green]no alarm[/green]", None: "–"}[check["alarm"]]


if __name__ == "__main__":
    sys.exit(main())

"""Evaluates fitted runs in full: python -m pp_simve.evaluate runs/digits-simve-20261124-120000

Class, view parameters, attributes and handwriting from backbone, z, content and style; clusters; content from several
views; information and collapse; reconstruction. Each run gets an evaluation.json, beside the results.json of its fit.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console

import pp_simve
from pp_simve.errors import ConfigError
from pp_simve.evaluation.subject import Effort
from pp_simve.inference.device import choose_device, device_name
from pp_simve.inference.tools import write_whole
from pp_simve.report import write_report
from pp_simve.run.config import Count, Place
from pp_simve.run.console import each_run, exit_code
from pp_simve.run.folder import RunFolder, load_fitted, load_once, source_commit
from pp_simve.run.scores import evaluate_run
from pp_simve.run.tables import print_scores
from pp_simve.run.trust import announce

FILE = "evaluation.json"


@dataclass(frozen=True)
class EvaluateConfig:
    """What is evaluated, and where."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is a GPU where there is one."""
    data_root: Place = None
    """Folder of the data sets, if they are no longer where the run found them."""
    rows: int = 10_000
    """Images, and views, of a split at most for what costs much: MLP probes, clusters, content from several views,
    alignment, uniformity, information, FID."""
    restarts: int = 3
    """Starts of the clustering, of which the likeliest is kept."""
    fine_tune: Count = None
    """Also train a copy of the encoder on the labels of train, for so many epochs at most (default: do not)."""
    fid_weights: Place = None
    """Also compute FID, with Inception's weights from this file; needs pp_simve[fid] installed (default: do not)."""
    trust_parts: bool = False
    """Import the parts of your own (package.module:Class) that the settings of a run name. Their code runs, so give it
    only for runs that you trust."""
    quiet: bool = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("there is nothing to evaluate; give the folders of one or more runs")
        for name in ("rows", "restarts", "fine_tune"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.fid_weights is not None and not self.fid_weights.is_file():
            raise ConfigError(f"--fid-weights {self.fid_weights} is no file")

    @property
    def effort(self) -> Effort:
        """How much each evaluator may cost."""
        return Effort(self.rows, self.restarts, self.fine_tune, self.fid_weights)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = "python -m pp_simve.evaluate"
    return exit_code(lambda: evaluate_runs(tyro.cli(EvaluateConfig, args=given, prog=program, description=__doc__)))


def evaluate_runs(config: EvaluateConfig) -> int:
    """Evaluates one run after the other, whatever happens to those before; the exit code."""
    console = Console(quiet=config.quiet, highlight=False)
    device = torch.device(choose_device(config.device))
    images = load_once()

    def carry_out(path: Path) -> None:
        folder = RunFolder(path)
        if config.trust_parts:
            announce(path, folder.read_settings(trust_parts=True)[0], console)
        started = time.perf_counter()
        fitted = load_fitted(folder, device, images, config.data_root, trust_parts=config.trust_parts)
        data, method = fitted.data, fitted.settings.method
        records = evaluate_run(fitted.program, fitted.viewing, data, "full", config.effort)
        seconds = time.perf_counter() - started
        entries = {
            "version": pp_simve.__version__,
            "commit": source_commit(),
            "settings": {
                "method": method,
                "data": data.name,
                "data_fingerprint": data.fingerprint,
                "images": {name: len(getattr(data, name)) for name in ("train", "validation", "test")},
                "rows": config.rows,
                "restarts": config.restarts,
                "fine_tune": config.fine_tune,
                "device": device_name(device),
            },
            "seconds": seconds,
            "records": [record.to_json() for record in records],
        }
        write_whole(path / FILE, (json.dumps(entries, indent=2, allow_nan=False) + "\n").encode())
        write_report(folder)
        console.print(f"{path}: {method} on {data.name}", markup=False, soft_wrap=True, style="bold")
        print_scores(records, console)
        console.print(f"evaluated in {seconds:.1f} s, written to {path / FILE}\n", markup=False, soft_wrap=True)

    return each_run(config.runs, "evaluated", carry_out)


if __name__ == "__main__":
    sys.exit(main())

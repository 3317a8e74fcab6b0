"""The full suite of evaluators on fitted runs."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

import pp_simve
from pp_simve.commands.opened import opened_run
from pp_simve.commands.options import EvaluateConfig
from pp_simve.evaluation.subject import Effort
from pp_simve.inference.device import choose_device, device_name
from pp_simve.inference.progress_bar import status
from pp_simve.report import write_report
from pp_simve.run.console import each_run
from pp_simve.run.files import read_json, write_json
from pp_simve.run.folder import FittedRun, load_once, source_commit
from pp_simve.run.scores import evaluate_run, most_scored
from pp_simve.run.tables import print_scores

FILE = "evaluation.json"
TRANSFER = "transfer.json"
"""Of evaluations on other data than those of the fit."""


def evaluate_runs(config: EvaluateConfig) -> int:
    """Evaluates one run after the other, whatever happens to those before; the exit code."""
    console = Console(quiet=config.quiet, highlight=False)
    device = torch.device(choose_device(config.device))
    images, file = load_once(progress=not config.quiet), TRANSFER if config.on else FILE
    effort = Effort(config.rows, config.restarts, config.fine_tune, config.fid_weights)

    def carry_out(path: Path) -> None:
        started = time.perf_counter()
        with opened_run(path, config, device, images, console, file, on=config.on) as fitted:
            evaluate_fitted(fitted, started)

    def evaluate_fitted(fitted: FittedRun, started: float) -> None:
        path = fitted.folder.path
        data, method = fitted.data, fitted.settings.method
        kept = read_json(path / TRANSFER).get("on", {}) if config.on and (path / TRANSFER).exists() else {}
        bounded = effort.at_most(most_scored(fitted.settings, data))
        announce = partial(status, console)
        records = evaluate_run(fitted.program, fitted.viewing, data, "full", bounded, announce, fitted.untrained())
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
        console.print(f"{path}: {method} on {data.name}", markup=False, soft_wrap=True, style="bold")
        print_scores(records, console)
        write_json(path / file, {"on": {**kept, data.name: entries}} if config.on else entries)
        write_report(fitted.folder)
        console.print(f"evaluated in {seconds:.1f} s, written to {path / file}\n", markup=False, soft_wrap=True)

    return each_run(config.runs, "evaluated", carry_out)

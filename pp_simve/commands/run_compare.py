"""A comparison: the fits that are missing, and the table of all."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from pp_simve.commands.options import CompareConfig, EvaluateConfig
from pp_simve.commands.run_evaluate import evaluate_runs
from pp_simve.errors import ConfigError
from pp_simve.inference.processes import check_alone
from pp_simve.run.comparison import evaluation, write_table
from pp_simve.run.comparison_plan import LIBRARIES, caption, differences, planned
from pp_simve.run.config import FitConfig
from pp_simve.run.console import STOPPED, WRONG_INPUT, plain
from pp_simve.run.subprocesses import carry_out


def run_comparison(config: CompareConfig, settings: Mapping[str, FitConfig], given: Sequence[str]) -> int:
    """Fits what is missing, and writes the table; the exit code."""
    check_alone("compare")
    # A table for another program is all that goes to standard output.
    console = Console(quiet=config.quiet, highlight=False, stderr=config.format != "md")
    say = plain(console)
    allowed = {"trust_parts": config.trust_parts, "progress": not config.quiet}
    fits = planned(settings, config.seeds, config.out, say, **allowed)
    differing = differences(fits)
    if differing and not config.mixed:
        raise ConfigError(
            "these runs would not be alike: " + "; ".join(differing) + ". Compare those that are, or give --mixed to "
            "tabulate them all the same"
        )
    config.out.mkdir(parents=True, exist_ok=True)
    missing = {str(fit.folder.path): fit.command for fit in fits if not fit.finished}
    if len(missing) < len(fits):
        say(f"{len(fits) - len(missing)} of {len(fits)} fits are finished already")
    libraries = LIBRARIES if all(fit.forkable for fit in fits) else ()
    stopped, failures = carry_out(missing, config.jobs, say, libraries)
    finished = [fit for fit in fits if fit.finished]
    if stopped:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"stopped with {len(finished)} of {len(fits)} fits finished; go on with\n"
            f"  python -m pp_simve.compare {shlex.join(given)}",
            markup=False,
        )
        return STOPPED
    runs: dict[str, list[Path]] = {label: [] for label in settings}
    for fit in finished:
        path = fit.folder.path
        runs[fit.label].append(path)
        if config.evaluate and not evaluation(path):
            say(f"evaluating {path}")
            options = EvaluateConfig((path,), device=fit.config.device, trust_parts=fit.trust_parts, quiet=True)
            if evaluate_runs(options):
                failures.append(f"{path} was not evaluated")
    notes = [*(f"not alike: {entry}" for entry in differing), *failures]
    texts = write_table(config.out, runs, caption(fits, differing), notes, evaluated=config.evaluate)
    if config.format != "md":
        print(texts[config.format], end="")
    say(
        (f"\n{texts['md']}\n" if config.format == "md" else "")
        + f"written to {config.out / 'table.md'}, .tex, .csv and .json"
    )
    return WRONG_INPUT if failures else 0

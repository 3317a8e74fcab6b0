"""Fits methods side by side and tabulates what each learned: python -m pp_simve.compare --methods simve,vae,simclr

Any further flag is a setting of every fit, as in python -m pp_simve.fit --help: --data cifar10 --epochs 100.
Fits that are finished are not repeated, and interrupted ones go on: give the same command again.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from pp_simve.errors import ConfigError
from pp_simve.evaluate import EvaluateConfig, evaluate_runs
from pp_simve.run.comparison import evaluation, write_table
from pp_simve.run.config import FitConfig, Text
from pp_simve.run.console import STOPPED, WRONG_INPUT, exit_code
from pp_simve.run.plan import caption, differences, planned
from pp_simve.run.processes import carry_out

METHODS = "simve,vae,simclr"
OWN = ("seed", "out", "resume", "trust_parts", "quiet")
"""Settings of a fit that the comparison gives itself."""


@dataclass(frozen=True)
class CompareConfig:
    """What is compared. Any further flag is a setting of every fit."""

    methods: Text = None
    """Names of methods with commas between, a row each (default: simve,vae,simclr where no --row is given)."""
    row: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A row with settings of its own: "LABEL: FLAGS", such as "structured: --method simve --guide structured"; they
    come before the settings of every fit."""
    seeds: int = 3
    """Fits of each row: seeds 0, 1, ..."""
    jobs: int = 1
    """Fits at a time, which share the cores; seconds an epoch of fits beside one another say little."""
    out: Path = Path("runs/compare")
    """Folder of the run folders and of table.md, table.csv and table.json."""
    mixed: bool = False
    """Tabulate runs of different images, views, policies or encoders all the same."""
    evaluate: bool = False
    """Also evaluate the runs that were not (python -m pp_simve.evaluate), and tabulate what that adds."""
    trust_parts: bool = False
    """Import parts (package.module:Class) that stored runs name and this command does not. Their code runs, so give it
    only for runs that you trust; parts that this command names need no such trust."""
    quiet: bool = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        for name in ("seeds", "jobs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1, got {getattr(self, name)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: run_comparison(*parse(given), given))


def parse(arguments: Sequence[str]) -> tuple[CompareConfig, dict[str, FitConfig]]:
    """What is compared, and the settings of each row by its label.

    Raises:
        ConfigError: a wrong value, a setting that is not the fits' to choose, or no rows.
        SystemExit: help, an unknown flag, or a value of the wrong type (answered by tyro, code 2).
    """
    program = "python -m pp_simve.compare"
    config, rest = tyro.cli(
        CompareConfig, args=list(arguments), prog=program, description=__doc__, return_unknown_args=True
    )
    common = tyro.cli(FitConfig, args=rest, prog=program)
    if common.method != FitConfig.method:
        raise ConfigError(f"--method {common.method} is of one fit; give --methods {common.method},... instead")
    methods = config.methods if config.methods is not None else "" if config.row else METHODS
    rows = [(name.strip(), ["--method", name.strip()]) for name in methods.split(",") if name.strip()]
    rows += [_labelled(text) for text in config.row]
    if not rows:
        raise ConfigError("there is nothing to compare; give --methods simve,vae or --row")
    settings: dict[str, FitConfig] = {}
    for label, flags in rows:
        if label in settings:
            raise ConfigError(f"there are two rows {label!r}; give each --row a label of its own")
        own = tyro.cli(FitConfig, args=flags, prog=f"--row {label!r}")
        default = common
        if own.epochs is not None or own.steps is not None:
            default = dataclasses.replace(common, epochs=None, steps=None)
        settings[label] = tyro.cli(FitConfig, args=flags, default=default, prog=f"--row {label!r}")
        for name in OWN:
            if (value := getattr(settings[label], name)) != getattr(FitConfig, name):
                where = "" if getattr(common, name) == value else f" of row {label!r}"
                raise ConfigError(
                    f"--{name.replace('_', '-')} {value}{where} is not for a single fit to choose: the comparison "
                    "gives each its seed (--seeds how many) and its folder below --out, and takes --trust-parts and "
                    "--quiet itself"
                )
    return config, settings


def _labelled(text: str) -> tuple[str, list[str]]:
    """Label and flags of a row."""
    label, colon, flags = text.partition(":")
    try:
        words = shlex.split(flags)
    except ValueError as error:  # a quotation mark without its partner
        raise ConfigError(f"--row {text!r} cannot be read ({error})") from None
    if not colon or not label.strip():
        raise ConfigError(
            f'--row {text!r} cannot be read; expected "LABEL: FLAGS", such as "structured: --guide structured"'
        )
    return label.strip(), words


def run_comparison(config: CompareConfig, settings: Mapping[str, FitConfig], given: Sequence[str]) -> int:
    """Fits what is missing, and writes the table; the exit code."""
    console = Console(quiet=config.quiet, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    fits = planned(settings, config.seeds, config.out, say, trust_parts=config.trust_parts)
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
    stopped, failures = carry_out(missing, config.jobs, say)
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
    text = write_table(config.out, runs, caption(fits, differing), notes, evaluated=config.evaluate)
    say(f"\n{text}\nwritten to {config.out / 'table.md'}, .csv and .json")
    return WRONG_INPUT if failures else 0


if __name__ == "__main__":
    sys.exit(main())

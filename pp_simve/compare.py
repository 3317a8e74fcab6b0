"""Fits methods with several seeds each and tabulates their scores.

For instance: python -m pp_simve.compare --methods simve,vae,simclr

Any further flag is a setting of every fit, as in python -m pp_simve.fit --help: --data cifar10 --epochs 100.
Fits that are finished are not repeated, and interrupted ones are resumed: repeat the command.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence

from pp_simve.commands.options import CompareConfig
from pp_simve.errors import ConfigError
from pp_simve.run.config import FitConfig
from pp_simve.run.console import exit_code, parsed, parsed_in_part

PROGRAM = "python -m pp_simve.compare"
METHODS = "simve,vae,simclr"
OWN = ("seed", "out", "resume", "evaluate", "trust_parts", "quiet")
"""Settings of a fit that the comparison gives itself."""


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Runs the command line; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def run() -> int:
        config, settings = parse(given, program)
        from pp_simve.commands.run_compare import run_comparison

        return run_comparison(config, settings, given)

    return exit_code(run)


def parse(arguments: Sequence[str], program: str = PROGRAM) -> tuple[CompareConfig, dict[str, FitConfig]]:
    """What is compared, and the settings of each row by its label.

    Raises:
        ConfigError: a wrong value, a setting that is not the fits' to choose, or no rows.
        SystemExit: help, an unknown flag, or a value of the wrong type (answered by tyro, code 2).
    """
    config, rest = parsed_in_part(CompareConfig, arguments, program, description=__doc__)
    common = parsed(FitConfig, rest, program)
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
        own = parsed(FitConfig, flags, f"--row {label!r}")
        default = common
        if own.epochs is not None or own.steps is not None:
            default = dataclasses.replace(common, epochs=None, steps=None)
        settings[label] = parsed(FitConfig, flags, f"--row {label!r}", default=default)
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


if __name__ == "__main__":
    sys.exit(main())

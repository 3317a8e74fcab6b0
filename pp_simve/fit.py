"""Fits a method to images and evaluates its representations.

For instance: python -m pp_simve.fit --data cifar10
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from pp_simve.errors import ConfigError
from pp_simve.run.config import FitConfig
from pp_simve.run.console import exit_code, parsed

PROGRAM = "python -m pp_simve.fit"
AUTO = Path("auto")
"""Value of ``--resume`` that resumes the run in ``--out``, or starts it."""


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Runs the command line; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def run() -> int:
        config = parse(given, program)
        from pp_simve.commands.run_fit import run_fit

        return run_fit(config)

    return exit_code(run)


def parse(arguments: Sequence[str], program: str = PROGRAM) -> FitConfig:
    """Settings from a command line. With ``--resume RUN`` they are the run's, and other flags must agree with it.

    With ``--resume auto``, ``resume`` of the result is ``out`` if a run was started there, else None.

    Raises:
        ConfigError: a wrong value, a flag that a resumed run was not started with, or parts of it that are not trusted.
        SystemExit: help, an unknown flag, or a value of the wrong type (answered by tyro, code 2).
    """
    config = parsed(FitConfig, arguments, program, description=__doc__)
    if config.resume == AUTO:
        if config.out is None:
            raise ConfigError("--resume auto resumes the run in --out, or starts it there; give --out FOLDER, too")
        config = dataclasses.replace(config, resume=config.out if (config.out / "config.json").exists() else None)
    elif config.resume is not None and config.out is not None:
        raise ConfigError(f"--resume goes on in its own folder, {config.resume}; leave out --out {config.out}")
    if config.resume is None:
        return config
    from pp_simve.run.folder import RunFolder
    from pp_simve.run.trust import check_trusted

    # Only compared, until they are checked.
    stored = RunFolder(config.resume).read_config(trust_parts=True).settings
    check_trusted(config.resume, stored, config.trust_parts, typed=config)
    default = stored.as_config()
    if config.epochs is not None or config.steps is not None:
        # The run's own length would contradict the one given before the two could be compared.
        default = dataclasses.replace(default, epochs=None, steps=None)
    given = parsed(FitConfig, arguments, program, default=default)
    if different := stored.differences(given, moved=True):
        raise ConfigError(
            f"{config.resume} was started with other settings: {', '.join(different)}; leave them out, or start a "
            "new run"
        )
    return dataclasses.replace(given, resume=config.resume)


if __name__ == "__main__":
    sys.exit(main())

"""Checks the posteriors of fitted runs.

For instance: python -m pp_simve.diagnose runs/digits-simve-20261124-120000

Writes posterior.nc (an xarray data tree in ArviZ's groups), diagnostics.json and figures to the run folder, and a
section to its report. --reference compares some images with NUTS, --refine refines posteriors image by image.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pp_simve.commands.options import DiagnoseConfig
from pp_simve.run.console import exit_code, parsed


def main(arguments: Sequence[str] | None = None, program: str = "python -m pp_simve.diagnose") -> int:
    """Runs the command line; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def run() -> int:
        config = parsed(DiagnoseConfig, given, program, description=__doc__)
        from pp_simve.commands.run_diagnose import diagnose_runs

        return diagnose_runs(config)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())

"""Evaluates the representations of fitted runs in full.

For instance: python -m pp_simve.evaluate runs/digits-simve-20261124-120000

Class, view parameters, attributes and handwriting from backbone, z, content and style; clusters; content from several
views; information and collapse; reconstruction. Each run gets an evaluation.json, beside the results.json of its fit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pp_simve.commands.options import EvaluateConfig
from pp_simve.run.console import exit_code, parsed


def main(arguments: Sequence[str] | None = None, program: str = "python -m pp_simve.evaluate") -> int:
    """Runs the command line; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def run() -> int:
        config = parsed(EvaluateConfig, given, program, description=__doc__)
        from pp_simve.commands.run_evaluate import evaluate_runs

        return evaluate_runs(config)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())

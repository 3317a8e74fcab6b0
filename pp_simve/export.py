"""Exports the encoder of a fitted run, for programs without pp_simve.

For instance: python -m pp_simve.export runs/digits-simve-20261124-120000 --to onnx

ONNX and pt2 (torch.export) hold images -> features for any number of images in [0, 1]; safetensors holds the weights of
the encoder. The file is read back and compared with the run on images of its data before it gets its name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pp_simve.commands.options import ExportConfig
from pp_simve.run.console import exit_code, parsed


def main(arguments: Sequence[str] | None = None, program: str = "python -m pp_simve.export") -> int:
    """Runs the command line; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def run() -> int:
        config = parsed(ExportConfig, given, program, description=__doc__)
        from pp_simve.commands.run_export import export_run

        return export_run(config)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())

"""Lists methods and parts with their options.

For instance: python -m pp_simve.parts prior guide
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pp_simve.commands.options import PartsConfig
from pp_simve.run.console import exit_code, parsed


def main(arguments: Sequence[str] | None = None, program: str = "python -m pp_simve.parts") -> int:
    """Runs the command line; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def run() -> int:
        config = parsed(PartsConfig, given, program, description=__doc__)
        from pp_simve.commands.list_parts import list_parts

        return list_parts(config)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())

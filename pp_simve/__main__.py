"""usage: pp-simve COMMAND [OPTIONS], or pp-simve COMMAND --help

Probabilistic programs for self-supervised learning.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import pp_simve
from pp_simve import compare, diagnose, embed, evaluate, export, fit, parts
from pp_simve.errors import ConfigError, unknown_name
from pp_simve.run.console import exit_code

COMMANDS: Mapping[str, Callable[[Sequence[str], str], int]] = {
    "fit": fit.main,
    "evaluate": evaluate.main,
    "diagnose": diagnose.main,
    "compare": compare.main,
    "embed": embed.main,
    "export": export.main,
    "parts": parts.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit code. Each is also a module: ``python -m pp_simve.fit`` is ``pp-simve fit``."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in COMMANDS:
        return COMMANDS[name](rest, f"pp-simve {name}")
    return exit_code(lambda: _about(name))


def _about(name: str) -> int:
    if name == "--version":
        print(pp_simve.__version__)
    elif name in ("-h", "--help"):
        print(__doc__, *(f"  {name:10}{_summary(main)}" for name, main in COMMANDS.items()), sep="\n")
    else:
        raise ConfigError(unknown_name("command", name, COMMANDS))
    return 0


def _summary(main: Callable[..., int]) -> str:
    """The first sentence of the module's docstring."""
    return str(sys.modules[main.__module__].__doc__).partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())

"""What a person can put right: errors the command lines answer with a message and exit code 2, not a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """A setting is wrong; the message says what was given, what was expected and what to do.

    Not a ValueError: tyro would catch it while it builds the settings, and answer in words of its own.
    """


def unknown_name(kind: str, given: str, valid: Iterable[str], also: str = "") -> ConfigError:
    """An error for a name that is not one of ``valid``, with the nearest one."""
    names = list(valid)
    nearest = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return ConfigError(f"unknown {kind} {given!r}{hint} Expected one of: {', '.join(names)}{also}")

"""Errors in what a user gave: the command lines print their message and exit with code 2, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from typing import Any


class ConfigError(Exception):
    """A setting is wrong; the message says what was given, what was expected and what to do.

    Not a ValueError: tyro would catch it while it builds the settings, and print another message.
    """


def optional_module(name: str, extra: str, use: str) -> Any:
    """A module of an optional dependency.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{use} needs {name} ({error}): pip install 'pp_simve[{extra}]'") from None


def unknown_name(kind: str, given: str, valid: Iterable[str], also: str = "") -> str:
    """The message for a name that is not one of ``valid``, with the nearest one."""
    names = list(valid)
    near = nearest(given, names)
    hint = f"; did you mean {near!r}?" if near else "."
    return f"unknown {kind} {given!r}{hint} Expected one of: {', '.join(names)}{also}"


def nearest(given: str, valid: Iterable[str]) -> str | None:
    """The valid name most like the given one, if one is, without regard to case, punctuation and what follows ":"."""
    plain = {_plain(name): name for name in reversed(list(valid))}
    near = difflib.get_close_matches(_plain(given), plain, n=1, cutoff=0.5)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.partition(":")[0].lower() if letter.isalnum())

"""Own parts (``package.module:Class``) that stored settings name: imported only where the user trusts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pp_simve.errors import ConfigError
from pp_simve.run.config import NAMING_PARTS, FitConfig, Settings
from pp_simve.run.named_parts import own_parts

Notes = Callable[[str], None]
"""Is called with what a person should be told."""


def unsaid(note: str) -> None:
    """Tells nobody."""


def own_parts_of(config: FitConfig | Settings, typed: FitConfig | None = None) -> list[str]:
    """Each ``package.module:Class`` that settings would import, nested ones included.

    Args:
        config: the settings.
        typed: settings of the command line: texts that are the same there do not count.

    Raises:
        ConfigError: a setting that names a part cannot be read.
    """
    known = set() if typed is None else set(_texts(typed))
    found = [name for flag, text in _texts(config) if (flag, text) not in known for name in own_parts(flag, text)]
    return list(dict.fromkeys(found))


def check_trusted(
    path: Path,
    config: FitConfig | Settings,
    trust_parts: bool,
    typed: FitConfig | None = None,
    notes: Notes = unsaid,
) -> None:
    """Refuses a run's settings that would import anything which the user does not trust; imports nothing itself.

    Args:
        path: of the run.
        config: its stored settings.
        trust_parts: whether the user trusts whatever they name.
        typed: settings of the command line, whose parts are trusted because the user named them.
        notes: called with what trusted settings import, if anything.

    Raises:
        ConfigError: parts that are not trusted, or a setting that cannot be read.
    """
    names = own_parts_of(config, typed)
    if names and not trust_parts:
        raise ConfigError(
            f"{path / 'config.json'} names classes that would be imported: {', '.join(names)}. Importing a module "
            "runs its code; if you trust these, add --trust-parts (in Python, trust_parts=True)"
        )
    if names:
        notes(f"{path}: importing {', '.join(names)} (--trust-parts)")


def _texts(config: FitConfig | Settings) -> Iterator[tuple[str, str]]:
    for flag in NAMING_PARTS:
        value = getattr(config, flag)
        yield from ((flag, text) for text in (value if isinstance(value, tuple) else [value]) if text)

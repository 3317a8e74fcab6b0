"""The list of parts: first line of each one's docstring, and its options with their defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pp_simve.commands.options import PartsConfig
from pp_simve.data.modalities import MODALITIES
from pp_simve.errors import ConfigError, unknown_name
from pp_simve.inference.augmentations import POLICIES
from pp_simve.run import named_parts as parts
from pp_simve.run.methods import METHODS
from pp_simve.run.tracking import TRACKERS

KINDS: Mapping[str, tuple[Mapping[str, Callable[..., Any]], int]] = {
    "method": (METHODS, 2),
    "prior": (parts.PRIORS, 1),
    "guide": (parts.GUIDES, 2),
    "likelihood": (parts.LIKELIHOODS, 1),
    "group": (parts.GROUPS, 0),
    "encoder": (parts.ENCODERS, 1),
    "decoder": (parts.DECODERS, 2),
    "objective": (parts.OBJECTIVES, 2),
    "policy": (POLICIES, 1),
    "modalities": (MODALITIES, 0),
    "track": (TRACKERS, 1),
    "optimizer": (parts.OPTIMIZERS, 1),
    "schedule": (parts.SCHEDULES, 0),
    "entropy": (parts.ENTROPIES, 0),
    "weight": (parts.WEIGHTS, 0),
}
"""Parts by name, and the number of arguments that each is given before its options."""
OPTIONS_ONLY = ("entropy", "weight")
"""Kinds that are options of other parts."""


def list_parts(config: PartsConfig) -> int:
    """Prints the parts of some kinds, all by default; the exit code."""
    for kind in config.kinds:
        if kind not in KINDS:
            raise ConfigError(unknown_name("kind of part", kind, KINDS))
    console = Console(highlight=False)
    for kind in config.kinds or KINDS:
        named, given = KINDS[kind]
        console.print(f"{kind}, as an option of a part" if kind in OPTIONS_ONLY else f"--{kind}", style="bold")
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=max(map(len, named)), no_wrap=True)
        for name, part in named.items():
            lines = filter(None, (_summary(part), _options(part, given)))
            table.add_row(f"  {name}", Text("\n".join(lines)))
        console.print(table)
        console.print()
    return 0


def _summary(part: Callable[..., Any]) -> str:
    described = part.func if isinstance(part, partial) else part
    return (inspect.getdoc(described) or "").partition("\n")[0].replace("``", "").replace("`", "")


def _options(part: Callable[..., Any], given: int) -> str:
    """Options with their defaults, or their types where there are none."""
    options = list(inspect.signature(part).parameters.values())[given:]
    return ", ".join(
        f"{option.name}: {option.annotation}" if option.default is option.empty else f"{option.name}={option.default!r}"
        for option in options
    )

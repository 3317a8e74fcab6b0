"""Numbers as people read them, on terminals and pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

FRACTIONS = ("accuracy", "balanced_accuracy", "linear", "knn", "recall", "chance", "chance_balanced")
"""Metrics shown in per cent, without what follows an ``@``."""

COUNTS = (
    "width",
    "active_units",
    "infonce_pairs",
    "fid_images",
    "median_rank",
    "epoch",
    "epochs",
    "short_classes",
    "converged",
)
"""Metrics without decimals where they are whole."""


def plain(value: Any) -> str:
    """A number of at most three significant digits, or words."""
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return _minus(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}")
    return _minus(f"{value:,}") if isinstance(value, int) else str(value)


def counted(count: float, unit: str) -> str:
    """A number with its unit, in the singular or plural.

    >>> counted(1.0, "epoch"), counted(2.5, "epoch")
    ('1 epoch', '2.5 epochs')
    """
    return f"{plain(count)} {unit}{'' if count == 1 else 's'}"


def score(metric: str, value: float | None) -> str:
    """A score by its metric: fractions in per cent, counts whole, others to three decimals or, from ten on, to one."""
    if value is None:
        return "–"
    if metric.partition("@")[0] in FRACTIONS:
        return f"{100 * value:.1f} %"
    if metric in COUNTS and value == int(value):
        return f"{int(value):,}"
    return _minus(f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}")


def aligned(values: Sequence[Any]) -> list[str]:
    """Numbers of one column with as many decimals each: enough for four digits of the largest, three at most.

    Others are as by `plain`. One that would round to zero, and is not zero, has its own digits.
    """
    sizes = [abs(value) for value in values if isinstance(value, float) and math.isfinite(value)]
    decimals = min(3, max(0, 3 - math.floor(math.log10(max(sizes))))) if any(sizes) else 0
    return [
        _minus(f"{value:,.{decimals}f}")
        if isinstance(value, float) and math.isfinite(value) and (value == 0 or abs(value) >= 10.0**-decimals)
        else plain(value)
        for value in values
    ]


def _minus(text: str) -> str:
    return text.replace("-", "−")

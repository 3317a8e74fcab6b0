"""Progress output of a fit: a bar in a terminal, plain lines elsewhere, nothing with --quiet."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest
import torch
from rich.console import Console

from pp_simve.inference import Progress, fit
from pp_simve.inference import progress_bar as module
from pp_simve.inference.progress_bar import watched

from .programs import make_pair, small_images


def told(step: int, **terms: float) -> Progress:
    rows = [{"step": float(step - back), **{name: value + back for name, value in terms.items()}} for back in (1, 0)]
    return Progress(step, 100, step / 10, 10.0, rows, rows, images_per_second=12_345.6, seconds_left=3661.0)


def shown(width: int, *, terminal: bool, **terms: float) -> list[str]:
    """Lines of a console of that width, without the codes that move and colour."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, legacy_windows=False)
    with watched(console) as monitor:
        monitor(told(50, **terms))
    assert isinstance(console.file, io.StringIO)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


TERMS = {"loss": 300.0, "content": -20.5, "reconstruction": -280.25}


def test_progress_prints_as_one_line() -> None:
    assert str(told(50, loss=300.0)) == "epoch  5.0/10.0  loss 300.50  12,346 views/s  1:01:01 left"


@pytest.mark.parametrize(
    ("width", "terms"),
    [
        (120, "loss 300.50  content -20.00  reconstruction -279.75  "),
        (90, "loss 300.50  content -20.00  "),
        (80, "loss 300.50  "),
    ],
)
def test_a_terminal_has_a_bar_with_the_terms_it_has_room_for(width: int, terms: str) -> None:
    line = shown(width, terminal=True, **TERMS)[-1]
    assert re.fullmatch(rf"epoch  5\.0/10\.0 [━╸╺ ]+ {re.escape(terms)}12,346 views/s  1:01:01 left", line), line
    assert len(line) == width


def test_a_fit_that_has_not_told_anything_yet_is_starting() -> None:
    assert shown(80, terminal=True, **TERMS)[0].endswith("starting")


def test_elsewhere_there_are_plain_lines_with_all_terms() -> None:
    assert shown(40, terminal=False, **TERMS) == [
        "epoch  5.0/10.0  loss 300.50  content -20.00  reconstruction -279.75  12,346 views/s  1:01:01 left"
    ]


def test_lines_are_few_but_the_last_is_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    console = Console(file=io.StringIO(), force_terminal=False)
    with watched(console) as monitor:
        for step in range(1, 101):
            now += 0.3
            monitor(told(step, loss=1.0))
    assert isinstance(console.file, io.StringIO)
    steps = [float(epoch) * 10 for epoch in re.findall(r"epoch +([0-9.]+)/", console.file.getvalue())]
    assert steps == [1, 18, 35, 52, 69, 86, 100]


@pytest.mark.parametrize(
    ("terminal", "arguments", "expected"),
    [
        (True, {}, True),
        (True, {"progress": False}, False),
        (True, {"monitor": lambda progress: None}, False),
        (False, {}, False),
    ],
)
def test_a_fit_from_python_has_a_bar_in_a_terminal_unless_it_is_watched_otherwise(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, arguments: dict[str, Any], expected: bool
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    pair = make_pair(dtype=torch.float32)
    fit(pair.model, pair.guide, small_images(), steps=2, batch_size=8, device="cpu", **arguments)
    assert ("epoch" in stream.getvalue()) is expected

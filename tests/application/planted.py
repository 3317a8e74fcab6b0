"""Planted mistakes: wrong parts, and the checks of a conformance suite that must fail for them."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import pyro
import pytest

Members = dict[str, Any]
Mistake = tuple[str, str, type[Any] | Members]
"""The mistake in words, the check that fails with words of its message after ": ", and the wrong part: a class, or
members that replace those of the right part."""


def built(right: type[Any], change: Callable[[Any], object]) -> Members:
    """Members that change a part of that class when it is made."""

    def init(self: Any, *arguments: Any) -> None:
        right.__init__(self, *arguments)
        change(self)

    return {"__init__": init}


def plain(part: Any, name: str) -> None:
    """Makes a buffer of a part a plain attribute."""
    value = getattr(part, name)
    delattr(part, name)
    setattr(part, name, value)


def suite_for(suite: type[Any], right: type[Any], wrong: type[Any] | Members | None = None) -> Any:
    """The suite for a class, made of the same arguments, with a mistake planted."""
    part = type("Wrong", (right,), wrong) if isinstance(wrong, dict) else wrong or right
    return type("Suite", (suite,), {"make": lambda _, *arguments: part(*arguments)})()


def each(suite: type[Any], right: type[Any], mistakes: list[Mistake]) -> list[Any]:
    """Parameters of `assert_caught`, one a mistake."""
    return [pytest.param(suite_for(suite, right, part), check, id=what) for what, check, part in mistakes]


def assert_caught(suite: Any, check: str) -> None:
    """The check fails, by its own message and not by an accident on the way."""
    name, _, words = check.partition(": ")
    try:
        with pytest.raises(AssertionError) as failure:
            getattr(suite, name)()
    finally:
        pyro.clear_param_store()
    assert words in str(failure.value), str(failure.value)


def failures(suite: Any) -> dict[str, Exception]:
    """The checks of a suite that fail, each run as pytest would."""
    failed: dict[str, Exception] = {}
    for name in dir(suite):
        if name.startswith("test_"):
            try:
                getattr(suite, name)()
            except unittest.SkipTest:
                continue
            except Exception as error:  # whatever pytest would count as a failure
                failed[name] = error
    return failed

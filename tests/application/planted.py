"""Planted mistakes: wrong parts, and the checks of a conformance suite that must fail for them."""

from __future__ import annotations

import unittest
from typing import Any

import pyro
import pytest


class Mistake:
    """A wrong part.

    Args:
        what: the mistake in words.
        part: a class; or members that replace those of the right part.
        caught_by: checks that fail, each followed by ": " and words of its message where these matter. Other checks
            may fail too.
    """

    def __init__(self, what: str, part: type[Any] | dict[str, Any], *caught_by: str) -> None:
        self.what, self.part, self.caught_by = what, part, caught_by

    def planted(self, right: type[Any]) -> type[Any]:
        """The class of the wrong part."""
        return type("Wrong", (right,), self.part) if isinstance(self.part, dict) else self.part


def each(mistakes: list[Mistake]) -> Any:
    """Parametrizes a test with every mistake and check."""
    rows = [(mistake, *check.partition(": ")[::2]) for mistake in mistakes for check in mistake.caught_by]
    ids = [f"{mistake.what}-{check}" for mistake, check, _ in rows]
    return pytest.mark.parametrize(("mistake", "check", "words"), rows, ids=ids)


def suite_for(suite: type[Any], part: type[Any], **attributes: Any) -> Any:
    """The suite for a class, made of the same arguments."""
    return type("Suite", (suite,), {"make": lambda _, *arguments: part(*arguments), **attributes})()


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


def assert_caught(suite: Any, check: str, words: str) -> None:
    """The check fails, by its own message and not by an accident on the way."""
    try:
        with pytest.raises(AssertionError) as failure:
            getattr(suite, check)()
    finally:
        pyro.clear_param_store()
    assert words in str(failure.value), str(failure.value)

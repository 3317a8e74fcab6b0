"""Output that cannot end a command: characters that a terminal does not have, and readers that went away."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

PLAIN = {"±": "+/-", "×": "x", "–": "-", "−": "-", "≥": ">=", "≤": "<=", "²": "2", "…": "...", "·": "*"}
"""What is written in place of characters that the encoding of the output lacks; others are written as ``\\\\u03b2``."""

_HANDLER = "pp_simve.plain"


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    return PLAIN.get(letter) or ascii(letter)[1:-1], error.start + 1


codecs.register_error(_HANDLER, _plain)


class _Lenient:
    """A text stream whose reader may go away: what is written after that is lost, and nothing else."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._to_nowhere()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._to_nowhere()

    def _to_nowhere(self) -> None:
        # What is buffered would fail again when the interpreter ends.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()


@contextmanager
def lenient_output() -> Iterator[None]:
    """Context in which writing to stdout and stderr raises nothing: the command goes on, whoever reads it."""
    with ExitStack() as stack:
        # A stream that was closed before the start is None.
        streams = (stream or stack.enter_context(open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr))
        out, err = map(_Lenient, streams)
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        yield
        out.flush()
        err.flush()

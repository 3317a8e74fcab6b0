"""JSON files of a run: what each holds, written with a checksum, verified and validated when it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from pp_simve.errors import ConfigError
from pp_simve.inference.sealing import BLANK, SEAL, read_sealed, sealed
from pp_simve.inference.tools import write_whole

Score = float | None


class _Image(TypedDict):
    image: list[int]


class Shape(_Image, total=False):
    """A `DataShape`."""

    images: int
    attributes: int


class Config(TypedDict, total=False):
    """Content of config.json."""

    version: str
    commit: str | None
    torch: str
    data_fingerprint: str
    data_shape: Shape
    config: dict[str, Any]


class Headline(TypedDict, total=False):
    """The scores a method is compared by."""

    linear: Score
    knn: Score
    mean_r2: Score
    representation: str


class Results(TypedDict, total=False):
    """Content of results.json."""

    content: Headline
    style: Headline
    bound: dict[str, Score] | None
    is_bound: bool
    seconds_per_epoch: Score
    peak_memory_mb: Score
    epochs: Score
    steps: int
    batch_size: int
    views: int
    modalities: list[str]
    parameters: int
    seed: int
    device: str
    seconds_evaluating: Score
    scored: str
    warnings: list[str]
    records: list[dict[str, Any]]


class Evaluation(TypedDict, total=False):
    """Content of evaluation.json."""

    version: str
    commit: str | None
    settings: dict[str, Any]
    seconds: float
    records: list[dict[str, Any]]


class Transfer(TypedDict, total=False):
    """Content of transfer.json: evaluations on other data than those of the fit, by the name of the data."""

    on: dict[str, Evaluation]


class Table(TypedDict):
    """Rows of a check."""

    columns: list[str]
    rows: list[list[float | str | bool | None]]


class _Check(TypedDict):
    name: str
    title: str
    value: float | str | None
    alarm: bool | None
    how: str


class Check(_Check, total=False):
    """Result of a posterior check."""

    unit: str | None
    limitations: str
    rows: Table | None


class Diagnostics(TypedDict, total=False):
    """Content of diagnostics.json."""

    checks: list[Check]
    notes: list[str]
    settings: dict[str, Any]


CONTENTS: Mapping[str, Any] = {
    "config.json": Config,
    "results.json": Results,
    "evaluation.json": Evaluation,
    "transfer.json": Transfer,
    "diagnostics.json": Diagnostics,
}
"""Types of the entries by file name. Entries that are not listed are kept as they are: of a later version."""

_WORDS: Mapping[Any, str] = {
    **{str: "text", float: "a number", int: "a whole number", bool: "true or false", NoneType: "null"},
    **{list: "a list", dict: "an object"},
}


def write_json(path: Path, entries: Mapping[str, Any]) -> None:
    """Writes a JSON file whole, with a checksum; numbers that are not finite become null."""
    text = json.dumps({SEAL: BLANK, **_finite(entries)}, indent=2, allow_nan=False) + "\n"
    write_whole(path, sealed(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    """The entries of one of the files in `CONTENTS`.

    Raises:
        ConfigError: the file is missing, damaged, changed after it was written, or holds anything else.
    """
    mine = path.name == "config.json"
    remedy = "restore it from a copy, or fit again" if mine else "delete it, or run the command again that wrote it"
    try:
        text = read_sealed(path, edited=f' (if you edited it on purpose, delete its entry "{SEAL}")').decode()
        entries = json.loads(text, parse_int=_int, parse_float=_float, parse_constant=_float)
        if not isinstance(entries, dict):
            raise ValueError("expected an object with entries by name")
        entries.pop(SEAL, None)
        if wrong := misfit(entries, CONTENTS[path.name]):
            raise ValueError(wrong)
        return entries
    except FileNotFoundError:
        raise ConfigError(
            f"{path.parent} is no run folder: it has no {path.name}" if mine else f"there is no file {path}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{path} is damaged ({reason}); {remedy}") from None


def misfit(value: Any, kind: Any, where: str = "") -> str | None:
    """What in a JSON value is not of a type, in words; None where it is.

    Args:
        value: of the types that JSON has.
        kind: a type, union, list, dict or TypedDict of them; entries that a TypedDict does not name may be anything.
        where: the name of the value.
    """
    if kind is Any:
        return None
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        fits = [misfit(value, one, where) for one in arguments]
        # The message of the part that has the value's outer type is the most exact one.
        same = [found for one, found in zip(arguments, fits, strict=True) if _outer(one) is type(value)]
        return None if None in fits else next(iter(same), _expected(where, value, kind))
    outer = _outer(kind)
    if type(value) is not outer and not (outer is float and type(value) is int):
        return _expected(where, value, kind)
    parts: list[tuple[str, Any, Any]] = []
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        if missing := sorted(kind.__required_keys__ - value.keys()):
            return f"{where or 'it'} lacks {', '.join(missing)}"
        parts = [(name, value[name], hints[name]) for name in hints if name in value]
    elif outer is dict:
        parts = [(name, one, arguments[1]) for name, one in value.items()]
    elif outer is list:
        parts = [(str(place), one, arguments[0]) for place, one in enumerate(value)]
    found = (misfit(one, of_one, f"{where}.{name}" if where else name) for name, one, of_one in parts)
    return next(filter(None, found), None)


def _outer(kind: Any) -> Any:
    """The JSON type of a type."""
    origin = get_origin(kind) or kind
    return dict if is_typeddict(kind) or origin is Mapping else list if origin is Sequence else origin


def _expected(where: str, value: Any, kind: Any) -> str:
    kinds = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    words = " or ".join(_WORDS[_outer(one)] for one in kinds)
    return f"{where or 'it'} is {json.dumps(value)[:60]}, expected {words}"


def _int(text: str) -> int:
    number = int(text) if len(text) < 20 else 2**63
    if abs(number) >= 2**63:
        raise ValueError(f"{text[:20]} is too large")
    return number


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

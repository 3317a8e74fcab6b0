"""Checksums that files carry in themselves: file and checksum are replaced together, whenever a process is killed."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import BinaryIO

SEAL = "sha256"
BLANK = "0" * 64
"""Value of the entry ``sha256`` before `sealed` fills it in."""

_TRAILER = f'"{SEAL}": "{BLANK}"'
_ENTRY = re.compile(rb'"%s":(?: ?"([0-9a-f]{%d})")?' % (SEAL.encode(), len(BLANK)))


class ChecksumError(ValueError):
    """The content of a file is not what was written."""


def sealed(data: bytes | memoryview) -> bytearray:
    """A file's content with its SHA-256 filled in, computed with `BLANK` in its place.

    Args:
        data: has an entry ``"sha256": "000…"`` (JSON, the header of safetensors); else the entry is appended, which
            readers of zip files, as torch writes them, skip.
    """
    whole = bytearray(data)
    entry = _ENTRY.search(whole)
    if entry is None:
        whole += _TRAILER.encode()
        entry = _ENTRY.search(whole, len(data))
    assert entry is not None
    start, end = entry.span(1)
    del entry  # which would keep the array from being changed
    whole[start:end] = _digest(whole, start, end)
    return whole


def read_sealed(path: Path, *, edited: str = "") -> bytes:
    """The content of a file that `sealed` gave, or of one without checksum: of an earlier version, or edited by hand.

    Args:
        path: of the file.
        edited: what to do with a file that was changed on purpose, for the message.

    Raises:
        ChecksumError: it was changed since it was written.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    entry = _ENTRY.search(data)
    if entry is not None and (entry[1] is None or entry[1] != _digest(data, *entry.span(1))):
        raise ChecksumError(f"its checksum does not match: it was changed after it was written{edited}")
    return data


def seal_file(path: Path) -> None:
    """Appends the checksum to a file that is too large for `sealed`."""
    with path.open("r+b") as file:
        digest = _digest_of(file, path.stat().st_size)
        file.seek(0, os.SEEK_END)
        file.write(_TRAILER.replace(BLANK, digest).encode())


def check_file(path: Path) -> bool:
    """Verifies the checksum that `seal_file` appended; whether there is one.

    Raises:
        ChecksumError: the file was changed since it was written.
        OSError: it cannot be read.
    """
    size = path.stat().st_size - len(_TRAILER)
    with path.open("rb") as file:
        file.seek(max(0, size))
        trailer = file.read()
        if f'"{SEAL}":'.encode() not in trailer:
            return False
        file.seek(0)
        if trailer != _TRAILER.replace(BLANK, _digest_of(file, size)).encode():
            raise ChecksumError("its checksum does not match: it was changed after it was written")
    return True


def _digest_of(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, 2**20))):
        digest.update(block)
        size -= len(block)
    digest.update(_TRAILER.encode())
    return digest.hexdigest()


def _digest(data: bytes | bytearray, start: int, end: int) -> bytes:
    with memoryview(data) as view:
        digest = hashlib.sha256(view[:start])
        digest.update(BLANK.encode())
        digest.update(view[end:])
    return digest.hexdigest().encode()

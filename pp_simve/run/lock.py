"""One writer of a run folder at a time: a lock that the kernel releases when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pp_simve.errors import ConfigError

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
"""File in the folder of a run while a process writes there; of a process that was killed, it stays without meaning."""

_TEMPORARY = re.compile(r"\.[\w-]+\.(json|jsonl|safetensors|pt|nc|html|png)\.\d+")
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context in which no other process writes to a folder. What killed processes left unfinished there is removed.

    Raises:
        ConfigError: another process writes to it, or it cannot be written to.
    """
    path = folder / LOCK
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be written to ({error.strerror}); make it writable, or copy the run elsewhere"
            ) from None
        try:
            _lock(descriptor, folder)
            # The former holder may have removed the file between our opening and locking it.
            current = path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
        except BaseException:
            os.close(descriptor)
            raise
        if current:
            break
        os.close(descriptor)
    try:
        os.truncate(descriptor, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())
        for place in (folder, folder / "figures"):
            for left in place.glob(".*"):
                if _TEMPORARY.fullmatch(left.name):
                    left.unlink()
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def is_own(path: Path) -> bool:
    """Whether a file is the lock, or one that is written and not renamed yet."""
    return path.name == LOCK or bool(_TEMPORARY.fullmatch(path.name))


def _lock(descriptor: int, folder: Path) -> None:
    if sys.platform == "win32":  # which has no such locks
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
        raise ConfigError(f"{folder} is being written by {holder}; wait until it ends, or stop it") from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:  # some network file systems have none
            raise

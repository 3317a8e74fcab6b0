"""Memory at hand, checked before data are unpacked, so that too much is refused rather than the process killed."""

import os
from contextlib import suppress
from pathlib import Path

from pp_simve.data.types import DataError

MEMORY_SHARE = 0.8  # of the memory at hand, above which data are refused
LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


def memory_at_hand() -> int | None:
    """Bytes of memory of this machine, or of the container where that has less; None where the system does not say."""
    found = []
    with suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):
        found.append(int(LIMIT.read_text()))
    return min(found, default=None)


def check_memory(needed: int, what: str, advice: str) -> None:
    """Raise DataError where `what` takes more than the share of the memory at hand."""
    memory = memory_at_hand()
    if memory is not None and needed > MEMORY_SHARE * memory:
        raise DataError(
            f"{what} take {needed / 2**30:.1f} GiB, and this machine has {memory / 2**30:.1f} GiB: {advice}."
        )

"""Memory at hand, checked before data are unpacked, so that too much is refused rather than the process killed."""

from pp_simve.data.types import DataError
from pp_simve.inference.tools import memory_at_hand

MEMORY_SHARE = 0.8  # of the memory at hand, above which data are refused
RESIDENT_SHARE = 0.25  # up to which they are read into memory: decoded, divided and cached, they are there three times


def fits_memory(needed: int) -> bool:
    """Whether data of so many bytes are read into memory, not mapped from a file."""
    memory = memory_at_hand()
    return memory is None or needed <= RESIDENT_SHARE * memory


def check_memory(needed: int, what: str, advice: str) -> None:
    """Raise DataError where `what` takes more than the share of the memory at hand."""
    memory = memory_at_hand()
    if memory is not None and needed > MEMORY_SHARE * memory:
        raise DataError(
            f"{what} take {needed / 2**30:.1f} GiB, and this machine has {memory / 2**30:.1f} GiB: {advice}."
        )

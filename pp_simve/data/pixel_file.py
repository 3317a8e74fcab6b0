"""Decoded images that are too many for memory: appended to a file, from where they are mapped."""

import json
import math
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from pp_simve.data.collection import Collection
from pp_simve.data.decode import Found, Listing, Monitor, decoded
from pp_simve.data.pixels import Reading
from pp_simve.data.types import ImageShape
from pp_simve.inference.tools import write_whole

BLOCK_BYTES = 2**26  # pixels between two entries of the journal: what an interruption costs, at most


def journal_of(file: Path) -> Path:
    """The file that says how much of a file of pixels is whole."""
    return file.with_suffix(".journal")


def decode_to_file(
    listing: Listing, reading: Reading, shape: ImageShape, file: Path, identity: str, progress: Monitor
) -> Collection:
    """As `read_listing`, but the pixels are appended to a file, which is then mapped.

    After an interruption the next call goes on from the journal, if it has the same identity.

    Args:
        listing: of the files.
        reading: of each.
        shape: of the images, by `sampled_shape`.
        file: of the pixels alone, image after image.
        identity: changes with the listing, the state of its files, and the reading.
        progress: called with the number of files done and of all.

    Raises:
        DataError: as `read_listing`.
        OSError: the file cannot be written.
    """
    found = Found()
    try:
        state = json.loads(journal_of(file).read_text())
        bad = {int(place): why for place, why in state["bad"].items()}
        kept = [place for place in range(state["done"]) if place not in bad]
        stored = (int(state["channels"]), *shape[1:])
        if state["identity"] == identity and file.stat().st_size >= len(kept) * math.prod(stored):
            shape, found = stored, Found(kept, bad, Counter(state["remarks"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged
        pass
    while not _append(listing, reading, shape, file, identity, progress, found):
        shape, found = (3, *shape[1:]), Found()
    notes = found.notes(listing, reading)
    pixels = np.memmap(file, np.uint8, "c", shape=(len(found.kept), *shape))
    return replace(found.collection(listing, pixels, notes), mapped=pixels)


def _append(
    listing: Listing,
    reading: Reading,
    shape: ImageShape,
    file: Path,
    identity: str,
    progress: Monitor,
    found: Found,
) -> bool:
    """Decodes what is not in the file yet; False where that is of colour, and the file grey."""
    size, count = math.prod(shape), len(listing.paths)
    with file.open("r+b" if found.kept else "wb") as out:
        out.truncate(len(found.kept) * size)
        out.seek(0, os.SEEK_END)
        while (done := found.done) < count:
            places = range(done, min(count, done + max(1, BLOCK_BYTES // size)))
            for image in decoded(listing, places, reading, shape, found):
                if image.shape[0] > shape[0]:
                    return False
                out.write(np.broadcast_to(image, shape).tobytes())
                progress(found.done, count)
            if found.bad and not reading.skip_bad:
                found.notes(listing, reading)  # raises
            out.flush()
            os.fsync(out.fileno())
            state = {"identity": identity, "done": found.done, "channels": shape[0], "bad": found.bad}
            write_whole(journal_of(file), json.dumps(state | {"remarks": found.remarks}).encode())
    return True

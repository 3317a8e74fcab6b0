"""Decoded images kept on disk, so that a folder of files is decoded once. Never trusted: checked on every read."""

import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pp_simve.data.collection import Collection
from pp_simve.data.folders import state_of
from pp_simve.data.pixel_file import journal_of
from pp_simve.data.types import DataError, tensor_digest
from pp_simve.inference import MappedImages

if sys.platform != "win32":
    import fcntl

FORMAT = "3"  # changes with what is decoded or how it is stored
TENSORS = ("images", "part", "labels", "attributes")
WORDS = ("classes", "attribute_names", "notes", "files")


class _Unusable(Exception):
    """A file of the cache cannot be used; the message says why."""


def default_folder() -> Path | None:
    """$PP_SIMVE_CACHE, else $XDG_CACHE_HOME/pp_simve, else ~/.cache/pp_simve; None where there is no home."""
    if own := os.environ.get("PP_SIMVE_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "pp_simve"
    try:
        return Path.home() / ".cache" / "pp_simve"
    except RuntimeError:
        return None


def cached(
    folder: Path | None, source: Mapping[str, object], fingerprint: str, decode: Callable[[], Collection]
) -> Collection:
    """The collection of `source` from the cache, else from `decode`, kept for next time.

    `source` says what was read and how (name, path, options) and chooses the file; `fingerprint` says in which state
    it was, so that a source that changed replaces its own file rather than adding another. A damaged or foreign file
    is rebuilt and a cache that cannot be written is left out, with a note.
    """
    if folder is None:
        return decode()
    file, identity = file_of(folder, source)
    notes: list[str] = []
    if os.path.isfile(file):
        try:
            return _read(file, identity, fingerprint)
        except _Unusable as reason:
            notes.append(f"cache rebuilt: {reason} ({file})")
    collection = decode()
    try:
        _write(file, identity, fingerprint, collection)
    except (OSError, SafetensorError) as error:
        notes.append(f"decoded images not cached, the next start decodes them again: {folder} not writable ({error})")
    return replace(collection, notes=(*collection.notes, *notes))


def mapped(
    folder: Path, source: Mapping[str, object], fingerprint: str, decode: Callable[[Path, str], Collection]
) -> Collection:
    """As `cached`, but the images are mapped from a file of pixels beside that of the rest.

    `decode` writes that file, which it is given with the identity of what is in it. Of several processes, one decodes
    and the others wait. Of the pixels, size and time of modification are checked, as those of the source are.

    Raises OSError where the folder cannot be written.
    """
    file, identity = file_of(folder, source)
    pixels = file.with_suffix(".pixels")
    notes: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(file.with_suffix(".lock")):
        if os.path.isfile(file):
            try:
                return _read(file, identity, fingerprint, pixels)
            except _Unusable as reason:
                notes.append(f"cache rebuilt: {reason} ({file})")
                file.unlink()
        try:
            collection = decode(pixels, f"{identity} {fingerprint}")
        except KeyboardInterrupt as interruption:
            interruption.add_note("decoding goes on from there when the same command is started again")
            raise
        except DataError:
            pixels.unlink(missing_ok=True)
            journal_of(pixels).unlink(missing_ok=True)
            raise
        _write(file, identity, fingerprint, collection, pixels)
        journal_of(pixels).unlink(missing_ok=True)
    return replace(collection, notes=(*collection.notes, *notes))


def file_of(folder: Path, source: Mapping[str, object]) -> tuple[Path, str]:
    """The file of a source in the cache, and its identity."""
    identity = json.dumps({"format": FORMAT, **{key: str(value) for key, value in source.items()}}, sort_keys=True)
    stem = re.sub(r"[^A-Za-z0-9]+", "-", str(source.get("name", "data")))[:40].strip("-")
    return folder / f"{stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors", identity


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Context in which no other process is; the lock ends with its process, however that ends."""
    with file.open("w") as lock:
        if sys.platform != "win32":
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(file: Path, identity: str, fingerprint: str, pixels: Path | None = None) -> Collection:
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("identity") != identity:
                raise _Unusable("the file there belongs to something else")
            if metadata.get("fingerprint") != fingerprint:
                raise _Unusable("the source files changed")
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise _Unusable(f"unreadable, {error}") from error
    about = metadata.get("about", "")
    if _checksum(tensors, about) != metadata.get("checksum"):
        raise _Unusable("the checksum is wrong")
    words: dict[str, Any] = json.loads(about)
    if pixels is not None:
        state, shape = words.pop("pixels")
        if state_of(str(pixels)) != state:
            raise _Unusable(f"{pixels.name} changed")
        words["mapped"] = np.memmap(pixels, np.uint8, "r", shape=tuple(shape))
        tensors["images"] = torch.from_numpy(MappedImages(words["mapped"]).images)
    images, part = tensors.get("images"), tensors.get("part")
    if images is None or part is None or images.dtype != torch.uint8 or images.ndim != 4 or len(part) != len(images):
        raise _Unusable("its arrays have the wrong shape or type")
    for name in WORDS:
        words[name] = tuple(words[name])
    return Collection(**tensors, **words)


def _checksum(tensors: Mapping[str, Tensor], about: str) -> str:
    others = (tensors[key] for key in sorted(tensors.keys() - {*TENSORS}))
    return tensor_digest((*(tensors.get(key) for key in TENSORS), *others), about)


def _write(file: Path, identity: str, fingerprint: str, collection: Collection, pixels: Path | None = None) -> None:
    entries: dict[str, Any] = {name: getattr(collection, name) for name in WORDS}
    names: tuple[str, ...] = TENSORS
    if pixels is not None:
        entries |= {"pixels": (state_of(str(pixels)), collection.images.shape), "digest": collection.digest}
        names = tuple({*TENSORS, "order"} - {"images"})
    about = json.dumps(entries)
    tensors = {key: value.contiguous() for key in names if (value := getattr(collection, key)) is not None}
    metadata = {
        "identity": identity,
        "fingerprint": fingerprint,
        "about": about,
        "checksum": _checksum(tensors, about),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}-{uuid.uuid4().hex}.tmp")
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)

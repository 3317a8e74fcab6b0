"""Decoded images kept on disk, so that a folder of files is decoded once. Never trusted: checked on every read."""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pp_simve.data.collection import Collection
from pp_simve.data.types import tensor_digest

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
    identity = json.dumps({"format": FORMAT, **{key: str(value) for key, value in source.items()}}, sort_keys=True)
    stem = re.sub(r"[^A-Za-z0-9]+", "-", str(source.get("name", "data")))[:40].strip("-")
    file = folder / f"{stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
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


def _read(file: Path, identity: str, fingerprint: str) -> Collection:
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
    if tensor_digest((tensors.get(key) for key in TENSORS), about) != metadata.get("checksum"):
        raise _Unusable("the checksum is wrong")
    images, part = tensors.get("images"), tensors.get("part")
    if images is None or part is None or images.dtype != torch.uint8 or images.ndim != 4 or len(part) != len(images):
        raise _Unusable("its arrays have the wrong shape or type")
    words: dict[str, Any] = {name: tuple(entries) for name, entries in json.loads(about).items()}
    return Collection(**tensors, **words)


def _write(file: Path, identity: str, fingerprint: str, collection: Collection) -> None:
    about = json.dumps({name: getattr(collection, name) for name in WORDS})
    tensors = {key: value.contiguous() for key in TENSORS if (value := getattr(collection, key)) is not None}
    metadata = {
        "identity": identity,
        "fingerprint": fingerprint,
        "about": about,
        "checksum": tensor_digest((tensors.get(key) for key in TENSORS), about),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}-{uuid.uuid4().hex}.tmp")
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)

"""Image folders: classes or none, divided into train and test or not."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import torch

from pp_simve.data.collection import TEST, TRAIN, UNDIVIDED, VALIDATION
from pp_simve.data.decode import Listing
from pp_simve.data.types import SHOWN, DataError, class_name, class_order, count_of

# Of the formats in `decode.FORMATS`.
EXTENSIONS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff"),
    *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif"),
}
SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
"""Names of the folders of splits, in any case."""
FOREIGN = {"@eadir", "@recycle", "#recycle", "$recycle.bin", "__macosx", "lost+found"}
"""Folders that file servers and systems keep, in lower case."""
LAYOUT = "PATH/{train,test}/<class>/*, PATH/<class>/*, or without classes PATH/{train,test}/* or PATH/*"


def has_given_splits(path: Path) -> bool:
    """Whether PATH/train and PATH/test both hold class folders."""
    return path.is_dir() and {TRAIN, TEST} <= {SPLITS.get(one.name.casefold()) for one in _divided(path)}


def list_folder(name: str, path: Path) -> Listing:
    """List an image folder; raises DataError where its layout, its classes or their sizes cannot be used."""
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(f"{name}: {path.absolute()} {problem}. Expected a folder of images laid out as {LAYOUT}.")
    passed = Counter[str]()
    parts = _parts(name, path, passed)
    labeled = any(_subfolders(folder) for folder in parts.values())
    found: dict[int, dict[str, list[str]]] = {}
    merged: set[str] = set()
    deep = Counter[str]()
    for split, folder in parts.items():
        found[split] = {}
        for entry in _subfolders(folder) if labeled else [folder]:
            label = class_name(entry.name) if labeled else ""
            merged |= {label} & found[split].keys()
            files = image_files(entry, passed)
            found[split].setdefault(label, []).extend(files)
            inside = (os.path.dirname(os.path.relpath(file, folder)) for file in files)
            deep.update(below for below in inside if os.sep in below)
        if labeled and (loose := sum(_is_image(one.name) for one in folder.iterdir() if not one.is_dir())):
            passed["outside class folders"] += loose
    _check_classes(name, path, found)
    notes = []
    if merged:
        notes.append(f"{', '.join(sorted(merged))}: folders whose names differ in Unicode form only are one class")
    if deep:
        notes.append(f"{count_of(deep.total(), 'image')} in sub-folders taken with the folder above: {_counts(deep)}")
    if passed := +passed:
        notes.append(f"left out: {_counts(passed)} (images among them are read once converted, renamed or moved)")
    order = sorted(next(iter(found.values())))
    rows = [(file, label, split) for split, files_of in found.items() for label in order for file in files_of[label]]
    digest = hashlib.sha256()
    for file, _, _ in rows:
        digest.update(f"{os.path.relpath(file, path)}\0{state_of(file)}\n".encode(errors="surrogateescape"))
    part = torch.tensor([row[2] for row in rows])
    classes = class_order(order) if labeled else ()
    place = {label: position for position, label in enumerate(classes)}
    labels = torch.tensor([place[row[1]] for row in rows]) if labeled else None
    paths = tuple(row[0] for row in rows)
    return Listing(name, paths, part, labels, classes, digest.hexdigest(), notes=tuple(notes), root=path)


def image_files(folder: Path, passed: Counter[str] | None = None) -> list[str]:
    """Image files anywhere below a folder, sorted; hidden files and folders, and links to folders, are passed over.

    `passed` counts the other files that are passed over, by extension or folder.
    """

    def unreadable(error: OSError) -> None:
        raise error

    found = []
    passed = passed if passed is not None else Counter()
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        for foreign in (name for name in folders if name.casefold() in FOREIGN):
            passed[f"in {foreign}"] += len(image_files(Path(parent, foreign)))
        folders[:] = [name for name in folders if not _is_passed(name)]
        found += [os.path.join(parent, name) for name in names if _is_image(name)]
        others = (name for name in names if not _is_image(name) and not name.startswith("."))
        passed.update(os.path.splitext(name)[1].lower() or "without extension" for name in others)
    return sorted(found, key=lambda file: file.split(os.sep))


def state_of(file: str) -> str:
    """Size in bytes and modification time in ns of a file; -1 of a broken link, which decoding then names."""
    try:
        status = os.stat(file)
    except OSError:
        return "-1\0-1"
    return f"{status.st_size}\0{status.st_mtime_ns}"


def _counts(counted: Counter[str]) -> str:
    ordered = sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))
    shown = ", ".join(f"{number:,} {what}" for what, number in ordered[:SHOWN])
    return shown + (f" and {len(counted) - SHOWN} kinds more" if len(counted) > SHOWN else "")


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")


def _is_passed(name: str) -> bool:
    return name.startswith(".") or name.casefold() in FOREIGN


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _is_passed(entry.name))


def _divided(path: Path) -> list[Path]:
    """Folders of splits that hold class folders."""
    return [one for one in _subfolders(path) if one.name.casefold() in SPLITS and _subfolders(one)]


def _parts(name: str, path: Path, passed: Counter[str]) -> dict[int, Path]:
    """The folder of each split; images of folders that are none of them are counted in `passed`."""
    folders, divided = _subfolders(path), _divided(path)
    if not divided and all(one.name.casefold() in SPLITS for one in folders):
        divided = folders  # train and test without classes
    parts: dict[int, Path] = {}
    for one in divided:
        if (other := parts.setdefault(SPLITS[one.name.casefold()], one)) is not one:
            raise DataError(f"{name}: {path.absolute()} has {other.name} and {one.name}, the same split. Keep one.")
    if {TRAIN, TEST} <= parts.keys():
        for one in set(folders) - set(parts.values()):
            passed[f"in {one.name}"] += len(image_files(one))
        return parts
    # `train` may also be a class, beside `car` and `plane`; then it holds images, not folders.
    for part, other_name in ((TRAIN, "test"), (TEST, "train")):
        if part in parts and _subfolders(parts[part]):
            raise DataError(
                f"{name}: {path.absolute()} has {parts[part].name}/<class> folders, but no {other_name}/<class> "
                f"folders. Expected {LAYOUT}: add {other_name}/, or give {parts[part]} as the folder."
            )
    return {UNDIVIDED: path}


def _check_classes(name: str, path: Path, found: dict[int, dict[str, list[str]]]) -> None:
    folders = {UNDIVIDED: "", TRAIN: "train", VALIDATION: "validation", TEST: "test"}
    if not any(files for part in found.values() for files in part.values()):
        raise DataError(
            f"{name}: {path.absolute()} cannot be used: no image files were found in it. Expected {LAYOUT}, "
            f"with files ending in {' '.join(sorted(EXTENSIONS))}."
        )
    for part in found.keys() - {UNDIVIDED}:
        pairs = (TRAIN, part), (part, TRAIN)
        only = {folders[here]: sorted(found[here].keys() - found[there].keys()) for here, there in pairs}
        if different := [f"only in {where}: {', '.join(labels)}" for where, labels in only.items() if labels]:
            raise DataError(
                f"{name}: train and {folders[part]} in {path.absolute()} have different class folders "
                f"({'; '.join(different)}). Both need the same classes: rename, add or remove folders."
            )
    for part, files_of in found.items():
        if empty := [os.path.join(folders[part], label) for label, files in sorted(files_of.items()) if not files]:
            raise DataError(
                f"{name}: no image files in {', '.join(empty)} of {path.absolute()}: add images, or remove the folder."
            )

"""Image folders: PATH/{train,test}/<class>/* or PATH/<class>/*."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pp_simve.data.collection import TEST, TRAIN, UNDIVIDED, VALIDATION, Collection
from pp_simve.data.decode import decode_files
from pp_simve.data.splits import check_divisible
from pp_simve.data.types import DataError

# Of the formats in `decode.FORMATS`.
EXTENSIONS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff"),
    *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif"),
}
VALIDATION_FOLDERS = ("validation", "valid", "val")
LAYOUT = "PATH/{train,test}/<class>/* or PATH/<class>/*"


@dataclass(frozen=True)
class Listing:
    """The files of an image folder, sorted, with the class and the part of each, before any is opened."""

    name: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    parts: tuple[int, ...]
    classes: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class File:
    """An image file, by its path, size in bytes and modification time in ns (both −1 for a broken link)."""

    path: str
    size: int
    modified: int


def has_given_splits(path: Path) -> bool:
    """Whether PATH/train and PATH/test both hold class folders."""
    return all((path / part).is_dir() and _subfolders(path / part) for part in ("train", "test"))


def list_folder(name: str, path: Path) -> Listing:
    """List an image folder; raises DataError where its layout, its classes or their sizes cannot be used."""
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(f"{name}: {path.absolute()} {problem}. Expected a folder of images laid out as {LAYOUT}.")
    found = {part: _classes(folder) for part, folder in _parts(name, path).items()}
    _check_classes(name, path, found)
    classes = tuple(sorted(next(iter(found.values()))))
    paths: list[str] = []
    labels: list[int] = []
    parts: list[int] = []
    digest = hashlib.sha256()
    for part, files_of in found.items():
        for label, class_name in enumerate(classes):
            for file in files_of[class_name]:
                paths.append(file.path)
                labels.append(label)
                parts.append(part)
                relative = os.path.relpath(file.path, path)
                digest.update(f"{relative}\0{file.size}\0{file.modified}\n".encode(errors="surrogateescape"))
    check_divisible(name, torch.tensor(parts), torch.tensor(labels), classes)
    return Listing(name, tuple(paths), tuple(labels), tuple(parts), classes, digest.hexdigest())


def read_folder(listing: Listing, *, image_size: int | None, skip_bad: bool) -> Collection:
    """Decode the files of a listing; raises DataError as `decode_files` does."""
    files = decode_files(listing.name, listing.paths, image_size=image_size, skip_bad=skip_bad)
    return Collection(
        images=files.images,
        part=torch.tensor(listing.parts)[files.kept],
        labels=torch.tensor(listing.labels)[files.kept],
        classes=listing.classes,
        notes=files.notes,
    )


def image_files(folder: Path | str) -> Iterator[File]:
    """Image files anywhere below a folder, sorted by name; hidden files and folders are passed over."""
    with os.scandir(folder) as scan:
        entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            # Links to folders could lead round in a circle.
            if not entry.is_symlink():
                yield from image_files(entry.path)
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            try:
                status = entry.stat()
            except OSError:
                # Kept, so that decoding names it: an image silently missing would be worse.
                yield File(entry.path, -1, -1)
            else:
                yield File(entry.path, status.st_size, status.st_mtime_ns)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(folder: Path) -> dict[str, list[File]]:
    return {entry.name: list(image_files(entry)) for entry in _subfolders(folder)}


def _parts(name: str, path: Path) -> dict[int, Path]:
    if has_given_splits(path):
        parts = {TRAIN: path / "train", TEST: path / "test"}
        validation = [path / part for part in VALIDATION_FOLDERS if (path / part).is_dir()]
        return parts | {VALIDATION: validation[0]} if validation else parts
    for part, other in (("train", "test"), ("test", "train")):
        # `train` may also be a class, beside `car` and `plane`; then it holds images, not folders.
        if (path / part).is_dir() and _subfolders(path / part):
            raise DataError(
                f"{name}: {path.absolute()} has {part}/<class> folders, but no {other}/<class> folders. "
                f"Expected {LAYOUT}: add {other}/, or give {path / part} as the folder."
            )
    return {UNDIVIDED: path}


def _check_classes(name: str, path: Path, found: dict[int, dict[str, list[File]]]) -> None:
    folders = {UNDIVIDED: "", TRAIN: "train", VALIDATION: "validation", TEST: "test"}
    if not any(files for part in found.values() for files in part.values()):
        loose = any(os.path.splitext(entry.name)[1].lower() in EXTENSIONS for entry in path.iterdir())
        reason = "its images lie outside class folders" if loose else "no image files were found in class folders"
        raise DataError(
            f"{name}: {path.absolute()} cannot be used: {reason}. Expected {LAYOUT}, "
            f"with files ending in {' '.join(sorted(EXTENSIONS))}."
        )
    names = {part: set(files_of) for part, files_of in found.items()}
    for part in names.keys() - {UNDIVIDED, TRAIN}:
        if names[part] != names[TRAIN]:
            differences = [
                f"only in {folders[here]}: {', '.join(sorted(names[here] - names[there]))}"
                for here, there in ((TRAIN, part), (part, TRAIN))
                if names[here] - names[there]
            ]
            raise DataError(
                f"{name}: train and {folders[part]} in {path.absolute()} have different class folders "
                f"({'; '.join(differences)}). Both need the same classes: rename, add or remove folders."
            )
    for part, files_of in found.items():
        if empty := [label for label, files in sorted(files_of.items()) if not files]:
            where = os.path.join(path.absolute(), folders[part])
            raise DataError(
                f"{name}: no image files in class folder {', '.join(empty)} of {where}: add images, or remove it."
            )

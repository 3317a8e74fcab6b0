"""Image folders: PATH/{train,test}/<class>/* or PATH/<class>/*."""

import hashlib
import os
from pathlib import Path

import torch

from pp_simve.data.collection import TEST, TRAIN, UNDIVIDED, VALIDATION
from pp_simve.data.decode import Listing
from pp_simve.data.splits import check_divisible
from pp_simve.data.types import DataError

# Of the formats in `decode.FORMATS`.
EXTENSIONS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff"),
    *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif"),
}
VALIDATION_FOLDERS = ("validation", "valid", "val")
LAYOUT = "PATH/{train,test}/<class>/* or PATH/<class>/*"


def has_given_splits(path: Path) -> bool:
    """Whether PATH/train and PATH/test both hold class folders."""
    return all((path / part).is_dir() and _subfolders(path / part) for part in ("train", "test"))


def list_folder(name: str, path: Path) -> Listing:
    """List an image folder; raises DataError where its layout, its classes or their sizes cannot be used."""
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(f"{name}: {path.absolute()} {problem}. Expected a folder of images laid out as {LAYOUT}.")
    found = {
        part: {entry.name: image_files(entry) for entry in _subfolders(folder)}
        for part, folder in _parts(name, path).items()
    }
    _check_classes(name, path, found)
    classes = tuple(sorted(next(iter(found.values()))))
    rows = [
        (file, label, part)
        for part, files_of in found.items()
        for label, class_name in enumerate(classes)
        for file in files_of[class_name]
    ]
    digest = hashlib.sha256()
    for file, _, _ in rows:
        digest.update(f"{os.path.relpath(file, path)}\0{state_of(file)}\n".encode(errors="surrogateescape"))
    labels, part = torch.tensor([row[1] for row in rows]), torch.tensor([row[2] for row in rows])
    check_divisible(name, part, labels, classes)
    return Listing(name, tuple(row[0] for row in rows), part, labels, classes, digest.hexdigest())


def image_files(folder: Path) -> list[str]:
    """Image files anywhere below a folder, sorted; hidden files and folders, and links to folders, are passed over."""

    def unreadable(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = (name for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS)
        found += [os.path.join(parent, name) for name in images if not name.startswith(".")]
    return sorted(found, key=lambda file: file.split(os.sep))


def state_of(file: str) -> str:
    """Size in bytes and modification time in ns of a file; -1 of a broken link, which decoding then names."""
    try:
        status = os.stat(file)
    except OSError:
        return "-1\0-1"
    return f"{status.st_size}\0{status.st_mtime_ns}"


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


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


def _check_classes(name: str, path: Path, found: dict[int, dict[str, list[str]]]) -> None:
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

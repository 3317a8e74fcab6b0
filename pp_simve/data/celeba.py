"""CelebA from its own files, whole or in part, with its 40 attributes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pp_simve.data.collection import TEST, TRAIN, VALIDATION, Collection
from pp_simve.data.decode import decode_files
from pp_simve.data.folders import image_files
from pp_simve.data.types import DataError

IMAGES, ATTRIBUTES, PARTITION = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
OFFICIAL_COUNT = 202_599
DEFAULT_SIZE = 64
HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
PARTS = {"0": TRAIN, "1": VALIDATION, "2": TEST}
ATTRIBUTE_VALUES = {"1": True, "-1": False}


@dataclass(frozen=True, eq=False)
class CelebAListing:
    """The images that exist and are listed, sorted. attributes: bool (image, attribute); part: int64 (image,)."""

    name: str
    paths: tuple[str, ...]
    attributes: Tensor
    part: Tensor
    attribute_names: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str


def list_celeba(name: str, root: Path) -> CelebAListing:
    """List `root`/celeba; raises DataError where files are missing or malformed."""
    folder = root / "celeba"
    missing = [file for file in (IMAGES, ATTRIBUTES, PARTITION) if not (folder / file).exists()]
    if missing:
        raise DataError(
            f"CelebA: {', '.join(missing)} not found in {folder.absolute()}. Put there {IMAGES}/*.jpg, {ATTRIBUTES} "
            f"and {PARTITION} (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; a part of the images will do), "
            "or choose the folder that holds celeba/ with `--data-root DIR`."
        )
    attribute_names, attributes = _attributes(folder / ATTRIBUTES)
    partition = _partition(folder / PARTITION)
    files = {Path(file.path).name: file for file in image_files(folder / IMAGES)}
    listed = attributes.keys() & partition.keys()
    used = sorted(files.keys() & listed)
    if not used:
        raise DataError(
            f"CelebA: {len(files)} images in {(folder / IMAGES).absolute()}, none of them named in both {ATTRIBUTES} "
            f"and {PARTITION}. File names must be those of the lists, such as 000001.jpg."
        )
    notes = []
    if len(used) < max(OFFICIAL_COUNT, len(files), len(listed)):
        notes.append(
            f"CelebA in part: {len(used):,} images used, of {len(files):,} files, {len(listed):,} listed "
            f"and {OFFICIAL_COUNT:,} official ones"
        )
    part = torch.tensor([partition[file] for file in used])
    if not {TRAIN, VALIDATION, TEST} <= set(part.tolist()):
        # In runs of the sorted names, as the official partition is.
        part[:], part[len(used) * 7 // 10 :], part[len(used) * 8 // 10 :] = TRAIN, VALIDATION, TEST
        notes.append("CelebA's partition leaves a split empty here: 70, 10 and 20 % of the images in order instead")
    digest = hashlib.sha256()
    for file in used:
        digest.update(f"{file}\0{files[file].size}\0{files[file].modified}\n".encode())
    for text in (ATTRIBUTES, PARTITION):
        digest.update((folder / text).read_bytes())
    return CelebAListing(
        name=name,
        paths=tuple(files[file].path for file in used),
        attributes=torch.tensor([attributes[file] for file in used], dtype=torch.bool),
        part=part,
        attribute_names=attribute_names,
        notes=tuple(notes),
        fingerprint=digest.hexdigest(),
    )


def read_celeba(listing: CelebAListing, *, image_size: int | None, skip_bad: bool) -> Collection:
    """Decode a listing: central squares, resized to 64×64 or `image_size`. Labels are the hair colour."""
    files = decode_files(
        listing.name, listing.paths, image_size=image_size or DEFAULT_SIZE, square=True, skip_bad=skip_bad
    )
    attributes = listing.attributes[files.kept]
    return Collection(
        images=files.images,
        part=listing.part[files.kept],
        labels=hair_colour(attributes, listing.attribute_names),
        attributes=attributes,
        classes=(*HAIR, "other"),
        attribute_names=listing.attribute_names,
        notes=(*listing.notes, *files.notes),
    )


def hair_colour(attributes: Tensor, attribute_names: tuple[str, ...]) -> Tensor:
    """int64 (image,): the position in HAIR of the one hair colour that is set, 4 ("other") where not exactly one is."""
    hair = attributes[:, [attribute_names.index(colour) for colour in HAIR]].long()
    return torch.where(hair.sum(1) == 1, hair.argmax(1), len(HAIR))


def _attributes(file: Path) -> tuple[tuple[str, ...], dict[str, list[bool]]]:
    """Attribute names, and their values by image; the file has a count, the names, and a row an image."""
    lines = _lines(file)
    names = tuple(lines[1].split()) if len(lines) > 1 else ()
    if not set(HAIR) <= set(names):
        raise DataError(
            f"CelebA: line 2 of {file.absolute()} should name the attributes, among them {', '.join(HAIR)}. "
            "Use the official file, or keep its first two lines when shortening it."
        )
    rows: dict[str, list[bool]] = {}
    for number, line in enumerate(lines[2:], start=3):
        if words := line.split():
            if len(words) != len(names) + 1 or not set(words[1:]) <= ATTRIBUTE_VALUES.keys():
                raise DataError(
                    f"CelebA: line {number} of {file.absolute()} is not an image name and {len(names)} values "
                    f"1 or -1: {line[:80]!r}. Repair or remove the line."
                )
            rows[words[0]] = [ATTRIBUTE_VALUES[word] for word in words[1:]]
    return names, rows


def _partition(file: Path) -> dict[str, int]:
    rows: dict[str, int] = {}
    for number, line in enumerate(_lines(file), start=1):
        if words := line.split():
            if len(words) != 2 or words[1] not in PARTS:
                raise DataError(
                    f"CelebA: line {number} of {file.absolute()} is not an image name and 0 (train), 1 (validation) "
                    f"or 2 (test): {line[:80]!r}. Repair or remove the line."
                )
            rows[words[0]] = PARTS[words[1]]
    return rows


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"CelebA: {file.absolute()} cannot be read ({error}). Use the official text file.") from error

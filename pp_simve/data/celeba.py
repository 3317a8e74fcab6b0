"""CelebA from its own files, whole or in part, with its 40 attributes."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pp_simve.data.collection import TEST, TRAIN, VALIDATION
from pp_simve.data.decode import Listing
from pp_simve.data.folders import image_files, state_of
from pp_simve.data.types import DataError, count_of

IMAGES, ATTRIBUTES, PARTITION = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
OFFICIAL_COUNT = 202_599
CELEBA_SIZE = (64, 64)  # of images that are not given a size
HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
PARTS = {"0": TRAIN, "1": VALIDATION, "2": TEST}


def list_celeba(name: str, root: Path) -> Listing:
    """List `root`/celeba; raises DataError where files are missing or malformed. Labels are the hair colour."""
    folder = root / "celeba"
    missing = [file for file in (ATTRIBUTES, PARTITION) if not (folder / file).is_file()]
    missing += [IMAGES] * (not (folder / IMAGES).is_dir())
    if missing:
        raise DataError(
            f"CelebA: {', '.join(missing)} not found in {folder.absolute()}. Put there {IMAGES}/*.jpg, {ATTRIBUTES} "
            f"and {PARTITION} (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; a part of the images is enough), "
            "or choose the folder that holds celeba/ with `--data-root DIR`."
        )
    attribute_names, announced, attributes = _attributes(folder / ATTRIBUTES)
    partition = _rows(folder / PARTITION, 0, 1, PARTS, "0 (train), 1 (validation) or 2 (test)")
    files = {Path(file).name: file for file in image_files(folder / IMAGES)}
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
    part = torch.tensor([partition[file][0] for file in used])
    if not {TRAIN, VALIDATION, TEST} <= set(part.tolist()):
        # In runs of the sorted names, as the official partition is.
        part[:], part[len(used) * 7 // 10 :], part[len(used) * 8 // 10 :] = TRAIN, VALIDATION, TEST
        notes.append("CelebA's partition leaves a split empty here: 70, 10 and 20 % of the images in order instead")
    if announced != len(attributes):
        notes.append(f"{ATTRIBUTES} announces {announced:,} images and lists {len(attributes):,}: is it cut?")
    if one := len(attributes.keys() ^ partition.keys()):
        notes.append(f"{count_of(one, 'image')} listed in one of {ATTRIBUTES} and {PARTITION} only: not used")
    digest = hashlib.sha256()
    for file in used:
        digest.update(f"{file}\0{state_of(files[file])}\n".encode())
    for text in (ATTRIBUTES, PARTITION):
        digest.update((folder / text).read_bytes())
    values = torch.tensor([attributes[file] for file in used], dtype=torch.bool)
    return Listing(
        name=name,
        paths=tuple(files[file] for file in used),
        part=part,
        labels=hair_colour(values, attribute_names),
        classes=(*HAIR, "other"),
        fingerprint=digest.hexdigest(),
        attributes=values,
        attribute_names=attribute_names,
        notes=tuple(notes),
        root=folder,
    )


def hair_colour(attributes: Tensor, attribute_names: tuple[str, ...]) -> Tensor:
    """int64 (image,): the position in HAIR of the one hair colour that is set, 4 ("other") where not exactly one is."""
    hair = attributes[:, [attribute_names.index(colour) for colour in HAIR]].long()
    return torch.where(hair.sum(1) == 1, hair.argmax(1), len(HAIR))


def _attributes(file: Path) -> tuple[tuple[str, ...], int, dict[str, list[int]]]:
    """Attribute names, the number of images, and their values; the file has the number, the names and the rows."""
    lines = _lines(file)
    names = tuple(lines[1].split()) if len(lines) > 1 else ()
    if not set(HAIR) <= set(names) or len(set(names)) < len(names) or not re.fullmatch(r"[0-9]{1,9}", lines[0].strip()):
        raise DataError(
            f"CelebA: line 1 of {file.absolute()} should be the number of images, and line 2 should name the "
            f"attributes, each once, among them {', '.join(HAIR)}. Use the official file, or keep its first two lines "
            "when shortening it."
        )
    return names, int(lines[0]), _rows(file, 2, len(names), {"1": True, "-1": False}, f"{len(names)} values 1 or -1")


def _rows(file: Path, head: int, width: int, values: Mapping[str, int], expected: str) -> dict[str, list[int]]:
    """The values of each image, on a line below the head with its name."""
    rows: dict[str, list[int]] = {}
    for number, line in enumerate(_lines(file)[head:], start=head + 1):
        if words := line.split():
            if len(words) != width + 1 or not set(words[1:]) <= values.keys():
                raise DataError(
                    f"CelebA: line {number} of {file.absolute()} is not an image name and {expected}: {line[:80]!r}. "
                    "Repair or remove the line."
                )
            if words[0] in rows:
                raise DataError(
                    f"CelebA: line {number} of {file.absolute()} repeats {words[0]}. Remove one of its rows."
                )
            rows[words[0]] = [values[word] for word in words[1:]]
    return rows


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"CelebA: {file.absolute()} cannot be read ({error}). Use the official text file.") from error

"""Tiny data on disk for the tests of `pp_simve.data`, and where real data may be found."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pp_simve.data import ImageData, Split
from pp_simve.data.celeba import ATTRIBUTES, HAIR, IMAGES, PARTITION


def write_image(path: Path, value: int, *, mode: str = "RGB", size: tuple[int, int] = (6, 6)) -> None:
    """A losslessly stored noise image that differs for every `value`; size is (width, height)."""
    rng = np.random.default_rng(value)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)


def write_classes(folder: Path, counts: dict[str, int], *, start: int = 0, mode: str = "RGB") -> Path:
    """`counts[class]` images for each class below `folder`; all differ, from noise `start` on."""
    for label, count in counts.items():
        for number in range(count):
            write_image(folder / label / f"{number:04}.png", start, mode=mode)
            start += 1
    return folder


HAIR_ROWS = [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0), (1, 0, 1, 0)]
"""Black, blond, brown and grey hair, none of them, and two of them."""


def write_celeba(root: Path, count: int = 60, *, size: tuple[int, int] = (20, 30)) -> tuple[str, ...]:
    """A CelebA of noise, a fifth of it each validation and test; hair colours in turn, every third smiling.

    Returns the names of the attributes.
    """
    names = ("Bald", *HAIR, "Smiling")
    attributes, partition = [str(count), " ".join(names)], []
    for number in range(count):
        name = f"{number + 1:06}.jpg"
        write_image(root / "celeba" / IMAGES / name, number, size=size)
        values = (0, *HAIR_ROWS[number % 6], int(number % 3 == 0))
        attributes.append(name + "  ".join(["", *(str(2 * value - 1) for value in values)]))
        partition.append(f"{name} {0 if number < 0.6 * count else 1 if number < 0.8 * count else 2}")
    (root / "celeba" / ATTRIBUTES).write_text("\n".join(attributes) + "\n")
    (root / "celeba" / PARTITION).write_text("\n".join(partition) + "\n")
    return names


def rows(split: Split) -> set[bytes]:
    """The images of a split as a set of bytes."""
    return {image.numpy().tobytes() for image in split.images}


def assert_disjoint(data: ImageData, total: int) -> None:
    """Every one of `total` different images is in exactly one split."""
    train, validation, test = rows(data.train), rows(data.validation), rows(data.test)
    assert len(train) + len(validation) + len(test) == total
    assert len(train | validation | test) == total


def real_data_root() -> Path:
    """The folder of real data, $PP_SIMVE_DATA or ../shared/data beside the repository; skips where there is none."""
    named = os.environ.get("PP_SIMVE_DATA")
    root = Path(named) if named else Path(__file__).parents[2].parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no real data: {root} does not exist (set PP_SIMVE_DATA)")
    return root

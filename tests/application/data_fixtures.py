"""Tiny data on disk for the tests of `pp_simve.data`, and where real data may be found."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pp_simve.data import ImageData, Split


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

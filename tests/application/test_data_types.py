"""The data set itself, and `load_data`'s own errors."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pp_simve.data import DataError, ImageData, Split, load_data

from .data_fixtures import assert_disjoint


def tiny(shift: int = 0, labels: bool = True) -> ImageData:
    def split(start: int) -> Split:
        images = torch.arange(start, start + 8, dtype=torch.uint8).reshape(2, 1, 2, 2)
        return Split(images, torch.tensor([0, 1]) if labels else None, None)

    return ImageData("tiny", split(shift), split(20), split(40), ("a", "b"))


def test_fingerprint_follows_pixels_and_labels() -> None:
    assert tiny().fingerprint == tiny().fingerprint
    assert len(tiny().fingerprint) == 12
    assert len({tiny().fingerprint, tiny(shift=1).fingerprint, tiny(labels=False).fingerprint}) == 3


def test_all_entries_of_a_part_of_a_split_are_of_the_same_images() -> None:
    whole = load_data("digits").train
    split = replace(whole, labels=torch.where(torch.arange(len(whole)) % 2 == 0, whole.labels, -1))
    for part, rows in ((split.first(5), torch.arange(5)), (split.labeled(), torch.arange(0, len(split), 2))):
        assert torch.equal(part.index, whole.index[rows])
        assert torch.equal(part.images, whole.images[rows])
        assert torch.equal(part.labels, split.labels[rows])


def test_prints_as_one_line_without_pixels() -> None:
    assert str(tiny()) == repr(tiny()) == "tiny: 2 / 2 / 2 train / validation / test images, 1x2x2, 2 classes: a, b"


@pytest.mark.parametrize(
    ("name", "image_size", "hint"),
    [
        ("Fashion-MNIST", None, "did you mean 'fashionmnist'"),
        ("folders:photos", None, "did you mean 'folder:PATH'"),
        ("digits:8", None, "did you mean 'digits'"),
        ("xyzzy", None, "Expected one of: digits, mnist, fashionmnist, cifar10, celeba, folder:PATH, npz:FILE"),
        (".", None, "write folder:."),
        (__file__, None, f"write npz:{__file__}"),
        ("folder:", None, "Expected folder:PATH"),
        ("npz:", None, "Expected npz:PATH"),
        ("digits", 0, "image size"),
    ],
)
def test_what_names_no_data_is_refused(name: str, image_size: int | None, hint: str) -> None:
    with pytest.raises(DataError, match=re.escape(hint)):
        load_data(name, image_size=image_size)


def test_digits_need_no_files_and_write_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_data("digits")
    assert not list(tmp_path.iterdir())
    assert data.image_shape == (1, 16, 16)
    assert data.classes == tuple("0123456789")
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels is not None
    assert data.train.labels.dtype == torch.int64
    assert data.train.images.max() == 255
    assert data.train.images.min() == 0
    assert data.train.attributes is None
    assert_disjoint(data, 1797)


def test_digits_image_size() -> None:
    data = load_data("digits", image_size=8)
    assert data.image_shape == (1, 8, 8)
    # At their own size the grey levels 0..16 are scaled and nothing else.
    assert set(data.train.images.unique().tolist()) == {round(level * 255 / 16) for level in range(17)}

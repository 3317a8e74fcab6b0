"""The data set itself, and `load`'s own errors."""

from pathlib import Path

import pytest
import torch

from pp_simve.data import DATA_NAMES, DataError, ImageData, Split, load

from .data_fixtures import assert_disjoint


def tiny(shift: int = 0, labels: bool = True) -> ImageData:
    def split(start: int) -> Split:
        images = torch.arange(start, start + 8, dtype=torch.uint8).reshape(2, 1, 2, 2)
        return Split(images, torch.tensor([0, 1]) if labels else None, None)

    return ImageData("tiny", split(shift), split(20), split(40), ("a", "b"))


def test_image_shape_and_length() -> None:
    data = tiny()
    assert data.image_shape == (1, 2, 2)
    assert len(data.train) == 2


def test_fingerprint_follows_pixels_and_labels() -> None:
    assert tiny().fingerprint == tiny().fingerprint
    assert len(tiny().fingerprint) == 12
    assert len({tiny().fingerprint, tiny(shift=1).fingerprint, tiny(labels=False).fingerprint}) == 3


def test_data_cannot_be_reassigned() -> None:
    with pytest.raises(AttributeError):
        tiny().name = "other"  # type: ignore[misc]


def test_data_names() -> None:
    assert DATA_NAMES == ("digits", "mnist", "fashionmnist", "cifar10", "celeba", "folder:PATH", "npz:FILE")
    assert issubclass(DataError, ValueError)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar", "did you mean 'cifar10'"),
        ("Fashion-MNIST", "did you mean 'fashionmnist'"),
        ("MNIST", "did you mean 'mnist'"),
        ("folders:photos", "did you mean 'folder:PATH'"),
        ("digit", "did you mean 'digits'"),
        ("xyzzy", "Expected one of: digits, mnist"),
        ("digits:8", "did you mean 'digits'"),
    ],
)
def test_unknown_name_suggests_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(DataError, match=hint):
        load(name)


def test_a_bare_path_is_told_its_prefix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"write folder:{tmp_path}"):
        load(str(tmp_path))
    file = tmp_path / "images.npz"
    file.touch()
    with pytest.raises(DataError, match=f"write npz:{file}"):
        load(str(file))


@pytest.mark.parametrize("name", ["folder:", "npz:"])
def test_prefix_without_a_path(name: str) -> None:
    with pytest.raises(DataError, match="Expected"):
        load(name)


@pytest.mark.parametrize("size", [0, -3])
def test_impossible_image_size(size: int) -> None:
    with pytest.raises(DataError, match="image size"):
        load("digits", image_size=size)


def test_digits_need_no_files_and_write_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = load("digits")
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
    data = load("digits", image_size=8)
    assert data.image_shape == (1, 8, 8)
    # At their own size the grey levels 0..16 are scaled and nothing else.
    assert set(data.train.images.unique().tolist()) == {round(level * 255 / 16) for level in range(17)}

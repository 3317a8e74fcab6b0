"""CelebA's own reader: attributes, hair colour, the official partition, and partial copies."""

from pathlib import Path

import pytest
import torch

from pp_simve.data import DataError, celeba, decode, load_data
from pp_simve.data.pixels import Reading

from .data_fixtures import HAIR_ROWS, assert_disjoint, real_data_root, write_celeba, write_image

NAMES = ("Bald", *celeba.HAIR, "Smiling")
HAIR_LABELS = [0, 1, 2, 3, 4, 4]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PP_SIMVE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """60 listed images, 36 train, 12 validation, 12 test."""
    assert write_celeba(tmp_path) == NAMES
    return tmp_path


def test_splits_attributes_and_hair(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("celeba", root)
    assert data.image_shape == (3, 64, 64)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [36, 12, 12]
    assert data.attribute_names == NAMES
    assert data.classes == ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "other")
    for split in (data.train, data.validation, data.test):
        assert split.attributes is not None
        assert split.labels is not None
        assert split.attributes.dtype == torch.bool
        rows = [tuple(row) for row in split.attributes[:, 1:5].int().tolist()]
        assert split.labels.tolist() == [HAIR_LABELS[HAIR_ROWS.index(row)] for row in rows]
    assert data.test.attributes is not None
    assert int(data.test.attributes[:, 5].sum()) == 4
    assert "60 images used, of 60 files, 60 listed and 202,599" in data.notes[0]
    assert_disjoint(data, 60)
    assert load_data("celeba", root, image_size=16).image_shape == (3, 16, 16)
    monkeypatch.delattr(decode, "read_image")
    again = load_data("celeba", root)
    assert again.fingerprint == data.fingerprint
    assert again.notes == data.notes
    assert again.attribute_names == data.attribute_names


def test_central_square(tmp_path: Path) -> None:
    write_image(tmp_path / "image.png", 0, size=(20, 30))
    whole, square = (decode.read_image(str(tmp_path / "image.png"), Reading.of(size, "crop"))[0] for size in (None, 20))
    assert (whole[:, 5:25] == square).all()


def test_a_partial_copy(root: Path) -> None:
    images = root / "celeba" / celeba.IMAGES
    for number in range(1, 20):
        (images / f"{number:06}.jpg").unlink()
    write_image(images / "900000.jpg", 99, size=(20, 30))
    data = load_data("celeba", root)
    assert "41 images used, of 42 files, 60 listed" in data.notes[0]
    assert_disjoint(data, 41)


def test_a_part_of_one_official_split(root: Path) -> None:
    partition = root / "celeba" / celeba.PARTITION
    partition.write_text("".join(f"{number + 1:06}.jpg 0\n" for number in range(60)))
    data = load_data("celeba", root)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [42, 6, 12]
    assert "leaves a split empty" in data.notes[1]
    assert_disjoint(data, 60)


def test_lists_that_do_not_agree(root: Path) -> None:
    for file, note in (
        (celeba.ATTRIBUTES, f"{celeba.ATTRIBUTES} announces 60 images and lists 59: is it cut?"),
        (celeba.PARTITION, f"2 images listed in one of {celeba.ATTRIBUTES} and {celeba.PARTITION} only: not used"),
    ):
        lines = (root / "celeba" / file).read_text().splitlines()
        del lines[-1 if file == celeba.ATTRIBUTES else 10]
        (root / "celeba" / file).write_text("\n".join(lines))
        data = load_data("celeba", root)
        assert note in data.notes
    assert len(data.notes) == 4  # in part, and the cache was rebuilt
    assert_disjoint(data, 58)


def test_a_damaged_image(root: Path) -> None:
    bad = root / "celeba" / celeba.IMAGES / "000003.jpg"
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"000003\.jpg.*--skip-bad"):
        load_data("celeba", root)
    data = load_data("celeba", root, skip_bad=True)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [35, 12, 12]
    assert str(bad) in data.notes[1]


def test_missing_files_are_named(root: Path, tmp_path: Path) -> None:
    (root / "celeba" / celeba.PARTITION).unlink()
    with pytest.raises(DataError, match=rf"^CelebA: {celeba.PARTITION} not found.*--data-root DIR"):
        load_data("celeba", root)
    with pytest.raises(DataError, match=celeba.IMAGES):
        load_data("celeba", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (celeba.ATTRIBUTES, "", "line 2 should name the attributes"),
        (celeba.ATTRIBUTES, "1\nBald Smiling\n", "line 2 should name the attributes"),
        (celeba.ATTRIBUTES, f"many\n{' '.join(NAMES)}\n", "line 1 .* the number of images"),
        (celeba.ATTRIBUTES, f"1\n{' '.join(NAMES)} Bald\n", "line 2 .*each once"),
        (celeba.ATTRIBUTES, f"2\n{' '.join(NAMES)}\n" + 2 * "000001.jpg 1 1 1 1 1 1\n", "line 4 .* repeats 000001.jpg"),
        (celeba.PARTITION, "000001.jpg 0\n000001.jpg 1\n", "line 2 .* repeats 000001.jpg"),
        (celeba.ATTRIBUTES, f"1\n{' '.join(NAMES)}\n000001.jpg 1 1\n", "line 3 .* 6 values"),
        (celeba.ATTRIBUTES, f"1\n{' '.join(NAMES)}\n000001.jpg 1 1 1 1 1 0\n", "line 3 .* 6 values"),
        (celeba.PARTITION, "000001.jpg 0\n000002.jpg 3\n", "line 2 .* 2 .test."),
        (celeba.PARTITION, "other.jpg 0\n", "none of them named in both"),
        (celeba.ATTRIBUTES, b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_malformed_lists(root: Path, file: str, content: str | bytes, message: str) -> None:
    (root / "celeba" / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load_data("celeba", root)


def test_real_celeba() -> None:
    root = real_data_root()
    if not (root / "celeba").is_dir():
        pytest.skip(f"{root} has no celeba")
    data = load_data("celeba", root)
    assert data.image_shape == (3, 64, 64)
    assert len(data.attribute_names) == 40
    assert data.train.labels is not None
    assert set(data.train.labels.tolist()) == set(range(5))

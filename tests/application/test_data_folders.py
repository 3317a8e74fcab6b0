"""Image folders: layouts, grey and colour, sizes, damaged files, and every way a folder can be wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pp_simve.data import DataError, decode, load

from .data_fixtures import assert_disjoint, rows, write_classes, write_image


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PP_SIMVE_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_class_folders_are_split(tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 20, "ant": 10})
    data = load(f"folder:{tmp_path}")
    assert data.name == f"folder:{tmp_path}"
    assert data.classes == ("ant", "cat")
    assert data.image_shape == (3, 6, 6)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [21, 3, 6]
    assert data.notes == ()
    assert_disjoint(data, 30)


def test_train_and_test_folders_are_kept(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 10, "b": 10})
    write_classes(tmp_path / "test", {"a": 4, "b": 3}, start=100)
    data = load(f"folder:{tmp_path}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [18, 2, 7]
    expected = {
        np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes() for file in (tmp_path / "test").rglob("*.png")
    }
    assert rows(data.test) == expected


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_a_validation_folder_is_kept(tmp_path: Path, name: str) -> None:
    for part, start in (("train", 0), (name, 100), ("test", 200)):
        write_classes(tmp_path / part, {"a": 3, "b": 3}, start=start)
    data = load(f"folder:{tmp_path}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [6, 6, 6]


def test_a_class_called_train(tmp_path: Path) -> None:
    write_classes(tmp_path, {"car": 3, "train": 3})
    assert load(f"folder:{tmp_path}").classes == ("car", "train")


def test_labels_stay_with_their_images(tmp_path: Path) -> None:
    for number in range(6):
        for label, value in (("dark", 10), ("light", 200)):
            file = tmp_path / label / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4), (value, value, number)).save(file)
    data = load(f"folder:{tmp_path}")
    for split in (data.train, data.validation, data.test):
        assert split.labels is not None
        assert torch.equal(split.labels == 1, split.images[:, 0, 0, 0] == 200)


def test_other_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3, ".thumbnails": 3})
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "a" / ".hidden.png").write_bytes(b"not an image")
    (tmp_path / "README.md").write_text("about")
    data = load(f"folder:{tmp_path}")
    assert data.classes == ("a", "b")
    assert_disjoint(data, 6)


def test_images_in_nested_folders_and_upper_case_names(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 2})
    write_image(tmp_path / "b" / "more" / "X.PNG", 50)
    assert_disjoint(load(f"folder:{tmp_path}"), 6)


def test_linked_folders_do_not_go_round(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    assert_disjoint(load(f"folder:{tmp_path}"), 6)


def test_grey_stays_grey(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3}, mode="L")
    assert load(f"folder:{tmp_path}").image_shape == (1, 6, 6)


@pytest.mark.parametrize("grey_first", [True, False])
def test_grey_among_colour_becomes_colour(tmp_path: Path, grey_first: bool) -> None:
    modes = ("L", "RGB") if grey_first else ("RGB", "L")
    write_classes(tmp_path, {"a": 3}, mode=modes[0])
    write_classes(tmp_path, {"b": 3}, start=10, mode=modes[1])
    data = load(f"folder:{tmp_path}")
    assert data.image_shape == (3, 6, 6)
    assert data.train.labels is not None
    grey = data.train.images[data.train.labels == (0 if grey_first else 1)]
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert_disjoint(data, 6)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (2, 2), 1), [255]),
        (Image.new("LA", (2, 2), (90, 10)), [90]),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), [255]),
        (Image.fromarray(np.full((2, 2), 257 * 40, np.uint16)), [40]),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 255)), [1, 2, 3]),
        (Image.new("P", (2, 2), 0), [0, 0, 0]),
    ],
)
def test_other_kinds_of_pixels(tmp_path: Path, image: Image.Image, expected: list[int]) -> None:
    image.save(tmp_path / "image.png")
    pixels = decode.read_image(str(tmp_path / "image.png"))
    assert pixels.dtype == np.uint8
    assert pixels[:, 0, 0].tolist() == expected


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([9, 8, 7, 0, 0, 0])
    image.save(tmp_path / "image.png", transparency=b"\x80\xff")
    assert decode.read_image(str(tmp_path / "image.png"))[:, 0, 0].tolist() == [9, 8, 7]


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    image.save(tmp_path / "image.jpg", exif=exif)
    assert decode.read_image(str(tmp_path / "image.jpg")).shape == (3, 4, 2)


def test_image_size_resizes(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    write_image(tmp_path / "a" / "wide.png", 7, size=(9, 6))
    assert load(f"folder:{tmp_path}", image_size=5).image_shape == (3, 5, 5)


def test_different_sizes_name_both_files(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    write_image(tmp_path / "a" / "wide.png", 7, size=(9, 6))
    with pytest.raises(DataError, match=r"0000\.png is 6x6, .*wide\.png is 9x6.*--image-size N"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | str) -> None:
    write_classes(tmp_path, {"a": 5, "b": 5})
    bad = tmp_path / "b" / "0002.png"
    bad.write_bytes(bad.read_bytes()[:60] if isinstance(content, str) else content)
    with pytest.raises(DataError, match=r"1 file of 10 cannot be decoded: .*b/0002\.png.*--skip-bad"):
        load(f"folder:{tmp_path}")
    for _ in range(2):  # decoded, then from the cache
        data = load(f"folder:{tmp_path}", skip_bad=True)
        assert len(data.notes) == 1
        assert "1 file of 10" in data.notes[0]
        assert str(bad) in data.notes[0]
        assert_disjoint(data, 9)


def test_a_broken_link_is_a_damaged_file(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png"):
        load(f"folder:{tmp_path}")


def test_skipping_can_leave_too_few(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "b" / "0000.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"class 'b' \(2\)"):
        load(f"folder:{tmp_path}", skip_bad=True)


def test_nothing_but_damaged_files(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="none of its 6 files"):
        load(f"folder:{tmp_path}", skip_bad=True)


def test_32_bit_pixels_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3}, mode="L")
    Image.fromarray(np.ones((6, 6), np.float32)).save(tmp_path / "a" / "float.tif")
    with pytest.raises(DataError, match="32-bit"):
        load(f"folder:{tmp_path}")


def test_images_too_large_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    monkeypatch.setattr(decode, "_memory", lambda: 700)
    with pytest.raises(DataError, match="--image-size N"):
        load(f"folder:{tmp_path}")


def test_copies_across_splits_are_told(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 4, "b": 4})
    write_classes(tmp_path / "test", {"a": 2, "b": 2}, start=6)
    (note,) = load(f"folder:{tmp_path}").notes
    assert note.startswith("2 of 4 test images are exact copies")


def test_missing_folder_and_file_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load(f"folder:{tmp_path / 'nowhere'}")
    write_image(tmp_path / "image.png", 0)
    with pytest.raises(DataError, match="is a file, not a folder"):
        load(f"folder:{tmp_path / 'image.png'}")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image files"):
        load(f"folder:{tmp_path}")


def test_images_outside_class_folders(tmp_path: Path) -> None:
    write_image(tmp_path / "image.png", 0)
    with pytest.raises(DataError, match="outside class folders"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"a": 9}, "one class only"),
        ({"a": 1}, "one image only"),
        ({"a": 9, "b": 2}, r"class 'b' \(2\)"),
    ],
)
def test_too_few_images_are_found_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: dict[str, int], message: str
) -> None:
    write_classes(tmp_path, counts)
    monkeypatch.delattr(decode, "read_image")
    with pytest.raises(DataError, match=message):
        load(f"folder:{tmp_path}")


def test_empty_class_folder(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="no image files in class folder c"):
        load(f"folder:{tmp_path}")


def test_train_and_test_with_different_classes(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 3, "b": 3})
    write_classes(tmp_path / "test", {"a": 3, "c": 3}, start=50)
    with pytest.raises(DataError, match="only in train: b; only in test: c"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize(("there", "missing"), [("train", "test"), ("test", "train")])
def test_train_without_test(tmp_path: Path, there: str, missing: str) -> None:
    write_classes(tmp_path / there, {"a": 3, "b": 3})
    with pytest.raises(DataError, match=f"no {missing}/<class>"):
        load(f"folder:{tmp_path}")


def test_a_failed_load_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, source = tmp_path / "cache", tmp_path / "source"
    monkeypatch.setenv("PP_SIMVE_CACHE", str(cache))
    write_classes(source, {"a": 3, "b": 3})
    (source / "a" / "0000.png").write_bytes(b"")
    before = sorted(os.walk(tmp_path))
    with pytest.raises(DataError):
        load(f"folder:{source}")
    assert sorted(os.walk(tmp_path)) == before


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    write_classes(tmp_path, {"a": 3, "b": 3})
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"/a cannot be read \(Permission denied\)"):
        load(f"folder:{tmp_path}")

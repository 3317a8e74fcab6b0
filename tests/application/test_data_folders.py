"""Image folders: layouts, grey and colour, sizes, damaged files, and every way a folder can be wrong."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pp_simve.data import DataError, decode, load
from pp_simve.data.folders import image_files

from .data_fixtures import assert_disjoint, rows, write_classes, write_image


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PP_SIMVE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        ({"": {"train": 20, "ant": 10}}, [21, 3, 6]),  # `train` may be a class
        ({"train": {"ant": 10, "train": 10}, "test": {"ant": 4, "train": 3}}, [18, 2, 7]),
        *(
            ({part: {"ant": 3, "train": 3} for part in ("train", name, "test")}, [6, 6, 6])
            for name in ("validation", "valid", "val")
        ),
    ],
)
def test_layouts(tmp_path: Path, folders: dict[str, dict[str, int]], sizes: list[int]) -> None:
    for number, (part, counts) in enumerate(folders.items()):
        write_classes(tmp_path / part, counts, start=100 * number, mode="L")
    data = load(f"folder:{tmp_path}")
    assert (data.name, data.classes, data.notes) == (f"folder:{tmp_path}", ("ant", "train"), ())
    assert data.image_shape == (1, 6, 6)
    assert [len(split) for split in (data.train, data.validation, data.test)] == sizes
    assert_disjoint(data, sum(sizes))
    assert load(f"folder:{tmp_path}", image_size=5).image_shape == (1, 5, 5)
    if "test" in folders:
        files = (tmp_path / "test").rglob("*.png")
        assert rows(data.test) == {np.asarray(Image.open(file)).tobytes() for file in files}


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


def test_which_files_are_read(tmp_path: Path) -> None:
    """Images in nested folders and with upper-case names; no hidden ones, no other files, no linked folders."""
    write_classes(tmp_path, {"a": 3, "b": 2, ".thumbnails": 3})
    write_image(tmp_path / "b" / "more" / "X.PNG", 50)
    write_image(tmp_path / "b" / ".more" / "hidden.png", 51)
    put(tmp_path, "a/notes.txt", b"not an image")
    put(tmp_path, "a/.hidden.png", b"not an image")
    put(tmp_path, "README.md", b"about")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    data = load(f"folder:{tmp_path}")
    assert data.classes == ("a", "b")
    assert_disjoint(data, 6)


def test_files_are_listed_by_their_path_folder_by_folder(tmp_path: Path) -> None:
    names = ["a.png", "a/z.png", "a-b/y.png", "B.png", "a/b/x.png", "a/b.png"]
    for name in names:
        write_image(tmp_path / name, 0)
    listed = [str(Path(file).relative_to(tmp_path)) for file in image_files(tmp_path)]
    assert listed == ["B.png", "a/b/x.png", "a/b.png", "a/z.png", "a-b/y.png", "a.png"]


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


TRANSPARENT = Image.new("P", (2, 2), 0)
TRANSPARENT.putpalette([9, 8, 7, 0, 0, 0])
TRANSPARENT.info["transparency"] = b"\x80\xff"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (2, 2), 1), [255]),
        (Image.new("LA", (2, 2), (90, 10)), [90]),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), [255]),
        (Image.fromarray(np.full((2, 2), 257 * 40, np.uint16)), [40]),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 255)), [1, 2, 3]),
        (Image.new("P", (2, 2), 0), [0, 0, 0]),
        (TRANSPARENT, [9, 8, 7]),
    ],
)
def test_other_kinds_of_pixels(tmp_path: Path, image: Image.Image, expected: list[int]) -> None:
    image.save(tmp_path / "image.png")
    pixels = decode.read_image(str(tmp_path / "image.png"))
    assert pixels.dtype == np.uint8
    assert pixels[:, 0, 0].tolist() == expected


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    image.save(tmp_path / "image.jpg", exif=exif)
    assert decode.read_image(str(tmp_path / "image.jpg")).shape == (3, 4, 2)


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


def put(folder: Path, name: str, content: bytes = b"") -> None:
    (folder / name).write_bytes(content)


def two(folder: Path) -> Path:
    """Two classes of three images."""
    return write_classes(folder, {"a": 3, "b": 3})


@pytest.mark.parametrize(
    ("make", "skip_bad", "message"),
    [
        (
            lambda path: write_image(two(path) / "a" / "wide.png", 7, size=(9, 6)),
            False,
            r"0000\.png is 6x6, .*wide",
        ),
        (lambda path: (two(path) / "a" / "gone.png").symlink_to(path / "nowhere.png"), False, r"gone\.png"),
        (lambda path: put(two(path), "b/0000.png"), True, r"class 'b' \(2\)"),
        (lambda path: [put(path, str(file)) for file in two(path).rglob("*.png")], True, "none of its 6 files"),
        (lambda path: Image.fromarray(np.ones((6, 6), np.float32)).save(two(path) / "a" / "x.tif"), False, "32-bit"),
        (lambda path: None, False, "no image files"),
        (lambda path: path.rmdir(), False, "does not exist"),
        (lambda path: (path.rmdir(), path.touch()), False, "is a file, not a folder"),
        (lambda path: write_image(path / "image.png", 0), False, "outside class folders"),
        (lambda path: (two(path) / "c").mkdir(), False, "no image files in class folder c"),
        (
            lambda path: (two(path / "train"), write_classes(path / "test", {"a": 3, "c": 3})),
            False,
            "only in train: b",
        ),
        (lambda path: two(path / "train"), False, "no test/<class>"),
        (lambda path: two(path / "test"), False, "no train/<class>"),
    ],
)
def test_folders_that_cannot_be_used(
    tmp_path: Path, make: Callable[[Path], object], skip_bad: bool, message: str
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    make(folder)
    with pytest.raises(DataError, match=message):
        load(f"folder:{folder}", skip_bad=skip_bad)


def test_copies_across_splits_are_told(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 4, "b": 4})
    write_classes(tmp_path / "test", {"a": 2, "b": 2}, start=6)
    (note,) = load(f"folder:{tmp_path}").notes
    assert note.startswith("2 of 4 test images are exact copies")


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


def test_a_failed_load_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, source = tmp_path / "cache", tmp_path / "source"
    monkeypatch.setenv("PP_SIMVE_CACHE", str(cache))
    write_classes(source, {"a": 3, "b": 3})
    (source / "a" / "0000.png").write_bytes(b"")
    before = sorted(os.walk(tmp_path))
    with pytest.raises(DataError):
        load(f"folder:{source}")
    assert sorted(os.walk(tmp_path)) == before


def test_memory_and_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    two(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(decode, "_memory", lambda: 700)
        with pytest.raises(DataError, match="--image-size N"):
            load(f"folder:{tmp_path}")
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"/a cannot be read \(Permission denied\)"):
        load(f"folder:{tmp_path}")

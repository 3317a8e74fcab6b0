"""Image folders: layouts, grey and colour, sizes, damaged files, and every way a folder can be wrong."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pp_simve.data import DataError, decode, load, load_data, memory
from pp_simve.data import pixels as pixels_module
from pp_simve.data.folders import image_files
from pp_simve.data.pixels import Reading, Size

from .data_fixtures import assert_disjoint, rows, write_classes, write_image


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PP_SIMVE_CACHE", str(tmp_path_factory.mktemp("cache")))


def read(path: Path, **options: Any) -> decode.Decoded:
    return decode.read_image(str(path), Reading.of(**options))


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
    data = load_data(f"folder:{tmp_path}")
    assert (data.name, data.classes, data.notes) == (f"folder:{tmp_path}", ("ant", "train"), ())
    assert data.image_shape == (1, 6, 6)
    assert [len(split) for split in (data.train, data.validation, data.test)] == sizes
    assert_disjoint(data, sum(sizes))
    assert load_data(f"folder:{tmp_path}", image_size=5).image_shape == (1, 5, 5)
    if "test" in folders:
        files = (tmp_path / "test").rglob("*.png")
        assert rows(data.test) == {np.asarray(Image.open(file)).tobytes() for file in files}


LAYOUTS: dict[str, tuple[dict[str, dict[str, int]], list[int], int, str]] = {
    "names of splits in any case": (
        {"Train": {"a": 4, "b": 4}, "VAL": {"a": 1, "b": 1}, "testing": {"a": 2, "b": 2}},
        [8, 2, 4],
        2,
        "",
    ),
    "a folder beside the splits": (
        {"training": {"a": 4, "b": 4}, "Test": {"a": 2, "b": 2}, "extra": {"": 3}},
        [6, 2, 4],
        2,
        "left out: 3 in extra",
    ),
    "no classes": ({"": {"": 10}}, [7, 1, 2], 0, ""),
    "splits without classes": ({"": {"Train": 8, "Test": 4}}, [7, 1, 4], 0, ""),
    "one class": ({"": {"a": 10}}, [7, 1, 2], 0, "one class only (a): the images are used without labels"),
    "one class in splits": (
        {"train": {"a": 10}, "test": {"a": 3}},
        [9, 1, 3],
        0,
        "one class only (a): the images are used without labels",
    ),
    "sub-folders of a class": (
        {"": {"a": 2, "a/x": 2, "a/y": 1, "b": 5}},
        [6, 2, 2],
        2,
        "3 images in sub-folders taken with the folder above: 2 a/x, 1 a/y",
    ),
    "folders of file servers": (
        {"": {"a": 5, "b/@eaDir": 2, "@eaDir": 3, "b": 5, "__MACOSX": 1, ".hidden": 4}},
        [6, 2, 2],
        2,
        "left out: 2 in @eaDir",
    ),
    "numbers": ({"": dict.fromkeys(map(str, range(12)), 3)}, [12, 12, 12], 12, ""),
    "equal names": ({"train": {"caf\u00e9": 4, "b": 4}, "test": {"cafe\u0301": 2, "b": 2}}, [6, 2, 4], 2, ""),
    "equal names in one place": (
        {"": {"caf\u00e9": 3, "cafe\u0301": 3, "b": 3}},
        [5, 2, 2],
        2,
        "caf\u00e9: folders whose names differ in Unicode form only are one class",
    ),
    "a name that is not UTF-8": ({"": {os.fsdecode(b"caf\xe9"): 3, "b\x1b[2J": 3}}, [2, 2, 2], 2, ""),
}


@pytest.mark.parametrize(("folders", "sizes", "classes", "words"), LAYOUTS.values(), ids=LAYOUTS)
def test_more_layouts(
    tmp_path: Path, folders: dict[str, dict[str, int]], sizes: list[int], classes: int, words: str
) -> None:
    for number, (part, counts) in enumerate(folders.items()):
        write_classes(tmp_path / part, counts, start=1000 * number)
    data = load_data(f"folder:{tmp_path}")
    assert len(data.classes) == classes
    assert [len(split) for split in (data.train, data.validation, data.test)] == sizes
    assert_disjoint(data, sum(sizes))
    assert (data.train.labels is None) == (classes == 0)
    assert " ".join(data.notes).startswith(words)
    assert bool(data.notes) == bool(words)
    json.dumps([data.classes, data.notes]).encode()
    "".join(data.classes).encode()


def test_classes_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_classes(tmp_path, {"10": 3, "9": 3, "-1": 3})
    data = load_data(f"folder:{tmp_path}")
    assert data.classes == ("-1", "9", "10")
    assert data.class_summary == "3 classes: -1, 9, 10"
    write_classes(tmp_path, {"x": 3}, start=100)
    assert load_data(f"folder:{tmp_path}").classes == ("-1", "10", "9", "x")


def test_names_that_no_terminal_can_show(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_classes(folder, {os.fsdecode(b"\xe9\xe8"): 3, "b\x1b\n": 3})
    assert load_data(f"folder:{folder}").classes == (r"\xe9\xe8", r"b\x1b\n")
    bad = folder / "b\x1b\n" / os.fsdecode(b"\xff.png")
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"/caf\\xe9/b\\x1b\\n/\\xff.png") as caught:
        load_data(f"folder:{folder}")
    str(caught.value).encode()
    (note,) = load_data(f"folder:{folder}", skip_bad=True).notes
    assert r"caf\xe9/b\x1b\n/\xff.png" in note
    assert load_data(f"folder:{folder}", skip_bad=True).notes == (note,)  # from the cache


def test_files_that_are_left_out_are_counted(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 5, "b": 5})
    for name in ("a/x.heic", "a/y.HEIC", "b/IMG_1", "b/notes.txt", "b/.hidden", "list.csv"):
        put(tmp_path, name)
    write_image(tmp_path / "loose.png", 99)
    (note,) = load_data(f"folder:{tmp_path}").notes
    assert note.startswith("left out: 2 .heic, 1 .txt, 1 outside class folders, 1 without extension (")


def test_photographs_of_different_sizes_are_found_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path, {"a": 200, "b": 3}, mode="L")
    write_image(tmp_path / "b" / "wide.png", 999, mode="L", size=(9, 6))
    monkeypatch.delattr(decode, "read_image")
    with pytest.raises(DataError, match=r"0000\.png is 6x6, .*wide\.png is 9x6 .*--image-size HxW.*--resize crop"):
        load_data(f"folder:{tmp_path}")


def test_large_images_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all threads together would take more than the memory at hand."""
    inside, most = 0, 0

    def eight_bits(image: Image.Image, *rest: object) -> Image.Image:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        return image

    write_classes(tmp_path, {"a": 4, "b": 4}, mode="L")
    monkeypatch.setattr(decode, "CHUNK", 1)
    monkeypatch.setattr(decode, "THREADS", 4)
    monkeypatch.setattr(decode, "_eight_bits", eight_bits)
    monkeypatch.setattr(decode, "memory_at_hand", lambda: 3 * 36 * decode.BYTES_PER_PIXEL)
    load_data(f"folder:{tmp_path}")
    assert most == 1


def test_labels_stay_with_their_images(tmp_path: Path) -> None:
    for number in range(6):
        for label, value in (("dark", 10), ("light", 200)):
            file = tmp_path / label / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4), (value, value, number)).save(file)
    data = load_data(f"folder:{tmp_path}")
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
    data = load_data(f"folder:{tmp_path}")
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
    data = load_data(f"folder:{tmp_path}")
    assert data.image_shape == (3, 6, 6)
    assert data.train.labels is not None
    grey = data.train.images[data.train.labels == (0 if grey_first else 1)]
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert_disjoint(data, 6)


def palette(*alpha: int) -> Image.Image:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([9, 8, 7, 0, 0, 0])
    image.info["transparency"] = bytes(alpha)
    return image


def colour_key(mode: str, value: int | tuple[int, int, int]) -> Image.Image:
    image = Image.new(mode, (2, 2), value)
    image.info["transparency"] = value
    return image


def deep(value: float, dtype: type = np.uint16) -> Image.Image:
    return Image.fromarray(np.full((2, 2), value, dtype))


@pytest.mark.parametrize(
    ("image", "options", "expected", "remarks"),
    [
        (Image.new("1", (2, 2), 1), {}, [255], ""),
        (Image.new("P", (2, 2), 0), {}, [0, 0, 0], ""),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 255)), {}, [1, 2, 3], ""),
        (palette(255, 255), {}, [9, 8, 7], ""),
        # On a background: half transparent, and with colours hidden below alpha 0.
        (Image.new("LA", (2, 2), (90, 0)), {}, [255], "transparent"),
        (Image.new("LA", (2, 2), (90, 51)), {"background": "black"}, [18], "transparent"),
        (Image.new("LA", (2, 2), (90, 0)), {"background": "#ff0000"}, [76], "transparent"),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 0)), {"background": "#0a141e"}, [10, 20, 30], "transparent"),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), {}, [255] * 3, "transparent"),
        (palette(0, 255), {}, [255] * 3, "transparent"),
        (palette(128, 255), {"background": "black"}, [5, 4, 4], "transparent"),
        (colour_key("L", 7), {}, [255], "transparent"),
        (colour_key("RGB", (7, 8, 9)), {}, [255] * 3, "transparent"),
        # Values of black and white.
        (deep(65535), {}, [255], ""),
        (deep(257 * 40), {}, [40], ""),
        (deep(257 * 40), {"range": "16bit"}, [40], ""),
        (deep(4095), {"range": "0,4095"}, [255], ""),
        (deep(5000), {"range": "0,4095"}, [255], ""),
        (Image.new("L", (2, 2), 3), {"range": "0,15"}, [51], ""),
        (Image.new("L", (2, 2), 3), {"range": "16bit"}, [3], ""),
    ],
)
def test_other_kinds_of_pixels(
    tmp_path: Path, image: Image.Image, options: dict[str, Any], expected: list[int], remarks: str
) -> None:
    image.save(tmp_path / "image.png")
    pixels, found = read(tmp_path / "image.png", **options)
    assert pixels.dtype == np.uint8
    assert pixels[:, 0, 0].tolist() == expected
    assert " ".join(found) == remarks


@pytest.mark.parametrize(
    ("file", "image", "options", "expected"),
    [
        ("a.pgm", b"P5 2 2 65535\n" + 8 * b"\x28", {}, 40),
        ("a.tif", deep(0.2, np.float32), {}, 51),
        ("a.tif", deep(1.0001, np.float32), {}, 255),
        ("a.tif", deep(300, np.float32), {"range": "200,400"}, 128),
        ("a.tif", deep(257 * 40, np.int32), {}, 40),
        ("a.tif", deep(2.0, np.float32), {}, r"float32 values from 2 to 2, expected \[0, 1\].*`--range 0,255`"),
        ("a.tif", deep(np.nan, np.float32), {}, r"4 NaN .* at \(row, column\) \(0, 0\)"),
        ("a.tif", deep(70000, np.int32), {}, "int32 values from 70000 to 70000.*`--range 0,70000`"),
    ],
)
def test_deep_files(
    tmp_path: Path, file: str, image: Image.Image | bytes, options: dict[str, Any], expected: int | str
) -> None:
    if isinstance(image, bytes):
        (tmp_path / file).write_bytes(image)
    else:
        image.save(tmp_path / file)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            read(tmp_path / file, **options)
    else:
        assert read(tmp_path / file, **options)[0].flatten().tolist() == [expected] * 4


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_frame_is_read_and_said_so(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("L", (6, 6), value) for value in (200, 10, 20)]
    for label in ("a", "b"):
        write_classes(tmp_path, {label: 3}, start=10 * ord(label), mode="L")
    frames[0].save(tmp_path / "a" / f"moving.{suffix}", save_all=True, append_images=frames[1:])
    pixels, found = read(tmp_path / "a" / f"moving.{suffix}")
    assert (pixels == 200).all()
    assert found == {"animated"}
    (note,) = load_data(f"folder:{tmp_path}").notes
    assert note.startswith("1 of 7 images with several frames")


def test_transparent_images_are_counted_once(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for number in range(3):
            image = Image.new("LA", (4, 4), (0, 255 if number else 0))
            (tmp_path / label).mkdir(exist_ok=True)
            image.putpixel((number, number), (ord(label), 255))
            image.save(tmp_path / label / f"{number}.png")
    for _ in range(2):  # decoded, then from the cache
        (note,) = load_data(f"folder:{tmp_path}").notes
        assert note.startswith("2 of 6 images with transparency: composited on the background")
    assert load_data(f"folder:{tmp_path}", background="black").train.images.max() < 150


def test_hardly_any_grey_levels(tmp_path: Path) -> None:
    """12 bits in files of 16."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(3):
            values = rng.integers(0, 4096, (4, 4), dtype=np.uint16)
            Image.fromarray(values).save(tmp_path / label / f"{number}.png")
    (note,) = load_data(f"folder:{tmp_path}").notes
    assert re.match(r"all pixels lie between 0 and 1[56] of 255: .*--range 0,4095", note)
    scaled = load_data(f"folder:{tmp_path}", range="0,4095")
    assert scaled.notes == ()
    assert scaled.train.images.max() > 200


@pytest.mark.parametrize(
    ("size", "resize", "shape", "corner", "middle"),
    [
        ("4x8", "squash", (4, 8), 10, 190),  # 6 x 12 pixels, the outer thirds dark
        ("4x4", "crop", (4, 4), 190, 190),
        ("4x8", "crop", (4, 8), 10, 190),
        ("8x8", "pad", (8, 8), 255, 190),
        (6, "pad", (6, 6), 255, 190),
        ((3, 6), "auto", (3, 6), 10, 190),
    ],
)
def test_sizes(tmp_path: Path, size: Any, resize: str, shape: Size, corner: int, middle: int) -> None:
    values = np.full((6, 12), 10, np.uint8)
    values[:, 3:9] = 190
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels, _ = read(tmp_path / "a.png", image_size=size, resize=resize)
    tensor = pixels_module.resize(torch.from_numpy(values)[None, None], Reading.of(size, resize))
    for image in (pixels[0], tensor[0, 0].numpy()):
        assert image.shape == shape
        assert abs(int(image[0, 0]) - corner) < 5
        assert image[shape[0] // 2, shape[1] // 2] == middle


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": "8x"}, "an image size of '8x'"),
        ({"image_size": "8x8x8"}, "HEIGHTxWIDTH"),
        ({"image_size": -1}, "an image size of -1"),
        ({"resize": "stretch"}, "squash, crop, pad"),
        ({"background": "whit"}, "a background of 'whit'"),
        ({"range": "8bit"}, "MIN,MAX"),
        ({"range": "5,5"}, "MIN,MAX"),
        ({"range": "0,inf"}, "MIN,MAX"),
        ({"layout": "784"}, "28x28"),
        ({"layout": "nchw"}, "auto, chw, hwc"),
    ],
)
def test_impossible_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_data("digits", **options)


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    image.save(tmp_path / "image.jpg", exif=exif)
    assert read(tmp_path / "image.jpg")[0].shape == (3, 4, 2)


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | str) -> None:
    write_classes(tmp_path, {"a": 5, "b": 5})
    bad = tmp_path / "b" / "0002.png"
    bad.write_bytes(bad.read_bytes()[:60] if isinstance(content, str) else content)
    with pytest.raises(DataError, match=r"1 file of 10 cannot be decoded: .*b/0002\.png.*--skip-bad"):
        load_data(f"folder:{tmp_path}")
    for _ in range(2):  # decoded, then from the cache
        data = load_data(f"folder:{tmp_path}", skip_bad=True)
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
        (lambda path: os.mkfifo(two(path) / "a" / "x.png"), False, r"a/x\.png \(.*it is a pipe, socket or device"),
        (lambda path: None, False, "no image files"),
        (
            lambda path: two(path / "train").joinpath("../Training/a").resolve().mkdir(parents=True),
            False,
            "the same split",
        ),
        (lambda path: path.rmdir(), False, "does not exist"),
        (lambda path: (path.rmdir(), path.touch()), False, "is a file, not a folder"),
        (lambda path: write_image(path / "image.png", 0), False, "one image only"),
        (lambda path: (two(path) / "c").mkdir(), False, "no image files in c of"),
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
        load_data(f"folder:{folder}", skip_bad=skip_bad)


def test_copies_across_splits_are_told(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 4, "b": 4})
    write_classes(tmp_path / "test", {"a": 2, "b": 2}, start=6)
    (note,) = load_data(f"folder:{tmp_path}").notes
    assert note.startswith("2 of 4 test images are exact copies")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
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
        load_data(f"folder:{tmp_path}")


def test_a_failed_load_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, source = tmp_path / "cache", tmp_path / "source"
    monkeypatch.setenv("PP_SIMVE_CACHE", str(cache))
    write_classes(source, {"a": 3, "b": 3})
    (source / "a" / "0000.png").write_bytes(b"")
    before = sorted(os.walk(tmp_path))
    with pytest.raises(DataError):
        load_data(f"folder:{source}")
    assert sorted(os.walk(tmp_path)) == before


def test_memory_and_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    two(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(memory, "memory_at_hand", lambda: 700)
        patched.setattr(load, "default_folder", lambda: None)  # no file to map them from
        with pytest.raises(DataError, match="--image-size N"):
            load_data(f"folder:{tmp_path}")
        patched.setattr(decode, "memory_at_hand", lambda: 700)
        with pytest.raises(DataError, match=r"its 6x6 pixels take .* to decode"):
            load_data(f"folder:{tmp_path}")
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"/a cannot be read \(Permission denied\)"):
        load_data(f"folder:{tmp_path}")

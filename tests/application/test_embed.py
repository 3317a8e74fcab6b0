"""Features of images by a fitted run: `LoadedRun.embed` and `python -m pp_simve.embed`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from pp_simve import embed, export, load_data, load_run
from pp_simve.commands.options import EmbedConfig, ExportConfig
from pp_simve.data import DataError, DataShape
from pp_simve.errors import ConfigError
from pp_simve.evaluation.tasks.classes import contents_of_views
from pp_simve.inference.images import ImagesError
from pp_simve.run.config import FitConfig
from pp_simve.run.console import parsed
from pp_simve.run.loaded import LoadedRun
from pp_simve.run.methods import build

from .command import write_npz
from .data_fixtures import write_classes


def run(*arguments: str) -> int:
    """The exit code of a command line."""
    try:
        return embed.main(arguments)
    except SystemExit as end:  # tyro's way out
        return int(end.code or 0)


def unfitted(*flags: tuple[str, Any], shape: tuple[int, int, int] = (1, 6, 6)) -> LoadedRun:
    """A run whose parameters are as they were drawn."""
    options: dict[str, Any] = {"encoder": "mlp(hidden=[8])", "decoder": "mlp(hidden=[8])", "latent_dim": 4}
    settings = FitConfig(**options | dict(flags)).resolve(DataShape(shape))
    program = build(settings, DataShape(shape))
    program.objective.eval()
    return LoadedRun(program.model, program.guide, program.objective, Path("run"), settings, "", DataShape(shape))


class Counting(Dataset[Any]):
    """Images with a label each, which counts those that were read."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images, self.read = images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        self.read += 1
        return self.images[place], 0


@pytest.mark.parametrize("split", ["all", "train", "validation", "test"])
def test_features_labels_and_positions_belong_together(finished_run: Path, split: Any) -> None:
    fitted, digits = load_run(finished_run), load_data("digits")
    found = fitted.embed("digits", ("content", "style", "z", "backbone"), split=split, batch_size=100)
    parts = [digits.train, digits.validation, digits.test]
    of_split = parts if split == "all" else [getattr(digits, split)]
    for part in of_split:
        order = {int(place): row for row, place in enumerate(found["index"])}
        rows = [order[int(place)] for place in part.index]
        assert [int(label) for label in found["label"][rows]] == part.labels.tolist()
        for name, values in fitted.guide.embed_batches(part.images).as_dict().items():
            np.testing.assert_allclose(found[name][rows], values, atol=1e-5)
    assert len(found["index"]) == sum(map(len, of_split))


SOURCES: dict[str, Callable[[torch.Tensor, Path], Any]] = {
    "array": lambda images, folder: images.numpy(),
    "floats": lambda images, folder: images.float() / 255,
    "float64": lambda images, folder: images.double().numpy() / 255,
    "tensor data set": lambda images, folder: TensorDataset(images),
    "data set": lambda images, folder: Counting(images),
    "name": lambda images, folder: f"folder:{folder / 'photos'}",
    "path of a folder": lambda images, folder: folder / "photos",
    "text path": lambda images, folder: str(folder / "photos"),
    "files": lambda images, folder: sorted((folder / "photos").rglob("*.png")),
    "npz": lambda images, folder: folder / "images.npz",
}


@pytest.mark.parametrize("source", SOURCES)
def test_sources(folder: Path, source: str) -> None:
    write_classes(folder / "photos", {"cat": 2, "dog": 1}, mode="L")  # too few to fit
    files = sorted((folder / "photos").rglob("*.png"))
    images = torch.stack([torch.from_numpy(np.array(Image.open(file)))[None] for file in files])
    np.savez(folder / "images.npz", images=images.numpy())
    fitted = unfitted()
    found = fitted.embed(SOURCES[source](images, folder), batch_size=2)
    np.testing.assert_allclose(found["content"], fitted.guide.embed_batches(images).content, atol=1e-6)
    if source in ("name", "path of a folder", "text path"):
        assert found["label"].tolist() == ["cat", "cat", "dog"]
        assert found["path"].tolist() == ["cat/0000.png", "cat/0001.png", "dog/0000.png"]
        np.testing.assert_array_equal(fitted.embed(SOURCES[source](images, folder))["path"], found["path"])  # cached
    assert fitted.embed(files[1])["content"].shape == (1, 4)


def test_a_data_set_is_read_a_batch_at_a_time() -> None:
    data, seen = Counting(torch.zeros(10, 1, 6, 6)), []
    unfitted().embed(data, batch_size=4, progress=lambda done, count: seen.append((done, count, data.read)))
    assert seen == [(4, 10, 4), (8, 10, 8), (10, 10, 10)]


def test_gray_images_of_a_run_of_color_images() -> None:
    fitted, gray = unfitted(shape=(3, 6, 6)), torch.rand(5, 1, 6, 6)
    np.testing.assert_array_equal(fitted.embed(gray)["content"], fitted.embed(gray.expand(-1, 3, -1, -1))["content"])


@pytest.mark.parametrize("guide", ["amortized", "structured"])
def test_content_of_several_views_is_that_of_the_posterior_given_all(guide: str) -> None:
    fitted, images = unfitted(("guide", guide)), torch.rand(7, 1, 6, 6)
    found = fitted.embed(images, ("content", "z"), views=4, seed=3)
    policy: Any = fitted._viewing.policy
    joint = contents_of_views(fitted.guide, policy, images, [4], torch.Generator().manual_seed(3))[4]
    np.testing.assert_allclose(found["content"], joint, atol=1e-6)
    assert not np.allclose(found["content"], fitted.embed(images)["content"], atol=1e-3)
    np.testing.assert_array_equal(fitted.embed(images, "z", views=4, seed=3)["z"], found["z"])


def test_standard_deviations_are_those_of_the_guide() -> None:
    fitted, images = unfitted(), torch.rand(3, 1, 6, 6)
    found = fitted.embed(images, ("z", "content", "backbone"), draws=4000)
    guide: Any = fitted.guide
    with torch.no_grad():
        exact = guide.recognition(images[None]).stddev[0]
    np.testing.assert_allclose(found["z_sd"], exact, rtol=0.06)
    assert set(found) == {"z", "content", "backbone", "z_sd", "content_sd"}


def test_modalities() -> None:
    fitted, images = unfitted(("modalities", "halves")), torch.rand(5, 1, 6, 6)
    whole = fitted.embed(images)["content"]
    halves = {"upper": images[:, :, :3], "lower": images[:, :, 3:]}
    np.testing.assert_allclose(fitted.embed(halves)["content"], whole, atol=1e-6)
    assert fitted.embed({"upper": halves["upper"]}, "backbone")["backbone"].shape == (5, 8)
    with pytest.raises(ConfigError, match="a backbone for each modality"):
        fitted.embed(images, "backbone")
    with pytest.raises(ImagesError, match="images of left, expected upper, lower"):
        fitted.embed({"left": halves["upper"]})


@pytest.mark.parametrize(
    ("images", "options", "error", "words"),
    [
        (torch.rand(2, 1, 8, 8), {}, ImagesError, "resize them .files: --image-size 6x6"),
        (torch.rand(2, 3, 6, 6), {}, ImagesError, "convert them to grayscale"),
        (torch.rand(0, 1, 6, 6), {}, ConfigError, "no images to embed"),
        ([], {}, ImagesError, "must be a tensor, an array or a torch Dataset, got an object of type list"),
        ("nowhere", {}, DataError, "unknown data 'nowhere'"),
        (Path("nowhere.png"), {}, DataError, "nowhere.png"),
        ({"upper": torch.rand(2, 1, 6, 6)}, {}, ImagesError, "images of upper, expected images as one tensor"),
        (
            {"a": torch.rand(2, 1, 6, 6), "b": torch.rand(3, 1, 6, 6)},
            {},
            ImagesError,
            "numbers of images {'a': 2, 'b': 3}",
        ),
        (torch.rand(2, 1, 6, 6), {"what": "contents"}, ConfigError, "did you mean 'content'"),
        (torch.rand(2, 1, 6, 6), {"what": ()}, ConfigError, "what must be at least 1"),
        (torch.rand(2, 1, 6, 6), {"views": 0}, ConfigError, "views must be at least 1, got 0"),
        (torch.rand(2, 1, 6, 6), {"draws": 1}, ConfigError, "at least 2 draws, got 1"),
    ],
)
def test_wrong_images_and_arguments(images: Any, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        unfitted().embed(images, **options)


@pytest.mark.parametrize(
    ("flags", "options", "words"),
    [
        ({"method": "vae"}, {}, "content has no width under this prior; choose another representation, such as z"),
        ({"method": "simclr"}, {"draws": 5}, "DeltaGuide has no posterior standard deviations"),
    ],
)
def test_what_a_program_does_not_have(flags: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        unfitted(*flags.items()).embed(torch.rand(2, 1, 6, 6), **options)


@pytest.mark.parametrize("suffix", ["npz", "npy", "parquet"])
def test_files(finished_run: Path, folder: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="the extra pp_simve[parquet] is not installed")
    what = ["--what", "content"] if suffix == "npy" else ["--what", "content, z", "--draws", "5"]
    out = folder / f"features.{suffix}"
    assert run(str(finished_run), "--out", str(out), *what, "--split", "test", "--device", "cpu") == 0
    assert "content (359, 8)" in capsys.readouterr().out
    expected = load_run(finished_run).embed("digits", ("content", "z"), split="test", draws=5)
    if suffix == "npy":
        np.testing.assert_array_equal(np.load(out), expected["content"])
    elif suffix == "npz":
        written = np.load(out)
        assert set(written) == set(expected) == {"index", "label", "content", "z", "content_sd", "z_sd"}
        for name, values in expected.items():
            np.testing.assert_array_equal(written[name], values)
    else:
        table = pd.read_parquet(out)
        assert table["label"].tolist() == expected["label"].tolist()
        np.testing.assert_array_equal(table["z_sd_7"], expected["z_sd"][:, 7])


def test_a_run_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "no run was given" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "flags"), [(embed, ["--out", "f.npz"]), (export, ["--to", "pt2"])])
def test_several_processes_are_refused(
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Any,
    flags: list[str],
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2" if name.endswith("SIZE") else "1")
    assert command.main([str(finished_run), *flags]) == 2
    assert "this command uses one process; start it without torchrun" in " ".join(capsys.readouterr().err.split())


def test_the_size_of_files_can_be_given(finished_run: Path, folder: Path) -> None:
    write_npz(folder / "large.npz", (3, 30, 30))
    large = str(folder / "large.npz")
    assert run(str(finished_run), "--data", large, "--out", "f.npy", "--image-size", "16", "--device", "cpu") == 0
    assert np.load("f.npy").shape == (3, 8)


@pytest.mark.parametrize("config", [EmbedConfig, ExportConfig])
def test_flags_of_reading_that_are_given_replace_those_of_the_fit(config: type[EmbedConfig | ExportConfig]) -> None:
    """Also with the value that is the default of a fit, whose own was another."""
    assert parsed(config, ["run"], "embed").reading == {}
    given = {"resize": "auto", "background": "white", "range": "auto", "layout": "auto"}
    flags = [f"--{name}={value}" for name, value in given.items()]
    assert parsed(config, ["run", *flags], "embed").reading == given
    assert FitConfig(**given).resolve(DataShape((1, 6, 6))) == FitConfig().resolve(DataShape((1, 6, 6)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "f.csv"], "--out f.csv must end in .npz, .npy or .parquet"),
        (["--out", "f.npy", "--what", "content,z"], "holds one array"),
        (["--out", "f.npy", "--draws", "5"], "holds one array"),
        (["--out", "no/f.npz"], "--out no/f.npz is in no folder that exists"),
        (["--out", "f.npz", "--data", "npz:gone.npz"], "gone.npz does not exist"),
        (["--out", "f.npz", "--data", "large.npz"], "--image-size 16x16"),
        (["--out", "f.npz", "--what", "styel"], "unknown representation 'styel'; did you mean 'style'?"),
        (
            ["--out", "f.npz", "--what", "z,,content"],
            "name 2 of --what 'z,,content' is empty; expected such as content,z",
        ),
        (["--out", "f.npz", "--views", "0"], "views must be at least 1, got 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_writes_nothing(
    finished_run: Path, folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    write_npz(folder / "large.npz", (3, 30, 30))
    assert run(str(finished_run), *arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in folder.iterdir()] == ["large.npz"]

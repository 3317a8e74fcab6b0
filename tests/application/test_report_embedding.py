"""The map of a report: views belong to their latents and parameters, and the file that keeps them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from pp_simve.data import ImageData, load_data
from pp_simve.errors import ConfigError
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.report import Embedding, embed_test
from pp_simve.report.embedding import principal_axes, thumbnails, umap_points
from pp_simve.report.plots import GRAY, SHADES, colorings_of
from pp_simve.run.config import FitConfig
from pp_simve.run.methods import Program, build
from pp_simve.run.viewing import Viewing


def unfitted(**settings: Any) -> tuple[Program, Viewing, ImageData]:
    data = load_data("digits", Path("data"))
    networks = {"encoder": "mlp(hidden=[32])", "decoder": "mlp(hidden=[32])", "latent_dim": 8}
    config = FitConfig(data="digits", **networks, **settings).resolve(data.shape)
    torch.manual_seed(0)
    return build(config, data.shape), Viewing.of(config, data.shape), data


def test_views_belong_to_their_images_and_parameters() -> None:
    program, viewing, data = unfitted()
    found = embed_test(program, viewing, data, count=7)
    assert len(found.z) == len(found.pictures) == 7
    assert found.placed == {}, "too few for UMAP"
    assert found.labels is not None
    assert data.test.labels is not None
    assert torch.equal(found.labels, data.test.labels[:7])
    policy = viewing.policy
    assert isinstance(policy, AugmentationPolicy)
    assert set(found.parameters) == set(policy.names)
    drawn = policy.apply(data.test.images[:7].float() / 255, dict(found.parameters))
    assert torch.equal((255 * drawn).round().byte(), found.pictures), "the parameters are not those of the views shown"
    again = program.guide.embed_batches(found.pictures).z
    assert torch.allclose(again, found.z, atol=0.05), "z is not that of the pictures shown"


def test_views_of_several_modalities_are_rows_of_one_embedding() -> None:
    program, viewing, data = unfitted(modalities="halves")
    found = embed_test(program, viewing, data, count=10)
    assert list(found.modalities) == ["upper"] * 5 + ["lower"] * 5
    assert len(found.z) == len(found.pictures) == 10
    assert found.labels is not None
    assert torch.equal(found.labels[:5], found.labels[5:])
    assert [coloring.name for coloring in colorings_of(found)][:2] == ["class", "modality"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": torch.zeros(2)}, "3 rows needs as many of everything, got {'labels': 2}"),
        ({"modalities": ["a"]}, "as many of everything"),
        ({"z": torch.zeros(3)}, "holds z"),
        ({"pictures": torch.zeros(3, 1, 2, 2)}, "uint8 pictures"),
        ({"pictures": torch.zeros(3, 2, 2, 2, dtype=torch.uint8)}, "uint8 pictures"),
        ({"placed": {"UMAP": torch.zeros(3, 3)}}, "placed/UMAP"),
        ({"parameters": {"p": torch.zeros(3, 2)}}, "parameters/p"),
    ],
)
def test_an_embedding_has_as_much_of_everything(wrong: dict[str, Any], message: str) -> None:
    parts = {"z": torch.zeros(3, 2), "pictures": torch.zeros(3, 1, 2, 2, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=message):
        Embedding(**{**parts, **wrong})


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_principal_axes_are_those_of_most_variance(latent_dim: int) -> None:
    z = torch.randn(50, latent_dim, dtype=torch.float64) * torch.arange(1, latent_dim + 1)
    points, shares = principal_axes(z)
    variances = torch.zeros(max(2, latent_dim), dtype=torch.float64)
    variances[:latent_dim] = torch.linalg.svdvals(z - z.mean(0)).square()
    assert points.shape == (50, 2)
    assert torch.allclose(points.square().sum(0), variances[:2], atol=1e-10)
    assert np.allclose(shares, (variances[:2] / variances.sum()).tolist(), atol=1e-10)


WRITTEN = Embedding(
    z=torch.randn(5, 3),
    pictures=torch.randint(0, 256, (5, 3, 20, 10), dtype=torch.uint8),
    labels=torch.tensor([0, 1, 1, 0, 2]),
    classes=["a", "b/c", "ü"],
    modalities=["x", "x", "y", "y", "y"],
    parameters={"p/q": torch.tensor([1.0, math.nan, 3, 4, 5])},
    placed={"UMAP": torch.randn(5, 2)},
)


@pytest.mark.parametrize("earlier", [False, True])
def test_an_embedding_is_read_as_it_was_written(tmp_path: Path, earlier: bool) -> None:
    WRITTEN.write(tmp_path / "map")
    if earlier:  # a version that called modalities kinds: a name of as many bytes, so that the header stays valid
        whole = (tmp_path / "map").read_bytes()
        (tmp_path / "map").write_bytes(whole.replace(b'"modalities"', b'     "kinds"').replace(b"sha256", b"sha999"))
    found = Embedding.read(tmp_path / "map")
    assert (found.classes, found.modalities) == (WRITTEN.classes, WRITTEN.modalities)
    for name in ("z", "pictures", "labels"):
        assert torch.equal(getattr(found, name), getattr(WRITTEN, name))
    assert torch.equal(found.parameters["p/q"].nan_to_num(-1), WRITTEN.parameters["p/q"].nan_to_num(-1))
    assert torch.equal(found.placed["UMAP"], WRITTEN.placed["UMAP"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no map at all",
        safetensors.torch.save({"z": torch.zeros(1)}),
        safetensors.torch.save(
            {"z": torch.zeros(1, 2), "odd/x": torch.zeros(1)}, {"classes": "[]", "modalities": "[]"}
        ),
        safetensors.torch.save(
            {"z": torch.zeros(1, 2), "pictures": torch.zeros(1)}, {"classes": "1", "modalities": "[]"}
        ),
    ],
)
def test_a_damaged_map_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "map").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is no map of a report .* delete it"):
        Embedding.read(tmp_path / "map")


def test_thumbnails_are_means_of_areas_in_one_size() -> None:
    large = torch.randint(0, 256, (30, 3, 64, 32), dtype=torch.uint8)
    small = torch.randint(0, 256, (2, 1, 8, 16), dtype=torch.uint8)
    found = thumbnails([large, small], 16)
    means = large.double().reshape(30, 3, 16, 4, 8, 4).mean((3, 5))
    assert found.shape == (32, 3, 16, 16)
    assert float((found[:30, :, :, :8].double() - means).abs().max()) <= 0.5
    assert torch.equal(found[30:, :, :8], small.expand(-1, 3, -1, -1))
    assert not found[:30, :, :, 8:].any()
    assert not found[30:, :, 8:].any()


def test_colors_are_those_of_the_most_frequent_classes_and_of_equal_ranges() -> None:
    labels = torch.tensor([0] * 5 + list(range(1, 13)) * 2)
    parameter = torch.linspace(0, 7, len(labels))
    parameter[3] = math.nan
    pictures = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    names = [str(place) for place in range(13)]
    by_class, by_number = colorings_of(
        Embedding(torch.randn(len(labels), 2), pictures, labels, names, parameters={"p": parameter})
    )
    assert [text for _, text in by_class.legend] == [*names[:10], "3 more"], "in the order of numbers"
    meaning = {text: color for color, text in by_class.legend}
    assert list(by_class.colors) == [meaning.get(value, GRAY) for value in by_class.values]
    assert by_class.colors.count(GRAY) == 6
    expected = [GRAY if math.isnan(value) else SHADES[min(int(value), 6)] for value in parameter.tolist()]
    assert list(by_number.colors) == expected
    assert by_number.values[3] == ""
    assert [by_number.legend[place][1] for place in (0, 6, 7)] == ["0", "7", "not defined"]


def test_umap_places_finite_rows_with_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Layout:
        """Stands for umap.UMAP: the first two columns."""

        def __init__(self, **arguments: Any) -> None:
            given.update(arguments)

        def fit_transform(self, rows: Any) -> Any:
            assert np.isfinite(rows).all()
            assert len(rows) == 19
            return rows[:, :2] + 1

    module = ModuleType("umap")
    monkeypatch.setitem(sys.modules, "umap", module)
    z = torch.randn(20, 4)
    assert umap_points(z) is None, "a folder named umap is not the library"
    module.UMAP = Layout  # type: ignore[attr-defined]
    assert umap_points(z[:15]) is umap_points(z[:15].repeat(3, 1)) is None, "few different rows have no neighborhoods"
    z[3, 1] = math.nan
    points = umap_points(z, seed=5)
    assert points is not None
    assert points[3].isnan().all()
    finite = torch.arange(20) != 3
    assert torch.equal(points[finite], z[finite, :2] + 1)
    assert given == {"n_neighbors": 15, "init": "pca", "random_state": 5, "n_jobs": 1}

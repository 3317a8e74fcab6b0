"""The page of a run: whole in one file, true to the folder's numbers, and readable with parts missing."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from pp_simve.data import ImageData, load
from pp_simve.errors import ConfigError
from pp_simve.evaluation.posterior.check import Diagnostics
from pp_simve.report import MAP, embed_test, write_report
from pp_simve.reporting.curves import loss_panels, thinned, ticks
from pp_simve.reporting.embedding import Embedding, principal_axes, umap_points
from pp_simve.reporting.evaluated import SHARES
from pp_simve.reporting.map import colourings
from pp_simve.reporting.markup import tag
from pp_simve.reporting.page import page
from pp_simve.reporting.pictures import shrunk, sprites, thumbnails
from pp_simve.reporting.tables import alike, rows_table
from pp_simve.run.folder import RunFolder, load_run
from pp_simve.run.viewing import Viewing

from .browser import CHROMIUM, Tab, browser
from .command import NETWORKS, SMALL, run, write_npz

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Elements with their attributes, the text of each section, and the cells of each table by caption."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str | None]] = []
        self.sections: dict[str, str] = {}
        self.tables: dict[str, dict[tuple[str, str], list[tuple[Any, str]]]] = {}
        self._caption, self._group, self._row, self._value = "", "", "", None
        self.feed(text)
        self.close()
        assert self.open == [], "an element was not closed"

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        assert len(given) == len(attributes), f"{name} has an attribute twice"
        self.elements.append((name, given))
        if name not in VOID:
            self.open.append((name, given.get("scope") or given.get("id")))
        if name == "data":
            self._value = json.loads(given["value"] or "")
        if name == "tr":
            self._row = ""
        if name == "tbody":
            self._group = ""

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop()[0] == name

    def handle_data(self, text: str) -> None:
        names = [name for name, _ in self.open]
        for name, key in self.open:
            if name == "section":
                self.sections[str(key)] = self.sections.get(str(key), "") + text
        if "caption" in names:
            self._caption = text
            self.tables[text] = {}
        elif ("th", "rowgroup") in self.open:
            if "small" not in names:
                self._group = text
        elif ("th", "row") in self.open and "small" not in names:
            self._row = text
        elif "table" in names and "data" in names:
            self.tables[self._caption].setdefault((self._group, self._row), []).append((self._value, text))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == name]


def embedding_of(folder: RunFolder) -> Embedding:
    config, _ = folder.read_settings()
    data = load(config.data, config.data_root)
    return embed_test(load_run(folder.path), Viewing.of(config, data.shape), data)


def read(folder: RunFolder, embedding: Embedding | None = None) -> Page:
    return Page(write_report(folder, embedding).read_text())


def results(folder: RunFolder) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads((folder.path / "results.json").read_text())
    return entries


def rewrite(folder: RunFolder, name: str, **entries: Any) -> None:
    path = folder.path / name
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> dict[str, Path]:
    halves = tmp_path_factory.mktemp("report") / "halves"
    assert run(*SMALL, "--modalities", "halves", "--out", str(halves)) == 0
    simclr = halves.with_name("simclr")
    assert run(*SMALL, "--method", "simclr", "--out", str(simclr)) == 0
    return {"simve": finished_run, "halves": halves, "simclr": simclr}


@pytest.fixture(params=["simve", "halves", "simclr"])
def any_run(runs: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> RunFolder:
    return RunFolder(Path(shutil.copytree(runs[request.param], tmp_path / "run")))


@pytest.fixture
def simve(runs: dict[str, Path], tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(runs["simve"], tmp_path / "run")))


@pytest.fixture
def halves(runs: dict[str, Path], tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(runs["halves"], tmp_path / "run")))


def test_the_page_is_whole_in_one_small_file(any_run: RunFolder) -> None:
    written = write_report(any_run, embedding_of(any_run))
    assert written == any_run.path / "report.html"
    assert written.stat().st_size < 3_000_000
    text = written.read_text()
    found = Page(text)
    for name, attributes in found.elements:
        for key in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            if address := attributes.get(key):
                assert address.startswith(("#", "data:")), f"{name} loads {address}"
    assert re.findall(r"(?:https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]*", "", text), re.IGNORECASE) == []
    assert set(re.findall(r"url\((.{0,15})", text)) <= {"data:image/png;"}
    assert "@import" not in text


def test_ids_are_unique_and_links_lead_to_them(any_run: RunFolder) -> None:
    found = read(any_run, embedding_of(any_run))
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 8
    links = [str(attributes["href"]) for attributes in found.all("a")]
    assert links
    named = [str(attributes["aria-labelledby"]) for attributes in found.all("section")]
    assert {*(link.removeprefix("#") for link in links), *named} <= set(ids)
    assert len(found.all("h1")) == 1


def test_pictures_have_words_and_are_the_folders(any_run: RunFolder) -> None:
    found = read(any_run)
    pictures = found.all("img")
    assert all(attributes["alt"] for attributes in pictures)
    embedded = {base64.b64decode(str(attributes["src"]).partition(",")[2]) for attributes in pictures}
    figures = (any_run.path / "figures").glob("*.png")
    assert embedded == {path.read_bytes() for path in figures if path.stem != "loss"}
    assert all(attributes.get("aria-label") for attributes in found.all("svg"))


def test_cells_of_a_run_are_its_results(simve: RunFolder) -> None:
    cells = read(simve).tables["What a representation tells of an image"]
    knows = results(simve)["knows"]
    rows = {row: values for (_, row), values in cells.items()}
    names = {"linear probe": "linear", "k-NN": "knn", "mean R²": "mean_r2"}
    assert {names.get(row, row) for row in rows} == set(knows["z"])
    for row, values in rows.items():
        expected = [scores[names.get(row, row)] for scores in knows.values()]
        assert [value for value, _ in values] == expected
        as_shown = [f"{100 * value:.1f} %" if "R" not in row and row in names else f"{value:.3f}" for value in expected]
        assert [shown for _, shown in values] == [shown.replace("-", "−") for shown in as_shown]


def test_cells_across_kinds_are_the_results(halves: RunFolder) -> None:
    found, expected = read(halves), results(halves)
    for kind, knows in expected["kinds"].items():
        cells = found.tables[f"From {kind} alone"]
        assert [value for value, _ in cells["View: R², 1 is known and 0 is not", "mean R²"]] == [
            scores["mean_r2"] for scores in knows.values()
        ]
    retrieval = found.tables["Retrieval of one kind by another"]
    zero_shot = found.tables["Classes from prompts of another kind"]
    for direction in ("upper to lower", "lower to upper"):
        scores = expected["retrieval"][direction]
        for k in (1, 5, 10):
            shown = retrieval[direction, f"recall at {k}"]
            assert [value for value, _ in shown] == [scores[f"recall@{k}"], scores[f"chance@{k}"]]
            assert shown[0][1] == f"{100 * scores[f'recall@{k}']:.1f} %"
        assert retrieval[direction, "median rank"][0][0] == scores["median_rank"]
        scores = expected["zero_shot"][direction]
        assert [value for value, _ in zero_shot[direction, "class, zero-shot"]] == [
            scores["accuracy"],
            scores["chance"],
        ]
        balanced = [value for value, _ in zero_shot[direction, "the same, balanced"]]
        assert balanced == [scores["balanced_accuracy"], scores["chance_balanced"]]
    together = found.tables["From all kinds together"]
    assert sorted(values[0][0] for values in together.values()) == sorted(expected["together"]["content"].values())


def test_bound_costs_and_settings_are_the_folders(simve: RunFolder) -> None:
    found, expected = read(simve), results(simve)
    terms = {row: values[0] for (_, row), values in found.tables["Terms on the test split"].items()}
    assert {row: value for row, (value, _) in terms.items()} == expected["bound"]
    assert terms["loss"][1] == f"{expected['bound']['loss']:,.1f}"
    assert f"ELBO, nats an image−{expected['bound']['loss']:,.1f}" in found.sections["scores"]
    costs = {row: values[0][0] for (_, row), values in found.tables["What the fit took"].items()}
    for row, key in {"time an epoch": "seconds_per_epoch", "steps": "steps", "parameters": "parameters"}.items():
        assert costs[row] == expected[key]
    settings = json.loads((simve.path / "config.json").read_text())
    text = found.sections["settings"]
    for name, value in settings["config"].items():
        assert f"--{name.replace('_', '-')}" in text
        assert value is None or str(value) in text
    assert settings["data_fingerprint"] in text
    assert "Decides initial parameters, batches, views and samples" in text


def test_results_that_are_not_known_are_shown_all_the_same(simve: RunFolder) -> None:
    rewrite(simve, "results.json", a_new_score={"inner": 0.25})
    assert 'a_new_scoreas it stands in results.json{"inner": 0.25}' in read(simve).sections["costs"]


def test_what_is_missing_is_said_in_words(simve: RunFolder) -> None:
    knows = {"z": {"linear": None, "knn": None, "mean_r2": None}}
    notes = {"class": "no labels in test", "views": "the view policy has no parameters"}
    rewrite(simve, "results.json", bound=None, is_bound=False, knows={**knows, "notes": notes}, content=knows["z"])
    shutil.rmtree(simve.path / "figures")
    (simve.path / "metrics.jsonl").unlink()
    (simve.path / MAP).unlink()
    found = read(simve)
    assert "no labels in test" in found.sections["knows"]
    assert "the view policy has no parameters" in found.sections["knows"]
    assert "No bound: this method models no pixels" in found.sections["bound"]
    assert "No pictures: this method models no pixels" in found.sections["pictures"]
    assert "No curves" in found.sections["curves"]
    assert "No map" in found.sections["map"]
    assert {
        shown for values in found.tables["What a representation tells of an image"].values() for _, shown in values
    } == {"–"}


def test_a_run_without_results_says_so(simve: RunFolder) -> None:
    (simve.path / "results.json").unlink()
    found = read(simve)
    assert "results.json is missing" in found.sections["scores"]
    assert "bound" not in found.sections


def test_points_have_no_bound_and_the_page_says_so(simve: RunFolder) -> None:
    rewrite(simve, "results.json", is_bound=False)
    found = read(simve)
    assert "no bound" in found.sections["bound"]
    assert "ELBO (no bound)" in found.sections["scores"]


def test_a_loss_figure_is_shown_where_there_are_no_curves(simve: RunFolder) -> None:
    (simve.path / "metrics.jsonl").unlink()
    assert "The terms of the loss over the steps." in read(simve).sections["pictures"]


def test_a_folder_without_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        write_report(RunFolder(tmp_path))


EVIL = '<script>alert("1")</script>&\''


def test_nothing_from_outside_becomes_an_element() -> None:
    embedding = Embedding(
        z=torch.randn(30, 4),
        pictures=torch.zeros(30, 1, 4, 4, dtype=torch.uint8),
        labels=torch.zeros(30, dtype=torch.int64),
        classes=[EVIL],
        kinds=[EVIL] * 30,
        parameters={EVIL: torch.randn(30)},
    )
    scores = {"linear": 0.5, "knn": None, EVIL: 0.5}
    judged = {
        "knows": {EVIL: scores, "notes": {"class": EVIL}},
        "kinds": {EVIL: {EVIL: scores}},
        "retrieval": {EVIL: {"recall@1": 0.5, "chance@1": 0.1, EVIL: 0.2}},
        "zero_shot": {EVIL: {"accuracy": 0.5, "chance": 0.1}},
        "content": {"linear": 0.5, "representation": EVIL},
        "bound": {"loss": 1.0, EVIL: 2.0},
        "is_bound": True,
        "device": EVIL,
        EVIL: EVIL,
    }
    settings = {
        "config": {"method": EVIL, "data": EVIL, EVIL: EVIL, "modalities": EVIL},
        "commit": EVIL,
        "version": EVIL,
    }
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, format="PNG")
    text = page(settings, judged, [{"step": 1, EVIL: 1.0}], {EVIL: picture.getvalue()}, embedding)
    found = Page(text)
    assert len(found.all("script")) == 1
    assert "<script>alert" not in text
    assert EVIL not in text
    for key in ("scores", "knows", "kinds", "bound", "curves", "costs", "settings", "map", "pictures"):
        assert EVIL in found.sections[key], f"{key} lost its words"


def test_attributes_are_escaped_and_named() -> None:
    assert tag("p", "a<b", class_='"', aria_label="x", hidden=True, id=None, lang=False) == (
        '<p class="&quot;" aria-label="x" hidden>a&lt;b</p>'
    )


@pytest.mark.parametrize("name", ["simve", "halves"])
def test_the_map_shows_each_view_where_its_z_lies(runs: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = RunFolder(Path(shutil.copytree(runs[name], tmp_path / "run")))
    embedding = embedding_of(folder)
    found = read(folder, embedding)
    dots = found.all("circle")
    images = len(load("digits", Path("data")).test)
    assert len(dots) == len(embedding.z) == images * (2 if name == "halves" else 1)
    drawn = torch.tensor([[float(str(dot["cx"])), -float(str(dot["cy"]))] for dot in dots], dtype=torch.float64)
    centred = embedding.z.double() - embedding.z.double().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].mT
    for axis in range(2):
        correlation = torch.corrcoef(torch.stack([drawn[:, axis], expected[:, axis]]))[0, 1]
        assert abs(abs(float(correlation)) - 1) < 1e-4
    distances, theirs = torch.pdist(drawn), torch.pdist(expected)
    scale = distances.norm() / theirs.norm()
    assert float((distances - scale * theirs).abs().max()) < 0.2, "the two axes must have one scale"
    groups = found.all("g")
    assert [group["data-row"] for group in groups] == [str(row) for row in range(len(dots))]
    assert embedding.labels is not None
    assert [str(group["class"]).split()[0] for group in groups] == [f"c0-{label}" for label in embedding.labels]
    radios = [attributes for attributes in found.all("input") if attributes["name"] == "colouring"]
    assert [attributes["id"] for attributes in radios if "checked" in attributes] == ["by-0"]
    assert len(radios) == 5 + (name == "halves")


def test_views_of_the_map_belong_to_their_images_and_parameters(folder: Path) -> None:
    write_npz(folder / "data.npz", (40, 8, 8))
    small = ("--data", "npz:data.npz", "--policy", "crop", "--batch-size", "16", "--steps", "2", "--device", "cpu")
    assert run(*NETWORKS, *small, "--out", "run") == 0
    fitted = RunFolder(folder / "run")
    config, _ = fitted.read_settings()
    data: ImageData = load(config.data, config.data_root)
    program = load_run(fitted.path)
    found = embed_test(program, Viewing.of(config, data.shape), data, count=3)
    assert len(found.z) == len(found.pictures) == 3
    assert data.test.labels is not None
    assert found.labels is not None
    assert torch.equal(found.labels, data.test.labels[:3])
    policy = Viewing.of(config, data.shape).policies[None]
    assert set(found.parameters) == set(policy.names)
    drawn = policy.apply(data.test.images[:3].float() / 255, dict(found.parameters))
    assert torch.equal((255 * drawn).round().byte(), found.pictures), "the parameters are not those of the views shown"
    again = program.guide.embed_batches(found.pictures).z
    assert torch.allclose(again, found.z, atol=0.05), "z is not that of the pictures shown"


def test_an_embedding_has_as_much_of_everything() -> None:
    with pytest.raises(ValueError, match="labels"):
        Embedding(torch.zeros(3, 2), torch.zeros(3, 1, 2, 2, dtype=torch.uint8), labels=torch.zeros(2))


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_principal_axes_are_those_of_most_variance(latent_dim: int) -> None:
    z = torch.randn(50, latent_dim, dtype=torch.float64) * torch.arange(1, latent_dim + 1)
    points, shares = principal_axes(z)
    variances = torch.zeros(max(2, latent_dim), dtype=torch.float64)
    variances[:latent_dim] = torch.linalg.svdvals(z - z.mean(0)).square()
    assert points.shape == (50, 2)
    assert torch.allclose(points.square().sum(0), variances[:2], atol=1e-10)
    assert np.allclose(shares, (variances[:2] / variances.sum()).tolist(), atol=1e-10)


@pytest.mark.parametrize("z", [torch.zeros(9, 3), torch.full((9, 3), math.nan)])
def test_collapsed_latents_have_no_map(z: torch.Tensor) -> None:
    found = Page(page({}, None, [], {}, Embedding(z, torch.zeros(9, 1, 2, 2, dtype=torch.uint8))))
    assert "No map: z of all views shown is the same, or not finite" in found.sections["map"]


def test_views_whose_z_is_not_finite_are_left_out_and_counted() -> None:
    z = torch.randn(9, 3)
    z[4, 1] = math.inf
    found = Page(page({}, None, [], {}, Embedding(z, torch.zeros(9, 1, 2, 2, dtype=torch.uint8))))
    assert [row["data-row"] for row in found.all("g")] == ["0", "1", "2", "3", "5", "6", "7", "8"]
    assert "1 view is left out" in found.sections["map"]
    assert "no labels and no view parameters" in found.sections["map"]


def test_an_embedding_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Embedding(
        z=torch.randn(5, 3),
        pictures=torch.randint(0, 256, (5, 3, 20, 10), dtype=torch.uint8),
        labels=torch.tensor([0, 1, 1, 0, 2]),
        classes=["a", "b/c", "ü"],
        kinds=["x", "x", "y", "y", "y"],
        parameters={"p/q": torch.tensor([1.0, math.nan, 3, 4, 5])},
        placed={"UMAP": torch.randn(5, 2)},
    )
    written.write(tmp_path / "map")
    read_back = Embedding.read(tmp_path / "map")
    assert (read_back.classes, read_back.kinds) == (written.classes, written.kinds)
    for name in ("z", "pictures", "labels"):
        assert torch.equal(getattr(read_back, name), getattr(written, name))
    assert torch.equal(read_back.parameters["p/q"].nan_to_num(-1), written.parameters["p/q"].nan_to_num(-1))
    assert torch.equal(read_back.placed["UMAP"], written.placed["UMAP"])


@pytest.mark.parametrize("content", [b"", b"no map at all", safetensors.torch.save({"z": torch.zeros(1)})])
def test_a_damaged_map_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "map").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is no map of a report .* delete it"):
        Embedding.read(tmp_path / "map")


def test_a_page_written_again_keeps_its_map(simve: RunFolder) -> None:
    first = write_report(simve, embedding_of(simve)).read_text()
    rewrite(simve, "results.json", views=7)
    again = write_report(simve).read_text()
    assert again != first
    assert again.replace("7 views of a test", "2 views of a test").replace('value="7">7<', 'value="2">2<') == first


class _Layout:
    """Stands for umap.UMAP: the first two columns."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def fit_transform(self, rows: Any) -> Any:
        assert np.isfinite(rows).all()
        made.append((self.arguments, len(rows)))
        return rows[:, :2] + 1


made: list[tuple[dict[str, Any], int]] = []


@pytest.fixture
def fake_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()
    module = ModuleType("umap")
    module.UMAP = _Layout  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)


def test_numbers_have_the_digits_of_their_column_or_of_their_measure() -> None:
    rows = [["bound", -214.36, -213.31], ["shape", 0.7125, 0.5731]]
    by_column = rows_table("t", ["measure", "before", "after"], rows)
    assert all(f">{text}</data>" in by_column for text in ("−214.4", "−213.3", "0.7", "0.6"))
    by_row = rows_table("t", ["measure", "before", "after"], rows, measures=True)
    assert all(f">{text}</data>" in by_row for text in ("−214.4", "−213.3", "0.713", "0.573"))


@pytest.mark.usefixtures("fake_umap")
def test_umap_places_finite_rows_with_a_seed() -> None:
    z = torch.randn(20, 4)
    z[3, 1] = math.nan
    points = umap_points(z, seed=5)
    assert points is not None
    assert points[3].isnan().all()
    finite = torch.arange(20) != 3
    assert torch.equal(points[finite], z[finite, :2] + 1)
    assert made == [({"n_neighbors": 15, "init": "pca", "random_state": 5, "n_jobs": 1}, 19)]


@pytest.mark.usefixtures("fake_umap")
def test_few_different_rows_have_no_neighbourhoods() -> None:
    assert umap_points(torch.randn(15, 4)) is None
    assert umap_points(torch.randn(15, 4).repeat(3, 1)) is None
    assert umap_points(torch.randn(16, 4)) is not None


def test_without_umap_there_is_one_layout_and_nothing_to_choose(
    simve: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # which makes its import fail
    embedding = embedding_of(simve)
    assert embedding.placed == {}
    assert "Placed by" not in read(simve, embedding).sections["map"]


def test_a_folder_named_umap_is_not_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", ModuleType("umap"))
    assert umap_points(torch.randn(20, 3)) is None


@pytest.mark.usefixtures("fake_umap")
def test_with_umap_the_page_has_both_layouts(simve: RunFolder) -> None:
    embedding = embedding_of(simve)
    found = read(simve, embedding)
    assert "Placed byPCAUMAP" in found.sections["map"]
    assert "placed by UMAP of their z" in found.sections["map"]
    assert [radio["id"] for radio in found.all("input") if radio["name"] == "layout"] == ["at-0", "at-1"]
    moves = [re.findall(r"[-0-9.]+(?=px)", str(group["style"])) for group in found.all("g")]
    at = [
        [float(str(dot["cx"])) + float(x), -float(str(dot["cy"])) - float(y)]
        for dot, (x, y) in zip(found.all("circle"), moves, strict=True)
    ]
    for axis in range(2):
        pair = torch.stack([torch.tensor(at, dtype=torch.float64)[:, axis], embedding.placed["UMAP"][:, axis].double()])
        assert float(torch.corrcoef(pair)[0, 1]) > 1 - 1e-4


CHECKS: Diagnostics = {
    "checks": [
        {
            "name": "khat",
            "title": "PSIS k̂",
            "value": 0.3125,
            "unit": "of images above 0.7",
            "alarm": True,
            "how": "Below 0.7 is good.",
            "blind": "modes that no draw reached",
            "rows": {
                "columns": ["image", "k̂", "a bound of many nats", "class", "counts", "sure"],
                "rows": [[17, 1.31, -12999.25, "a word & more", 3, True], [4, None, -0.5, "b", 1500, False]],
            },
        },
        {
            "name": "gap",
            "title": "Gap",
            "value": 6.4,
            "unit": None,
            "alarm": False,
            "how": "Near 0 is good.",
            "blind": "what more draws close",
        },
        {
            "name": "overlap",
            "title": "Overlap",
            "value": "9 of 16 axes",
            "unit": None,
            "alarm": None,
            "how": "How many.",
            "blind": "several axes together",
            "rows": None,
        },
        {
            "name": "empty",
            "title": "Not drawn",
            "value": None,
            "unit": "nats",
            "alarm": None,
            "how": "Nothing.",
            "blind": "everything",
            "rows": {"columns": ["a", "b"], "rows": []},
        },
    ],
    "notes": ["Label switching has no meaning here."],
    "settings": {"images": 64, "draws": 500},
}


def diagnose(folder: RunFolder) -> None:
    """What the diagnosis of a run leaves."""
    (folder.path / "diagnostics.json").write_text(json.dumps(CHECKS))
    for name in ("diagnose-khat", "diagnose-khat-worst", "diagnose-other"):
        Image.new("RGB", (800, 300)).save(folder.path / "figures" / f"{name}.png")


def block(of: str) -> dict[str, Any]:
    """What evaluation.json holds of one kind of view, with everything that can be there or missing."""
    nothing = {"skipped": f"nothing to ask {of}"}

    def knows(share: float) -> dict[str, Any]:
        cluster = {"accuracy": share / 2, "nmi": 0.25, "ari": -0.125, "converged": 1.0}
        few = {"1": {"mean": share / 4, "sd": 0.0625, "short_classes": 0.0}, "10": {"mean": share, "sd": None}}
        pair = {"balanced_accuracy": share, "auc": 0.75}
        return {
            "class": {
                "linear": share,
                "mlp": 0.5,
                "knn": {"error": f"too few rows <{of}>"},
                "few_labels": few,
                "clusters_diag": cluster,
                "clusters_full": nothing,
            },
            "views": {
                "ridge": {"mean_r2": 0.5, "rotation": share, "hue": None},
                "mlp": {"mean_r2": 0.5, "rotation": share, "hue": None},
                "binary": {"mean": pair, "flip": {"balanced_accuracy": 0.5, "auc": share}},
                "angles": {"rotation": {"r2": share, "median_error": 4.0}},
            },
            "attributes": {"logistic": {"mean": pair, "Bald": {"balanced_accuracy": None, "auc": None}, "Hat": pair}},
            "writing": {"ridge": {"mean_r2": 0.5, "centre_x": share}},
        }

    space = {"axes": 32, "effective_rank": 9.5, "alignment": 0.25, "uniformity": -2.5}
    mutual = {"infonce": {"bound": 2.75, "ceiling": 5.875, "pairs": 359.0}}
    return {
        "knows": {"backbone": knows(0.875), "z": knows(0.75)},
        "disentanglement": dict.fromkeys(SHARES, 0.25) | {"mean": None},
        "information": {
            "backbone": space | mutual,
            "z": space | mutual | {"active_units": 3, "prior_information": 22.5, "kl_by_axis": [3.0, 0.125, 1.0]},
        },
        "several_views": {"1": 0.5, "2": 0.625},
        "fine_tuning": {"accuracy": 0.9375, "validation": 0.9, "epoch": 2, "epochs": 3},
    }


def evaluate(folder: RunFolder) -> dict[str, Any]:
    """Leaves an evaluation.json as the command does, of as many kinds of view as the run's."""
    kinds = list(results(folder).get("kinds", {}))
    drawn = {
        "reconstruction": {
            "mse": 0.0125,
            "psnr": 18.5,
            "bits_per_dim": None,
            "notes": {"bits_per_dim": "no discrete data"},
        },
        "fid": {"distance": 12.5, "images": 359, "samples": "samples"},
    }
    found = {"kinds": {kind: block(kind) for kind in kinds}} if kinds else {**block("it"), "generation": drawn}
    (folder.path / "evaluation.json").write_text(json.dumps(found))
    return found


def test_an_evaluation_takes_the_place_of_the_first_judgement(simve: RunFolder) -> None:
    before = read(simve)
    assert {"apart", "information", "generation", "unjudged"}.isdisjoint(before.sections)
    evaluate(simve)
    found = read(simve)
    rows = found.tables["What a representation tells of an image"]
    shown = {(group.partition(":")[0], row): [text for _, text in values] for (group, row), values in rows.items()}
    assert shown == {
        ("Class", "linear probe"): ["87.5 %", "75.0 %"],
        ("Class", "MLP probe"): ["50.0 %", "50.0 %"],
        ("Class from few labels, mean ± sd over draws, %", "1 label a class"): ["21.9 ± 6.2", "18.8 ± 6.2"],
        ("Class from few labels, mean ± sd over draws, %", "10 labels a class"): ["87.5", "75.0"],
        ("Clusters without labels", "diagonal, accuracy"): ["43.8 %", "37.5 %"],
        ("Clusters without labels", "diagonal, NMI"): ["0.250", "0.250"],
        ("Clusters without labels", "diagonal, ARI"): ["−0.125", "−0.125"],
        ("View by ridge regression", "rotation"): ["0.875", "0.750"],
        ("View by ridge regression", "mean"): ["0.500", "0.500"],
        ("View by an MLP", "rotation"): ["0.875", "0.750"],
        ("View by an MLP", "mean"): ["0.500", "0.500"],
        ("View, yes or no", "flip"): ["0.875", "0.750"],
        ("View, angles", "rotation"): ["0.875", "0.750"],
        ("Attributes, mean", "2 attributes"): ["87.5 % / 0.750", "75.0 % / 0.750"],
        ("Writing", "centre x"): ["0.875", "0.750"],
        ("Writing", "mean R²"): ["0.500", "0.500"],
    }
    attributes = found.tables["What a representation tells of an image: each attribute"]
    assert list(attributes) == [("Balanced accuracy / AUC", "Hat")]


def test_what_an_evaluation_says_of_the_whole_is_in_its_sections(simve: RunFolder) -> None:
    evaluate(simve)
    found = read(simve)
    apart = {row: values[0] for (_, row), values in found.tables["How far they are parted"].items()}
    assert {apart[name][0] for key, (name, _) in SHARES.items() if key != "mean"} == {0.25}
    assert "mean of the four" not in apart
    assert (apart["1 view"][1], apart["2 views"][1], apart["fine-tuned"][1]) == ("50.0 %", "62.5 %", "93.8 %")
    space = {
        row: [text for _, text in values]
        for (_, row), values in found.tables["How representations fill their space"].items()
    }
    assert space == {
        "axes": ["32", "32"],
        "active axes": ["–", "3"],
        "effective rank": ["9.5", "9.5"],
        "alignment of two views": ["0.250", "0.250"],
        "uniformity": ["−2.500", "−2.500"],
        "I by InfoNCE, at most 5.88": ["2.75", "2.75"],
        "I under the fitted prior": ["–", "22.50"],
        "least": ["–", "0.12"],
        "median": ["–", "1.00"],
        "most": ["–", "3.00"],
    }
    drawn = {row: values[0][0] for (_, row), values in found.tables["Numbers of pictures"].items()}
    assert drawn == {"mean squared error": 0.0125, "PSNR, dB": 18.5, "FID": 12.5}
    assert "Distance of 359 samples" in found.sections["generation"]
    assert "No discrete data." in found.sections["generation"]


def test_what_has_no_score_is_said_with_its_reason(simve: RunFolder) -> None:
    evaluate(simve)
    text = read(simve).sections["unjudged"]
    assert "knows backbone class knn, knows z class knn: too few rows <it>." in text
    assert "knows backbone class clusters full, knows z class clusters full: nothing to ask it." in text


def test_kinds_of_view_are_evaluated_each_by_itself(halves: RunFolder) -> None:
    evaluate(halves)
    found = read(halves)
    for kind in ("upper", "lower"):
        for title in ("What a representation tells of an image", "How far they are parted"):
            assert found.tables[f"{title}, from {kind} alone"]
    assert "generation" not in found.sections
    assert "Retrieval of one kind by another" in found.tables


def test_an_empty_evaluation_is_no_error(simve: RunFolder) -> None:
    (simve.path / "evaluation.json").write_text("{}")
    assert "apart" not in read(simve).sections


def test_every_score_of_an_evaluation_says_what_it_cannot_see() -> None:
    text = page({}, None, [], {}, None, block("it"))
    for name in ("knows", "apart", "information"):
        section = re.search(rf'<section id="{name}".*?</section>', text, re.DOTALL)
        assert section is not None
        groups = re.findall(r"<tbody>.*?</tbody>", section[0], re.DOTALL)
        assert groups
        assert all("<small>" in group for group in groups)


def test_checks_of_the_posterior_are_shown_with_their_verdicts(simve: RunFolder) -> None:
    assert "trust" not in read(simve).sections
    diagnose(simve)
    found = read(simve)
    text = found.sections["trust"]
    assert "1 of 2 checks with a verdict raise an alarm: PSIS k̂." in text
    assert "alarm 0.312 of images above 0.7Below 0.7 is good.Cannot see: modes that no draw reached" in text
    assert "no alarm 6.4Near 0 is good.Cannot see: what more draws close" in text
    assert "no verdict 9 of 16 axesHow many." in text
    assert "no verdict –Nothing." in text
    assert "Label switching has no meaning here." in text
    assert "--draws500" in text
    assert found.tables["PSIS k̂, in numbers"] == {
        ("", "17"): [
            (1.31, "1.310"),
            (-12999.25, "−12,999"),
            ("a word & more", "a word & more"),
            (3, "3"),
            (True, "yes"),
        ],
        ("", "4"): [(None, "–"), (-0.5, "−0.5"), ("b", "b"), (1500, "1,500"), (False, "no")],
    }
    assert [text.index(name) for name in ("diagnose-khat", "diagnose-khat-worst", "in numbers", "diagnose-other")] == (
        sorted(text.index(name) for name in ("diagnose-khat", "diagnose-khat-worst", "in numbers", "diagnose-other"))
    )
    assert "diagnose" not in found.sections["pictures"]


def test_no_alarm_is_no_proof(simve: RunFolder) -> None:
    quiet = [check for check in CHECKS["checks"] if not check["alarm"]]
    (simve.path / "diagnostics.json").write_text(json.dumps({"checks": quiet, "notes": [], "settings": {}}))
    text = read(simve).sections["trust"]
    assert "None of 1 checks with a verdict raises an alarm; what they cannot see may still be wrong." in text


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.5, 12.25, None, math.nan], ["0.50", "12.25", "–", "nan"]),
        ([1e-5, 0.25, 0.0], ["1e−05", "0.250", "0.000"]),
        ([3, 1500], ["3", "1,500"]),
        ([True, "x"], ["yes", "x"]),
        ([], []),
    ],
)
def test_numbers_of_a_column_have_as_many_decimals(values: list[Any], shown: list[str]) -> None:
    assert alike(values) == shown


@pytest.mark.parametrize("name", ["results.json", "diagnostics.json", "evaluation.json"])
@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_file_is_named(simve: RunFolder, name: str, content: str) -> None:
    (simve.path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{name} is damaged .* run again the command that wrote it"):
        write_report(simve)


def test_names_on_the_map_do_not_cover_one_another() -> None:
    z = torch.tensor([[0.0, 0], [0, 0.1], [0, -0.1], [0.5, 0], [-9, 4], [9, -4]])
    labels = torch.tensor([0, 0, 0, 1, 2, 3])
    names = ["most", "near it", "far", "farther"]
    text = page({}, None, [], {}, Embedding(z, torch.zeros(6, 1, 2, 2, dtype=torch.uint8), labels, names))
    marks = re.findall(r'<span class="mark of-0 at-0"[^>]*>([^<]*)<', text)
    assert sorted(marks) == ["far", "farther", "most"]
    assert all(name in Page(text).sections["map"] for name in names), "the legend has all"


def test_colours_are_those_of_the_most_common_classes_and_of_equal_ranges() -> None:
    labels = torch.tensor([0] * 5 + list(range(1, 13)) * 2)
    parameter = torch.linspace(0, 7, len(labels))
    parameter[3] = math.nan
    pictures = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    names = [f"name {place}" for place in range(13)]
    by_class, by_number = colourings(
        Embedding(torch.randn(len(labels), 2), pictures, labels, names, parameters={"p": parameter})
    )
    assert len(by_class.legend) == 10
    assert by_class.grey == "3 more"
    assert [place >= 0 for place in by_class.places[:5]] == [True] * 5
    assert int((by_class.places < 0).sum()) == 6
    for place, value in zip(by_class.places, by_class.values, strict=True):
        assert place < 0 or by_class.legend[place][1] == value
    assert by_number.places[3] == -1
    assert by_number.grey == "has none"
    expected = [-1 if math.isnan(value) else min(int(value), 6) for value in parameter.tolist()]
    assert by_number.places.tolist() == expected
    assert (by_number.legend[0][1], by_number.legend[-1][1]) == ("0", "7")


def test_curves_are_means_and_ranges_of_parts_with_gaps() -> None:
    steps, values = np.arange(1.0, 1001.0), np.sin(np.arange(1000.0))
    values[100:200] = np.nan
    values[300] = np.inf
    at, mean, low, high = thinned(steps, values, parts=10)
    for part in range(10):
        here = values[100 * part : 100 * part + 100]
        here = here[np.isfinite(here)]
        if part == 1:
            assert np.isnan([mean[1], low[1], high[1]]).all()
            continue
        assert np.allclose([mean[part], low[part], high[part]], [here.mean(), here.min(), here.max()], atol=1e-12)
        assert 100 * part + 1 <= at[part] <= 100 * part + 100
    history = [{"step": float(step), "loss": float(value)} for step, value in zip(steps, values, strict=True)]
    panel = loss_panels(history)[0]
    line = re.search(r'class="line" d="([^"]*)"', panel)
    assert line is not None
    assert line[1].count("M") == 2, "a gap must not be drawn over"
    assert len(panel) < 8_000


def test_a_single_step_and_no_finite_value_are_drawn_in_words_or_a_point() -> None:
    assert "No finite values." in loss_panels([{"step": 1, "loss": math.nan}])[0]
    assert 'class="line"' in loss_panels([{"step": 1, "loss": 2.0}])[0]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-31.7, 528.0), (1e-7, 2e-7), (268.1, 268.4), (-5e6, -4e6)])
def test_ticks_are_few_and_round(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 5
    assert low - 1e-9 * abs(low) <= found[0] < found[-1] <= high + 1e-9 * abs(high)
    step = found[1] - found[0]
    assert np.isclose(step / 10 ** math.floor(math.log10(step * 1.0001)), [1, 2, 5], rtol=1e-6).any()


def test_pictures_are_shrunk_below_their_limit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="PNG")
    picture = file.getvalue()
    assert shrunk(picture, len(picture)) == picture
    for limit in (90_000, 20_000):
        small = shrunk(picture, limit)
        assert 0.3 * limit < len(small) <= limit
        assert abs(Image.open(io.BytesIO(small)).width / Image.open(io.BytesIO(small)).height - 1.5) < 0.05


def test_thumbnails_are_means_of_their_pixels() -> None:
    pictures = torch.randint(0, 256, (300, 3, 64, 32), dtype=torch.uint8)
    small = thumbnails(pictures, 16)
    means = pictures.double().reshape(300, 3, 16, 4, 8, 4).mean((3, 5))
    assert small.shape == (300, 3, 16, 8)
    assert float((small.double() - means).abs().max()) <= 0.5
    assert thumbnails(pictures, 64) is pictures


def test_thumbnails_lie_in_reading_order_and_below_their_limit() -> None:
    pictures = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 1, 4, 6) * 30
    picture, columns = sprites(pictures, 10_000)
    sheet = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
    assert columns == 3
    assert sheet.shape == (12, 18)
    for place in range(7):
        row, column = divmod(place, columns)
        assert (sheet[4 * row : 4 * row + 4, 6 * column : 6 * column + 6] == 30 * place).all()
    noise = torch.randint(0, 256, (100, 3, 64, 32), dtype=torch.uint8)
    assert len(sprites(noise, 60_000)[0]) <= 60_000


LOOKED = """(() => {
  const root = document.documentElement;
  const wide = [...document.querySelectorAll("main *")].filter(element =>
    element.getBoundingClientRect().right > root.clientWidth + 1 && !element.closest(".scroll, .plot"));
  const small = [...document.querySelectorAll("main *")].filter(element =>
    [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()) &&
    parseFloat(getComputedStyle(element).fontSize) < 12);
  const painted = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour.startsWith("rgb(")) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const light = colour => {
    const parts = colour.match(/[0-9.]+/g).slice(0, 3).map(part => part / 255);
    const linear = parts.map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
    return .2126 * linear[0] + .7152 * linear[1] + .0722 * linear[2];
  };
  const faint = [...document.querySelectorAll("body *")].filter(element => {
    if (!element.innerText || element.children.length || element.closest("svg")) return false;
    const two = [light(getComputedStyle(element).color), light(painted(element))].sort((a, b) => a - b);
    return (two[1] + .05) / (two[0] + .05) < 4.5;
  });
  return {
    scrolled: root.scrollWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    wide: wide.map(element => element.outerHTML.slice(0, 80)),
    small: small.map(element => element.outerHTML.slice(0, 80)),
    faint: faint.map(element => element.outerHTML.slice(0, 80)),
    broken: [...document.images].filter(image => !image.naturalWidth).map(image => image.alt),
  };
})()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if not CHROMIUM:
        pytest.skip("no chromium is installed")
    with browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def written(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of each run with all that a page can have."""
    pages = {}
    for name, source in runs.items():
        folder = RunFolder(Path(shutil.copytree(source, tmp_path_factory.mktemp("pages") / name)))
        diagnose(folder)
        evaluate(folder)
        embedding = embedding_of(folder)
        placed = {"UMAP": torch.randn(len(embedding.z), 2, generator=torch.Generator().manual_seed(0))}
        pages[name] = write_report(folder, dataclasses.replace(embedding, placed=placed))
    return pages


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["simve", "halves", "simclr"])
def test_a_browser_shows_all_of_it_in_both_colour_schemes(
    written: dict[str, Path], tab: Tab, name: str, width: int, scheme: str
) -> None:
    tab.open(written[name], width, scheme)
    seen = tab.run(LOOKED)
    assert seen["scrolled"] == width, "the page scrolls sideways"
    assert seen["paper"] == {"light": "rgb(246, 245, 241)", "dark": "rgb(18, 20, 24)"}[scheme]
    assert seen["wide"] == [], "wider than the window"
    assert seen["small"] == [], "smaller than 12 pixels"
    assert seen["faint"] == [], "less contrast than WCAG's AA asks of text"
    assert seen["broken"] == []
    assert [address for address in tab.requests if not address.startswith("data:")] == [written[name].as_uri()]
    assert tab.complaints == []


SHOWN = """(() => {
  const tip = document.querySelector(".tip"), on = document.querySelector(".plot g.on");
  return tip.hidden ? null : {
    row: on.dataset.row, words: tip.innerText, style: getComputedStyle(tip.querySelector(".thumb")).backgroundPosition,
  };
})()"""
PLACES = """[...document.querySelectorAll(".plot circle")].map(circle => {
  const box = circle.getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
})"""


def choose(tab: Tab, button: str) -> None:
    """Chooses on the map, and waits until all points have arrived."""
    tab.run(
        f"document.getElementById('{button}').click(); new Promise(done => setTimeout(done, 0))"
        ".then(() => Promise.all(document.getAnimations().map(animation => animation.finished))).then(() => 0)"
    )


@pytest.mark.parametrize("width", [390, 1280])
def test_the_map_shows_the_view_that_is_pointed_at_on_both_layouts(
    written: dict[str, Path], tab: Tab, width: int
) -> None:
    tab.open(written["simve"], width, "light")
    tab.run("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    embedding = Embedding.read(written["simve"].with_name(MAP))
    assert embedding.labels is not None
    for button, points in (("at-0", principal_axes(embedding.z)[0]), ("at-1", embedding.placed["UMAP"])):
        choose(tab, button)
        at = torch.tensor(tab.run(PLACES))
        for axis, sign in enumerate((1, -1)):
            pair = torch.stack([at[:, axis].double(), sign * points[:, axis].double()])
            assert float(torch.corrcoef(pair)[0, 1]) > 1 - 1e-4
        lonely = int((torch.cdist(at, at) + 1e9 * torch.eye(len(at))).min(1).values.argmax())
        tab.point(*at[lonely].tolist())
        shown = tab.run(SHOWN)
        assert shown["row"] == str(lonely)
        assert f"class {embedding.classes[int(embedding.labels[lonely])]}" in shown["words"]
        tab.point(1, 1)
        assert tab.run(SHOWN) is None
    fill = "getComputedStyle(document.querySelector('.plot g')).fill"
    before = tab.run(fill)
    choose(tab, "by-1")
    assert tab.run(fill) != before


def test_a_keyboard_reaches_the_map_and_walks_it(written: dict[str, Path], tab: Tab) -> None:
    tab.open(written["simve"], 1280, "light")
    reached = []
    for _ in range(40):
        tab.press("Tab")
        reached.append(tab.run("document.activeElement.id || document.activeElement.tagName.toLowerCase()"))
        if reached[-1] == "svg":
            break
    assert reached[0] == "a"
    assert {"at-0", "by-0", "svg"} <= set(reached)
    first = tab.run(SHOWN)["row"]
    x = {str(place): at[0] for place, at in enumerate(tab.run(PLACES))}
    tab.press("ArrowRight")
    second = tab.run(SHOWN)["row"]
    assert x[second] > x[first]
    tab.press("ArrowLeft")
    assert x[tab.run(SHOWN)["row"]] < x[second]
    tab.press("Escape")
    assert tab.run(SHOWN) is None

"""The page of a run: whole in one file, true to the files of the folder, and readable with parts missing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pp_simve.errors import ConfigError
from pp_simve.evaluation.records import Record
from pp_simve.report import Embedding, write_report
from pp_simve.report.page import MAP, page
from pp_simve.report.plots import TOOLTIP, thinned
from pp_simve.run.files import read_json
from pp_simve.run.folder import RunFolder
from pp_simve.run.numbers import aligned, score

VOID = {"meta", "link", "img"}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Elements with their attributes, the text of each section, and the cells of each table by caption and row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self.scripts: list[str] = []
        self.tables: dict[str, dict[str, list[tuple[Any, str]]]] = {}
        self._caption = self._group = self._row = ""
        self.feed(text)
        self.close()
        assert self.open == [], "an element was not closed"

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        assert len(given) == len(attributes), f"{name} has an attribute twice"
        self.elements.append((name, given))
        if name not in VOID:
            self.open.append((name, given))
        if name in ("tr", "tbody"):
            self._row = ""
        if name == "tbody":
            self._group = ""

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop()[0] == name

    def handle_data(self, text: str) -> None:
        names = [name for name, _ in self.open]
        scopes = [attributes.get("scope") for name, attributes in self.open if name == "th"]
        if "section" in names:
            section = str(self.open[names.index("section")][1]["id"])
            self.sections[section] = self.sections.get(section, "") + text
        if "script" in names:
            self.scripts.append(text)
        if "caption" in names:
            self._caption = text
            assert text not in self.tables, "two tables of one caption"
            self.tables[text] = {}
        elif "small" not in names and "rowgroup" in scopes:
            self._group = f"{text}: "
        elif "small" not in names and "row" in scopes:
            self._row += text.strip()
        elif names[-1:] == ["data"] and "table" in names:
            value = json.loads(self.open[-1][1]["value"] or "")
            self.tables[self._caption].setdefault(self._group + self._row, []).append((value, text))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == name]

    @property
    def plots(self) -> dict[str, dict[str, Any]]:
        """The columns that each plot is drawn from, by the id of its element."""
        items = json.loads(next(text for text in self.scripts if text.startswith("{")))
        return {name: columns(item["doc"]) for name, item in items.items()}


def columns(part: Any) -> dict[str, Any]:
    """The data of the first source in a serialized document of Bokeh."""
    if isinstance(part, dict) and part.get("name") == "ColumnDataSource" and "attributes" in part:
        return {name: _values(values) for name, values in part["attributes"]["data"]["entries"]}
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
    return next((found for entry in inner if (found := columns(entry))), {})


def _values(values: list[Any]) -> list[Any]:
    return [float(value["value"]) if isinstance(value, dict) else value for value in values]


def png(width: int = 4, height: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, format="PNG")
    return file.getvalue()


def entries(*records: Record) -> dict[str, Any]:
    return {"records": [record.to_json() for record in records]}


SETTINGS: dict[str, Any] = {
    "config": {
        "method": "simve",
        "data": "digits",
        "latent_dim": 8,
        "views": 2,
        "policy": "affine",
        "epochs": 3.0,
        "seed": 0,
    },
    "commit": "0123abc",
    "version": "0.1.0",
    "torch": "2",
    "data_fingerprint": "fedc",
    "data_shape": {"image": [1, 16, 16], "images": 1259, "attributes": 0},
}
PARTS = ("backbone", "z", "content")
QUICK = [Record("class", "accuracy", 0.9, name, "linear") for name in PARTS]
RESULTS: dict[str, Any] = {
    "content": {"linear": 0.875, "knn": 0.75, "representation": "content"},
    "style": {"mean_r2": -0.25, "rotation": 0.5, "representation": "z"},
    "bound": {"loss": 296.9, "content": -30.75},
    "is_bound": True,
    "seconds_per_epoch": 0.25,
    "steps": 27,
    "parameters": 550720,
    "a_new_entry": {"inner": 0.25},
    **entries(*QUICK, Record("retrieval", "recall@1", 0.5, "content", target="upper to lower")),
}
FULL = [
    *(Record("class", "accuracy", 0.875, name, "linear") for name in PARTS),
    Record("class", "accuracy", None, "z", "knn", note="failed: too few rows <z>"),
    Record("class", "accuracy", None, "content", "knn", note="failed: too few rows <z>"),
    *(Record("few_labels", "accuracy", 0.2188, name, "linear", "1") for name in PARTS),
    Record("few_labels", "sd", 0.0625, "z", "linear", "1"),
    Record("few_labels", "short_classes", 0, "z", "linear", "1"),
    *(Record("view", "r2", value, "z", "ridge", name) for name, value in {"rotation": -0.125, "mean": 0.5}.items()),
    *(Record("attributes", "auc", 0.75, "z", "logistic", f"a_{place}") for place in range(13)),
    Record("information", "width", 8, "z"),
    Record("information", "effective_rank", 12.34, "z"),
    Record("information", "alignment", 0.25, "z"),
    Record("generation", "mse", 0.0125, note="of colors"),
    Record("zero_shot", "balanced_accuracy", 0.25, "content", target="upper to lower"),
    Record("zero_shot", "chance_balanced", 0.1, "content", target="upper to lower"),
    Record("a_new_task", "a_new_metric", 1.5, "z"),
    *(Record("disentanglement", "mean", value, modality=name) for name, value in {"upper": 0.5, "lower": 0.25}.items()),
]
HISTORY = [{"step": float(step), "loss": 100.0 / step, "content": math.nan} for step in range(1, 50)]


def check(
    name: str, title: str, value: Any, unit: str | None, alarm: bool | None, how: str, **more: Any
) -> dict[str, Any]:
    """A check of diagnostics.json."""
    return {"name": name, "title": title, "value": value, "unit": unit, "alarm": alarm, "how": how, **more}


KHAT_ROWS = {
    "columns": ["image", "k̂", "a bound of many nats", "class", "counts", "sure"],
    "rows": [[17, 1.31, -12999.25, "a word & more", 3, True], [4, None, -0.5, "b", 1500, False]],
}
KHAT: dict[str, Any] = {"blind": "modes that no draw reached", "rows": KHAT_ROWS}
EMPTY: dict[str, Any] = {"limitations": "everything", "rows": {"columns": ["a", "b"], "rows": []}}
CHECKS: dict[str, Any] = {
    "checks": [
        check("khat", "PSIS k̂", 0.3125, "of images above 0.7", True, "Below 0.7 is good.", **KHAT),
        check("gap", "Gap", 6.4, None, False, "Near 0.", limitations="L"),
        check("overlap", "O", "9 of 16", None, None, "H", blind="B", rows=None),
        check("empty", "Not drawn", None, "nats", None, "Nothing.", **EMPTY),
    ],
    "notes": ["Label switching has no meaning here."],
    "settings": {"images": 64, "draws": 500},
}
FIGURES = {name: png() for name in ("samples", "loss", "diagnose-khat", "diagnose-khat-worst", "diagnose-other", "own")}


def embedding(rows: int = 30, **changes: Any) -> Embedding:
    torch.manual_seed(0)
    made = Embedding(
        z=torch.randn(rows, 4),
        pictures=torch.randint(0, 256, (rows, 1, 6, 5), dtype=torch.uint8),
        labels=torch.arange(rows) % 3,
        classes=["a", "b", "c"],
        parameters={"rotation": torch.randn(rows)},
    )
    return dataclasses.replace(made, **changes)


def whole() -> str:
    """A page with all that a page can have."""
    placed = {"UMAP": torch.randn(30, 2)}
    full = {"evaluation": entries(*FULL), "transfer": {"on": {"folder:<a>": entries(*QUICK[:1])}}}
    return page(SETTINGS, RESULTS, HISTORY, FIGURES, embedding(placed=placed), diagnostics=CHECKS, **full)


@pytest.fixture(scope="module")
def text() -> str:
    return whole()


@pytest.fixture(scope="module")
def found(text: str) -> Page:
    return Page(text)


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(finished_run, tmp_path / "run")))


def test_a_run_has_a_page_of_its_own_numbers(finished_run: Path) -> None:
    """The page that a fit leaves."""
    written = finished_run / "report.html"
    assert written.stat().st_size < 3_000_000
    found = Page(written.read_text())
    assert len(found.plots) == len(RunFolder(finished_run).read_metrics()[0])  # the map, and one for each term
    results = read_json(finished_run / "results.json")
    assert {row: value for row, ((value, _),) in found.tables["Terms on the test split"].items()} == results["bound"]
    pictures = [base64.b64decode(str(attributes["src"]).partition(",")[2]) for attributes in found.all("img")]
    figures = [path.read_bytes() for path in (finished_run / "figures").glob("*.png") if path.stem != "loss"]
    assert sorted(pictures) == sorted(figures)
    settings = read_json(finished_run / "config.json")
    for name, value in settings["config"].items():
        assert f"--{name.replace('_', '-')}" in found.sections["settings"]
        assert value is None or str(value) in found.sections["settings"]
    assert settings["data_fingerprint"] in found.sections["settings"]
    assert "Random seed of parameters, batches, views and samples" in found.sections["settings"]


def test_nothing_is_loaded_from_elsewhere_and_only_known_scripts_run(found: Page) -> None:
    for name, attributes in found.elements:
        for key in ("src", "href", "xlink:href", "srcset", "action", "poster", "style"):
            assert re.match(r"#|data:|background:#[0-9a-fA-F]{6}$", attributes.get(key) or "#"), (
                f"{name} loads {attributes[key]}"
            )
        assert not [key for key in attributes if key.startswith("on")]
    policy = next(str(meta["content"]) for meta in found.all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found.scripts[1:]]
    assert re.findall(r"'sha256-([^']*)'", policy) == hashes
    assert [script.get("type") for script in found.all("script")] == ["application/json", None, None]


def test_the_page_is_ordered_and_named(found: Page) -> None:
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"]).removeprefix("#") for attributes in found.all("a")]
    assert links == list(found.sections) == [section["id"] for section in found.all("section")]
    assert {section["aria-labelledby"] for section in found.all("section")} <= set(ids)
    assert len(found.all("h1")) == len(found.all("main")) == 1
    assert all(picture["alt"] for picture in found.all("img"))
    assert all(plot["aria-label"] for plot in found.all("div") if plot.get("class") == "plot")
    assert len(found.all("table")) == len(found.all("caption"))
    assert all(heading["scope"] in ("row", "col", "rowgroup") for heading in found.all("th"))
    assert [meta["content"] for meta in found.all("meta") if meta.get("name") == "color-scheme"] == ["light dark"]


def test_scores_are_the_records(found: Page) -> None:
    def shown(caption: str) -> dict[str, list[str]]:
        return {row: [text for _, text in cells] for row, cells in found.tables[caption].items()}

    assert found.tables["Class"] == {"linear probe, accuracy": [(0.875, "87.5 %")] * 3}, "k-NN has no score"
    assert found.tables["Class, on folder:<a>"] == {"linear probe, accuracy": [(0.9, "90.0 %")]}
    # No class is short of labels, which is not worth a row.
    assert shown("Class from few labels") == {
        "linear probe, accuracy, labels per class: 1": ["21.9 %", "21.9 ± 6.2 %", "21.9 %"],
    }
    assert found.tables["View parameters, augmented views"] == {
        "ridge regression, R²: rotation": [(-0.125, "−0.125")],
        "ridge regression, R²: mean": [(0.5, "0.500")],
    }
    assert len(found.tables["Attributes: logistic regression, AUC"]) == 13, "folded"
    assert "Attributes" not in found.tables
    assert shown("Information and collapse") == {"width": ["8"], "effective rank": ["12.3"]}
    assert shown("Zero-shot classification") == {"balanced accuracy, upper to lower": ["25.0 % (chance 10.0 %)"]}
    assert shown("a new task") == {"a new metric": ["1.500"]}
    assert shown("Information and collapse, augmented views") == {"alignment of two views": ["0.250"]}
    separation = "Separation of content and style, clean images and augmented views"
    assert shown(f"{separation}, from upper alone") == {"mean": ["0.500"]}
    assert shown(f"{separation}, from lower alone") == {"mean": ["0.250"]}
    assert shown("Retrieval across modalities"), "a task that only results.json has"


def test_missing_scores_have_their_reasons(found: Page) -> None:
    text = found.sections["evaluation"]
    assert "k-NN, accuracy (z, content): failed: too few rows <z>." in text
    assert "mean squared error: of colors." in text
    assert text.count("Limitation") >= 8


def test_main_scores_bound_and_costs(found: Page) -> None:
    text = re.sub(r"\s+", " ", found.sections["scores"])
    for words in (
        "class from content, linear probe87.5 %",
        "class from content, k-NN75.0 %",
        "view from z, mean R²−0.250",
        "upper to lower, recall@150.0 %",
        "ELBO, nats per image−297",
    ):
        assert words in text
    assert found.tables["Terms on the test split"] == {"loss": [(296.9, "297")], "content": [(-30.75, "−30.8")]}
    costs = re.sub(r"\s+", " ", found.sections["costs"])
    assert "time per epoch one pass over the training images0.25 s" in costs
    assert 'a_new_entry as in results.json{"inner": 0.25}' in costs
    assert "records" not in costs


UNSCORED = {**RESULTS, "bound": None, "records": [], "scored": ""}


@pytest.mark.parametrize(
    ("parts", "section", "words"),
    [
        ({}, "scores", "results.json is missing"),
        (
            {"results": {"bound": None, "is_bound": False, **entries()}},
            "bound",
            "No bound: this method models no pixels",
        ),
        ({"results": {"bound": None, "is_bound": False, **entries()}}, "pictures", "this method models no pixels"),
        ({"results": {**RESULTS, "is_bound": False}}, "bound", "not a bound"),
        ({"results": {**RESULTS, "is_bound": False}}, "scores", "ELBO (not a bound)"),
        ({"results": UNSCORED}, "scores", "Not scored (--evaluate none)"),
        ({"results": UNSCORED}, "bound", "the fit computed none"),
        ({"results": UNSCORED}, "pictures", "the folder has none"),
        ({"results": {"knows": {}}}, "scores", "python -m pp_simve.evaluate"),
        ({"evaluation": {"knows": {}}}, "scores", "have no score records"),
        ({}, "pictures", "No figures: the folder has none"),
        ({"figures": {"loss": png()}}, "pictures", "The terms of the loss over the steps."),
        ({}, "map", "No map: this page was written without the fitted program"),
        ({"embedding": embedding(z=torch.zeros(30, 4))}, "map", "z of all views is the same, or not finite"),
        ({"embedding": embedding(z=torch.full((30, 4), math.nan))}, "map", "z of all views is the same, or not finite"),
        ({"embedding": embedding(labels=None, parameters={})}, "map", "no labels and no view parameters to color by"),
        ({}, "curves", "No curves"),
        ({"history": [{"step": 1, "loss": math.nan}]}, "curves", "No finite values."),
    ],
)
def test_what_is_missing_is_said(parts: dict[str, Any], section: str, words: str) -> None:
    found = Page(page({}, **parts))
    assert words in re.sub(r"\s+", " ", found.sections[section])
    assert "trust" not in found.sections
    assert "results" in parts or {"bound", "costs"}.isdisjoint(found.sections)


EVIL = '</script><script>alert("1")</script>&\'{{ 1 }}<!--'


def test_nothing_from_outside_becomes_an_element_or_a_script() -> None:
    evil = embedding(
        classes=[EVIL] * 3,
        modalities=[EVIL] * 30,
        parameters={EVIL: torch.randn(30)},
        placed={EVIL: torch.randn(30, 2)},
    )
    record = Record(EVIL, EVIL, 0.5, EVIL, EVIL, EVIL, EVIL, EVIL)
    results = {
        "content": {"linear": 0.5, "representation": EVIL},
        "bound": {"loss": 1.0, EVIL: 2.0},
        "device": EVIL,
        EVIL: EVIL,
        **entries(record, dataclasses.replace(record, value=None)),
    }
    settings = {
        "config": {"method": EVIL, "data": EVIL, EVIL: EVIL, "modalities": EVIL},
        "commit": EVIL,
        "version": EVIL,
    }
    rows = {"columns": [EVIL, EVIL], "rows": [[EVIL, EVIL]]}
    checks = [check(EVIL, EVIL, EVIL, EVIL, True, EVIL, blind=EVIL, rows=rows)]
    diagnostics = {"checks": checks, "notes": [EVIL], "settings": {EVIL: EVIL}}
    figures = {EVIL: png(), f"diagnose-{EVIL}": png()}
    text = page(settings, results, [{"step": 1, EVIL: 1.0}], figures, evil, None, diagnostics)
    found = Page(text)
    assert "<script>alert" not in text
    assert len(found.all("script")) == 3
    for section in found.sections:
        assert EVIL in found.sections[section], f"{section} lost its words"
    assert f"class {EVIL}\nmodality {EVIL}\n{EVIL} " in found.plots["map-plot"]["words"][0]
    # Bokeh escapes what stands for a column, unless it is called safe.
    assert re.findall(r"[@$]\S*?(?=[\"<])", TOOLTIP) == ["@picture", "@words"]


def test_points_of_the_map_are_the_views(found: Page) -> None:
    of = embedding()
    drawn = found.plots["map-plot"]
    centered = of.z.double() - of.z.double().mean(0)
    expected = centered @ torch.linalg.svd(centered, full_matrices=False)[2][:2].mT
    at = torch.tensor([drawn["x0"], drawn["y0"]], dtype=torch.float64).mT
    torch.testing.assert_close(at.abs(), expected.abs(), atol=1e-6, rtol=0)
    assert len(drawn["x1"]) == len(drawn["words"]) == 30
    for row, (picture, words) in enumerate(zip(drawn["picture"], drawn["words"], strict=True)):
        shown = Image.open(io.BytesIO(base64.b64decode(picture.removeprefix("data:image/webp;base64,"))))
        assert shown.size == (5, 6)
        difference = np.asarray(shown.convert("L")).astype(float) - of.pictures[row, 0].numpy()
        assert abs(difference.mean()) < 12, "another picture, or lossy beyond recognition"
        assert words.startswith(
            f"class {'abc'[row % 3]}\nrotation {of.parameters['rotation'][row]:.2g}"[:12].replace("-", "−")
        )
        assert drawn["color0"][row] == drawn["color0"][row % 3]
    assert len(set(drawn["color0"])) == 3
    assert [select["id"] for select in found.all("select")] == ["layout", "color"]
    assert "30 views of test images" in found.sections["map"]


def test_views_whose_z_is_not_finite_are_left_out_and_counted() -> None:
    z = torch.randn(9, 3)
    z[4, 1] = math.inf
    found = Page(page({}, embedding=embedding(9, z=z)))
    assert [words[6] for words in found.plots["map-plot"]["words"]] == list("abcabcabc"[:4] + "abcabcabc"[5:])
    assert "1 view is left out" in found.sections["map"]
    assert "layout" not in [select["id"] for select in found.all("select")]


def test_checks_have_their_verdicts_tables_and_figures(found: Page) -> None:
    text = re.sub(r"\s+", " ", found.sections["trust"])
    assert "1 of 2 checks with a verdict raise an alarm: PSIS k̂." in text
    assert "alarm 0.312 of images above 0.7 Below 0.7 is good. Limitations: modes that no draw reached" in text
    assert "no alarm 6.4 Near 0. Limitations: L" in text
    assert "no verdict 9 of 16 H Limitations: B" in text
    assert "no verdict – Nothing." in text
    assert "Label switching has no meaning here." in text
    assert "--draws500" in text
    assert found.tables["PSIS k̂, table"] == {
        "17": [(1.31, "1.310"), (-12999.25, "−12,999"), ("a word & more", "a word & more"), (3, "3"), (True, "yes")],
        "4": [(None, "–"), (-0.5, "−0.5"), ("b", "b"), (1500, "1,500"), (False, "no")],
    }
    places = [
        text.index(name) for name in ("k̂ and the gap", "diagnose-khat-worst", "Gap", "Not drawn", "diagnose-other")
    ]
    assert places == sorted(places)
    assert "diagnose" not in found.sections["pictures"]
    rows = {"columns": ["measure", "before"], "rows": [["bound", -214.36], ["shape", 0.7125]]}
    for measures, expected in ((False, ["−214.4", "0.7"]), (True, ["−214.4", "0.713"])):
        one = {**CHECKS["checks"][0], "rows": {**rows, "measures": measures}}
        table = Page(page({}, diagnostics={"checks": [one]})).tables["PSIS k̂, table"]
        assert [cells[0][1] for cells in table.values()] == expected
    quiet = {"checks": CHECKS["checks"][1:]}
    assert "None of 1 checks with a verdict raises an alarm" in Page(page({}, diagnostics=quiet)).sections["trust"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.5, 12.25, None, math.nan], ["0.50", "12.25", "–", "nan"]),
        ([1e-5, 0.25, 0.0], ["1e−05", "0.250", "0.000"]),
        ([3, 1500, True, "x"], ["3", "1,500", "yes", "x"]),
        ([], []),
    ],
)
def test_numbers_of_a_column_have_as_many_decimals(values: list[Any], shown: list[str]) -> None:
    assert aligned(values) == shown


def test_scores_as_text() -> None:
    given = {"accuracy": 0.9375, "r2": -0.5, "active_units": 0.0, "median_rank": 2.5, "epoch": 1800.0, "fid": 1234.56}
    expected = ["93.8 %", "−0.500", "0", "2.500", "1,800", "1,234.6"]
    assert [score(metric, value) for metric, value in given.items()] == expected
    assert (score("recall@10", 1.0), score("auc", None)) == ("100.0 %", "–")


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
    history = [{"step": step, "loss": value} for step, value in zip(steps.tolist(), values.tolist(), strict=True)]
    drawn = Page(page({}, history=history)).plots["curve-0"]
    for name, expected in zip(("step", "mean", "low", "high"), thinned(steps, values), strict=True):
        np.testing.assert_array_equal(drawn[name], expected)


def test_figures_are_shrunk_below_their_limit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 450, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="PNG")
    (shown,) = Page(page({}, figures={"samples": file.getvalue()})).all("img")
    picture = base64.b64decode(str(shown["src"]).partition(",")[2])
    assert 50_000 < len(picture) <= 150_000 < len(file.getvalue())
    width, height = Image.open(io.BytesIO(picture)).size
    assert abs(width / height - 1.5) < 0.05


def test_a_page_written_again_keeps_its_map_and_has_what_is_new(copied: RunFolder) -> None:
    first = Page(write_report(copied, embedding()).read_text())
    (copied.path / "evaluation.json").write_text(json.dumps(entries(*FULL)))
    (copied.path / "diagnostics.json").write_text(json.dumps(CHECKS))
    again = Page(write_report(copied).read_text())
    assert again.plots["map-plot"] == first.plots["map-plot"]
    assert {"evaluation", "trust"} <= set(again.sections)
    (copied.path / MAP).unlink()
    assert "No map" in Page(write_report(copied).read_text()).sections["map"]


@pytest.mark.parametrize(
    "content",
    ["{", "[1]", '{"records": 1, "checks": 1, "on": 1}', '{"records": [{"task": 1}], "checks": [1], "on": {"a": 1}}'],
)
def test_a_damaged_file_is_named(copied: RunFolder, content: str, tmp_path: Path) -> None:
    for name in ("evaluation.json", "transfer.json", "diagnostics.json", "results.json"):
        (copied.path / name).write_text(content)
        with pytest.raises(ConfigError, match=f"{name} is damaged .* run the command again that wrote it"):
            write_report(copied)
        (copied.path / name).unlink()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        write_report(RunFolder(tmp_path))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_draws_every_plot_and_does_not_complain(text: str, tmp_path: Path) -> None:
    """Under the policy of the page: without network, without evaluation of text, with known scripts only."""
    (tmp_path / "report.html").write_text(text)
    flags = "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = [str(CHROMIUM), *flags.split(), "--disable-component-update", "--enable-logging=stderr", "--dump-dom"]
    place = (
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=4000",
        (tmp_path / "report.html").as_uri(),
    )
    ended = subprocess.run([*command, *place], capture_output=True, text=True, timeout=120)
    complaints = [line for line in ended.stderr.splitlines() if "CONSOLE" in line and "[bokeh" not in line]
    assert complaints == []
    assert len(re.findall(r'class="bk-Figure"', ended.stdout)) == len(Page(text).plots) == 2

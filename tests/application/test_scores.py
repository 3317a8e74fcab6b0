"""What a fit is scored on, with what is said of it, and fits without scores."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from pp_simve import evaluate
from pp_simve.data import ImageData, Split
from pp_simve.evaluation import Effort
from pp_simve.run.comparison import write_table
from pp_simve.run.config import FitConfig
from pp_simve.run.scores import most_scored, scored_images

from .command import SMALL, STEPS, results, run


def data(side: int, images: int) -> ImageData:
    """Blank images, the last one of train without a label."""
    labels = torch.zeros(images, dtype=torch.int64)
    split = Split(torch.zeros(images, 3, 1, 1, dtype=torch.uint8).expand(-1, -1, side, side), labels, None)
    train = Split(split.images, torch.where(torch.arange(images) < images - 1, labels, -1), None)
    return ImageData("blank", train, split, split, ("one",))


@pytest.mark.parametrize(
    ("side", "images", "length", "most"),
    [
        (28, 55_000, {"epochs": 10.0}, 550_000),
        (32, 45_000, {"epochs": 1.0}, 45_000),
        (32, 45_000, {"steps": 2}, 4096),
        (64, 24, {"steps": 2}, 1024),
        (96, 24, {"steps": 2}, 455),
        (224, 24, {"steps": 2}, 83),
        (224, 24, {"steps": 20}, 160),
        (224, 24, {"steps": 20, "accumulate": 2}, 320),
        (4096, 2, {"steps": 1}, 8),
    ],
)
def test_as_many_images_are_scored_as_were_seen_or_some_pixels(
    side: int, images: int, length: dict[str, Any], most: int
) -> None:
    given = data(side, images)
    settings = FitConfig(data="cifar10", batch_size=8, **length).resolve(given.shape)
    assert most_scored(settings, given) == most
    part = scored_images(given, most)
    assert [len(part.train), len(part.test)] == [min(images - 1, most), min(images, most)]
    # Several views of an image, too, stay below about as many.
    effort = Effort().at_most(most)
    assert len(part.test) * effort.views_of(len(part.test)) < max(most, 1) + len(part.test)


def test_what_was_scored_is_said(finished_run: Path) -> None:
    assert results(finished_run)["scored"] == (
        "1,259 train images (5,036 views), 179 validation images (4,117 views), 359 test images (4,308 views)"
    )


def test_a_fit_sees_few_of_many_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pp_simve.run.scores.PIXELS", 16 * 16 * 100)
    assert run(*SMALL, "--out", "run") == 0
    scored = results(folder / "run")["scored"]
    assert scored.startswith(f"{32 * STEPS} of 1,259 train images ({32 * STEPS} views), 179 validation images")
    assert f"scored on {scored}" in capsys.readouterr().out
    assert scored in (folder / "run" / "report.html").read_text()


def test_each_thing_that_takes_time_is_announced(
    folder: Path, evaluated_quickly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []

    def status(console: object, what: str) -> nullcontext[None]:
        said.append(what)
        return nullcontext()

    monkeypatch.setattr("pp_simve.commands.run_fit.status", status)
    assert run(*SMALL, "--out", "run") == 0
    assert said[:2] == ["embedding images", "1 of 12: backbone class linear"]
    assert said[-4:] == ["12 of 12: pixels view ridge", "bound", "figures", "map of the report"]


def test_a_fit_without_scores(
    folder: Path, evaluated_quickly: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SMALL, "--out", "run", "--evaluate", "none") == 0
    printed = capsys.readouterr().out
    assert "not scored (--evaluate none)" in printed
    assert "evaluated in" not in printed
    found = results(folder / "run")
    assert (found["records"], found["bound"], found["scored"], found["steps"]) == ([], None, "", STEPS)
    assert "Not scored (<code>--evaluate none" in (folder / "run" / "report.html").read_text()
    row = write_table(folder, {"simve": [folder / "run"]}, "A table.", [])["md"].splitlines()[4]
    assert row.count(" – ") == 4  # class by two probes, views, bound
    monkeypatch.setattr("pp_simve.commands.run_evaluate.evaluate_run", lambda *_: [])
    assert evaluate.main(["run"]) == 0
    assert run("--resume", "run") == 0
    assert results(folder / "run")["records"]

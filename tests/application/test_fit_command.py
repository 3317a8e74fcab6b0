"""`python -m pp_simve.fit` from the command line to the run folder, with every kind of part."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pp_simve.data import load_data
from pp_simve.evaluation import Effort, content_scores, select
from pp_simve.inference import PointGuide
from pp_simve.inference.augmentations import augmentation_policy
from pp_simve.models import Gaussian, StandardPrior
from pp_simve.run.comparison import write_table
from pp_simve.run.config import Settings
from pp_simve.run.files import read_json
from pp_simve.run.folder import RunFolder, load_run

from .command import SMALL, STEPS, records, results, run, scores, write_npz
from .conftest import Ended
from .data_fixtures import write_image

FIGURES = ("interpolation", "loss", "reconstructions", "samples", "swaps", "traversals")


def test_a_run_folder_holds_everything(finished_run: Path) -> None:
    names = {str(path.relative_to(finished_run)) for path in finished_run.rglob("*") if path.is_file()}
    assert names == {
        *(
            "config.json",
            "metrics.jsonl",
            "report.html",
            "map.safetensors",
            "model.safetensors",
            "checkpoint.pt",
            "results.json",
        ),
        *(f"figures/{name}.png" for name in FIGURES),
    }


def test_metrics_have_a_line_a_step(finished_run: Path) -> None:
    rows = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        terms = row["reconstruction"] + row["content"] + row["style"] + row["entropy"]
        assert row["loss"] == pytest.approx(-terms, rel=1e-5)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_figures_are_pictures(finished_run: Path) -> None:
    for name in FIGURES:
        with Image.open(finished_run / "figures" / f"{name}.png") as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 100
            assert len(picture.convert("L").getcolors(maxcolors=256) or []) > 10


def test_output_is_plain_lines_where_there_is_no_terminal(finished: Ended) -> None:
    assert finished.err == ""
    assert not {"\x1b", "\r"} & set(finished.out)
    assert "1x16x16, 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n" in finished.out
    lines = finished.out.splitlines()
    assert lines[0].startswith("simve on digits: ")
    assert any(line.startswith("epoch 0.3/0.3  loss ") and line.endswith(" left") for line in lines)
    assert any("class, linear probe" in line and "%" in line for line in lines)
    assert lines[-1] == f"run folder: {finished.path}"


def test_results_are_fractions_with_their_cost(finished_run: Path) -> None:
    entries = results(finished_run)
    assert set(entries["content"]) == {"linear", "knn", "representation"}
    assert set(entries["style"]) == {"mean_r2", "representation", *augmentation_policy("affine", (1, 16, 16)).names}
    assert entries["content"]["representation"] == "content"
    assert entries["style"]["representation"] == "z"
    for name in ("linear", "knn"):
        assert 0.5 < entries["content"][name] <= 1
    parameters = {name: value for name, value in entries["style"].items() if name not in ("mean_r2", "representation")}
    assert all(value <= 1 for value in parameters.values())
    assert entries["style"]["mean_r2"] == pytest.approx(sum(parameters.values()) / len(parameters))
    assert entries["seconds_per_epoch"] > 0
    assert entries["peak_memory_mb"] > 0
    assert entries["steps"] == STEPS
    assert entries["epochs"] == pytest.approx(STEPS / (len(load_data("digits").train) // 32))


def test_epochs_are_the_same_everywhere(
    folder: Path, evaluated_quickly: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """An epoch is the 39 whole batches of 32 among 1,259 images."""
    flags = [flag for flag in SMALL if flag not in ("--steps", str(STEPS))]
    assert run(*flags, "--epochs", "2", "--out", "run") == 0
    assert results(folder / "run")["epochs"] == 2.0
    printed = capsys.readouterr().out
    assert "2 epochs (78 steps)" in printed
    assert "epoch 2.0/2.0" in printed
    assert "2 epochs (78 steps)" in (folder / "run" / "report.html").read_text()
    header, _, row = write_table(folder, {"simve": [folder / "run"]}, "A table.", [])["md"].splitlines()[2:5]
    assert dict(zip(*(re.split(r" *\| *", line) for line in (header, row)), strict=True))["epochs"] == "2"


def test_config_names_every_choice(finished_run: Path) -> None:
    entries = read_json(finished_run / "config.json")
    assert entries["version"] == "0.1.0"
    assert entries["data_shape"]["image"] == [1, 16, 16]
    assert entries["data_fingerprint"] == load_data("digits").fingerprint
    config = Settings.from_json(entries["config"])
    assert (config.policy, config.likelihood, config.lr, config.steps) == ("affine", "bernoulli", 2e-3, STEPS)
    assert RunFolder(finished_run).read_config()[:2] == (config, entries["data_fingerprint"])


def test_a_saved_run_is_the_one_that_was_evaluated(finished_run: Path) -> None:
    data = load_data("digits")
    first, second = (load_run(finished_run) for _ in range(2))
    assert not first.objective.training
    embedded = [program.guide.embed_batches(data.test.images).as_dict() for program in (first, second)]
    for name, values in embedded[0].items():
        assert torch.equal(values, embedded[1][name]), name
    labelled = [
        (first.guide.embed_batches(split.images).content, split.labels)
        for split in (data.train, data.validation, data.test)
    ]
    again = content_scores(*((features, labels) for features, labels in labelled if labels is not None))
    assert again == {name: results(finished_run)["content"][name] for name in again}


def test_another_seed_gives_another_run_and_quiet_prints_nothing(
    finished_run: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*SMALL, "--seed", "1", "--out", "other", "--quiet") == 0
    assert capfd.readouterr() == ("", "")
    rows = [RunFolder(path).read_metrics() for path in (finished_run, folder / "other")]
    assert rows[0][0]["loss"] != rows[1][0]["loss"]
    assert results(folder / "other")["content"] != results(finished_run)["content"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--prior", "standard", "--views", "1"),
        ("--prior", "flat", "--views", "3", "--policy", "crop"),
        ("--prior", "gaussian(style_variance=0.3, learn_style=True)", "--guide", "point"),
        ("--likelihood", "gaussian(variance=0.05, learned=True)", "--precision", "bf16"),
        ("--encoder", "mlp(hidden=[24, 16])", "--decoder", "mlp(hidden=[16])", "--policy", "paper"),
        ("--schedule", "constant", "--lr", "1e-4", "--image-size", "8"),
        (
            *("--optimizer", "adamw(weight_decay=0.05)", "--schedule", "linear(start=1, end=0.1)"),
            *("--clip-norm", "1", "--accumulate", "2", "--ema", "0.9"),
        ),
    ],
    ids=" ".join,
)
def test_every_part_runs(folder: Path, evaluated_quickly: None, flags: tuple[str, ...]) -> None:
    assert run(*SMALL, "--steps", "2", *flags, "--out", "run", "--quiet") == 0
    entries = results(folder / "run")
    assert {path.stem for path in (folder / "run" / "figures").iterdir()} == set(FIGURES)
    shared = "standard" not in flags
    assert entries["content"]["representation"] == ("content" if shared else "z")
    assert 0 < entries["content"]["linear"] <= 1
    config = RunFolder(folder / "run").read_config().settings
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        assert getattr(config, name) == (float(value) if name == "lr" else type(getattr(config, name))(value))
    program = load_run(folder / "run")
    assert isinstance(program.model.prior, StandardPrior) != shared
    assert isinstance(program.guide, PointGuide) == ("point" in flags)
    if "--likelihood" in flags:
        assert isinstance(program.model.likelihood, Gaussian)
        assert program.model.likelihood.variance.item() == pytest.approx(0.05, rel=0.1)
        assert program.model.likelihood.variance.item() != pytest.approx(0.05, rel=1e-7)


def test_colour_images_in_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pp_simve.run.scores.QUICK", Effort(min_views=40))
    for number in range(24):
        write_image(folder / "pictures" / ("ant", "cat")[number % 2] / f"{number}.png", number, size=(32, 32))
    flags = ("--data", "folder:pictures", "--encoder", "residual(width=8)", "--decoder", "residual(width=8)")
    assert run(*flags, "--batch-size", "8", "--steps", "2", "--device", "cpu") == 0
    (path,) = (folder / "runs").iterdir()
    assert path.name.startswith("folder-pictures-simve-")
    config = RunFolder(path).read_config().settings
    assert (config.likelihood, config.policy, config.latent_dim) == ("gaussian", "crop+colour", 64)
    assert {"hue", "saturation"} <= set(results(path)["style"])
    loaded = load_run(path).guide.embed_batches(load_data("folder:pictures").test.images)
    assert loaded.content.shape[-1] == 64


def test_images_without_labels_have_no_content_scores(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(folder / "noise.npz", labelled=False)
    assert run(*SMALL, "--batch-size", "8", "--data", "npz:noise.npz", "--out", "run") == 0
    found = results(folder / "run")
    assert (found["content"]["linear"], found["content"]["knn"]) == (None, None)
    reason = "not applicable: no labels in train, validation, test"
    assert {record.note for record in select(records(folder / "run"), task="class")} == {reason}
    assert f"class linear, class knn of backbone, z, pixels: {reason}" in capsys.readouterr().out


def test_images_without_a_label_are_fitted_and_not_evaluated(
    folder: Path, evaluated_quickly: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_npz(folder / "some.npz", (60, 16, 16), labels=np.where(np.arange(60) < 20, -1, np.arange(60) % 2))
    assert run(*SMALL, "--batch-size", "8", "--data", "npz:some.npz", "--out", "run") == 0
    assert "48 / 4 / 8 train / validation / test images, 1x16x16, 2 classes: 0, 1\n" in capsys.readouterr().out
    assert results(folder / "run")["content"]["linear"] is not None
    assert not {note for record in records(folder / "run") if "failed" in (note := record.note or "")}
    assert run(*SMALL, "--probe", "z", "--batch-size", "8", "--data", "npz:some.npz", "--out", "other") == 2
    assert "images of npz:some.npz have no labels" in " ".join(capsys.readouterr().err.split())


def test_a_bad_image_is_left_out_when_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # None of the names is UTF-8.
    pictures, classes = os.fsdecode(b"caf\xe9"), ("a", os.fsdecode(b"b\xe9"))
    for number in range(24):
        write_image(folder / pictures / classes[number % 2] / f"{number}.png", number, mode="L", size=(16, 16))
    (folder / pictures / "a" / "0.png").write_bytes(b"no picture")
    flags = ("--data", f"folder:{pictures}", "--skip-bad", "--batch-size", "8", "--out", "run")
    assert run(*SMALL, *flags) == 0
    text = capsys.readouterr().out
    assert r"simve on folder:caf\xe9: " in text
    assert r"2 classes: a, b\xe9" in text
    assert "note: 1 file of 24 could not be decoded" in text
    assert "report.html" in os.listdir(folder / "run")
    assert results(folder / "run")["content"]["linear"] is not None


def test_help_lists_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    flags = "data data-root method prior guide likelihood latent views batch-size epochs steps lr seed device devices"
    for flag in [*flags.split(), "precision", "out", "resume", "encoder", "decoder", "policy", "quiet", "skip-bad"]:
        assert f"--{flag} " in text or f"--{flag}," in text, flag
    assert "default: None" not in text


def test_a_probe_watches_the_fit_and_changes_nothing_but_the_metrics(finished_run: Path, folder: Path) -> None:
    assert run(*SMALL, "--quiet", "--probe", "backbone", "--out", "watched") == 0
    assert scores(folder / "watched") == scores(finished_run)
    rows = RunFolder(folder / "watched").read_metrics()
    assert all(0 <= row.pop("probe_accuracy") <= 1 for row in rows)
    assert rows == RunFolder(finished_run).read_metrics()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--probe", "head"), "unknown representation 'head'; known are backbone, z, content, style"),
        (("--probe", "z", "--data", "npz:noise.npz", "--batch-size", "8"), "have no labels"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(
    flags: tuple[str, ...], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_npz(folder / "noise.npz", labelled=False)
    assert run(*SMALL, *flags, "--out", "run") == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (folder / "run").exists()

"""`python -m pp_simve.compare`: what is fitted, what is refused, and what the table says."""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pandas
import pytest

from pp_simve import compare
from pp_simve.commands.options import EvaluateConfig
from pp_simve.compare import parse
from pp_simve.data import DataShape
from pp_simve.errors import ConfigError
from pp_simve.evaluation import Record
from pp_simve.run import subprocesses
from pp_simve.run.comparison import run_scores
from pp_simve.run.comparison_plan import PlannedFit, as_flags, planned
from pp_simve.run.config import FitConfig
from pp_simve.run.console import parsed
from pp_simve.run.files import read_json
from pp_simve.run.folder import RunFolder
from pp_simve.run.subprocesses import carry_out

from .command import SMALL, results, scores, write_npz


def run(*arguments: str) -> int:
    """The exit code of a command line."""
    try:
        return compare.main(arguments)
    except SystemExit as end:  # tyro's way out
        return int(end.code or 0)


def fit_results(**changes: Any) -> dict[str, Any]:
    """What results.json of a fit might hold."""
    return {
        "content": {"linear": 0.5, "knn": 0.5, "representation": "content"},
        "style": {"mean_r2": 0.25, "representation": "z"},
        "bound": {"loss": 300.0},
        "is_bound": True,
        "seconds_per_epoch": 1.5,
        "peak_memory_mb": 1000.0,
        "epochs": 2.5,
        "batch_size": 32,
        "views": 2,
        "modalities": [],
        "parameters": 12345,
        "records": [],
    } | changes


def finish(arguments: Sequence[str], of: Callable[[PlannedFit], dict[str, Any]]) -> None:
    """Makes the run folders of a comparison as if its fits had been carried out."""
    config, settings = parse(arguments)
    for fit in planned(settings, config.seeds, config.out):
        fit.folder.path.mkdir(parents=True)
        fit.folder.create(fit.config, DataShape((1, 16, 16), images=1259), fit.fingerprint)
        fit.folder.write_results(of(fit))
        (fit.folder.path / "report.html").touch()


@pytest.fixture
def no_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that starts a fit."""
    monkeypatch.setattr(subprocesses, "_start", lambda name, *of: pytest.fail(f"started {name}"))


def table(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of table.json by label."""
    return {row["label"]: row for row in json.loads((out / "table.json").read_text())["rows"]}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_missing_fits_are_made_and_stopped_ones_go_on(
    stopped_run: Path, finished_run: Path, folder: Path, capsys: pytest.CaptureFixture[str], jobs: str
) -> None:
    """In forks of one process, and in processes of their own, to the same bits."""
    (folder / "out").mkdir()
    stopped_run.rename(folder / "out" / "simve-0")
    command = ("--methods", "simve", "--seeds", "2", "--jobs", jobs, "--out", "out", *SMALL)
    assert run(*command) == 0
    assert scores(folder / "out" / "simve-0") == scores(finished_run)
    assert (folder / "out" / "simve-0" / "model.safetensors").read_bytes() == (
        finished_run / "model.safetensors"
    ).read_bytes()
    config = RunFolder(folder / "out" / "simve-1").read_config().settings
    assert (config.seed, config.steps, config.encoder) == (1, 10, "mlp(hidden=[32])")
    linear = [results(folder / "out" / f"simve-{seed}")["content"]["linear"] for seed in (0, 1)]
    assert linear[0] != linear[1]
    (row,) = table(folder / "out").values()
    assert row["linear"] == {
        "mean": pytest.approx(sum(linear) / 2),
        "sd": pytest.approx(abs(linear[0] - linear[1]) / math.sqrt(2)),
    }
    assert row["seeds"] == 2
    printed = capsys.readouterr()
    assert printed.err == ""
    assert (folder / "out" / "table.md").read_text() in printed.out
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("simve-*/*")}
    assert run(*command) == 0
    assert "2 of 2 fits are finished already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").glob("simve-*/*")} == before


@pytest.mark.usefixtures("no_fits")
def test_a_table_of_known_scores(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("--methods", "simve, simclr", "--seeds", "3", "--out", "out", *SMALL)
    losses, accuracies = [300.0, 306.0, 312.0], [0.9, 0.92, 0.97]

    def of(fit: PlannedFit) -> dict[str, Any]:
        if fit.label == "simclr":
            return fit_results(is_bound=False, parameters=99)
        content = {"linear": accuracies[fit.config.seed], "knn": 0.5, "representation": "content"}
        return fit_results(content=content, bound={"loss": losses[fit.config.seed]})

    finish(command, of)
    entries = read_json(folder / "out" / "simve-2" / "config.json")
    (folder / "out" / "simve-2" / "config.json").write_text(json.dumps(entries | {"commit": "0123abc"}))
    assert run(*command) == 0
    rows = table(folder / "out")
    assert list(rows) == ["simve", "simclr"]
    simve = rows["simve"]
    mean = sum(accuracies) / 3
    sd = math.sqrt(sum((value - mean) ** 2 for value in accuracies) / 2)
    assert simve["linear"] == {"mean": pytest.approx(mean), "sd": pytest.approx(sd)}
    assert simve["bound"] == {"mean": pytest.approx(-153.0), "sd": pytest.approx(3.0)}  # nats a view, of two
    assert simve["mean_r2"] == {"mean": 0.25, "sd": 0.0}
    assert simve["seconds_per_epoch"]["mean"] == 1.5
    assert simve["peak_memory_mb"]["mean"] == 1000.0
    assert [simve[name] for name in ("representation", "epochs", "batch_size", "parameters", "seeds")] == [
        *("content", 2.5, 32, 12345, 3)
    ]
    assert set(simve["commit"].split(", ")) == {"0123abc", entries["commit"] or "unknown"}
    assert rows["simclr"]["bound"] == {"mean": None, "sd": None}

    flat = pandas.read_csv(folder / "out" / "table.csv", index_col="label")
    assert flat.loc["simve", ["linear_mean", "linear_sd"]].tolist() == pytest.approx([mean, sd])
    assert flat["bound_mean"].isna().tolist() == [False, True]
    assert flat.loc["simclr", "parameters"] == 99

    text = (folder / "out" / "table.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert lines[0][1:4] == ["class from", "class, linear", "class, k-NN"]
    assert lines[2][:6] == ["simve", "content", "0.930 ± 0.036", "0.500 ± 0.000", "0.250 ± 0.000", "−153.00 ± 3.00"]
    assert lines[2][6:12] == ["1.50 ± 0.00", "1,000 ± 0", "2.5", "32", "12,345", "3"]
    assert lines[3][5] == "–"
    assert text.startswith("digits (images ")
    assert "- of augmented views: views, mean R²; bound, nats a view. Other scores are of clean images\n" in text
    assert text in capsys.readouterr().out


@pytest.mark.usefixtures("no_fits")
def test_differences_are_taken_seed_by_seed(folder: Path) -> None:
    """Three seeds whose level varies by much, and whose differences by little."""
    levels, gains = [0.5, 0.7, 0.9], [0.02, 0.03, 0.01]

    def of(fit: PlannedFit) -> dict[str, Any]:
        linear = levels[fit.config.seed] + (gains[fit.config.seed] if fit.label == "simclr" else 0)
        return fit_results(content={"linear": linear, "knn": 0.5, "representation": "content"}, is_bound=False)

    command = ("--methods", "vae,simclr", "--out", "out", *SMALL, "--quiet")
    finish(command, of)
    assert run(*command) == 0
    compared = json.loads((folder / "out" / "table.json").read_text())["differences"]
    assert list(compared) == ["simclr"]
    assert compared["simclr"]["linear"] == {"mean": pytest.approx(0.02), "sd": pytest.approx(0.01)}
    assert compared["simclr"]["bound"] == {"mean": None, "sd": None}
    assert "seconds_per_epoch" not in compared["simclr"]
    text = (folder / "out" / "table.md").read_text()
    assert re.search(r"\| minus vae, seed by seed +\| class, linear .*\n.*\n\| simclr +\| 0.020 ± 0.010 ", text)
    rows = run_scores({label: sorted((folder / "out").glob(f"{label}-?")) for label in ("vae", "simclr")})
    assert rows["linear"].tolist() == pytest.approx([*levels, 0.52, 0.73, 0.91])
    assert rows["seed"].tolist() == [0, 1, 2, 0, 1, 2]
    written = pandas.read_csv(folder / "out" / "runs.csv")
    assert written["linear"].tolist() == rows["linear"].tolist()
    assert written["run"].tolist() == [
        str(Path("out") / f"{label}-{s}") for label in ("vae", "simclr") for s in range(3)
    ]
    assert run(*command, "--seeds", "1") == 0  # one difference has no spread
    assert json.loads((folder / "out" / "table.json").read_text())["differences"] == {}


@pytest.mark.usefixtures("no_fits")
@pytest.mark.parametrize(("form", "suffix"), [("csv", "csv"), ("latex", "tex"), ("json", "json")])
def test_only_the_table_goes_to_standard_output(
    folder: Path, capsys: pytest.CaptureFixture[str], form: str, suffix: str
) -> None:
    command = ("--row", "a_b & c%: --method vae", "--seeds", "2", "--out", "out", *SMALL)
    finish(command, lambda fit: fit_results())
    assert run(*command, "--format", form) == 0
    printed = capsys.readouterr()
    assert printed.out == (folder / "out" / f"table.{suffix}").read_text()
    assert "2 of 2 fits are finished already" in printed.err
    if form == "latex":
        assert r"a\_b \& c\% & content & 0.500 $\pm$ 0.000" in printed.out
        assert r"mean R$^2$" in printed.out
        assert "$-$" in printed.out
        assert "−" not in printed.out, "pdflatex stops at it"


@pytest.mark.parametrize("runs", [["one", "two"], {"vae": "one"}, {"vae": Path("one")}])
def test_scores_of_runs_without_labels_or_lists_are_refused(runs: Any) -> None:
    with pytest.raises(ConfigError, match="maps each label to a list of run folders"):
        run_scores(runs)


@pytest.mark.usefixtures("no_fits")
def test_evaluations_add_columns_and_are_made_where_they_are_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("--methods", "simve,vae", "--seeds", "2", "--out", "out", *SMALL)
    finish(command, lambda fit: fit_results())
    clusters = {"simve-0": 0.5, "simve-1": 0.75, "vae-0": 0.25, "vae-1": 0.25}
    asked: list[str] = []

    def evaluated(config: EvaluateConfig) -> int:
        (path,) = config.runs
        assert (config.quiet, config.device) == (True, "cpu")
        asked.append(path.name)
        if path.name == "vae-1":
            return 2
        found = [
            Record("class", "accuracy", clusters[path.name], "content", "clusters_full"),
            Record("class", "accuracy", 0.125, "z", "clusters_full"),
            Record("class", "accuracy", 0.375, "backbone", "knn_200_cosine"),
            *(
                Record("relative_view", "r2", 0.5, name, "mlp", of)
                for of in ("mean", "crop")
                for name in ("backbone", "z")
            ),
            Record("information", "effective_rank", 4.0, "z"),
            Record("view", "auc", None, "z", "logistic", note="not applicable: no view parameter is binary"),
        ]
        (path / "evaluation.json").write_text(json.dumps({"records": [one.to_json() for one in found]}))
        return 0

    monkeypatch.setattr("pp_simve.commands.run_compare.evaluate_runs", evaluated)
    (folder / "out" / "vae-0" / "evaluation.json").write_text('{"knows": {}}')  # of another version
    assert run(*command, "--evaluate") == 2
    assert asked == ["simve-0", "simve-1", "vae-0", "vae-1"]
    rows = table(folder / "out")
    assert rows["simve"]["clusters"] == {"mean": 0.625, "sd": pytest.approx(0.125 * 2**0.5)}
    assert rows["vae"]["clusters"] == {"mean": None, "sd": None}
    text = (folder / "out" / "table.md").read_text()
    head = next(line for line in text.splitlines() if line.startswith("|"))
    published = ("backbone: class, 200-NN", "backbone: relative mean, R²", "backbone: relative crop, R²")
    shown = [
        words in head for words in ("clusters", "rank of z", *published, "relative color", "views, AUC", "bits/dim")
    ]
    assert shown == [True] * 5 + [False] * 3
    assert "0.625 ± 0.177" in text
    assert "- out/vae-1 was not evaluated" in text
    asked.clear()
    assert run(*command, "--evaluate") == 2
    assert asked == ["vae-1"]
    assert run(*command) == 0
    assert "clusters" not in (folder / "out" / "table.md").read_text()


@pytest.mark.usefixtures("no_fits")
def test_one_seed_has_no_sd_and_a_measure_that_one_seed_lacks_no_mean(folder: Path) -> None:
    command = ("--methods", "simve", "--out", "out", *SMALL, "--quiet")

    def of(fit: PlannedFit) -> dict[str, Any]:
        style = {"mean_r2": [0.5, None][fit.config.seed], "representation": "z"}
        return fit_results(style=style, bound=None, is_bound=False)

    finish((*command, "--seeds", "2"), of)
    assert run(*command, "--seeds", "1") == 0
    assert table(folder / "out")["simve"]["linear"] == {"mean": 0.5, "sd": None}
    assert "| 0.500 " in (folder / "out" / "table.md").read_text()
    assert "±" not in (folder / "out" / "table.md").read_text().splitlines()[-1]
    assert run(*command, "--seeds", "2") == 0
    row = table(folder / "out")["simve"]
    assert row["mean_r2"] == row["bound"] == {"mean": None, "sd": None}


@pytest.mark.usefixtures("no_fits")
def test_several_modalities_are_compared_by_all_of_them(folder: Path) -> None:
    command = ("--row", "halves: --modalities halves", "--seeds", "1", "--out", "out", *SMALL)
    content = {"linear": 0.7, "knn": 0.6, "representation": "content of all modalities"}
    style = {"mean_r2": None, "representation": "z"}
    finish(command, lambda _: fit_results(views=1, modalities=["upper", "lower"], content=content, style=style))
    assert run(*command) == 0
    row = table(folder / "out")["halves"]
    assert (row["representation"], row["linear"]["mean"], row["knn"]["mean"]) == ("content of all modalities", 0.7, 0.6)
    assert row["mean_r2"]["mean"] is None
    assert row["bound"]["mean"] == -150.0  # of a view of each modality


@pytest.mark.usefixtures("no_fits")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--views 3", "views is 2 in simve, but 3 in other"),
        ("--policy crop", "policy is affine in simve, but crop in other"),
        ("--encoder 'mlp(hidden=[16])'", "encoder is mlp(hidden=[32]) in simve, but mlp(hidden=[16]) in other"),
        ("--modalities halves", "modalities is not set in simve, but halves in other"),
        ("--data npz:noise.npz --policy affine --batch-size 8", "data is digits ("),
    ],
)
def test_runs_that_are_not_alike_are_not_mixed_unawares(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: str, words: str
) -> None:
    write_npz(folder / "noise.npz")
    command = ("--methods", "simve", "--row", f"other: {flags}", "--seeds", "1", "--out", "out", *SMALL)
    assert run(*command) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: these runs would not be alike: ")
    assert words in message
    assert "--mixed" in message
    assert not (folder / "out").exists()
    finish(command, lambda fit: fit_results())
    assert run(*command, "--mixed") == 0
    assert f"- not alike: {words}" in (folder / "out" / "table.md").read_text()
    assert list(table(folder / "out")) == ["simve", "other"]


@pytest.mark.usefixtures("no_fits")
def test_stored_runs_that_are_not_those_asked_for_or_damaged_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--methods", "simve,vae", "--seeds", "1", "--out", "out", *SMALL)
    finish(command, lambda fit: fit_results())
    for flags, words in {
        ("--prior", "flat"): "prior is not set there, 'flat' here",
        ("--steps", "20"): "steps is 10 there, 20 here",
    }.items():
        assert run(*command, *flags) == 2
        assert f"out/simve-0 was started with other settings: {words}; " in capsys.readouterr().err
    assert run(*command, "--lr", "0.002", "--policy", "affine") == 0  # what was chosen anyway
    file = folder / "out" / "vae-0" / "config.json"
    entries = read_json(file)
    file.write_text(json.dumps(entries | {"data_fingerprint": "older"}))
    assert run(*command) == 2
    assert f"data is digits ({entries['data_fingerprint']}) in simve, but digits (older) in vae" in (
        capsys.readouterr().err
    )
    file.write_text(json.dumps(entries))
    for text, words in (("{", "is damaged"), ('{"kinds": {}}', "has no score records: another version wrote it")):
        (folder / "out" / "vae-0" / "results.json").write_text(text)
        assert run(*command) == 2
        assert f"results.json {words}" in capsys.readouterr().err


@pytest.mark.usefixtures("no_fits")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--methods", "simve,simvae"), "unknown method 'simvae'; did you mean 'simve'?"),
        (("--methods", ""), "there is nothing to compare"),
        (("--methods", "vae,vae"), "there are two rows 'vae'"),
        (("--method", "vae"), "give --methods vae,... instead"),
        (("--seed", "4"), "--seed 4 is not for a single fit to choose"),
        (("--resume", "x"), "--resume x is not for a single fit to choose"),
        (("--row", "a: --seed 4"), "--seed 4 of row 'a' is not for a single fit to choose"),
        (("--row", "a: --evaluate none"), "--evaluate none of row 'a' is not for a single fit to choose"),
        (("--row", "a: --out b"), "--out b of row 'a' is not for a single fit to choose"),
        (("--row", "method vae"), "'method vae' cannot be read; expected \"LABEL: FLAGS\""),
        (("--row", ": --method vae"), "cannot be read"),
        (("--row", "a: --prior 'flat"), "cannot be read (No closing quotation)"),
        (("--row", "a: --prior flat", "--row", "A: --prior flat"), "'a' and 'A' would have the same folder"),
        (("--row", "a: --colour red"), "--colour"),
        (("--colour", "red"), "--colour"),
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("--jobs", "0"), "--jobs must be at least 1, got 0"),
        (("--views", "0"), "--views must be at least 1, got 0"),
        (("--methods", "vae", "--row", "a: --prior zzz"), "unknown prior 'zzz'"),
        (("--policy", "crop+colour"), "needs RGB images"),
        (("--data", "folder:missing"), "missing does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_said_before_anything_is_fitted(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
) -> None:
    assert run(*SMALL, *flags) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert words in message
    assert "Traceback" not in message
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("no_fits")
@pytest.mark.parametrize(
    ("file", "words"),
    [("out/simve-0/thesis.txt", "out/simve-0 is no run folder"), ("out", "out")],
    ids=["folder of something else", "file"],
)
def test_something_else_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str], file: str, words: str) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text("three years of work")
    assert run("--methods", "simve", "--out", "out", *SMALL) == 2
    assert words in capsys.readouterr().err
    assert (folder / file).read_text() == "three years of work"


def test_a_row_has_its_own_settings_before_those_of_all() -> None:
    text = "an own prior: --method vae --views 4 --prior 'gaussian(style_variance=0.3, learn_style=True)'"
    config, settings = parse(["--methods", "simve", "--row", text, "--views", "3", "--lr", "0.1", "--out", "there"])
    assert config.out == Path("there")
    assert list(settings) == ["simve", "an own prior"]
    assert settings["simve"] == FitConfig(method="simve", views=3, lr=0.1)
    prior = "gaussian(style_variance=0.3, learn_style=True)"
    assert settings["an own prior"] == FitConfig(method="vae", views=4, lr=0.1, prior=prior)
    _, settings = parse(["--methods", "simve", "--row", "untrained: --steps 1", "--epochs", "5"])
    assert [(one.epochs, one.steps) for one in settings.values()] == [(5.0, None), (None, 1)]


@pytest.mark.parametrize(
    ("flags", "labels"),
    [
        ([], ["simve", "vae", "simclr"]),
        (["--row", "a: --method vae"], ["a"]),
        (["--row", "a: --method vae", "--methods", "byol"], ["byol", "a"]),
    ],
)
def test_the_rows(flags: list[str], labels: list[str]) -> None:
    assert list(parse(flags)[1]) == labels


def test_flags_say_all_settings() -> None:
    config = FitConfig(
        data="npz:a b.npz", data_root=Path("x"), image_size="8x9", skip_bad=True, method="vae", prior="-odd",
        latent_dim=3, lr=1e-5, steps=7, schedule="constant", seed=2, device="cpu", devices=2, precision="32",
        quiet=True, track=("wandb", "tensorboard"),
    )  # fmt: skip
    assert parsed(FitConfig, as_flags(config), "fit") == config
    assert as_flags(FitConfig()) == ()


# Fits that are small programs of their own, to see how they are carried out.


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes every fit of a comparison a `small_job`."""

    def program(text: str) -> None:
        monkeypatch.setattr(PlannedFit, "command", property(lambda fit: small_job(fit.folder.path, text)))
        monkeypatch.setattr(PlannedFit, "forkable", False)

    return program


def small_job(path: Path, text: str) -> list[str]:
    """A Python program; ``path`` is its folder as a string, and PATH.log beside it its log."""
    preamble = (
        "import os, signal, sys, time\n"
        f"path = {str(path)!r}\n"
        "def log(line):\n"
        "    with open(path + '.log', 'a') as file: file.write(f'{line}\\n')\n"
    )
    return [sys.executable, "-S", "-c", preamble + text]


def log(tmp_path: Path, name: str) -> list[str]:
    path = tmp_path / f"{name}.log"
    return path.read_text().splitlines() if path.exists() else []


def small_jobs(
    tmp_path: Path, names: str, text: str, at_a_time: int = 1, libraries: Sequence[str] = ()
) -> tuple[bool, list[str]]:
    """Carries out small jobs of these names of a letter each; with libraries, as modules in the working directory."""
    commands = {str(tmp_path / name): small_job(tmp_path / name, text) for name in names}
    if libraries:
        for (path, command), name in zip(list(commands.items()), names, strict=True):
            module = f"{tmp_path.name}_{name}"  # another one in each test, as modules are imported once
            Path(f"{module}.py").write_text("def main(arguments):\n" + textwrap.indent(command[-1], "    "))
            commands[path] = [sys.executable, "-m", module]
    return carry_out(commands, at_a_time, lambda text: None, libraries)


FORKED = pytest.mark.parametrize("libraries", [(), ("json",)], ids=["of their own", "forked"])


def test_as_many_jobs_run_at_a_time_as_asked_for(tmp_path: Path) -> None:
    text = (
        "folder = os.path.dirname(path)\n"
        "open(path + '.running', 'w').close()\n"
        "time.sleep(0.3)\n"
        "log(sum(name.endswith('.running') for name in os.listdir(folder)))\n"
        "time.sleep(0.1)\n"
        "os.remove(path + '.running')\n"
    )
    assert small_jobs(tmp_path, "abcde", text, at_a_time=2) == (False, [])
    beside = [int(line) for name in "abcde" for line in log(tmp_path, name)]
    assert len(beside) == 5
    assert max(beside) == 2


@pytest.mark.parametrize(
    ("jobs", "threads", "libraries"), [(1, "the fit's", ()), (1, "the fit's", ["json"]), (3, "2", ()), (20, "1", ())]
)
def test_jobs_share_the_cores_in_a_group_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, threads: str, libraries: Sequence[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocesses, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    text = "log(os.environ.get('OMP_NUM_THREADS', 'the fit\\'s')); log(os.getpgid(0))"
    assert small_jobs(tmp_path, "a", text, jobs, libraries) == (False, [])
    found, group = log(tmp_path, "a")
    assert found == threads
    # A Ctrl-C in a terminal reaches its whole group of processes, of which the jobs must not be a part.
    assert group != str(os.getpgid(0))


def test_a_script_may_run_jobs_without_a_guard(tmp_path: Path) -> None:
    """Forks import the main module: this one would start jobs in each job."""
    (tmp_path / "job.py").write_text("def main(arguments):\n    open('done', 'a').write(arguments[0])\n")
    (tmp_path / "script.py").write_text(
        "import sys\n"
        "from pp_simve.run.subprocesses import carry_out\n"
        "open('started', 'a').write('once ')\n"
        "print(carry_out({'a': [sys.executable, '-m', 'job', 'x']}, 1, print, ['json']))\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert (tmp_path / "started").read_text() == "once "


@FORKED
def test_a_job_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], libraries: Sequence[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        "log('ran')\n"
        "if path.endswith('a'): sys.stderr.write('error: too few\\nimages\\n'); sys.exit(2)\n"
        "if path.endswith('b'): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    stopped, failures = small_jobs(tmp_path, "abc", text, 1, libraries)
    assert not stopped
    assert failures == [f"{tmp_path}/a failed: too few images", f"{tmp_path}/b failed: it ended with code -9"]
    assert log(tmp_path, "c") == ["ran"]
    assert f"error: {tmp_path}/a failed: too few\nimages" in capsys.readouterr().err


def test_a_table_names_the_fits_that_failed(folder: Path, children: Callable[[str], None]) -> None:
    command = ("--methods", "simve,vae", "--seeds", "2", "--out", "out", *SMALL)
    finish(command, lambda fit: fit_results())
    shutil.rmtree(folder / "out" / "simve-1")
    for seed in (0, 1):
        shutil.rmtree(folder / "out" / f"vae-{seed}")
    children("sys.exit(3)")
    assert run(*command) == 2
    rows = table(folder / "out")
    assert (rows["simve"]["seeds"], rows["simve"]["linear"]) == (1, {"mean": 0.5, "sd": None})
    assert (rows["vae"]["seeds"], rows["vae"]["linear"], rows["vae"]["epochs"]) == (0, {"mean": None, "sd": None}, None)
    text = (folder / "out" / "table.md").read_text()
    for name in ("simve-1", "vae-0", "vae-1"):
        assert f"- out/{name} failed: it ended with code 3" in text


WAITS = (
    "def stop(number, frame):\n"
    "    log('interrupted')\n"
    "    time.sleep(0.2)\n"
    "    log('saved')\n"
    "    sys.exit(130)\n"
    "signal.signal(signal.SIGINT, stop)\n"
    "log('started')\n"
    "for _ in range(400): time.sleep(0.05)\n"
    "log('too late')\n"
)


def interrupt_when(
    monkeypatch: pytest.MonkeyPatch, *conditions: Callable[[], bool], number: int = signal.SIGINT
) -> None:
    """Sends this process a signal when each of the conditions first holds, one after the other."""
    left, plain = list(conditions), time.sleep

    def sleep(seconds: float) -> None:
        if left and left[0]():
            left.pop(0)
            signal.raise_signal(number)
        plain(seconds)

    monkeypatch.setattr(subprocesses.time, "sleep", sleep)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_ctrl_c_lets_fits_end_in_order_and_says_how_to_go_on(
    folder: Path,
    children: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    out = folder / "out"
    children(WAITS)
    interrupt_when(monkeypatch, lambda: all(log(out, name) for name in ("simve-0", "simve-1")), number=number)
    before = signal.getsignal(number)
    command = ("--methods", "simve", "--row", "a b: --prior flat", "--seeds", "2", "--jobs", "2", "--out", str(out))
    assert run(*command, *SMALL) == 130
    assert signal.getsignal(number) is before
    for name in ("simve-0", "simve-1"):
        assert log(out, name) == ["started", "interrupted", "saved"]
    assert log(out, "a-b-0") == []
    message = capsys.readouterr().err
    assert "stopped with 0 of 4 fits finished; go on with\n  python -m pp_simve.compare --methods simve" in message
    assert "--row 'a b: --prior flat'" in message
    assert "failed" not in message
    assert not (out / "table.md").exists()


def test_a_signal_to_the_process_group_lets_a_forked_fit_end_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started() -> bool:
        if begun := bool(log(tmp_path, "a")):
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGTERM)
        return begun

    monkeypatch.chdir(tmp_path)
    interrupt_when(monkeypatch, started, number=signal.SIGTERM)
    assert small_jobs(tmp_path, "ab", WAITS, 1, ["json"]) == (True, [])
    assert log(tmp_path, "a") == ["started", "interrupted", "saved"]


@FORKED
def test_ctrl_c_twice_kills_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libraries: Sequence[str]) -> None:
    monkeypatch.chdir(tmp_path)
    interrupt_when(monkeypatch, lambda: len(log(tmp_path, "a")) == 2, lambda: log(tmp_path, "a")[2:] == ["interrupted"])
    with pytest.raises(KeyboardInterrupt):
        small_jobs(tmp_path, "ab", "log(os.getpid())\n" + WAITS.replace("sleep(0.2)", "sleep(20)"), 1, libraries)
    number, *lines = log(tmp_path, "a")
    assert lines == ["started", "interrupted"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(number), 0)
    assert log(tmp_path, "b") == []


def test_help_says_where_the_settings_of_fits_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    for flag in ("--methods", "--row", "--seeds", "--jobs", "--out", "--mixed", "python -m pp_simve.fit --help"):
        assert flag in text


def test_the_module_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", "--methods", "zzz"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(compare.__file__), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown method 'zzz'")

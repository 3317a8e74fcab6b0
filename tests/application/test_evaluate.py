"""`python -m pp_simve.evaluate`: the full suite on fitted runs, its tables, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from pp_simve import evaluate
from pp_simve.data import ImageData, load_data
from pp_simve.errors import ConfigError
from pp_simve.evaluation import Effort, suite
from pp_simve.evaluation.probes.mlp import MLPTraining
from pp_simve.evaluation.records import BASELINES, FAILED, REPRESENTATIONS, Record, score, select
from pp_simve.run.files import read_json
from pp_simve.run.scores import read_scores
from pp_simve.run.tables import print_scores

from .command import SMALL, records, results, write_npz
from .command import run as run_fit
from .data_fixtures import write_classes

FILE = "evaluation.json"
COMPARED = (*REPRESENTATIONS, *BASELINES)
TINY = MLPTraining(hidden=8, decays=(0.0,), learning_rate=1e-2, epochs=3)
CHEAP = partial(Effort, min_views=100, pairs=100, class_mlp=TINY, view_mlp=TINY)


def run(*arguments: str) -> int:
    """The exit code of a command line."""
    try:
        return evaluate.main(arguments)
    except SystemExit as end:  # tyro's way out
        return int(end.code or 0)


@pytest.fixture
def fitted(finished_run: Path, folder: Path) -> Path:
    """The finished run: a copy of one's own."""
    return Path(shutil.copytree(finished_run, folder / "run"))


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pp_simve.commands.run_evaluate.Effort", CHEAP)
    monkeypatch.setattr("pp_simve.run.scores.QUICK", CHEAP())


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> list[Effort]:
    """No evaluator runs; the efforts that they would have had."""
    efforts: list[Effort] = []

    def evaluated(program: Any, viewing: Any, data: Any, level: str, effort: Effort, *others: Any) -> list[Record]:
        assert level == "full"
        efforts.append(effort)
        return []

    monkeypatch.setattr("pp_simve.commands.run_evaluate.evaluate_run", evaluated)
    return efforts


class Evaluated(NamedTuple):
    path: Path
    entries: dict[str, Any]
    records: list[Record]
    out: str
    err: str


@pytest.fixture(scope="module")
def evaluated(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """The finished run with an evaluation of the whole of digits."""
    path = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("evaluated") / "run"))
    torch.manual_seed(1234)  # whatever was drawn before must not matter
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patched.setattr("pp_simve.commands.run_evaluate.Effort", partial(Effort, class_mlp=TINY, view_mlp=TINY))
        patched.chdir(path.parent)
        assert run("run", "--rows", "150", "--fine-tune", "2") == 0
    return Evaluated(path, *read_scores(path / FILE), out.getvalue(), err.getvalue())


def test_files_of_an_evaluation(evaluated: Evaluated, finished_run: Path) -> None:
    assert set(records(evaluated.path)) < set(evaluated.records)  # what a fit computes is computed the same
    assert {record.representation for record in evaluated.records} == {"", *COMPARED}
    assert not [record for record in evaluated.records if record.note.startswith(FAILED)]
    assert set(evaluated.entries) == {"version", "commit", "settings", "seconds", "records"}
    assert evaluated.entries["settings"] == {
        "method": "simve",
        "data": "digits",
        "data_fingerprint": load_data("digits").fingerprint,
        "images": {"train": 1259, "validation": 179, "test": 359},
        "rows": 150,
        "restarts": 3,
        "fine_tune": 2,
        "device": "cpu",
    }
    weights, pages = (
        [(path / name).read_bytes() for path in (evaluated.path, finished_run)]
        for name in ("model.safetensors", "report.html")
    )
    assert weights[0] == weights[1]  # fine-tuning leaves them
    assert pages[0] != pages[1]
    assert score(evaluated.records, task="fine_tuning", metric="epochs") == 2
    assert score(evaluated.records, task="fine_tuning", metric="accuracy") > 0.3


def test_the_tables_of_an_evaluation(evaluated: Evaluated) -> None:
    assert evaluated.err == ""
    lines = evaluated.out.splitlines()
    assert lines[0] == "run: simve on digits"
    assert "failed" not in evaluated.out
    assert "…" not in evaluated.out
    assert "class, fine-tuned" in evaluated.out
    notes = ("not applicable", "generation")
    assert max(len(line) for line in lines if not any(words in line for words in notes)) <= 80
    rank = score(evaluated.records, representation="z", metric="effective_rank")
    assert any("effective rank" in line and f"{rank:.1f}" in line for line in lines)
    # Content and style are multiples of z; a second table has two baselines and chance.
    assert [line.count("%") for line in lines if "class, linear probe" in line] == [2, 3]
    titles = [line.strip() for line in lines if line.startswith("test split")]
    assert titles == [
        *("test split, clean images", "test split, clean images, to compare with", "test split, clean images"),
        *("test split, augmented views", "test split, augmented views, to compare with", "test split, augmented views"),
    ]
    at = {name: next(place for place, line in enumerate(lines) if name in line) for name in ("effective rank", *titles)}
    assert (
        at["effective rank"]
        < at["test split, augmented views"]
        < lines.index(next(x for x in lines if "uniformity" in x))
    )
    assert any("class, 10 labels each" in line and line.count("±") == 2 for line in lines)
    assert evaluated.out.count("\ncontent, style: z of a single view times a number") == 1
    kl = [record.value for record in select(evaluated.records, metric="kl")]
    assert any(line.split()[:5] == ["KL", "of", "axes,", "sum,", "nats"] and f"{sum(kl):.2f}" in line for line in lines)


class MeanColors(nn.Module):
    """Stands for Inception."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images.float()[:, 0, ::8, ::8].flatten(1),)


@pytest.mark.usefixtures("cheap")
def test_fid_on_request(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("torch_fidelity"), ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = MeanColors  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(suite, "EVALUATORS", [one for one in suite.EVALUATORS if one.task == "generation"])
    torch.save({}, "weights.pth")

    def evaluate_it() -> list[Record]:
        assert run("run", "--fid-weights", "weights.pth", "--rows", "60", "--quiet") == 0
        return records(fitted, FILE)

    found = evaluate_it()
    (distance,) = select(found, metric="fid")
    assert distance.value > 0
    assert distance.note == "samples from the prior"
    assert score(found, metric="fid_images") == 60
    monkeypatch.setitem(sys.modules, module.__name__, None)  # as good as not installed
    found = evaluate_it()
    (distance,) = select(found, metric="fid")
    assert distance.note.startswith(FAILED)
    assert "pip install" in distance.note
    assert score(found, metric="mse") > 0


@pytest.mark.usefixtures("cheap")
def test_what_failed_is_printed_once_with_all_its_places(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("[bold]did not converge")

    monkeypatch.setattr(suite.information, "uniformity", fails)
    monkeypatch.setattr(suite, "cluster_scores", fails)
    some = ("uniformity", "alignment", "accuracy")
    kept = [one for one in suite.EVALUATORS if one.metric in some and one.probe in ("", "clusters_diag")]
    monkeypatch.setattr(suite, "EVALUATORS", kept)
    assert run("run", "--rows", "200") == 0
    out = capsys.readouterr().out
    assert out.count("did not converge") == 1
    places = "class clusters diag, information uniformity of backbone, z"
    assert f"{places}: failed: [bold]did not converge\n" in out
    found = records(fitted, FILE)
    (uniformity,) = select(found, representation="z", metric="uniformity")
    assert (uniformity.value, uniformity.note) == (None, "failed: [bold]did not converge")
    assert score(found, representation="z", metric="alignment") > 0


@pytest.mark.usefixtures("cheap")
def test_images_without_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(folder / "noise.npz", labelled=False)
    assert run_fit(*SMALL, "--batch-size", "8", "--data", "npz:noise.npz", "--out", "run", "--quiet") == 0
    assert run("run", "--fine-tune", "1") == 0
    found = records(folder / "run", FILE)
    reason = "not applicable: no labels in train, validation, test"
    for task in ("class", "few_labels", "several_views", "fine_tuning", "disentanglement"):
        assert {(one.value, one.note) for one in select(found, task=task)} == {(None, reason)}
    assert score(found, representation="z", metric="effective_rank") > 1
    assert capsys.readouterr().out.count(reason) == 1


@pytest.mark.usefixtures("cheap")
def test_a_program_without_pixels_and_with_deterministic_z(folder: Path) -> None:
    assert run_fit(*SMALL, "--method", "simclr", "--out", "run", "--quiet") == 0
    assert run("run", "--rows", "100", "--restarts", "1", "--quiet") == 0
    found = records(folder / "run", FILE)
    assert [one.note for one in select(found, task="generation")] == [
        "not applicable: the program does not model pixels"
    ]
    assert "FlatPrior" in select(found, metric="kl")[0].note
    assert 0 < score(found, representation="z", task="class", probe="mlp") < 1
    # Under a flat prior, the content of a single view is all of z, which leaves a style of 0, give or take rounding.
    assert {one.representation for one in found if one.note.startswith(FAILED)} <= {"style"}


@pytest.mark.usefixtures("cheap")
def test_views_of_several_modalities(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_fit(*SMALL, "--modalities", "halves", "--out", "run", "--quiet") == 0
    path = folder / "run"
    assert run("run", "--rows", "100", "--restarts", "1") == 0
    found = records(path, FILE)
    assert set(records(path)) < set(found)
    assert {record.modality for record in found} == {"", "upper", "lower"}
    for modality in ("upper", "lower"):
        of_modality = select(found, modality=modality)
        assert {record.representation for record in of_modality} == {"", *COMPARED}
        targets = [one.target for one in select(of_modality, task="several_views", metric="accuracy")]
        assert targets == ["1", "2", "4", "8"]
        assert {one.note for one in select(of_modality, task="generation")} == {
            "not applicable: there is no model of views of one modality"
        }
    ranks = select(found, representation="z", metric="effective_rank")
    assert len({one.value for one in ranks}) == 2
    out = capsys.readouterr().out
    for words in ("from upper alone", "from lower alone", "retrieval, upper to lower, recall@5"):
        assert words in out

    def fails(*arguments: Any) -> None:
        raise ValueError("one class only")

    monkeypatch.setattr(suite, "zero_shot_scores", fails)
    monkeypatch.setattr(suite, "EVALUATORS", ())
    assert run("run") == 0
    again = records(path, FILE)
    for task in ("retrieval", "together"):
        assert select(again, task=task) == select(found, task=task)
    assert [one.note for one in select(again, task="zero_shot")] == ["failed: one class only"]
    assert "zero shot accuracy of content: failed: one class only" in capsys.readouterr().out


@pytest.mark.usefixtures("cheap")
def test_other_data_than_those_of_the_fit(fitted: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(folder / "large.npz", (80, 30, 30))
    write_classes(folder / "photos", {"cat": 40, "dog": 40}, mode="L")
    others = ["npz:large.npz", "folder:photos"]
    for on in (*others, others[0]):  # again, in place of the first
        assert run(str(fitted), "--on", on) == 0, capsys.readouterr().err
    kept = read_json(fitted / "transfer.json")["on"]
    assert sorted(kept) == sorted(others)
    for on, entries in kept.items():
        found = [Record.from_json(one) for one in entries["records"]]
        assert entries["settings"]["data"] == on
        assert entries["settings"]["images"] == {"train": 56, "validation": 8, "test": 16}
        assert score(found, task="class", probe="linear", representation="content") is not None
        few = select(found, task="few_labels", representation="content", metric="accuracy")
        assert {one.target for one in few if one.value is not None} == {"1", "10"}
        assert f"Class, on {on}" in (fitted / "report.html").read_text()
    assert not (fitted / FILE).exists()
    write_classes(folder / "color", {"cat": 10, "dog": 10})
    assert run(str(fitted), "--on", "folder:color") == 2
    assert "convert them to grayscale" in capsys.readouterr().err
    (fitted / "transfer.json").write_text('{"on": 1}')
    assert run(str(fitted), "--on", others[0]) == 2
    assert "transfer.json is damaged (on is 1, expected an object); delete it" in capsys.readouterr().err


def test_a_run_that_cannot_be_evaluated_does_not_stop_the_others(
    stopped_run: Path, fitted: Path, folder: Path, nothing: list[Effort], capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = Path(shutil.copytree(fitted, folder / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"")
    other = Path(shutil.copytree(fitted, folder / "other"))
    entries = read_json(other / "config.json")
    (other / "config.json").write_text(json.dumps(entries | {"data_fingerprint": "0123"}))
    assert run("missing", "stopped", "damaged", "other", "run", "--device", "cpu") == 2
    captured = capsys.readouterr()
    for words in (
        "error: missing is no run folder: it has no config.json",
        "error: stopped is not finished: it has no model.safetensors; "
        "go on with python -m pp_simve.fit --resume stopped",
        "error: damaged/model.safetensors cannot be loaded",
        "error: the images of digits are not those other was fitted to "
        f"({load_data('digits').fingerprint}, expected 0123)",
    ):
        assert words in captured.err
    assert captured.err.count("was not evaluated") == 4
    assert "Traceback" not in captured.err
    assert captured.out.startswith("run: simve on digits")
    assert (fitted / FILE).exists()
    assert not any((path / FILE).exists() for path in (stopped_run, damaged, other))


@pytest.mark.usefixtures("nothing")
def test_a_file_that_cannot_be_written_leaves_the_old_one(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (fitted / FILE).write_text("old")

    def full(path: Path, data: bytes) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("pp_simve.run.files.write_whole", full)
    assert run("run") == 2
    assert "error: No space left on device" in capsys.readouterr().err
    assert (fitted / FILE).read_text() == "old"


@pytest.mark.usefixtures("nothing")
def test_images_are_read_once_for_runs_of_the_same(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots: list[Path] = []

    def counted(name: str, root: Path, **options: Any) -> ImageData:
        roots.append(root)
        return load_data(name, root, **options)

    monkeypatch.setattr("pp_simve.run.folder.load_data", counted)
    assert run("run", "run", "--quiet") == 0
    assert run("run", "--data-root", "elsewhere", "--quiet") == 0
    assert roots == [Path(read_json(fitted / "config.json")["config"]["data_root"]), Path("elsewhere")]


def test_the_effort_reaches_the_evaluators_and_quiet_prints_nothing(
    fitted: Path, nothing: list[Effort], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "--quiet", "--restarts", "4", "--rows", "7", "--fine-tune", "5") == 0
    assert nothing == [Effort(rows=7, restarts=4, fine_tune=5)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "runs"),
        (("run", "--restarts", "0"), "--restarts must be at least 1, got 0"),
        (("run", "--fine-tune", "0"), "--fine-tune must be at least 1, got 0"),
        (("run", "--on", "digits", "--data", "digits"), "give --data, where the images of the fit are, or --on"),
        (("run", "--fid-weights", "missing.pth"), "--fid-weights missing.pth is no file"),
        (("run", "--colour", "red"), "--colour"),
        (("run", "--device", "cuda"), "no CUDA device"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_flags(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(*flags) == 2
    message = capsys.readouterr().err
    assert words in message.lower() or words in message
    assert "Traceback" not in message


def test_ctrl_c_ends_it(fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        "pp_simve.commands.run_evaluate.evaluate_run", lambda *arguments: signal.raise_signal(signal.SIGINT)
    )
    assert run("run") == 130
    assert capsys.readouterr().err == "stopped\n"
    assert not (fitted / FILE).exists()


# Reading and rendering what was written.


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("results.json", '{"content": {}, "knows": {}}', "results.json has no score records: another version wrote it"),
        ("evaluation.json", '{"headline": {}}', "has no score records: another version wrote it; evaluate again"),
        ("evaluation.json", '{"records": [{"task": "class"}]}', "is damaged (a score record has the entries"),
        ("evaluation.json", "{", "is damaged"),
    ],
)
def test_files_of_other_versions_and_damaged_ones_are_refused(tmp_path: Path, file: str, text: str, words: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(words)):
        read_scores(tmp_path / file)


def test_results_of_a_fit_have_the_headline_beside_the_records(finished_run: Path) -> None:
    found, scores = read_scores(finished_run / "results.json")
    assert found == results(finished_run)
    of_content = {probe: score(scores, representation="content", probe=probe) for probe in ("linear", "knn")}
    assert found["content"] == {**of_content, "representation": "content"}
    of_views = select(scores, task="view", representation="z")
    style = {"mean_r2" if one.target == "mean" else one.target: one.value for one in of_views}
    assert found["style"] == {**style, "representation": "z"}


def test_a_table_shows_what_is_defined() -> None:
    given = [
        Record("class", "accuracy", 0.5, "z", "linear"),
        Record("class", "accuracy", None, "content", "linear", note="failed: <it>"),
        Record("class", "accuracy", None, "z", "mlp", note="failed: <it>"),
        Record("class", "accuracy", 0.875, "z", "knn_20_cosine"),
        Record("class", "accuracy@5", 0.9375, "z", "knn_20_cosine"),
        *(Record("relative_view", "r2", 0.5, "z", "mlp", of) for of in ("crop", "scale", "crop_top", "mean")),
        Record("few_labels", "accuracy", 0.25, "z", "linear", "1"),
        Record("few_labels", "sd", 0.125, "z", "linear", "1"),
        Record("attributes", "auc", 0.75, "z", "logistic", "mean"),
        Record("attributes", "auc", 0.5, "z", "logistic", "Smiling"),
        Record("information", "uniformity", -0.0001, "z"),
        Record("generation", "mse", 1234.5),
    ]
    text = io.StringIO()
    print_scores(given, Console(file=text, width=80))
    rows = {" ".join(line.split()) for line in text.getvalue().splitlines()}
    assert "class, linear probe 50.0 % –" in rows
    assert {"class, 20-NN, cosine 87.5 % –", "class, 20-NN, cosine, top 5 93.8 % –"} < rows
    assert {f"relative, {of}, R², MLP 0.500" for of in ("crop", "scale", "mean")} < rows
    assert "class, 1 label each, % 25.0 ± 12.5 –" in rows
    assert "attributes, mean, AUC 0.750 –" in rows
    assert "uniformity 0.000" in rows
    assert "reconstruction, MSE 1,234.5000" in rows
    assert not any("class, MLP" in row or "crop_top" in row or "Smiling" in row for row in rows)
    assert "class linear of content; class mlp of z: failed: <it>" in rows

"""`python -m pp_simve.evaluate`: fitted runs judged again, and what is said where that cannot be."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pp_simve import evaluate, judgement
from pp_simve.data import ImageData, Split, load
from pp_simve.evaluation import cluster_scores, judge, judge_kinds
from pp_simve.inference.guides.amortized import AmortizedGuide
from pp_simve.inference.guides.base import Representation
from pp_simve.inference.views import Compose, ViewPolicy, view_policy
from pp_simve.judgement import JUDGEMENT_SEED
from pp_simve.run_folder import RunFolder
from pp_simve.viewing import Viewing

from .command import SMALL, results, write_npz
from .command import run as run_fit

CPU = torch.device("cpu")
REPRESENTATIONS = ("backbone", "z", "content", "style")
CLASS = ("linear", "knn")
VIEWS = ("mean_r2", *view_policy("affine", (1, 16, 16)).names)


def run(*arguments: str) -> int:
    """The exit code of a command line."""
    try:
        return evaluate.main(arguments)
    except SystemExit as end:  # tyro's way out
        return int(end.code or 0)


def evaluation(path: Path) -> dict[str, Any]:
    """evaluation.json of a run."""
    entries: dict[str, Any] = json.loads((path / "evaluation.json").read_text())
    return entries


@pytest.fixture
def fitted(finished_run: Path, folder: Path) -> Path:
    """The finished run: a copy of one's own."""
    return Path(shutil.copytree(finished_run, folder / "run"))


@pytest.fixture
def judged_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "judge", partial(judge, min_views=100))
    monkeypatch.setattr(judgement, "judge", partial(judge, min_views=100))


def smaller(data: ImageData, train: int = 120, validation: int = 60, test: int = 60, **changes: Any) -> ImageData:
    """The first images of each split."""

    def first(split: Split, count: int) -> Split:
        labels = None if split.labels is None else split.labels[:count]
        return dataclasses.replace(Split(split.images[:count], labels, None), **changes)

    return dataclasses.replace(
        data,
        train=first(data.train, train),
        validation=first(data.validation, validation),
        test=first(data.test, test),
    )


def evaluated(path: Path, data: ImageData) -> dict[str, Any]:
    """The evaluation of a run as if these were the images it was fitted to."""
    entries = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(entries | {"data_fingerprint": data.fingerprint}))
    found = evaluate.evaluate(RunFolder(path), CPU, lambda *settings: data)
    assert evaluation(path) == found
    return found


def test_every_representation_is_judged_as_the_fit_judged_it(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1234)  # whatever was drawn before must not matter
    assert run("run") == 0
    found = evaluation(fitted)
    assert set(found["knows"]) == set(REPRESENTATIONS)
    for name, scores in found["knows"].items():
        assert set(scores) == {*CLASS, *VIEWS}
        if name != "style":
            assert scores == results(fitted)["knows"][name]
    assert found["data_fingerprint"] == load("digits").fingerprint
    assert (found["method"], found["data"], found["device"]) == ("simve", "digits", "cpu")
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == "run: simve on digits"
    assert any("linear probe, accuracy" in line and line.count("%") == 4 for line in lines)
    assert any("effective rank" in line and f"{found['geometry']['z']['effective_rank']:.1f}" in line for line in lines)
    assert "no score" not in captured.out


@pytest.mark.usefixtures("judged_quickly")
def test_geometry_is_that_of_the_test_images(fitted: Path) -> None:
    """Against the papers' formulas, written out."""
    data = load("digits")
    found = evaluated(fitted, data)["geometry"]
    program = RunFolder(fitted).program()
    assert set(found) == {"z", "content"}
    train, test = (program.guide.embed_batches(split.images).as_dict() for split in (data.train, data.test))
    policy = Viewing.of(RunFolder(fitted).read_settings()[0], data.shape).policies[None]
    views = evaluate.two_views(program.guide, policy, data.test.images)
    assert data.test.labels is not None
    for name in found:
        values = test[name].double()
        share = torch.linalg.svdvals(values)
        share = share / share.sum() + 1e-7
        assert found[name]["effective_rank"] == pytest.approx(math.exp(-(share * share.log()).sum().item()), rel=1e-6)
        assert found[name]["active_units"] == int((values.var(0, correction=0) > 0.01).sum())
        assert found[name]["axes"] == 8
        first, second = (part[name].double() for part in views)
        first, second = (part / part.norm(dim=1, keepdim=True) for part in (first, second))
        assert found[name]["alignment"] == pytest.approx((first - second).square().sum(1).mean().item(), rel=1e-9)
        kernel = [(-2 * (a - b).square().sum()).exp() for i, a in enumerate(first[:40]) for b in first[:i]]
        assert len(kernel) == 780
        near = torch.pdist(first).square().mul(-2).exp().mean().log().item()
        assert found[name]["uniformity"] == pytest.approx(near, rel=1e-6)
        expected = cluster_scores(train[name], (test[name], data.test.labels), restarts=1, seed=JUDGEMENT_SEED)
        assert found[name]["clusters"] == expected


class Same(ViewPolicy):
    """Views that are the image, with a parameter that says nothing."""

    names = ("nothing",)

    def sample(self, count: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"nothing": torch.rand(count, generator=generator)}

    def apply(self, images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return images


def test_two_views_are_of_the_same_image(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_IMAGES_IN_MEMORY", 7)
    images = load("digits").test.images[:40]
    guide = RunFolder(finished_run).program().guide
    clean = guide.embed_batches(images).as_dict()
    for part in evaluate.two_views(guide, Same(), images):
        for name, values in part.items():
            torch.testing.assert_close(values, clean[name], rtol=1e-4, atol=1e-5)
    first, second = evaluate.two_views(guide, view_policy("affine", (1, 16, 16)), images)
    assert not torch.equal(first["z"], second["z"])


@pytest.mark.usefixtures("judged_quickly")
def test_one_class_is_said_in_words_and_the_rest_is_judged(fitted: Path) -> None:
    data = load("digits")
    one = {
        name: dataclasses.replace(split, labels=torch.full((len(split),), 3))
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
    }
    found = evaluated(fitted, smaller(dataclasses.replace(data, **one)))
    for name in REPRESENTATIONS:
        scores = found["knows"][name]
        for measure in CLASS:
            assert "only class 3" in scores[measure]["error"]
        assert set(scores) == {*CLASS, *VIEWS}
        assert all(isinstance(scores[measure], float) for measure in VIEWS)
    for name in ("z", "content"):
        assert "only class 3" in found["geometry"][name]["clusters"]["error"]
        assert found["geometry"][name]["effective_rank"] > 1


@pytest.mark.usefixtures("judged_quickly")
def test_scores_are_those_of_a_whole_judgement_where_a_part_fails(
    fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = smaller(load("digits"))
    whole = evaluated(fitted, data)["knows"]
    plain = AmortizedGuide.posterior

    def posterior(guide: AmortizedGuide, views: Any) -> Representation:
        return dataclasses.replace(found := plain(guide, views), content=found.content * math.nan)

    monkeypatch.setattr(AmortizedGuide, "posterior", posterior)
    found = evaluated(fitted, data)
    for name in ("backbone", "z", "style"):
        assert found["knows"][name] == whole[name]
    content = found["knows"]["content"]
    assert set(content) == {*CLASS, "mean_r2"}
    for measure in content:
        assert "features are NaN or infinite in" in content[measure]["error"]
    for measure in ("effective_rank", "active_units", "alignment", "uniformity", "clusters"):
        assert "NaN or infinite" in found["geometry"]["content"][measure]["error"]
        assert "error" not in str(found["geometry"]["z"][measure])


@pytest.mark.usefixtures("judged_quickly")
def test_what_failed_is_printed_once_with_all_its_places(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("[bold]did not converge")

    monkeypatch.setattr(evaluate, "uniformity", fails)
    monkeypatch.setattr(evaluate, "cluster_scores", fails)
    assert run("run") == 0
    out = capsys.readouterr().out
    places = ", ".join(f"geometry {name} {part}" for name in ("z", "content") for part in ("uniformity", "clusters"))
    assert out.count("did not converge") == 1
    assert f"no score for {places}: [bold]did not converge\n" in out
    assert evaluation(fitted)["geometry"]["z"]["uniformity"] == {"error": "[bold]did not converge"}
    assert evaluation(fitted)["geometry"]["z"]["alignment"] > 0


@pytest.mark.usefixtures("judged_quickly")
def test_fewer_images_than_clusters_are_said_in_words(fitted: Path) -> None:
    data = load("digits")
    assert data.train.labels is not None
    index = torch.tensor([data.train.labels.tolist().index(digit) for digit in range(6)])
    few = Split(data.train.images[index], data.train.labels[index], None)
    found = evaluated(fitted, smaller(dataclasses.replace(data, train=few)))
    assert "clusters cannot be fitted to 6 rows" in found["geometry"]["z"]["clusters"]["error"]
    assert 0 < found["knows"]["z"]["linear"] <= 1
    assert found["geometry"]["z"]["alignment"] > 0


@pytest.mark.usefixtures("judged_quickly")
def test_images_without_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(folder / "noise.npz", labelled=False)
    assert run_fit(*SMALL, "--batch-size", "8", "--data", "npz:noise.npz", "--out", "run", "--quiet") == 0
    assert run("run") == 0
    found = evaluation(folder / "run")
    assert {found["knows"][name][measure] for name in REPRESENTATIONS for measure in CLASS} == {None}
    assert found["knows"]["notes"] == {"class": "no labels in train, validation, test"}
    assert found["geometry"]["z"]["clusters"] is None
    assert "note: no labels in train, validation, test" in capsys.readouterr().out


@pytest.mark.usefixtures("judged_quickly")
def test_notes_are_kept_where_a_part_fails(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evaluated(fitted, smaller(load("digits"), labels=None))["knows"]
    data = smaller(load("digits"), labels=None)
    program = RunFolder(fitted).program()
    policy = view_policy("affine", (1, 16, 16))
    plain = evaluate.judge

    def only_alone(*arguments: Any, representations: Any, **options: Any) -> Any:
        if len(representations) > 1:
            raise ValueError("not all at once")
        return plain(*arguments, representations=representations, **options)

    monkeypatch.setattr(evaluate, "judge", only_alone)
    splits = (data.train, data.validation, data.test)
    assert evaluate._judge_parts(program.guide, policy, splits) == found
    unvaried = evaluate._judge_parts(program.guide, Compose([], (1, 16, 16)), splits)
    assert unvaried["notes"] == {
        "class": "no labels in train, validation, test",
        "views": "the view policy has no parameters",
    }
    assert unvaried["z"] == {"linear": None, "knn": None, "mean_r2": None}


@pytest.mark.usefixtures("judged_quickly")
def test_views_of_several_kinds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_fit(*SMALL, "--modalities", "halves", "--out", "run", "--quiet") == 0
    assert run("run") == 0
    found, before = evaluation(folder / "run"), results(folder / "run")
    assert set(found["kinds"]) == set(found["geometry"]) == {"upper", "lower"}
    for kind in ("upper", "lower"):
        for name in ("backbone", "z", "content"):
            assert found["kinds"][kind][name] == before["kinds"][kind][name]
        assert set(found["kinds"][kind]) == set(REPRESENTATIONS)
        assert found["geometry"][kind]["content"]["alignment"] > 0
    assert found["geometry"]["upper"] != found["geometry"]["lower"]
    for part in ("retrieval", "zero_shot", "together"):
        assert found[part] == before[part]
    out = capsys.readouterr().out
    for words in ("test split, from upper alone", "test split, from lower alone: geometry", "test split, across kinds"):
        assert words in out


@pytest.mark.usefixtures("judged_quickly")
def test_retrieval_needs_no_classes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_fit(*SMALL, "--modalities", "halves", "--out", "run", "--quiet") == 0

    def fails_with_labels(guide: Any, train: Any, validation: Any, test: Any, labels: Any = None) -> Any:
        if labels is not None:
            raise ValueError("one class only")
        return judge_kinds(guide, train, validation, test)

    monkeypatch.setattr(evaluate, "judge_kinds", fails_with_labels)
    assert run("run") == 0
    found, before = evaluation(folder / "run"), results(folder / "run")
    assert found["retrieval"] == before["retrieval"]
    assert found["zero_shot"] == found["together"] == {"error": "one class only"}
    out = capsys.readouterr().out
    assert "no score for zero_shot, together: one class only" in out
    assert "upper to lower" in out


@pytest.mark.usefixtures("judged_quickly")
def test_a_run_that_cannot_be_evaluated_does_not_stop_the_others(
    stopped_run: Path, fitted: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = Path(shutil.copytree(fitted, folder / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"")
    other = Path(shutil.copytree(fitted, folder / "other"))
    entries = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(entries | {"data_fingerprint": "0123"}))
    assert run("missing", "stopped", "damaged", "other", "run", "--device", "cpu") == 2
    captured = capsys.readouterr()
    for words in (
        "error: missing is no run folder: it has no config.json",
        "error: stopped is not finished: it has no model.safetensors; go on with --resume stopped",
        "error: damaged/model.safetensors cannot be loaded",
        f"error: the images of digits are not those other was fitted to ({load('digits').fingerprint}, expected 0123)",
    ):
        assert words in captured.err
    assert captured.err.count("was not evaluated") == 4
    assert "Traceback" not in captured.err
    assert captured.out.startswith("run: simve on digits")
    assert evaluation(fitted)["knows"]["z"]["linear"] > 0.3
    for path in (stopped_run, damaged, other):
        assert not (path / "evaluation.json").exists()


@pytest.mark.usefixtures("judged_quickly")
def test_a_file_that_cannot_be_written_leaves_the_old_one(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (fitted / "evaluation.json").write_text("old")

    def full(path: Path, data: bytes) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(evaluate, "write_whole", full)
    assert run("run") == 2
    assert "error: No space left on device" in capsys.readouterr().err
    assert (fitted / "evaluation.json").read_text() == "old"


@pytest.mark.usefixtures("judged_quickly")
def test_images_are_read_once_for_runs_of_the_same(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots: list[Path] = []

    def counted(name: str, root: Path, **options: Any) -> ImageData:
        roots.append(root)
        return smaller(load(name, root, **options))

    monkeypatch.setattr(evaluate, "load", counted)
    entries = json.loads((fitted / "config.json").read_text())
    fingerprint = smaller(load("digits")).fingerprint
    (fitted / "config.json").write_text(json.dumps(entries | {"data_fingerprint": fingerprint}))
    assert run("run", "run", "--quiet") == 0
    assert run("run", "--data-root", "elsewhere", "--quiet") == 0
    assert roots == [Path("data"), Path("elsewhere")]


@pytest.mark.usefixtures("judged_quickly")
def test_quiet_prints_nothing(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--quiet", "--restarts", "2") == 0
    assert capsys.readouterr() == ("", "")
    assert evaluation(fitted)["seconds"] > 0


def test_restarts_reach_the_clustering(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def spied(*arguments: Any, restarts: int, **options: Any) -> dict[str, float]:
        seen.append(restarts)
        return {"accuracy": 0.5}

    monkeypatch.setattr(evaluate, "judge", lambda *arguments, **options: {})
    monkeypatch.setattr(evaluate, "cluster_scores", spied)
    assert run("run", "--quiet") == 0
    assert run("run", "--quiet", "--restarts", "4") == 0
    assert seen == [1, 1, 4, 4]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "runs"),
        (("run", "--restarts", "0"), "--restarts must be at least 1, got 0"),
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
    monkeypatch.setattr(evaluate, "geometry", lambda *arguments: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(evaluate, "judge", lambda *arguments, **options: {})
    assert run("run") == 130
    assert capsys.readouterr().err == "stopped\n"
    assert not (fitted / "evaluation.json").exists()

"""`python -m pp_simve.evaluate`: fitted runs judged again, and what is said where that cannot be."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pp_simve import evaluate, judgement
from pp_simve.data import ImageData, Split, load
from pp_simve.evaluating import evaluators, subject
from pp_simve.evaluating.subject import Effort, Subject, two_views
from pp_simve.evaluating.tables import reasons
from pp_simve.evaluation import attribute_scores, cluster_scores, evaluate_modalities, handwriting_style, judge
from pp_simve.evaluation.judgement import embed_splits
from pp_simve.evaluation.mlp import MLPTraining
from pp_simve.inference.augmentations import AugmentationPolicy, augmentation_policy
from pp_simve.inference.guides.amortized import AmortizedGuide
from pp_simve.inference.guides.base import Representation
from pp_simve.judgement import JUDGEMENT_SEED
from pp_simve.run.folder import RunFolder, load_run
from pp_simve.run.viewing import Viewing

from .command import SMALL, results, write_npz
from .command import run as run_fit

CPU = torch.device("cpu")
REPRESENTATIONS = ("backbone", "z", "content", "style")
PROBES = ("linear", "mlp", "knn", "few_labels")
CLUSTERS = ("clusters_diag", "clusters_full")
PARAMETERS = augmentation_policy("affine", (1, 16, 16)).names
QUICK = Effort(rows=200, restarts=1)


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
    monkeypatch.setattr(subject, "embed_splits", partial(embed_splits, min_views=100))
    monkeypatch.setattr(subject, "PAIRS", 100)
    monkeypatch.setattr(judgement, "judge", partial(judge, min_views=100))
    for name in ("TRAINING", "VIEW_TRAINING"):
        monkeypatch.setattr(evaluators, name, MLPTraining(hidden=8, decays=(0.0,), learning_rate=1e-2, epochs=3))


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


def evaluated(path: Path, data: ImageData, effort: Effort = QUICK) -> dict[str, Any]:
    """The evaluation of a run as if these were the images it was fitted to."""
    entries = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(entries | {"data_fingerprint": data.fingerprint}))
    found = evaluate.evaluate(RunFolder(path), CPU, lambda *settings: data, effort=effort)
    assert evaluation(path) == found
    return found


def subject_of(path: Path, data: ImageData) -> Subject:
    """What `evaluate` judges of a run."""
    program = load_run(path)
    policy = Viewing.of(RunFolder(path).read_settings()[0], data.shape).policies[None]
    splits = (data.train, data.validation, data.test)
    return Subject(program.guide, program.model, policy, splits, data.attribute_names, True, QUICK)


def test_what_a_fit_judges_is_judged_the_same(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("TRAINING", "VIEW_TRAINING"):
        monkeypatch.setattr(evaluators, name, MLPTraining(hidden=8, decays=(0.0,), learning_rate=1e-2, epochs=3))
    report = (fitted / "report.html").read_bytes()
    torch.manual_seed(1234)  # whatever was drawn before must not matter
    assert run("run", "--rows", "150") == 0
    found = evaluation(fitted)
    assert set(found["knows"]) == set(REPRESENTATIONS)
    for name, scores in found["knows"].items():
        if name != "style":
            of_class = {measure: scores["class"][measure] for measure in ("linear", "knn")}
            assert {**of_class, **scores["views"]["ridge"]} == results(fitted)["knows"][name]
    assert found["data_fingerprint"] == load("digits").fingerprint
    assert (found["method"], found["data"], found["device"]) == ("simve", "digits", "cpu")
    assert found["images"] == {"train": 1259, "validation": 179, "test": 359}
    assert found["effort"] == {"rows": 150, "restarts": 3, "fine_tune": None}
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == "run: simve on digits"
    assert any("class, linear probe" in line and line.count("%") == 4 for line in lines)
    assert any(
        "effective rank" in line and f"{found['information']['z']['effective_rank']:.1f}" in line for line in lines
    )
    assert "failed" not in captured.out
    assert (fitted / "report.html").read_bytes() != report
    assert max(len(line) for line in lines if "note:" not in line and "not judged" not in line) <= 80


@pytest.mark.usefixtures("judged_quickly")
def test_every_question_is_answered(fitted: Path) -> None:
    """All entries are there, none has failed, and what is skipped is what digits do not have."""
    found = evaluated(fitted, smaller(load("digits"), train=200))
    for name in REPRESENTATIONS:
        knows = found["knows"][name]
        assert set(knows) == {"class", "views", "attributes", "writing"}
        assert set(knows["class"]) == {*PROBES, *CLUSTERS}
        assert all(0 <= knows["class"][measure] <= 1 for measure in ("linear", "mlp", "knn"))
        assert set(knows["class"]["few_labels"]) == {"1", "10"}
        for measure in CLUSTERS if name != "backbone" else ("clusters_diag",):
            assert set(knows["class"][measure]) == {"accuracy", "nmi", "ari", "converged"}
        assert set(knows["views"]["ridge"]) == set(knows["views"]["mlp"]) == {"mean_r2", *PARAMETERS}
        assert knows["views"]["binary"] == {"skipped": "no view parameter is binary"}
        assert set(knows["views"]["angles"]) == {"rotation"}
        assert knows["attributes"] == {"logistic": {"skipped": "the images have no attributes"}}
        assert set(knows["writing"]["ridge"]) == {"mean_r2", "slant", "size", "thickness", "centre_x", "centre_y"}
        latent_dim = {"active_units"} if name != "backbone" else set()
        of_prior = {"prior_information", "kl_by_axis"} if name == "z" else set()
        common = {"axes", "effective_rank", "alignment", "uniformity", "infonce"}
        assert set(found["information"][name]) == common | latent_dim | of_prior
    assert "clusters_full" in found["knows"]["backbone"]["class"]
    assert len(found["information"]["z"]["kl_by_axis"]) == 8
    assert min(found["information"]["z"]["kl_by_axis"]) > -0.01
    assert (
        found["information"]["z"]["infonce"]["bound"] < found["information"]["z"]["infonce"]["ceiling"] == math.log(60)
    )
    assert set(found["several_views"]) == {"1", "2", "4", "8"}
    assert set(found["generation"]) == {"reconstruction"}
    assert found["generation"]["reconstruction"]["mse"] > 0
    assert found["generation"]["reconstruction"]["bits_per_dim"] is None
    assert "fine_tuning" not in found
    assert not list(reasons(found, "error"))
    headline = found["headline"]
    assert headline["class_linear"] == found["knows"]["content"]["class"]["linear"]
    assert headline["effective_rank"] == found["information"]["z"]["effective_rank"]
    assert {name for name, value in headline.items() if value is None} == {
        "views_auc", "attributes_auc", "bits_per_dim", "fid", "fine_tuned",
    }  # fmt: skip


@pytest.mark.usefixtures("judged_quickly")
def test_spaces_are_those_of_the_test_images(fitted: Path) -> None:
    """Against the papers' formulas, written out."""
    data = smaller(load("digits"), train=400, test=100)
    found = evaluated(fitted, data)
    guide = load_run(fitted).guide
    train, test = (guide.embed_batches(split.images).as_dict() for split in (data.train, data.test))
    views = two_views(guide, augmentation_policy("affine", (1, 16, 16)), data.test.images, JUDGEMENT_SEED)
    assert data.test.labels is not None
    for name in ("z", "content"):
        space = found["information"][name]
        values = test[name].double()
        share = torch.linalg.svdvals(values)
        share = share / share.sum() + 1e-7
        assert space["effective_rank"] == pytest.approx(math.exp(-(share * share.log()).sum().item()), rel=1e-6)
        assert space["active_units"] == int((values.var(0, correction=0) > 0.01).sum())
        assert space["axes"] == 8
        first, second = (part[name].double() for part in views)
        first, second = (part / part.norm(dim=1, keepdim=True) for part in (first, second))
        assert space["alignment"] == pytest.approx((first - second).square().sum(1).mean().item(), rel=1e-9)
        near = torch.pdist(first).square().mul(-2).exp().mean().log().item()
        assert space["uniformity"] == pytest.approx(near, rel=1e-6)
        for covariance in ("diag", "full"):
            labelled = test[name], data.test.labels
            rows = train[name][: QUICK.rows]
            expected = cluster_scores(rows, labelled, covariance=covariance, restarts=1, seed=JUDGEMENT_SEED)
            if covariance == "diag":
                assert found["knows"][name]["class"]["clusters_diag"] == expected
    # Content 1, style 0.15: −8/2 log(1 − ρ²).
    rho = 1 / 1.15
    assert found["information"]["z"]["prior_information"] == pytest.approx(-4 * math.log(1 - rho**2), rel=1e-6)


@pytest.mark.usefixtures("judged_quickly")
def test_attributes_and_writing_are_read_from_clean_images(fitted: Path) -> None:
    data = load("digits")
    named = smaller(data)

    def bright(split: Split) -> Split:
        light = split.images.double().mean((1, 2, 3)) > 80
        return dataclasses.replace(split, attributes=torch.stack([light, torch.ones_like(light)], 1))

    splits = {name: bright(getattr(named, name)) for name in ("train", "validation", "test")}
    # An image without ink has no style of writing, and is left out.
    splits["train"].images[3] = 0
    named = dataclasses.replace(named, **splits, attribute_names=("bright", "always"))
    found = evaluated(fitted, named)
    guide = load_run(fitted).guide
    rows = [
        (guide.embed_batches(split.images).as_dict()["z"], split.attributes)
        for split in (named.train, named.validation, named.test)
    ]
    assert found["knows"]["z"]["attributes"]["logistic"] == attribute_scores(*rows, ("bright", "always"))
    assert found["knows"]["z"]["attributes"]["logistic"]["always"] == {"balanced_accuracy": None, "auc": None}
    assert found["headline"]["attributes_auc"] == found["knows"]["z"]["attributes"]["logistic"]["mean"]["auc"]
    assert int(handwriting_style(named.train.images)["slant"].isnan().sum()) == 1
    assert found["knows"]["backbone"]["writing"]["ridge"]["size"] > 0.3


class Painted(AugmentationPolicy):
    """A corner that is lit or not, by a parameter of two values, and a hue that nothing shows."""

    names = ("lit", "hue")

    def sample(self, count: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        lit = (torch.rand(count, generator=generator) > 0.5).float()
        return {"lit": lit, "hue": torch.rand(count, generator=generator) - 0.5}

    def apply(self, images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        images = images.clone()
        images[:, :, :4, :4] = parameters["lit"].view(-1, 1, 1, 1)
        return images


@pytest.mark.usefixtures("judged_quickly")
def test_binary_parameters_have_an_auc_and_angles_a_circle(finished_run: Path) -> None:
    given = dataclasses.replace(subject_of(finished_run, smaller(load("digits"))), policy=Painted())
    binary, angles = evaluators.views_binary(given, "backbone"), evaluators.views_angles(given, "backbone")
    assert set(binary) == {"mean", "lit"}
    assert binary["lit"]["auc"] > 0.95
    assert set(angles) == {"hue"}
    assert angles["hue"]["r2"] < 0.2
    assert angles["hue"]["median_error"] == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("shared", [0, 2])
def test_information_of_features_wider_than_there_are_images(finished_run: Path, shared: int) -> None:
    """A few strong directions that views share, among many more of noise: found where they are, and not invented."""
    generator = torch.Generator().manual_seed(0)

    def views(images: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        content = torch.cat(
            [10 * torch.randn(images, shared, generator=generator), torch.zeros(images, 300 - shared)], dim=1
        )
        first, second = (content + torch.randn(images, 300, generator=generator) for _ in range(2))
        return {"wide": first}, {"wide": second}

    given = subject_of(finished_run, smaller(load("digits"), train=200))
    given.__dict__["two_views"] = {"train": views(200), "test": views(200)}
    found = evaluators.information(given, "wide")
    # ρ = 100/101 in each shared axis; 2 · 1.96 nats are below, but not far below, the ceiling of log 200 = 5.3.
    expected = -shared / 2 * math.log(1 - (100 / 101) ** 2)
    assert expected - 0.7 < found["bound"] < expected + 0.2
    assert found["ceiling"] == pytest.approx(math.log(200))
    assert found["pairs"] == 200


def test_full_covariances_are_not_fitted_to_what_is_too_wide(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = subject_of(finished_run, load("digits"))
    judged = evaluators.clusters("full")
    assert judged(given, "z")["accuracy"] > 0.1
    monkeypatch.setattr(evaluators, "WIDEST_FULL", given.embedded.clean[0]["z"].shape[1] - 1)
    with pytest.raises(subject.NotJudgedError, match="take minutes; at most"):
        judged(given, "z")


@pytest.mark.usefixtures("judged_quickly")
def test_rows_bound_what_costs_much(finished_run: Path) -> None:
    data = smaller(load("digits"), train=300)
    given = dataclasses.replace(subject_of(finished_run, data), effort=Effort(rows=40))
    train, validation, test = given.few_labelled("z")
    assert [len(part[0]) for part in (train, validation, test)] == [40, 40, 60]
    assert torch.equal(train[0], given.labelled("z")[0][0][:40])
    assert [len(part["z"]) for part in given.two_views["test"]] == [40, 40]
    assert [len(part["z"]) for part in given.two_views["train"]] == [40, 40]
    more = dataclasses.replace(given, effort=Effort(rows=10_000))
    assert [len(part["z"]) for part in more.two_views["train"]] == [300, 300]


@pytest.mark.usefixtures("judged_quickly")
def test_fine_tuning_on_request_leaves_the_weights(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (fitted / "model.safetensors").read_bytes()
    assert run("run", "--rows", "100", "--restarts", "1", "--fine-tune", "2") == 0
    assert (fitted / "model.safetensors").read_bytes() == before
    found = evaluation(fitted)
    assert found["fine_tuning"]["epochs"] == 2
    assert found["headline"]["fine_tuned"] == found["fine_tuning"]["accuracy"] > 0.3
    assert "class, fine-tuned, epoch" in capsys.readouterr().out


class MeanColours(nn.Module):
    """Stands for Inception."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images.float()[:, 0, ::8, ::8].flatten(1),)


@pytest.mark.usefixtures("judged_quickly")
def test_fid_on_request(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("torch_fidelity"), ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = MeanColours  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    weights = fitted / "weights.pth"
    torch.save({}, weights)
    found = evaluated(fitted, smaller(load("digits")), dataclasses.replace(QUICK, fid_weights=weights))
    assert found["generation"]["fid"]["distance"] > 0
    assert found["generation"]["fid"]["images"] == 60
    assert found["generation"]["fid"]["samples"] == "samples from the prior"
    monkeypatch.setitem(sys.modules, module.__name__, None)  # as good as not installed
    found = evaluated(fitted, smaller(load("digits")), dataclasses.replace(QUICK, fid_weights=weights))
    assert "pip install" in found["generation"]["fid"]["error"]
    assert found["generation"]["reconstruction"]["mse"] > 0


class Same(AugmentationPolicy):
    """Views that are the image, with a parameter that says nothing."""

    names = ("nothing",)

    def sample(self, count: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"nothing": torch.rand(count, generator=generator)}

    def apply(self, images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return images


def test_two_views_are_of_the_same_image(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_IMAGES_IN_MEMORY", 7)
    images = load("digits").test.images[:40]
    guide = load_run(finished_run).guide
    clean = guide.embed_batches(images).as_dict()
    for part in two_views(guide, Same(), images, 0):
        for name, values in part.items():
            torch.testing.assert_close(values, clean[name], rtol=1e-4, atol=1e-5)
    first, second = two_views(guide, augmentation_policy("affine", (1, 16, 16)), images, 0)
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
        knows = found["knows"][name]
        for measure in (*PROBES, *(CLUSTERS if name != "backbone" else ())):
            assert "only class 3" in knows["class"][measure]["error"]
        assert all(isinstance(knows["views"]["ridge"][parameter], float) for parameter in PARAMETERS)
        assert found["information"][name]["effective_rank"] > 1
    assert "only class 3" in found["several_views"]["error"]
    assert "scores of both the class and the view" in found["disentanglement"]["skipped"]
    assert found["generation"]["reconstruction"]["mse"] > 0


@pytest.mark.usefixtures("judged_quickly")
def test_features_that_are_not_finite_cost_only_their_own_scores(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = smaller(load("digits"))
    whole = evaluated(fitted, data)
    plain = AmortizedGuide.posterior

    def posterior(guide: AmortizedGuide, views: Any) -> Representation:
        return dataclasses.replace(found := plain(guide, views), content=found.content * math.nan)

    monkeypatch.setattr(AmortizedGuide, "posterior", posterior)
    found = evaluated(fitted, data)
    for name in ("backbone", "z", "style"):
        assert found["knows"][name] == whole["knows"][name]
        assert found["information"][name] == whole["information"][name]
    content = found["knows"]["content"]
    for topic, measure in (("class", "linear"), ("class", "mlp"), ("class", "clusters_diag"), ("views", "ridge")):
        assert "features are NaN or infinite in" in content[topic][measure]["error"]
    for measure in ("effective_rank", "active_units", "alignment", "uniformity", "infonce"):
        assert "NaN or infinite" in found["information"]["content"][measure]["error"]
    assert "NaN or infinite" in found["several_views"]["error"]
    assert found["generation"] == whole["generation"]


@pytest.mark.usefixtures("judged_quickly")
def test_a_constant_representation_is_judged_as_knowing_nothing(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = AmortizedGuide.posterior

    def posterior(guide: AmortizedGuide, views: Any) -> Representation:
        return dataclasses.replace(found := plain(guide, views), z=torch.ones_like(found.z))

    monkeypatch.setattr(AmortizedGuide, "posterior", posterior)
    found = evaluated(fitted, smaller(load("digits")))
    knows, space = found["knows"]["z"], found["information"]["z"]
    assert knows["class"]["linear"] < 0.25
    assert knows["class"]["mlp"] < 0.25
    assert abs(knows["views"]["ridge"]["mean_r2"]) < 0.1
    assert knows["class"]["clusters_diag"]["nmi"] == 0
    assert space["effective_rank"] == pytest.approx(1, abs=1e-4)
    assert space["active_units"] == 0
    assert "the same in all rows" in space["infonce"]["error"]
    # z knows neither class nor view, so there is nothing to share out.
    assert found["disentanglement"]["mean"] is None


@pytest.mark.usefixtures("judged_quickly")
def test_what_failed_is_printed_once_with_all_its_places(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("[bold]did not converge")

    monkeypatch.setattr(evaluators, "uniformity", fails)
    monkeypatch.setattr(evaluators, "cluster_scores", fails)
    assert run("run", "--rows", "200") == 0
    out = capsys.readouterr().out
    assert out.count("did not converge") == 1
    places = "class clusters diag, class clusters full of z and content and style, information uniformity"
    assert f"failed: {places}: [bold]did not converge\n" in out
    assert evaluation(fitted)["information"]["z"]["uniformity"] == {"error": "[bold]did not converge"}
    assert evaluation(fitted)["information"]["z"]["alignment"] > 0


@pytest.mark.usefixtures("judged_quickly")
def test_fewer_images_than_clusters_or_neighbours_are_said_in_words(fitted: Path) -> None:
    data = load("digits")
    assert data.train.labels is not None
    index = torch.tensor([data.train.labels.tolist().index(digit) for digit in range(6)])
    few = Split(data.train.images[index], data.train.labels[index], None)
    found = evaluated(fitted, smaller(dataclasses.replace(data, train=few)))
    of_class = found["knows"]["z"]["class"]
    assert "clusters cannot be fitted to 6 rows" in of_class["clusters_diag"]["error"]
    assert "there are 6 rows for 10 clusters" in of_class["clusters_full"]["skipped"]
    assert set(of_class["few_labels"]) == {"1"}
    for measure in ("linear", "mlp", "knn"):
        assert 0 < of_class[measure] <= 1
    assert found["information"]["z"]["alignment"] > 0


@pytest.mark.usefixtures("judged_quickly")
def test_images_without_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(folder / "noise.npz", labelled=False)
    assert run_fit(*SMALL, "--batch-size", "8", "--data", "npz:noise.npz", "--out", "run", "--quiet") == 0
    assert run("run", "--fine-tune", "1") == 0
    found = evaluation(folder / "run")
    reason = {"skipped": "no labels in train, validation, test"}
    for name in REPRESENTATIONS:
        assert set(map(str, found["knows"][name]["class"].values())) == {str(reason)}
    assert found["several_views"] == found["fine_tuning"] == found["disentanglement"] == reason
    assert found["information"]["z"]["effective_rank"] > 1
    assert "no labels in train, validation, test" in capsys.readouterr().out


@pytest.mark.usefixtures("judged_quickly")
def test_a_program_without_pixels_and_with_points(fitted: Path) -> None:
    folder = fitted.parent / "simclr"
    assert run_fit(*SMALL, "--method", "simclr", "--out", str(folder), "--quiet") == 0
    found = evaluated(folder, smaller(load("digits")))
    assert found["generation"] == {"reconstruction": {"skipped": "the program does not model pixels"}}
    assert "FlatPrior" in found["information"]["z"]["kl_by_axis"]["skipped"]
    assert 0 < found["knows"]["z"]["class"]["mlp"] < 1
    # Under a flat prior, the content of a single view is all of z, which leaves a style of 0, give or take rounding.
    assert {place[1] for place, _ in reasons(found, "error")} <= {"style"}


@pytest.mark.usefixtures("judged_quickly")
def test_views_of_several_kinds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_fit(*SMALL, "--modalities", "halves", "--out", "run", "--quiet") == 0
    assert run("run", "--rows", "100", "--restarts", "1") == 0
    found, before = evaluation(folder / "run"), results(folder / "run")
    assert set(found["kinds"]) == {"upper", "lower"}
    assert "generation" not in found
    for kind, scores in found["kinds"].items():
        assert set(scores["knows"]) == set(REPRESENTATIONS)
        for name in ("backbone", "z", "content"):
            of_class = {measure: scores["knows"][name]["class"][measure] for measure in ("linear", "knn")}
            assert {**of_class, **scores["knows"][name]["views"]["ridge"]} == before["kinds"][kind][name]
        assert scores["information"]["content"]["alignment"] > 0
        assert set(scores["several_views"]) == {"1", "2", "4", "8"}
    assert found["kinds"]["upper"]["information"] != found["kinds"]["lower"]["information"]
    assert set(found["headline"].values()) == {None}
    for part in ("retrieval", "zero_shot", "together"):
        assert found[part] == before[part]
    out = capsys.readouterr().out
    for words in (
        "test split, from upper alone",
        "test split, from lower alone: information",
        "test split, across kinds",
    ):
        assert words in out


@pytest.mark.usefixtures("judged_quickly")
def test_retrieval_needs_no_classes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_fit(*SMALL, "--modalities", "halves", "--out", "run", "--quiet") == 0

    def fails_with_labels(guide: Any, train: Any, validation: Any, test: Any, labels: Any = None) -> Any:
        if labels is not None:
            raise ValueError("one class only")
        return evaluate_modalities(guide, train, validation, test)

    monkeypatch.setattr(evaluate, "evaluate_modalities", fails_with_labels)
    monkeypatch.setattr(evaluate, "evaluate_subject", lambda subject: {"knows": {}, "information": {}})
    assert run("run") == 0
    found, before = evaluation(folder / "run"), results(folder / "run")
    assert found["retrieval"] == before["retrieval"]
    assert found["zero_shot"] == found["together"] == {"error": "one class only"}
    out = capsys.readouterr().out
    assert "failed: zero shot, together: one class only" in out
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
    assert run("missing", "stopped", "damaged", "other", "run", "--device", "cpu", "--rows", "100") == 2
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
    assert evaluation(fitted)["knows"]["z"]["class"]["linear"] > 0.3
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
    monkeypatch.setattr(evaluate, "evaluate_subject", lambda subject: {"knows": {}, "information": {}})
    assert run("run") == 2
    assert "error: No space left on device" in capsys.readouterr().err
    assert (fitted / "evaluation.json").read_text() == "old"


@pytest.mark.usefixtures("judged_quickly")
def test_images_are_read_once_for_runs_of_the_same(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots: list[Path] = []

    def counted(name: str, root: Path, **options: Any) -> ImageData:
        roots.append(root)
        return smaller(load(name, root, **options))

    monkeypatch.setattr("pp_simve.run.folder.load", counted)
    monkeypatch.setattr(evaluate, "evaluate_subject", lambda subject: {"knows": {}, "information": {}})
    entries = json.loads((fitted / "config.json").read_text())
    fingerprint = smaller(load("digits")).fingerprint
    (fitted / "config.json").write_text(json.dumps(entries | {"data_fingerprint": fingerprint}))
    assert run("run", "run", "--quiet") == 0
    assert run("run", "--data-root", "elsewhere", "--quiet") == 0
    assert roots == [Path("data"), Path("elsewhere")]


@pytest.mark.usefixtures("judged_quickly")
def test_quiet_prints_nothing(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--quiet", "--restarts", "2", "--rows", "100") == 0
    assert capsys.readouterr() == ("", "")
    assert evaluation(fitted)["seconds"] > 0


def test_the_effort_reaches_the_evaluators(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Effort] = []

    def spied(given: Subject) -> dict[str, Any]:
        seen.append(given.effort)
        return {"knows": {}, "information": {}}

    monkeypatch.setattr(evaluate, "evaluate_subject", spied)
    assert run("run", "--quiet") == 0
    assert run("run", "--quiet", "--restarts", "4", "--rows", "7", "--fine-tune", "5") == 0
    assert seen == [Effort(), Effort(rows=7, restarts=4, fine_tune=5)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "runs"),
        (("run", "--restarts", "0"), "--restarts must be at least 1, got 0"),
        (("run", "--rows", "0"), "--rows must be at least 1, got 0"),
        (("run", "--fine-tune", "0"), "--fine-tune must be at least 1, got 0"),
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
    monkeypatch.setattr(evaluate, "evaluate_subject", lambda subject: signal.raise_signal(signal.SIGINT))
    assert run("run") == 130
    assert capsys.readouterr().err == "stopped\n"
    assert not (fitted / "evaluation.json").exists()

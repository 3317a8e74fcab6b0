"""The suite of evaluators: on guides whose information is given by construction, and on an untrained pair of digits."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pp_simve.data import Split, load_data
from pp_simve.evaluation import attribute_scores, cluster_scores, content_scores, evaluate_representations, suite
from pp_simve.evaluation.probes.mlp import MLPTraining
from pp_simve.evaluation.records import (
    FAILED,
    NOT_APPLICABLE,
    REPRESENTATIONS,
    NotApplicableError,
    Record,
    score,
    select,
)
from pp_simve.evaluation.subject import EVALUATION_SEED, Effort, Subject
from pp_simve.inference import AmortizedGuide, MLPEncoder
from pp_simve.inference.augmentations import AugmentationPolicy, Parameters, augmentation_policy
from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.tools import unit_range
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

from .pictures import CLASS_PIXELS, CLASSES, TINT_PIXELS, PixelGuide, pictures


class Tint(AugmentationPolicy):
    """Writes ``tint`` on the last row of pixels; ``secret`` leaves no trace."""

    names: tuple[str, ...] = ("tint", "secret")

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        return {name: torch.rand(count, generator=generator) for name in self.names}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        images = images.clone()
        images[:, 0, 2, :] = 0.2 + 0.6 * parameters["tint"].unsqueeze(1)
        return images


class Still(Tint):
    """The image as it is."""

    names: tuple[str, ...] = ()

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return images


SPLITS = pictures(400, 1), pictures(150, 2), pictures(300, 3)


def quick(
    guide: Guide, policy: AugmentationPolicy | None = None, splits: Sequence[Split] = SPLITS, **options: Any
) -> list[Record]:
    return evaluate_representations(guide, policy or Tint(), *splits, **{"seed": 0, **options})


def accuracy(records: list[Record], name: str, probe: str = "linear") -> float | None:
    return score(records, representation=name, task="class", probe=probe)


def r2(records: list[Record], name: str, target: str) -> float | None:
    return score(records, representation=name, task="view", probe="ridge", target=target)


def test_each_representation_predicts_what_is_in_it_and_nothing_else() -> None:
    guide = PixelGuide(z=CLASS_PIXELS, content=TINT_PIXELS).train()
    records = quick(guide)
    assert list(dict.fromkeys(record.representation for record in records)) == list(REPRESENTATIONS)
    for probe in ("linear", "knn"):
        # 300 test images: within four standard deviations of chance.
        assert accuracy(records, "content", probe) == pytest.approx(1 / CLASSES, abs=0.1)
        assert min(accuracy(records, "z", probe), accuracy(records, "backbone", probe)) > 0.99
    assert min(r2(records, "content", "tint"), r2(records, "backbone", "tint")) > 0.999
    assert max(abs(r2(records, *what)) for what in (("z", "tint"), ("style", "tint"), ("content", "secret"))) < 0.03
    assert 1 / CLASSES < accuracy(records, "style") < accuracy(records, "z")  # one class of four
    mean = (r2(records, "content", "tint") + r2(records, "content", "secret")) / 2
    assert r2(records, "content", "mean") == pytest.approx(mean)
    assert guide.training
    assert {dtype for _, dtype in guide.seen} == {torch.float32}
    json.dumps([record.to_json() for record in records], allow_nan=False)
    some = quick(guide, representations=("z", "backbone"))
    assert {record.representation for record in some} == {"z", "backbone"}
    assert set(some) < set(records)
    with pytest.raises(ValueError, match=r"unknown representations \['head'\]; known are backbone, z, content, style"):
        quick(guide, representations=("z", "head"))


def test_the_class_is_predicted_from_clean_images() -> None:
    records = quick(PixelGuide(CLASS_PIXELS, range(9)))
    pixels = [(unit_range(part.images).flatten(1), part.labels) for part in SPLITS]
    assert {probe: accuracy(records, "content", probe) for probe in ("linear", "knn")} == content_scores(*pixels)


def test_what_does_not_apply_has_a_note_and_no_value() -> None:
    unlabelled = [dataclasses.replace(split, labels=None) for split in SPLITS[1:]]
    records = quick(PixelGuide(content=[]), splits=(SPLITS[0], *unlabelled))
    assert {record.representation for record in records} == {"backbone", "z", "style"}  # content has no width
    of_class = {(one.value, one.note) for one in select(records, task="class")}
    assert of_class == {(None, f"{NOT_APPLICABLE}no labels in validation, test")}
    assert r2(records, "z", "tint") > 0.999
    of_views = {(one.value, one.note) for one in select(quick(PixelGuide(), Still()), task="view")}
    assert of_views == {(None, f"{NOT_APPLICABLE}the augmentation policy has no parameters")}


def test_view_parameters_that_do_not_vary_or_are_called_mean() -> None:
    class Fixed(Tint):
        def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
            return {**super().sample(count, generator=generator), "secret": torch.ones(count)}

    class Named(Still):
        names = ("mean",)

    records = quick(PixelGuide(), Fixed())
    assert r2(records, "z", "secret") is None
    assert r2(records, "z", "mean") == r2(records, "z", "tint")
    (failure,) = select(quick(PixelGuide(), Named(), representations=("z",)), task="view")
    assert failure.note.startswith(f"{FAILED}a view parameter may not be called 'mean'")


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    guide = PixelGuide(z=[*CLASS_PIXELS, 6])
    state = torch.get_rng_state()
    first = quick(guide, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert quick(guide, seed=5) == first
    other = quick(guide, seed=6)
    assert r2(first, "z", "mean") != r2(other, "z", "mean")
    assert accuracy(first, "z") == accuracy(other, "z")


def test_splits_have_streams_of_their_own() -> None:
    """With the same images thrice, the same stream would give the same views thrice."""
    drawn: list[Tensor] = []

    class Recording(Tint):
        def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
            drawn.append((parameters := super().sample(count, generator=generator))["secret"].clone())
            return parameters

    same = pictures(100, 1)
    for test in (same, pictures(37, 4)):
        quick(PixelGuide(), Recording(), (same, same, test), effort=Effort(min_views=100))
    assert len({tuple(values.tolist()) for values in drawn[:3]}) == 3
    assert [torch.equal(drawn[place], drawn[3 + place]) for place in (0, 1)] == [True, True]


@pytest.mark.parametrize(
    ("images", "min_views", "max_views", "rows"),
    [(300, 4000, 60_000, 4200), (50, 4000, 120, 100), (400, 1, 60_000, 400), (90, 9, 40, 40)],
)
def test_the_number_of_views(images: int, min_views: int, max_views: int, rows: int) -> None:
    guide, effort = PixelGuide(), Effort(min_views=min_views, max_views=max_views)
    for features, parameters in Subject(guide, None, Tint(), [pictures(images, 1)] * 3, effort=effort).views:
        assert features["z"].shape == (rows, 3)
        assert {name: values.shape for name, values in parameters.items()} == {"tint": (rows,), "secret": (rows,)}
        torch.testing.assert_close(features["z"][:, 0], 0.2 + 0.6 * parameters["tint"])
    assert max(count for count, _ in guide.seen) <= 1024


def test_a_large_split_is_thinned_at_random() -> None:
    class Nothing(Still):
        names = ("nothing",)

    images = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1).expand(200, 1, 3, 3)
    splits, effort = [Split(images, None, None)] * 3, Effort(min_views=10, max_views=50)
    kept = (Subject(PixelGuide([0]), None, Nothing(), splits, effort=effort).views[0][0]["z"] * 255).round()
    assert len(kept.unique()) == 50
    assert kept.max() > 150


class Marked(Tint):
    """Writes three of its parameters on the last row of pixels, and not ``crop_left``."""

    names = ("crop_top", "crop_left", "horizontal_flip", "blur")

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        images = images.clone()
        images[:, 0, 2] = torch.stack([parameters[name] for name in self.names if name != "crop_left"], dim=1)
        return images


def test_differences_of_two_views_parameters_and_their_groups() -> None:
    given = Subject(PixelGuide(CLASS_PIXELS, TINT_PIXELS), None, Marked(), SPLITS, seed=0)
    content, z = (suite.relative_view(given, name) for name in ("content", "z"))
    held, absent = ({target: scores["r2"] for target, scores in found.items()} for found in (content, z))
    assert set(held) == set(absent) == {"mean", "crop", "flip", *Marked.names}
    assert min(held[name] for name in ("crop_top", "horizontal_flip", "blur")) > 0.98
    assert max(abs(value) for value in (*absent.values(), held["crop_left"])) < 0.03
    assert held["crop"] == pytest.approx((held["crop_top"] + held["crop_left"]) / 2)
    assert held["flip"] == pytest.approx(held["horizontal_flip"])
    assert held["mean"] == pytest.approx(sum(held[name] for name in Marked.names) / 4)
    for policy, error in ((Still(), NotApplicableError), (type("Named", (Still,), {"names": ("mean",)})(), ValueError)):
        with pytest.raises(error, match="parameter"):
            suite.relative_view(dataclasses.replace(given, policy=policy), "z")


def test_pairs_of_views_of_each_split_are_of_its_images_and_its_stream() -> None:
    same, other = pictures(100, 1), pictures(37, 4)
    effort = Effort(pairs=100)
    first, second = (
        Subject(PixelGuide(), None, Marked(), (same, same, test), effort=effort).two_views for test in (same, other)
    )
    assert len({tuple(change["blur"].tolist()) for _, change in first}) == 3
    for ((one, two), change), ((again, _), _) in zip(first[:2], second[:2], strict=True):
        assert torch.equal(one["z"], again["z"])
        torch.testing.assert_close(two["z"][:, 2] - one["z"][:, 2], change["blur"])
    for (views, _), split in zip(second, (same, same, other), strict=True):
        for view in views:
            torch.testing.assert_close(view["content"], unit_range(split.images).flatten(1)[:, CLASS_PIXELS])


# The full level, on an untrained pair of digits.

POLICY = augmentation_policy("affine", (1, 16, 16))
TINY = MLPTraining(hidden=8, decays=(0.0,), learning_rate=1e-2, epochs=3)
CHEAP = Effort(rows=200, restarts=1, min_views=100, pairs=100, class_mlp=TINY, view_mlp=TINY)
DIGITS = load_data("digits")


def digits(train: int = 200, test: int = 60) -> tuple[Split, Split, Split]:
    """The first images of each split."""

    def first(split: Split, count: int) -> Split:
        return Split(split.images[:count].clone(), split.labels[:count], None)

    return first(DIGITS.train, train), first(DIGITS.validation, 60), first(DIGITS.test, test)


Pair = tuple[SimVE, AmortizedGuide]
Full = Callable[..., list[Record]]


@pytest.fixture(scope="module")
def pair() -> Pair:
    torch.manual_seed(0)
    prior = GaussianPrior(8, style_variance=0.15)
    model = SimVE(prior, Bernoulli(MLPDecoder(8, (1, 16, 16), hidden=(32,))))
    return model.eval(), AmortizedGuide(MLPEncoder((1, 16, 16), hidden=(32,)), prior).eval()


@pytest.fixture(scope="module")
def full(pair: Pair) -> Full:
    """The full suite on the pair."""

    def evaluated(splits: Sequence[Split] | None = None, **options: Any) -> list[Record]:
        given = {"level": "full", "model": pair[0], "effort": CHEAP, "handwriting": True, **options}
        return evaluate_representations(pair[1], POLICY, *(splits or digits()), **given)

    return evaluated


@pytest.fixture(scope="module")
def whole(full: Full) -> list[Record]:
    return full()


def subject_of(pair: Pair, splits: Sequence[Split] | None = None, **changes: Any) -> Subject:
    return Subject(pair[1], pair[0], splits=splits or digits(), **{"policy": POLICY, "effort": CHEAP, **changes})


def test_every_evaluator_answers(full: Full, whole: list[Record]) -> None:
    """None fails, none is left out, and what does not apply is what digits do not have."""
    assert not [record for record in whole if record.note.startswith(FAILED)]
    without = {(one.task, one.probe, one.metric) for one in whole if one.value is None}
    assert without == {
        ("class", "clusters_full", "accuracy"),  # of the backbone, which is too wide
        ("view", "logistic", "auc"),
        ("attributes", "logistic", "auc"),
        ("generation", "", "bits_per_dim"),
        ("disentanglement", "", "mean"),  # content and style are multiples of z
    }
    found = {(one.task, one.probe, one.metric, one.target) for one in select(whole, representation="z")}
    parameters = ("mean", *POLICY.names)
    information = ["width", "effective_rank", "alignment", "uniformity", "active_units", "prior_information"]
    assert found >= {
        *(("class", probe, "accuracy", "") for probe in ("linear", "mlp", "knn", "clusters_diag", "clusters_full")),
        *(("class", f"knn_{k}_cosine", metric, "") for k in (20, 200) for metric in ("accuracy", "accuracy@5")),
        *(("relative_view", "mlp", "r2", target) for target in parameters),
        *(("class", "clusters_full", metric, "") for metric in ("nmi", "ari", "converged")),
        *(("few_labels", "linear", metric, n) for metric in ("accuracy", "sd", "short_classes") for n in ("1", "10")),
        *(("view", probe, "r2", target) for probe in ("ridge", "mlp") for target in parameters),
        *(("view", "circular", metric, "rotation") for metric in ("r2", "median_error")),
        *(("handwriting", "ridge", "r2", target) for target in ("mean", "slant", "size", "thickness", "centre_x")),
        *(("information", "", metric, "") for metric in information),
        *(("information", "", f"infonce_{part}", "") for part in ("bound", "ceiling", "pairs")),
        *(("information", "", "kl", str(axis)) for axis in range(8)),
    }
    assert [one.target for one in select(whole, task="several_views", metric="accuracy")] == ["1", "2", "4", "8"]
    assert score(whole, task="information", metric="infonce_ceiling") == math.log(60)
    assert min(one.value for one in select(whole, metric="kl")) > -0.01
    assert score(whole, task="generation", metric="mse") > 0
    assert not select(whole, task="fine_tuning")
    assert not select(whole, metric="fid")
    assert all(0 <= one.value <= 1 for one in select(whole, metric="accuracy") if one.value is not None)
    some = full(level="quick")
    probes = {("class", "linear"), ("class", "knn"), ("view", "ridge")}
    assert {(one.task, one.probe) for one in some} == {*probes, ("information", "")}  # that parts are multiples of z
    assert set(some) < set(whole)


def test_spaces_are_those_of_the_test_images(pair: Pair, whole: list[Record]) -> None:
    train, _, test = digits()
    of_train, of_test = (pair[1].embed_batches(split.images).as_dict() for split in (train, test))
    views = subject_of(pair).two_views[2][0]
    for name in ("z", "content"):
        of_space = {one.metric: one.value for one in select(whole, representation=name, task="information")}
        first, second = (part[name] for part in views)
        assert of_space["width"] == 8
        assert of_space["effective_rank"] == pytest.approx(suite.information.effective_rank(of_test[name]))
        assert of_space["active_units"] == suite.active_units(of_test[name])
        assert of_space["alignment"] == pytest.approx(suite.information.alignment(first, second))
        assert of_space["uniformity"] == pytest.approx(suite.information.uniformity(first))
        options = {"covariance": "diag", "restarts": 1, "seed": EVALUATION_SEED}
        clusters = select(whole, representation=name, probe="clusters_diag")
        expected = cluster_scores(of_train[name], (of_test[name], test.labels), **options)
        assert {one.metric: one.value for one in clusters} == {**expected, "chance": 10 / 60}
    # Content 1, style 0.15: −8/2 log(1 − ρ²).
    assert score(whole, metric="prior_information") == pytest.approx(-4 * math.log(1 - 1 / 1.15**2), rel=1e-6)


def test_attributes_and_handwriting_are_predicted_from_clean_images(pair: Pair, full: Full) -> None:
    splits = []
    for split in digits():
        light = split.images.double().mean((1, 2, 3)) > 80
        splits.append(dataclasses.replace(split, attributes=torch.stack([light, torch.ones_like(light)], 1)))
    splits[0].images[3] = 0  # an image without ink has no handwriting, and is left out
    names = ("bright", "always")
    records = full(splits, attribute_names=names, representations=("z",))
    rows = [(pair[1].embed_batches(split.images).z, split.attributes) for split in splits]
    expected = attribute_scores(*rows, names)
    found = {(one.target, one.metric): one.value for one in select(records, task="attributes")}
    assert found == {(target, metric): value for target, of in expected.items() for metric, value in of.items()}
    assert found["always", "auc"] is None
    assert int(subject_of(pair, splits, handwriting=True).ink[0]["slant"].isnan().sum()) == 1
    assert score(records, task="handwriting", target="size") > 0.3


class Painted(AugmentationPolicy):
    """A corner that is lit or not, by a parameter of two values, and a hue that nothing shows."""

    names = ("lit", "hue")

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        lit = (torch.rand(count, generator=generator) > 0.5).float()
        return {"lit": lit, "hue": torch.rand(count, generator=generator) - 0.5}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        images = images.clone()
        images[:, :, :4, :4] = parameters["lit"].view(-1, 1, 1, 1)
        return images


def test_binary_parameters_have_an_auc_and_angles_a_circle(pair: Pair) -> None:
    given = subject_of(pair, policy=Painted())
    binary, angles = suite.view_binary(given, "backbone"), suite.view_angles(given, "backbone")
    assert (set(binary), set(angles)) == ({"mean", "lit"}, {"hue"})
    assert binary["lit"]["auc"] > 0.95
    assert angles["hue"]["r2"] < 0.2
    assert angles["hue"]["median_error"] == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("shared", [0, 2])
def test_information_of_features_wider_than_there_are_images(pair: Pair, shared: int) -> None:
    """A few strong directions that views share, among many more of noise: found where they are, and not invented."""
    generator = torch.Generator().manual_seed(0)

    def views() -> list[dict[str, Tensor]]:
        strong = 10 * torch.randn(200, shared, generator=generator)
        content = torch.cat([strong, torch.zeros(200, 300 - shared)], dim=1)
        return [{"wide": content + torch.randn(200, 300, generator=generator)} for _ in range(2)]

    given = subject_of(pair)
    given.__dict__["two_views"] = [(views(), {}) for _ in range(3)]
    found = suite.infonce(given, "wide")
    # ρ = 100/101 in each shared axis; 2 · 1.96 nats are below, but not far below, the ceiling of log 200 = 5.3.
    expected = -shared / 2 * math.log(1 - (100 / 101) ** 2)
    assert expected - 0.7 < found["infonce_bound"] < expected + 0.2
    assert found["infonce_ceiling"] == pytest.approx(math.log(200))
    assert found["infonce_pairs"] == 200


def test_what_costs_much_is_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    given = subject_of(pair, digits(train=300), effort=dataclasses.replace(CHEAP, rows=40))
    train, validation, test = given.few_labelled("z")
    assert [len(part[0]) for part in (train, validation, test)] == [40, 40, 60]
    assert torch.equal(train[0], given.labelled("z")[0][0][:40])
    for rows, pairs in ((40, 40), (10_000, 300)):
        more = subject_of(pair, digits(train=300), effort=dataclasses.replace(CHEAP, rows=rows))
        found = [[len(part["z"]) for part in views] for views, _ in more.two_views]
        assert found == [[pairs] * 2, *[[min(rows, 60)] * 2] * 2]
    monkeypatch.setattr(suite, "WIDEST_FULL", 7)
    with pytest.raises(NotApplicableError, match="take minutes; the limit is"):
        suite.clusters(given, "z", "full")


def test_two_views_are_of_the_same_image(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pp_simve.evaluation.tasks.classes._VIEWS_IN_MEMORY", 14)
    splits = digits(test=40)
    clean = pair[1].embed_batches(splits[2].images).as_dict()
    for part in subject_of(pair, splits, policy=Still()).two_views[2][0]:
        for name, values in part.items():
            torch.testing.assert_close(values, clean[name], rtol=1e-4, atol=1e-5)
    first, second = subject_of(pair, splits).two_views[2][0]
    assert not torch.equal(first["z"], second["z"])


# Failures cost their own scores alone.


def failures(records: list[Record], words: str) -> set[tuple[str, str]]:
    """Task and probe or metric of the records whose note has these words."""
    return {(one.task, one.probe or one.metric) for one in records if words in one.note and one.value is None}


@pytest.fixture
def changed_posterior(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces parts of the guide's posterior by what a function makes of them."""

    def change(**parts: Callable[[Tensor], Tensor]) -> None:
        plain = AmortizedGuide.posterior

        def posterior(guide: AmortizedGuide, views: Any) -> Representation:
            found = plain(guide, views)
            return dataclasses.replace(found, **{name: of(getattr(found, name)) for name, of in parts.items()})

        monkeypatch.setattr(AmortizedGuide, "posterior", posterior)

    return change


def test_one_class_fails_alone(full: Full) -> None:
    records = full([dataclasses.replace(split, labels=torch.full((len(split),), 3)) for split in digits()])
    probes = ("linear", "mlp", "knn", "knn_20_cosine", "knn_200_cosine", "clusters_diag", "clusters_full")
    of_class = {("class", probe) for probe in probes}
    expected = of_class | {("few_labels", "linear"), ("several_views", "linear")}
    assert failures(records, FAILED) == failures(records, "only class 3") == expected
    assert failures(records, "scores of both the class and the view") == {("disentanglement", "mean")}
    for name in REPRESENTATIONS:
        assert r2(records, name, "mean") is not None
        assert score(records, representation=name, metric="effective_rank") > 1
    assert score(records, metric="mse") > 0


def test_features_that_are_not_finite_cost_only_their_own_scores(
    full: Full, whole: list[Record], changed_posterior: Callable[..., None]
) -> None:
    changed_posterior(content=lambda content: content * math.nan)
    records = full()
    for entries in [{"task": "generation"}, *({"representation": name} for name in ("backbone", "z", "style"))]:
        assert select(records, **entries) == select(whole, **entries)
    content = select(records, representation="content")
    finite = [one for one in content if one.value is not None or one.note.startswith(NOT_APPLICABLE)]
    assert {(one.task, one.probe or one.metric) for one in finite} == {
        ("information", "width"),
        ("view", "logistic"),
        ("attributes", "logistic"),
    }
    for what in (("class", "linear"), ("class", "clusters_diag"), ("view", "ridge"), ("information", "infonce_bound")):
        assert what in failures(content, "NaN or infinite")


def test_a_constant_representation_predicts_nothing(full: Full, changed_posterior: Callable[..., None]) -> None:
    changed_posterior(z=torch.ones_like)
    records = full()
    of_z = select(records, representation="z")
    assert max(score(of_z, task="class", probe="linear"), score(of_z, task="class", probe="mlp")) < 0.25
    assert abs(r2(records, "z", "mean")) < 0.1
    assert score(of_z, probe="clusters_diag", metric="nmi") == 0
    assert score(of_z, metric="effective_rank") == pytest.approx(1, abs=1e-4)
    assert score(of_z, metric="active_units") == 0
    assert failures(of_z, "the same in all rows") == {("information", "infonce_bound")}
    # z predicts neither class nor view, so there is nothing to share out.
    assert score(records, task="disentanglement", metric="mean") is None


def test_fewer_images_than_clusters_and_no_model(full: Full) -> None:
    train, validation, test = digits()
    index = torch.tensor([train.labels.tolist().index(digit) for digit in range(6)])
    few = Split(train.images[index], train.labels[index], None)
    records = full((few, validation, test), representations=("z",), model=None)
    assert failures(records, "clusters cannot be fitted to 6 rows") == {("class", "clusters_diag")}
    assert failures(records, "there are 6 rows for 10 clusters") == {("class", "clusters_full")}
    assert failures(records, "there are fewer than 20 train images") == {("class", "knn_20_cosine")}
    assert {one.target for one in select(records, task="few_labels")} == {"1"}
    assert all(0 < score(records, task="class", probe=probe) <= 1 for probe in ("linear", "mlp", "knn"))
    without = {("information", "prior_information"), ("information", "kl"), ("generation", "mse")}
    assert failures(records, "no model of views of one modality") == without

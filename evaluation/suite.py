"""The suite: one table of evaluators at two levels, from a fitted guide to score records.

``quick`` is what a fit computes at its end: linear, k-NN and ridge probes, and across modalities retrieval, zero-shot
classes and the classes from all together. ``full`` is everything. One more evaluator is one more row of `EVALUATORS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pp_simve.evaluation.clustering import Covariance, cluster_scores
from pp_simve.evaluation.disentanglement import PARTS, disentanglement_scores
from pp_simve.evaluation.frechet import frechet_distance, inception_features
from pp_simve.evaluation.generation import sample
from pp_simve.evaluation.information import (
    CanonicalCritic,
    alignment,
    effective_rank,
    gaussian_information,
    mutual_information,
    uniformity,
)
from pp_simve.evaluation.latent_axes import active_units, axis_divergence
from pp_simve.evaluation.multimodal import ModalitySubject, SingleModality
from pp_simve.evaluation.probes.base import checked_features
from pp_simve.evaluation.probes.knn import KNNProbe
from pp_simve.evaluation.probes.logistic import LinearProbe
from pp_simve.evaluation.probes.mlp import MLPProbe, MLPRegressionProbe
from pp_simve.evaluation.reconstruction import reconstruction_scores
from pp_simve.evaluation.records import FAILED, MEAN, NOT_APPLICABLE, REPRESENTATIONS, Record, score
from pp_simve.evaluation.retrieval import retrieval_scores
from pp_simve.evaluation.subject import EVALUATION_SEED, Effort, LabelledImages, NotApplicableError, Subject
from pp_simve.evaluation.tasks.attributes import attribute_scores
from pp_simve.evaluation.tasks.few_labels import few_label_scores
from pp_simve.evaluation.tasks.fine_tuning import fine_tuned_scores
from pp_simve.evaluation.tasks.several_views import several_view_scores
from pp_simve.evaluation.tasks.view_parameters import MEAN as MEAN_R2
from pp_simve.evaluation.tasks.view_parameters import angle_scores, style_scores
from pp_simve.evaluation.zero_shot import zero_shot_scores
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import random_state_kept, unit_range
from pp_simve.models import SimVE

Level = Literal["quick", "full"]

FAILURES = (ArithmeticError, ImportError, OSError, RuntimeError, ValueError)
"""What an evaluator may raise without ending the others."""
FEW_PENALTIES = (1.0, 1e-1, 1e-2)
"""Of probes on few labels: the weakest take the longest, and few rows seldom choose them."""
PERIODS = {"rotation": 360.0, "hue": 1.0}
"""View parameters that are angles, and what a full turn is in their units."""
LATENTS = ("z", "content", "style")
GENERATED_ROWS = 2_000
"""Test images at most that are decoded, 16 draws each, for bits per dimension."""
IMAGES_AN_AXIS = 20
"""Train images for each axis that a critic of mutual information is fitted to."""
AXIS_ROWS = 1_000
"""Test images at most that the KL of an axis is a mean over."""
SAMPLES_AT_ONCE = 256
WIDEST_FULL = 128
"""Features at most of clusters with full covariances, whose cost grows with the square of them and more."""


class Score(NamedTuple):
    """What an evaluator fills into a `Record`."""

    metric: str
    value: float | None
    target: str = ""
    note: str = ""


@dataclass(frozen=True)
class Evaluator:
    """A row of the table.

    Attributes:
        task, metric, probe: of the records; `metric` is that of the record which stands for one without scores.
        scores: from the subject, and the representation's name, to scores. Raises `NotApplicableError` where there is
            nothing to measure, and one of `FAILURES` where it fails.
        of: representations it applies to; ``("",)`` for the guide or program as a whole.
        quick: whether it is of the quick level.
    """

    task: str
    metric: str
    scores: Callable[[Any, str], Iterable[Score]]
    probe: str = ""
    of: tuple[str, ...] = REPRESENTATIONS
    quick: bool = False


def evaluate_representations(
    guide: Guide,
    policy: AugmentationPolicy,
    train: LabelledImages,
    validation: LabelledImages,
    test: LabelledImages,
    *,
    level: Level = "quick",
    model: SimVE | None = None,
    seed: int = EVALUATION_SEED,
    representations: Sequence[str] = REPRESENTATIONS,
    effort: Effort | None = None,
    attribute_names: Sequence[str] = (),
    handwriting: bool = False,
) -> list[Record]:
    """Scores of a frozen guide: probes fitted on train, chosen on validation, reported once on test.

    Class, attributes and handwriting are predicted from clean images, one view each. View parameters are predicted from
    views that `policy` draws afresh, embedded one by one; images of different splits share no view and no random
    stream. Each evaluator is attempted by itself: one that does not apply or fails leaves a record without a value
    whose note says why.

    Args:
        guide: on the device of the images.
        policy: draws the views; its parameters are the targets of the view probes.
        train, validation, test: images, and their classes where they are known.
        level: ``"quick"`` or ``"full"``.
        model: fitted with the guide; without it nothing is decoded, and no KL from the prior computed.
        seed, representations, effort, attribute_names, handwriting: as of `Subject`.

    Raises:
        ValueError: an unknown representation.
    """
    given = (seed, effort or Effort(), representations, attribute_names, handwriting)
    return evaluate(Subject(guide, model, policy, (train, validation, test), *given), level)


def evaluate_modalities(
    guide: Guide,
    policies: Mapping[str, AugmentationPolicy],
    splits: Mapping[str, Sequence[LabelledImages]],
    **options: Any,
) -> list[Record]:
    """Scores of a guide of several modalities: each alone with the others missing, then one from another.

    Args:
        guide: of several modalities, on the device of the images.
        policies: draw the views of each modality.
        splits: train, validation and test of each modality, of the same things.
        options: level, seed, representations, effort and attribute_names, as of `evaluate_representations`.
    """
    level: Level = options.pop("level", "quick")
    records = []
    for name, policy in policies.items():
        alone = Subject(SingleModality(guide, name), None, policy, splits[name], modality=name, **options)
        records += evaluate(alone, level)
    return records + evaluate(ModalitySubject(guide, splits), level, ACROSS)


def evaluate(
    subject: Subject | ModalitySubject, level: Level = "full", evaluators: Sequence[Evaluator] | None = None
) -> list[Record]:
    """The records of the evaluators of a level, `EVALUATORS` by default, in the order of the table."""
    for evaluator in EVALUATORS if evaluators is None else evaluators:
        if level == "full" or evaluator.quick:
            for name in evaluator.of:
                if not name or name in subject.names:
                    subject.found.extend(attempt(evaluator, subject, name))
    return list(subject.found)


def attempt(evaluator: Evaluator, subject: Subject | ModalitySubject, name: str) -> list[Record]:
    """The records of one evaluator and representation; one with a note where there are no scores."""
    record = Record(evaluator.task, evaluator.metric, None, name, evaluator.probe, modality=subject.modality)
    try:
        return [dataclasses.replace(record, **found._asdict()) for found in evaluator.scores(subject, name)]
    except NotApplicableError as reason:
        note = f"{NOT_APPLICABLE}{reason}"
    except FAILURES as error:
        note = f"{FAILED}{str(error) or type(error).__name__}"
    return [dataclasses.replace(record, note=note)]


# Class, from clean images.


def class_probe(probe: Callable[[], LinearProbe | KNNProbe]) -> Callable[[Subject | ModalitySubject, str], list[Score]]:
    def scores(subject: Subject | ModalitySubject, name: str) -> list[Score]:
        train, validation, test = subject.labelled(name)
        return [Score("accuracy", probe().fit(*train, *validation).score(*test))]

    return scores


def mlp(subject: Subject, name: str) -> list[Score]:
    train, validation, test = subject.few_labelled(name)
    return [Score("accuracy", MLPProbe(subject.effort.class_mlp).fit(*train, *validation).score(*test))]


def few_labels(subject: Subject, name: str) -> list[Score]:
    """By labels a class, as many as every class of train and validation has; of 100 only where some class has them."""
    train, validation, test = subject.labelled(name)
    largest = int(torch.unique(train[1], return_counts=True)[1].max())
    counts = [count for count in (1, 10, 100) if count <= largest]
    found = few_label_scores(
        train, validation, test, counts=counts, draws=3, seed=subject.seed, penalties=FEW_PENALTIES
    )
    return _of_targets(found, {"mean": "accuracy"})


def clusters(covariance: Covariance) -> Callable[[Subject, str], list[Score]]:
    """Clusters of few train images against the classes of test."""

    def scores(subject: Subject, name: str) -> list[Score]:
        train, _, test = subject.few_labelled(name)
        rows, width = train[0].shape
        classes = len(torch.unique(test[1]))
        if covariance == "full" and width > WIDEST_FULL:
            raise NotApplicableError(f"full covariances of {width} features take minutes; the limit is {WIDEST_FULL}")
        if covariance == "full" and rows < 2 * classes * width:
            raise NotApplicableError(
                f"full covariances of {width} features need {2 * width} rows a cluster, and there are {rows} rows for "
                f"{classes} clusters"
            )
        restarts = subject.effort.restarts
        found = cluster_scores(train[0], test, covariance=covariance, restarts=restarts, seed=subject.seed)
        return _metrics(found)

    return scores


def several_views(subject: Subject, name: str) -> list[Score]:
    """Class from content that is inferred from 1, 2, 4 and 8 views of few images."""
    train, validation, test = (
        (subject.few(split.images), subject.few(labels))
        for split, labels in zip(subject.splits, subject.labels, strict=True)
    )
    found = several_view_scores(subject.guide, subject.policy, train, validation, test, seed=subject.seed)
    return [Score("accuracy", accuracy, count) for count, accuracy in found.items()]


def fine_tuning(subject: Subject, name: str) -> list[Score]:
    if (epochs := subject.effort.fine_tune) is None:
        return []
    train, validation, test = (
        (split.images, labels) for split, labels in zip(subject.splits, subject.labels, strict=True)
    )
    found = fine_tuned_scores(subject.guide, train, validation, test, epochs=epochs, seed=subject.seed)
    return _metrics(found)


# View parameters, attributes and handwriting.


def view_ridge(subject: Subject, name: str) -> list[Score]:
    return _r2(style_scores(*subject.parametrised(name)))


def view_mlp(subject: Subject, name: str) -> list[Score]:
    """R² as `style_scores`, by `MLPRegressionProbe` on few views."""
    train, validation, test = ((features, _side_by_side(y)) for features, y in subject.parametrised(name))
    fitted = (subject.few(values) for values in (*train, *validation))
    r2 = MLPRegressionProbe(subject.effort.view_mlp).fit(*fitted).score(*test)
    return _r2({MEAN_R2: float(r2.nanmean()), **dict(zip(subject.views[0][1], r2.tolist(), strict=True))})


def view_binary(subject: Subject, name: str) -> list[Score]:
    """`attribute_scores` of the view parameters that are 0 or 1."""
    splits = subject.parametrised(name)
    binary = [key for key, values in splits[0][1].items() if bool(((values == 0) | (values == 1)).all())]
    if not binary:
        raise NotApplicableError("no view parameter is binary")
    train, validation, test = ((part[0], _side_by_side(part[1], binary) > 0.5) for part in splits)
    return _of_targets(attribute_scores(train, validation, test, binary))


def view_angles(subject: Subject, name: str) -> list[Score]:
    """`angle_scores` of the view parameters that are angles."""
    splits = subject.parametrised(name)
    periods = {key: period for key, period in PERIODS.items() if key in splits[0][1]}
    if not periods:
        raise NotApplicableError("no view parameter is an angle")
    train, validation, test = ((part[0], {key: part[1][key] for key in periods}) for part in splits)
    return _of_targets(angle_scores(train, validation, test, periods))


def attributes(subject: Subject, name: str) -> list[Score]:
    train, validation, test = subject.attributed(name)
    return _of_targets(attribute_scores(train, validation, test, subject.attribute_names))


def handwriting(subject: Subject, name: str) -> list[Score]:
    """R² of the measures of `handwriting_style`; images without a slant are left out."""
    splits = []
    for parts, measured in zip(subject.clean, subject.ink, strict=True):
        whole = torch.stack(list(measured.values())).isfinite().all(0)
        splits.append((parts[name][whole], {key: values[whole] for key, values in measured.items()}))
    return _r2(style_scores(*splits))


# Information, and how a representation fills its space.


def of_test(metric: str, measure: Callable[[Tensor], float]) -> Callable[[Subject, str], list[Score]]:
    """A measure of the clean test images' representations."""
    return lambda subject, name: [Score(metric, measure(subject.clean[2][name]))]


def aligned(subject: Subject, name: str) -> list[Score]:
    first, second = subject.two_views["test"]
    return [Score("alignment", alignment(first[name], second[name]))]


def uniform(subject: Subject, name: str) -> list[Score]:
    return [Score("uniformity", uniformity(subject.two_views["test"][0][name]))]


def infonce(subject: Subject, name: str) -> list[Score]:
    """InfoNCE between two views of test images, by a critic fitted to two views of train images.

    Both are first projected on the leading principal axes of train, no more than one for 20 images: a critic of many
    more axes fits noise, and a projection shares no more than the whole, so the bound holds for the whole.
    """
    first, second = (part[name].double() for part in subject.two_views["train"])
    images = len(subject.few(subject.splits[0].images))
    axes = min(first.shape[1], max(1, images // IMAGES_AN_AXIS))
    checked_features(first, "train")
    # Eigenvalues ascend: the last axes are those along which the views vary most.
    leading = torch.linalg.eigh(torch.atleast_2d(torch.cat([first, second]).T.cov())).eigenvectors[:, -axes:]
    critic = CanonicalCritic.fit(first @ leading, second @ leading)
    seen, seen_again = (part[name].double() @ leading for part in subject.two_views["test"])
    found = mutual_information(seen, seen_again, critic)
    return [
        Score("infonce_bound", found["bound"]),
        Score("infonce_ceiling", found["ceiling"]),
        Score("infonce_pairs", len(seen)),
    ]


def prior_information(subject: Subject, name: str) -> list[Score]:
    """The closed form for z under the fitted prior."""
    return [Score("prior_information", gaussian_information(*_axes_of_z(subject)))]


def divergence(subject: Subject, name: str) -> list[Score]:
    """KL of the posterior from the prior in each axis of z, from few clean test images."""
    _axes_of_z(subject)
    if not subject.guide.has_density:
        raise NotApplicableError("the guide's z is deterministic, and its KL infinite")
    images = subject.splits[2].images[:AXIS_ROWS]
    found = axis_divergence(subject.guide, subject.program.prior, images, seed=subject.seed)
    return [Score("kl", value, str(axis)) for axis, value in enumerate(found.tolist())]


def disentanglement(subject: Subject, name: str) -> list[Score]:
    """`disentanglement_scores` of the linear probes' accuracies and the ridge probes' mean R²."""
    test = subject.labels[2]
    chance = int(torch.unique(test, return_counts=True)[1].max()) / len(test)
    classes, views = {}, {}
    for part in PARTS:
        accuracy = score(subject.found, task="class", probe="linear", representation=part)
        r2 = score(subject.found, task="view", probe="ridge", target=MEAN, representation=part)
        if accuracy is None or r2 is None:
            raise NotApplicableError(f"{part} has no scores of both the class and the view")
        classes[part], views[part] = accuracy, r2
    return _metrics(disentanglement_scores(classes, views, chance))


# Generation.


def reconstruction(subject: Subject, name: str) -> list[Score]:
    images = subject.splits[2].images[:GENERATED_ROWS]
    found: dict[str, Any] = dict(reconstruction_scores(subject.decoder, subject.guide, images, seed=subject.seed))
    notes = found.pop("notes", {})
    return [Score(metric, value, note=notes.get(metric, "")) for metric, value in found.items()]


def fid(subject: Subject, name: str) -> list[Score]:
    """Of as many samples of the prior as there are test images, few where there are many."""
    if (weights := subject.effort.fid_weights) is None:
        return []
    model, real = subject.decoder, subject.few(subject.splits[2].images)
    seen = unit_range(real[:SAMPLES_AT_ONCE])[None]
    drawn = []
    with random_state_kept(real.device):
        torch.manual_seed(subject.seed)
        for start in range(0, len(real), SAMPLES_AT_ONCE):
            pictures, title = sample(model, subject.guide, seen, min(SAMPLES_AT_ONCE, len(real) - start))
            drawn.append(inception_features(pictures, weights))
    distance = frechet_distance(inception_features(real, weights), torch.cat(drawn))
    return [Score("fid", distance, note=title), Score("fid_images", len(real))]


# Across modalities.


def retrieval(subject: ModalitySubject, name: str) -> list[Score]:
    """Content from one modality among the contents from another, of test."""
    return _of_targets(
        {
            direction: retrieval_scores(subject.contents[first][2], subject.contents[second][2])
            for direction, first, second in subject.directions
        }
    )


def zero_shot(subject: ModalitySubject, name: str) -> list[Score]:
    """Classes of test contents from one modality; the prompts are train contents from another."""
    train, _, test = subject.labels
    return _of_targets(
        {
            direction: zero_shot_scores(subject.contents[first][2], test, subject.contents[second][0], train)
            for direction, first, second in subject.directions
        }
    )


WHOLE = ("",)
EVALUATORS = (
    Evaluator("class", "accuracy", class_probe(LinearProbe), "linear", quick=True),
    Evaluator("class", "accuracy", class_probe(KNNProbe), "knn", quick=True),
    Evaluator("class", "accuracy", mlp, "mlp"),
    Evaluator("few_labels", "accuracy", few_labels, "linear"),
    Evaluator("class", "accuracy", clusters("diag"), "clusters_diag"),
    Evaluator("class", "accuracy", clusters("full"), "clusters_full"),
    Evaluator("several_views", "accuracy", several_views, "linear", ("content",)),
    Evaluator("fine_tuning", "accuracy", fine_tuning, of=WHOLE),
    Evaluator("view", "r2", view_ridge, "ridge", quick=True),
    Evaluator("view", "r2", view_mlp, "mlp"),
    Evaluator("view", "auc", view_binary, "logistic"),
    Evaluator("view", "r2", view_angles, "circular"),
    Evaluator("attributes", "auc", attributes, "logistic"),
    Evaluator("handwriting", "r2", handwriting, "ridge"),
    Evaluator("information", "width", of_test("width", lambda features: features.shape[1])),
    Evaluator("information", "active_units", of_test("active_units", active_units), of=LATENTS),
    Evaluator("information", "effective_rank", of_test("effective_rank", effective_rank)),
    Evaluator("information", "alignment", aligned),
    Evaluator("information", "uniformity", uniform),
    Evaluator("information", "infonce_bound", infonce),
    Evaluator("information", "prior_information", prior_information, of=("z",)),
    Evaluator("information", "kl", divergence, of=("z",)),
    Evaluator("disentanglement", "mean", disentanglement, of=WHOLE),
    Evaluator("generation", "mse", reconstruction, of=WHOLE),
    Evaluator("generation", "fid", fid, of=WHOLE),
)
"""Of the views of one modality."""

ACROSS = (
    Evaluator("retrieval", "recall@1", retrieval, of=("content",), quick=True),
    Evaluator("zero_shot", "accuracy", zero_shot, of=("content",), quick=True),
    Evaluator("together", "accuracy", class_probe(LinearProbe), "linear", ("content",), quick=True),
    Evaluator("together", "accuracy", class_probe(KNNProbe), "knn", ("content",), quick=True),
)
"""Of several modalities."""


def _axes_of_z(subject: Subject) -> tuple[Tensor, Tensor]:
    prior = subject.program.prior
    if (variances := prior.axis_variances()) is None:
        raise NotApplicableError(f"under {type(prior).__name__} the axes of z have no Gaussian with known variances")
    return variances


def _side_by_side(parameters: Mapping[str, Tensor], names: Sequence[str] | None = None) -> Tensor:
    return torch.stack([parameters[name].double() for name in names or parameters], dim=1)


def _metrics(found: Mapping[str, float | None]) -> list[Score]:
    return [Score(metric, value) for metric, value in found.items()]


def _of_targets(
    found: Mapping[str, Mapping[str, float | None]], renamed: Mapping[str, str] | None = None
) -> list[Score]:
    """Scores by target and metric."""
    names = renamed or {}
    return [
        Score(names.get(metric, metric), value, target)
        for target, metrics in found.items()
        for metric, value in metrics.items()
    ]


def _r2(found: Mapping[str, float]) -> list[Score]:
    """The scores of `style_scores`; None for what is undefined."""
    return [
        Score("r2", None if math.isnan(value) else value, MEAN if target == MEAN_R2 else target)
        for target, value in found.items()
    ]

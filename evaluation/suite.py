"""The suite: one table of evaluators at two levels, from a fitted guide to score records.

``quick`` is what a fit computes at its end: linear, k-NN and ridge probes, and across modalities retrieval, zero-shot
classes and the classes from all together. ``full`` is everything. One more evaluator is one more row of `EVALUATORS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pp_simve.evaluation import information
from pp_simve.evaluation.clustering import Covariance, cluster_scores
from pp_simve.evaluation.disentanglement import PARTS, disentanglement_scores
from pp_simve.evaluation.frechet import frechet_distance, inception_features
from pp_simve.evaluation.generation import sample
from pp_simve.evaluation.latent_axes import active_units, axis_divergence, axis_variances
from pp_simve.evaluation.multimodal import ModalitySubject, SingleModality, retrieval_scores, zero_shot_scores
from pp_simve.evaluation.probes.base import ClassProbe, checked_features
from pp_simve.evaluation.probes.knn import KNNProbe, WeightedKNNProbe
from pp_simve.evaluation.probes.logistic import LinearProbe
from pp_simve.evaluation.probes.mlp import MLPProbe, MLPRegressionProbe
from pp_simve.evaluation.reconstruction import reconstruction_scores
from pp_simve.evaluation.records import (
    BASELINES,
    FAILED,
    MEAN,
    MULTIPLE,
    NOT_APPLICABLE,
    REPRESENTATIONS,
    NotApplicableError,
    Record,
    score,
)
from pp_simve.evaluation.subject import LabelledImages, Subject, commonest
from pp_simve.evaluation.tasks.attributes import attribute_scores
from pp_simve.evaluation.tasks.classes import few_label_scores, several_view_scores
from pp_simve.evaluation.tasks.fine_tuning import fine_tuned_scores
from pp_simve.evaluation.tasks.view_parameters import MEAN as MEAN_R2
from pp_simve.evaluation.tasks.view_parameters import angle_scores, style_scores
from pp_simve.inference.augmentations import PARAMETER_GROUPS, AugmentationPolicy
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
GENERATED_ROWS = 2_000
"""Test images at most that are decoded, 16 draws each, for bits per dimension."""
IMAGES_AN_AXIS = 20
"""Train images for each axis that a critic of mutual information is fitted to."""
AXIS_ROWS = 1_000
"""Test images at most that the KL of an axis is a mean over."""
SAMPLES_AT_ONCE = 256
MULTIPLE_NOTE = "z of a single view times a number; all scores are those of z"
SCALED = ("active_units",)
"""Metrics that change when a representation is multiplied by a number."""
COMPARED = (*REPRESENTATIONS, *BASELINES)
"""What the scores compare."""
WIDEST_FULL = 128
"""Features at most of clusters with full covariances, whose cost grows with the square of them and more."""

Found = Mapping[str, Any]
"""Scores by metric, or by target and metric: a float, None where it is undefined, or a pair of it and a note."""

Announce = Callable[[str], AbstractContextManager[object]]
"""Called with what is evaluated next, which is done in the context that it returns."""


class Evaluator(NamedTuple):
    """A row of the table.

    Attributes:
        task, metric, probe: of the records; `metric` is that of the record which stands for one without scores.
        scores: of a subject and the representation's name; raises `NotApplicableError` or one of `FAILURES`.
        of: representations it applies to; ``("",)`` for the guide or program as a whole.
        quick: whether it is of the quick level.
    """

    task: str
    metric: str
    scores: Callable[[Any, str], Found]
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
    announce: Announce = nullcontext,
    **options: Any,
) -> list[Record]:
    """Scores of a frozen guide: probes fitted on train, chosen on validation, reported once on test.

    Class, attributes and handwriting are predicted from clean images, one view each. View parameters are predicted from
    views that `policy` draws afresh, embedded one by one; images of different splits share no view and no random
    stream. Each evaluator is attempted by itself: one that does not apply or fails leaves a record without a value
    whose note says why. Without a model nothing is decoded, and no KL from the prior computed. Arguments and errors as
    of `Subject`.
    """
    return evaluate(Subject(guide, model, policy, (train, validation, test), **options), level, announce)


def evaluate_modalities(
    guide: Guide,
    policies: Mapping[str, AugmentationPolicy],
    splits: Mapping[str, Sequence[LabelledImages]],
    *,
    level: Level = "quick",
    announce: Announce = nullcontext,
    untrained: Guide | None = None,
    **options: Any,
) -> list[Record]:
    """Scores of a guide of several modalities: each alone with the others missing, then one from another.

    Args:
        policies: draw the views of each modality.
        splits: train, validation and test of each modality, of the same things.
        guide: with an encoder per modality.
        level: as for `evaluate_representations`.
        announce: as for `evaluate_representations`.
        untrained: the guide before the fit, for the baseline of this name.
        options: as for `evaluate_representations`.
    """
    records = []
    for name, policy in policies.items():
        before = None if untrained is None else SingleModality(untrained, name)
        options |= {"modality": name, "untrained": before}
        alone = Subject(SingleModality(guide, name), None, policy, splits[name], **options)
        records += evaluate(alone, level, announce)
    return records + evaluate(ModalitySubject(guide, splits), level, announce)


def evaluate(subject: Subject | ModalitySubject, level: Level, announce: Announce = nullcontext) -> list[Record]:
    """The records of the evaluators of a level, in the order of the table."""
    with announce("embedding images"):
        names = subject.names
    table = EVALUATORS if isinstance(subject, Subject) else ACROSS
    due = [(one, name) for one in table for name in one.of if level == "full" or one.quick if not name or name in names]
    multiples = subject.multiples if isinstance(subject, Subject) else []
    subject.found.extend(
        Record("information", MULTIPLE, 1.0, name, modality=subject.modality, note=MULTIPLE_NOTE) for name in multiples
    )
    of_z: list[Record] = []
    for place, (evaluator, name) in enumerate(due, 1):
        if name in multiples and "z" in evaluator.of and evaluator.metric not in SCALED:
            subject.found.extend(dataclasses.replace(one, representation=name) for one in of_z)
            continue
        words = (subject.modality, name, evaluator.task, evaluator.probe or evaluator.metric)
        with announce(f"{place} of {len(due)}: {' '.join(filter(None, words)).replace('_', ' ')}"):
            records = _attempt(evaluator, subject, name)
        subject.found.extend(records)
        of_z = records if name == "z" else of_z
    return list(subject.found)


def _attempt(evaluator: Evaluator, subject: Subject | ModalitySubject, name: str) -> list[Record]:
    """The records of one evaluator and representation; one with a note where there are no scores."""
    empty = Record(evaluator.task, evaluator.metric, None, name, evaluator.probe, modality=subject.modality)
    try:
        records = []
        for target, scores in evaluator.scores(subject, name).items():
            nested = isinstance(scores, Mapping)
            for metric, found in scores.items() if nested else [(target, scores)]:
                value, note = found if isinstance(found, tuple) else (found, "")
                value = None if value is None or math.isnan(value) else value
                changes = {"metric": metric, "value": value, "target": target if nested else "", "note": note}
                records.append(dataclasses.replace(empty, **changes))
        return records
    except NotApplicableError as reason:
        note = f"{NOT_APPLICABLE}{reason}"
    except FAILURES as error:
        note = f"{FAILED}{str(error) or type(error).__name__}"
    return [dataclasses.replace(empty, note=note)]


# Class, from clean images.


def mlp(subject: Subject, name: str) -> Found:
    return _accuracy(MLPProbe(subject.effort.class_mlp), subject.few_labelled(name))


def knn_cosine(subject: Subject, name: str, k: int) -> Found:
    """By `WeightedKNNProbe`; among the five classes of most votes, too, where there are more than five."""
    train, validation, test = subject.labelled(name)
    if len(train[0]) < k:
        raise NotApplicableError(f"there are fewer than {k} train images")
    probe = WeightedKNNProbe(k).fit(*train, *validation)
    first, among_five = probe.top_accuracies(*test, counts=(1, 5))
    return {"accuracy": first, **subject.chance} | ({"accuracy@5": among_five} if len(probe.classes) > 5 else {})


def few_labels(subject: Subject, name: str) -> Found:
    """By labels a class, as many as every class of train and validation has; of 100 only where some class has them."""
    train, validation, test = subject.labelled(name)
    largest = int(torch.unique(train[1], return_counts=True)[1].max())
    counts = [count for count in (1, 10, 100) if count <= largest]
    found = few_label_scores(
        train, validation, test, counts=counts, draws=3, seed=subject.seed, penalties=FEW_PENALTIES
    )
    return {count: {"accuracy": of.pop("mean"), **of, **subject.chance} for count, of in found.items()}


def clusters(subject: Subject, name: str, covariance: Covariance) -> Found:
    """Clusters of few train images against the classes of test."""
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
    return {**found, **subject.chance}


def several_views(subject: Subject, name: str) -> Found:
    """Class from content that is inferred from 1, 2, 4 and 8 views of few images."""
    few = [(subject.few(images), subject.few(labels)) for images, labels in subject.classified]
    found = several_view_scores(subject.guide, subject.policy, *few, seed=subject.seed)
    return {count: {"accuracy": accuracy, **subject.chance} for count, accuracy in found.items()}


def fine_tuning(subject: Subject, name: str) -> Found:
    if (epochs := subject.effort.fine_tune) is None:
        return {}
    found = fine_tuned_scores(subject.guide, *subject.classified, epochs=epochs, seed=subject.seed)
    return {**found, **subject.chance}


# View parameters, attributes and handwriting.


def view_mlp(subject: Subject, name: str) -> Found:
    """`style_scores` of `MLPRegressionProbe`, fitted on few views."""
    *fitted, test = subject.parametrised(name)
    few = [(subject.few(x), {key: subject.few(values) for key, values in y.items()}) for x, y in fitted]
    return _r2(style_scores(*[*few, test], probe=MLPRegressionProbe(subject.effort.view_mlp)))


def relative_view(subject: Subject, name: str) -> Found:
    """R² of the differences of two views' parameters, predicted from both, and its mean over `PARAMETER_GROUPS`."""
    subject.check_parameters()
    splits = [(torch.cat([view[name] for view in views], dim=1), change) for views, change in subject.two_views]
    r2 = style_scores(*splits, probe=MLPRegressionProbe(subject.effort.view_mlp))
    groups = {group: [r2[key] for key in keys if key in r2] for group, keys in PARAMETER_GROUPS.items()}
    means = {
        group: float(torch.tensor(found, dtype=torch.float64).nanmean()) for group, found in groups.items() if found
    }
    return _r2(means | r2)


def view_binary(subject: Subject, name: str) -> Found:
    """`attribute_scores` of the view parameters that are 0 or 1."""
    drawn = subject.views[0][1]
    if not (binary := [key for key, values in drawn.items() if bool(((values == 0) | (values == 1)).all())]):
        raise NotApplicableError("no view parameter is binary")
    columns = [(x, torch.stack([y[key] > 0.5 for key in binary], dim=1)) for x, y in subject.parametrised(name)]
    train, validation, test = columns
    return attribute_scores(train, validation, test, binary)


def view_angles(subject: Subject, name: str) -> Found:
    """`angle_scores` of the view parameters that are angles."""
    if not (periods := {key: period for key, period in PERIODS.items() if key in subject.views[0][1]}):
        raise NotApplicableError("no view parameter is an angle")
    train, validation, test = ((x, {key: y[key] for key in periods}) for x, y in subject.parametrised(name))
    return angle_scores(train, validation, test, periods)


def attributes(subject: Subject, name: str) -> Found:
    train, validation, test = subject.attributed(name)
    return attribute_scores(train, validation, test, subject.attribute_names)


def handwriting(subject: Subject, name: str) -> Found:
    """R² of the measures of `handwriting_style`; images without a slant are left out."""
    splits = []
    for parts, measured in zip(subject.clean, subject.ink, strict=True):
        whole = torch.stack(list(measured.values())).isfinite().all(0)
        splits.append((parts[name][whole], {key: values[whole] for key, values in measured.items()}))
    return _r2(style_scores(*splits))


# Information, and how a representation fills its space.


def infonce(subject: Subject, name: str) -> Found:
    """InfoNCE between two views of test images, by a critic fitted to two views of train images.

    Both are first projected on the leading principal axes of train, no more than one for 20 images: a critic of many
    more axes fits noise, and a projection shares no more than the whole, so the bound holds for the whole.
    """
    train, _, test = ([part[name].double() for part in views] for views, _ in subject.two_views)
    axes = min(train[0].shape[1], max(1, len(subject.few(subject.splits[0].images)) // IMAGES_AN_AXIS))
    checked_features(train[0], "train")
    # Eigenvalues ascend: the last axes are those along which the views vary most.
    leading = torch.linalg.eigh(torch.atleast_2d(torch.cat(train).T.cov())).eigenvectors[:, -axes:]
    critic = information.CanonicalCritic.fit(train[0] @ leading, train[1] @ leading)
    found = information.mutual_information(test[0] @ leading, test[1] @ leading, critic)
    return {"infonce_bound": found["bound"], "infonce_ceiling": found["ceiling"], "infonce_pairs": len(test[0])}


def divergence(subject: Subject, name: str) -> Found:
    """KL of the posterior from the prior in each axis of z, from few clean test images."""
    images = subject.splits[2].images[:AXIS_ROWS]
    found = axis_divergence(subject.guide, subject.program.prior, images, seed=subject.seed)
    return {str(axis): {"kl": value} for axis, value in enumerate(found.tolist())}


def prior_information(subject: Subject, name: str) -> float:
    return information.gaussian_information(*axis_variances(subject.program.prior))


def disentanglement(subject: Subject, name: str) -> Found:
    """`disentanglement_scores` of the linear probes' accuracies and the ridge probes' mean R²."""
    chance, classes, views = subject.chance, {}, {}
    for part in PARTS:
        accuracy = score(subject.found, task="class", probe="linear", representation=part)
        r2 = score(subject.found, task="view", probe="ridge", target=MEAN, representation=part)
        if accuracy is None or r2 is None:
            raise NotApplicableError(f"{part} has no scores of both the class and the view")
        classes[part], views[part] = accuracy, r2
    if subject.multiples:
        raise NotApplicableError(f"{' and '.join(subject.multiples)} of a single view are multiples of z")
    return disentanglement_scores(classes, views, **chance)


# Generation.


def reconstruction(subject: Subject, name: str) -> Found:
    images = subject.splits[2].images[:GENERATED_ROWS]
    found: dict[str, Any] = dict(reconstruction_scores(subject.decoder, subject.guide, images, seed=subject.seed))
    notes = found.pop("notes", {})
    return {metric: (value, notes.get(metric, "")) for metric, value in found.items()}


def fid(subject: Subject, name: str) -> Found:
    """Of as many samples of the prior as there are test images, few where there are many."""
    if (weights := subject.effort.fid_weights) is None:
        return {}
    model, real = subject.decoder, subject.few(subject.splits[2].images)
    seen = unit_range(real[:SAMPLES_AT_ONCE])[None]
    drawn = []
    with random_state_kept(real.device):
        torch.manual_seed(subject.seed)
        for start in range(0, len(real), SAMPLES_AT_ONCE):
            pictures, title = sample(model, subject.guide, seen, min(SAMPLES_AT_ONCE, len(real) - start))
            drawn.append(inception_features(pictures, weights))
    distance = frechet_distance(inception_features(real, weights), torch.cat(drawn))
    return {"fid": (distance, title), "fid_images": len(real)}


# Across modalities.


def retrieval(subject: ModalitySubject, name: str) -> Found:
    """Content from one modality among the contents from another, of test."""
    return {direction: retrieval_scores(first[2], second[2]) for direction, first, second in subject.directions}


def zero_shot(subject: ModalitySubject, name: str) -> Found:
    """Classes of test contents from one modality; the prompts are train contents from another."""
    train, _, test = subject.labels
    return {
        direction: zero_shot_scores(first[2], test, second[0], train) for direction, first, second in subject.directions
    }


def _information(metric: str, value: Callable[[Subject, str], float], of: Sequence[str] = REPRESENTATIONS) -> Evaluator:
    return Evaluator("information", metric, lambda subject, name: {metric: value(subject, name)}, of=tuple(of))


EVALUATORS: Sequence[Evaluator] = (
    Evaluator(
        "class", "accuracy", lambda its, of: _accuracy(LinearProbe(), its.labelled(of)), "linear", COMPARED, quick=True
    ),
    Evaluator(
        "class", "accuracy", lambda its, of: _accuracy(KNNProbe(), its.labelled(of)), "knn", COMPARED, quick=True
    ),
    Evaluator("class", "accuracy", lambda its, of: knn_cosine(its, of, 20), "knn_20_cosine"),
    Evaluator("class", "accuracy", lambda its, of: knn_cosine(its, of, 200), "knn_200_cosine"),
    Evaluator("class", "accuracy", mlp, "mlp"),
    Evaluator("few_labels", "accuracy", few_labels, "linear"),
    Evaluator("class", "accuracy", lambda its, of: clusters(its, of, "diag"), "clusters_diag"),
    Evaluator("class", "accuracy", lambda its, of: clusters(its, of, "full"), "clusters_full"),
    Evaluator("several_views", "accuracy", several_views, "linear", ("content",)),
    Evaluator("fine_tuning", "accuracy", fine_tuning, of=("",)),
    Evaluator("view", "r2", lambda its, of: _r2(style_scores(*its.parametrised(of))), "ridge", COMPARED, quick=True),
    Evaluator("view", "r2", view_mlp, "mlp"),
    Evaluator("relative_view", "r2", relative_view, "mlp"),
    Evaluator("view", "auc", view_binary, "logistic"),
    Evaluator("view", "r2", view_angles, "circular"),
    Evaluator("attributes", "auc", attributes, "logistic", COMPARED),
    Evaluator("handwriting", "r2", handwriting, "ridge", COMPARED),
    _information("width", lambda its, of: its.clean[2][of].shape[1]),
    _information("active_units", lambda its, of: active_units(its.clean[2][of]), PARTS),
    _information("effective_rank", lambda its, of: information.effective_rank(its.clean[2][of])),
    _information("alignment", lambda its, of: information.alignment(*(part[of] for part in its.two_views[2][0]))),
    _information("uniformity", lambda its, of: information.uniformity(its.two_views[2][0][0][of])),
    Evaluator("information", "infonce_bound", infonce),
    _information("prior_information", prior_information, ("z",)),
    Evaluator("information", "kl", divergence, of=("z",)),
    Evaluator("disentanglement", "mean", disentanglement, of=("",)),
    Evaluator("generation", "mse", reconstruction, of=("",)),
    Evaluator("generation", "fid", fid, of=("",)),
)
"""Of the views of one modality."""

ACROSS: Sequence[Evaluator] = (
    Evaluator("retrieval", "recall@1", retrieval, of=("content",), quick=True),
    Evaluator("zero_shot", "accuracy", zero_shot, of=("content",), quick=True),
    *(one._replace(task="together", of=("content",)) for one in EVALUATORS[:2]),
)
"""Of several modalities."""


def _accuracy(probe: ClassProbe, splits: Sequence[tuple[Tensor, Tensor]]) -> Found:
    train, validation, test = splits
    return {"accuracy": probe.fit(*train, *validation).score(*test), **commonest(test[1])}


def _r2(found: Mapping[str, float]) -> Found:
    """The scores of `style_scores` by target."""
    return {MEAN if target == MEAN_R2 else target: {"r2": value} for target, value in found.items()}

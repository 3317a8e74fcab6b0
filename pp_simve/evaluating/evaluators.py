"""The table of evaluators: what `python -m pp_simve.evaluate` asks, an entry a question.

An evaluator is a function of the subject (and of the name of a representation, where each is asked) that answers with
scores. It raises `NotJudgedError` where there is nothing to ask, and ValueError or RuntimeError where it fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pp_simve.evaluating.subject import NotJudgedError, Subject
from pp_simve.evaluation.clustering import Covariance, cluster_scores
from pp_simve.evaluation.features import checked_features
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
from pp_simve.evaluation.latent_axes import active_units, axis_divergence, gaussian_axes
from pp_simve.evaluation.probes.knn import KNNProbe
from pp_simve.evaluation.probes.logistic import LinearProbe
from pp_simve.evaluation.probes.mlp import MLPProbe, MLPRegressionProbe, MLPTraining
from pp_simve.evaluation.reconstruction import reconstruction_scores
from pp_simve.evaluation.tasks.attributes import attribute_scores
from pp_simve.evaluation.tasks.few_labels import few_label_scores
from pp_simve.evaluation.tasks.fine_tuning import fine_tuned_scores
from pp_simve.evaluation.tasks.several_views import several_view_scores
from pp_simve.evaluation.tasks.view_parameters import MEAN, Parametrised, angle_scores, style_scores
from pp_simve.inference.tools import random_state_kept, unit_range
from pp_simve.judgement import JUDGEMENT_SEED

OfRepresentation = Callable[[Subject, str], Any]
OfWhole = Callable[[Subject], Any]

TRAINING = MLPTraining(hidden=128, decays=(1.0, 0.1), learning_rate=1e-2, batch_size=256, epochs=100, patience=15)
"""Of MLP probes of the class: a fifth of the default's cost, and no worse on four random splits of digits'
training side (z of two fits: .958 and .963 on average, the default .954 and .955)."""
VIEW_TRAINING = MLPTraining(hidden=128, decays=(1.0, 0.0), learning_rate=3e-3, batch_size=512, epochs=60, patience=8)
"""Of MLP probes of view parameters, of which there are more rows."""
FEW_PENALTIES = (1.0, 1e-1, 1e-2)
"""Of probes on few labels."""
PERIODS = {"rotation": 360.0, "hue": 1.0}
"""View parameters that are angles, and what a full turn is in their units."""
LATENTS = ("z", "content", "style")
GENERATED_ROWS = 2_000
"""Test images at most that are decoded, 16 draws each, for bits per dimension."""
IMAGES_AN_AXIS = 20
"""Train images for each axis that a critic of mutual information is fitted to."""
AXIS_ROWS = 1_000
"""Test images at most that the divergence of an axis is a mean over."""
SAMPLES_AT_ONCE = 256
WIDEST_FULL = 128
"""Features at most of clusters with full covariances, whose cost grows with the square of them and more."""


def linear(subject: Subject, name: str) -> float:
    train, validation, test = subject.labelled(name)
    return LinearProbe().fit(*train, *validation).score(*test)


def mlp(subject: Subject, name: str) -> float:
    train, validation, test = subject.few_labelled(name)
    return MLPProbe(TRAINING).fit(*train, *validation).score(*test)


def knn(subject: Subject, name: str) -> float:
    train, validation, test = subject.labelled(name)
    return KNNProbe().fit(*train, *validation).score(*test)


def few_labels(subject: Subject, name: str) -> dict[str, Any]:
    """By labels a class, as many as every class of train and validation has; of 100 only where some class has them."""
    train, validation, test = subject.labelled(name)
    largest = int(torch.unique(train[1], return_counts=True)[1].max())
    counts = [count for count in (1, 10, 100) if count <= largest]
    return few_label_scores(
        train, validation, test, counts=counts, draws=3, seed=JUDGEMENT_SEED, penalties=FEW_PENALTIES
    )


def clusters(covariance: Covariance) -> OfRepresentation:
    """Clusters of few train images against the classes of test."""

    def judged(subject: Subject, name: str) -> dict[str, float]:
        train, _, test = subject.few_labelled(name)
        rows, width = train[0].shape
        classes = len(torch.unique(test[1]))
        if covariance == "full" and width > WIDEST_FULL:
            raise NotJudgedError(f"full covariances of {width} features take minutes; at most {WIDEST_FULL} are judged")
        if covariance == "full" and rows < 2 * classes * width:
            raise NotJudgedError(
                f"full covariances of {width} features need {2 * width} rows a cluster, and there are {rows} rows for "
                f"{classes} clusters"
            )
        return cluster_scores(
            train[0], test, covariance=covariance, restarts=subject.effort.restarts, seed=JUDGEMENT_SEED
        )

    return judged


def views_ridge(subject: Subject, name: str) -> dict[str, float | None]:
    return _without_nan(style_scores(*subject.parametrised(name)))


def views_mlp(subject: Subject, name: str) -> dict[str, float | None]:
    """R² as `style_scores`, by `MLPRegressionProbe` on few views."""
    train, validation, test = subject.parametrised(name)
    names = list(train[1])
    (train_x, train_y), (validation_x, validation_y) = (
        (subject.few(part[0]), subject.few(_side_by_side(part[1]))) for part in (train, validation)
    )
    probe = MLPRegressionProbe(VIEW_TRAINING).fit(train_x, train_y, validation_x, validation_y)
    scores = probe.score(test[0], _side_by_side(test[1]))
    return _without_nan({MEAN: float(scores.nanmean()), **dict(zip(names, scores.tolist(), strict=True))})


def views_binary(subject: Subject, name: str) -> dict[str, Any]:
    """`attribute_scores` of the view parameters that are 0 or 1."""
    splits = subject.parametrised(name)
    binary = [key for key, values in splits[0][1].items() if bool(((values == 0) | (values == 1)).all())]
    if not binary:
        raise NotJudgedError("no view parameter is binary")
    train, validation, test = ((part[0], _side_by_side(part[1], binary) > 0.5) for part in splits)
    return attribute_scores(train, validation, test, binary)


def views_angles(subject: Subject, name: str) -> dict[str, Any]:
    """`angle_scores` of the view parameters that are angles."""
    splits = subject.parametrised(name)
    periods = {key: period for key, period in PERIODS.items() if key in splits[0][1]}
    if not periods:
        raise NotJudgedError("no view parameter is an angle")
    train, validation, test = ((part[0], {key: part[1][key] for key in periods}) for part in splits)
    return angle_scores(train, validation, test, periods)


def attributes(subject: Subject, name: str) -> dict[str, Any]:
    train, validation, test = subject.attributed(name)
    return attribute_scores(train, validation, test, subject.attribute_names)


def writing(subject: Subject, name: str) -> dict[str, float | None]:
    """R² of what `handwriting_style` measures of the images; those without a slant are left out."""
    splits: list[Parametrised] = []
    for part, measured in zip(subject.embedded.clean, subject.handwriting, strict=True):
        whole = torch.stack(list(measured.values())).isfinite().all(0)
        splits.append((part[name][whole], {key: values[whole] for key, values in measured.items()}))
    return _without_nan(style_scores(*splits))


def rank(subject: Subject, name: str) -> float:
    return effective_rank(subject.embedded.clean[2][name])


def active(subject: Subject, name: str) -> int:
    return active_units(subject.embedded.clean[2][name])


def width(subject: Subject, name: str) -> int:
    return subject.embedded.clean[2][name].shape[1]


def aligned(subject: Subject, name: str) -> float:
    first, second = subject.two_views["test"]
    return alignment(first[name], second[name])


def uniform(subject: Subject, name: str) -> float:
    return uniformity(subject.two_views["test"][0][name])


def information(subject: Subject, name: str) -> dict[str, float]:
    """InfoNCE between two views of test images, by a critic fitted to two views of train images.

    Both are first projected on the leading principal axes of train, no more than one for 20 images: a critic of many
    more axes fits noise, and what is projected shares no more than what is not, so the bound holds for all of it.
    """
    first, second = (part[name].double() for part in subject.two_views["train"])
    images = len(subject.few(subject.splits[0].images))
    axes = min(first.shape[1], max(1, images // IMAGES_AN_AXIS))
    checked_features(first, "train")
    # Eigenvalues ascend: the last axes are those along which the views vary most.
    leading = torch.linalg.eigh(torch.atleast_2d(torch.cat([first, second]).T.cov())).eigenvectors[:, -axes:]
    critic = CanonicalCritic.fit(first @ leading, second @ leading)
    seen, seen_again = (part[name].double() @ leading for part in subject.two_views["test"])
    return {**mutual_information(seen, seen_again, critic), "pairs": float(len(seen))}


def information_of_prior(subject: Subject, name: str) -> float:
    """The closed form for z under the fitted prior."""
    return gaussian_information(*_axes_of_z(subject))


def divergence(subject: Subject, name: str) -> list[float]:
    """KL of the posterior from the prior in each axis of z, nats, from few clean test images."""
    _axes_of_z(subject)
    assert subject.model is not None
    if not subject.guide.has_density:
        raise NotJudgedError("the guide answers by points, whose divergence is infinite")
    images = subject.splits[2].images[:AXIS_ROWS]
    found: list[float] = axis_divergence(subject.guide, subject.model.prior, images, seed=JUDGEMENT_SEED).tolist()
    return found


def several_views(subject: Subject) -> dict[str, float]:
    """Class from content that is inferred from 1, 2, 4 and 8 views of few images."""
    train, validation, test = (
        (subject.few(split.images), subject.few(labels))
        for split, labels in zip(subject.splits, subject.labels, strict=True)
    )
    return several_view_scores(subject.guide, subject.policy, train, validation, test, seed=JUDGEMENT_SEED)


def reconstruction(subject: Subject) -> dict[str, Any]:
    images = subject.splits[2].images[:GENERATED_ROWS]
    return dict(reconstruction_scores(subject.decoder(), subject.guide, images, seed=JUDGEMENT_SEED))


def fid(subject: Subject) -> dict[str, Any]:
    """Of as many samples of the prior as there are test images, few where there are many."""
    model, weights = subject.decoder(), subject.effort.fid_weights
    assert weights is not None
    real = subject.few(subject.splits[2].images)
    seen = unit_range(real[:SAMPLES_AT_ONCE])[None]
    drawn = []
    with random_state_kept(real.device):
        torch.manual_seed(JUDGEMENT_SEED)
        for start in range(0, len(real), SAMPLES_AT_ONCE):
            pictures, title = sample(model, subject.guide, seen, min(SAMPLES_AT_ONCE, len(real) - start))
            drawn.append(inception_features(pictures, weights))
    distance = frechet_distance(inception_features(real, weights), torch.cat(drawn))
    return {"distance": distance, "images": len(real), "samples": title}


def fine_tuning(subject: Subject) -> dict[str, float]:
    epochs = subject.effort.fine_tune
    assert epochs is not None
    train, validation, test = (
        (split.images, labels) for split, labels in zip(subject.splits, subject.labels, strict=True)
    )
    return fine_tuned_scores(subject.guide, train, validation, test, epochs=epochs, seed=JUDGEMENT_SEED)


KNOWS: Mapping[str, Mapping[str, OfRepresentation]] = MappingProxyType(
    {
        "class": {
            "linear": linear,
            "mlp": mlp,
            "knn": knn,
            "few_labels": few_labels,
            "clusters_diag": clusters("diag"),
            "clusters_full": clusters("full"),
        },
        "views": {"ridge": views_ridge, "mlp": views_mlp, "binary": views_binary, "angles": views_angles},
        "attributes": {"logistic": attributes},
        "writing": {"ridge": writing},
    }
)
"""What is asked of each representation, by what it may know."""

INFORMATION: Mapping[str, OfRepresentation] = MappingProxyType(
    {
        "axes": width,
        "effective_rank": rank,
        "alignment": aligned,
        "uniformity": uniform,
        "infonce": information,
    }
)
"""How each representation fills its space, and what two views of an image share of it."""

OF_LATENTS: Mapping[str, OfRepresentation] = MappingProxyType({"active_units": active})
"""The same, of z, content and style alone."""

OF_Z: Mapping[str, OfRepresentation] = MappingProxyType(
    {"prior_information": information_of_prior, "kl_by_axis": divergence}
)
"""The same, of what has a prior of its own."""

WHOLE: Mapping[str, OfWhole] = MappingProxyType({"several_views": several_views})
"""What is asked of a guide as a whole."""

GENERATION: Mapping[str, OfWhole] = MappingProxyType({"reconstruction": reconstruction})
"""What is asked of a program whose views are of one kind."""


def asked_of_space(name: str) -> Mapping[str, OfRepresentation]:
    """What is asked of a representation about the space it fills."""
    return {**INFORMATION, **(OF_LATENTS if name in LATENTS else {}), **(OF_Z if name == "z" else {})}


def _axes_of_z(subject: Subject) -> tuple[Tensor, Tensor]:
    if subject.model is None:
        raise NotJudgedError("the program is of views of several kinds")
    try:
        return gaussian_axes(subject.model.prior)
    except ValueError as error:
        raise NotJudgedError(str(error)) from None


def _side_by_side(parameters: Mapping[str, Tensor], names: list[str] | None = None) -> Tensor:
    return torch.stack([parameters[name].double() for name in names or parameters], dim=1)


def _without_nan(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(score) else score for name, score in scores.items()}

"""Embedding: scikit-learn's own checks, and the guide's own answers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from pp_simve.evaluation.sklearn_transformer import Embedding
from pp_simve.inference import AmortizedGuide, Guide, MLPEncoder, Representation, ResidualEncoder, fit
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, PlainViews, SimVE, StandardPrior

SHAPE = (1, 8, 8)


class Moments(Guide):
    """Reads images of any shape: scikit-learn checks tables of every width."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64))

    def posterior(self, views: PlainViews) -> Representation:
        pixels = views.flatten(2)
        z = torch.stack([pixels.mean(-1), pixels.std(-1, correction=0), pixels.amax(-1)], -1) * self.weight
        return Representation(backbone=pixels, z=z, content=z[0, :, :2], style=z[..., 2:])


def expected_failures(estimator: BaseEstimator) -> dict[str, str]:
    return {
        "check_estimators_overwrite_params": (
            "compares hashes by joblib, and those of a torch parameter and of its copy differ; "
            "test_fit_and_transform_leave_the_guide_as_it_was looks at the guide itself"
        )
    }


@pytest.mark.filterwarnings("ignore:.*images are in .* expected:UserWarning")  # the checks' tables are no images
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([Embedding(Moments())], expected_failed_checks=expected_failures)
def test_it_is_a_transformer_by_scikit_learns_checks(
    estimator: BaseEstimator, check: Callable[[BaseEstimator], None]
) -> None:
    check(estimator)


def small_guide(encoder: nn.Module | None = None) -> AmortizedGuide:
    torch.manual_seed(0)
    return AmortizedGuide(encoder or MLPEncoder(SHAPE, hidden=(20,)), GaussianPrior(6))


def unshared_guide() -> AmortizedGuide:
    """Views share nothing under its prior, so content has no width."""
    return AmortizedGuide(MLPEncoder(SHAPE, hidden=(5,)), StandardPrior(3))


def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    data = load_digits()
    return (data.images * 255 / 16).astype(np.uint8)[:, None], data.target


def pixels(count: int = 10) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


@pytest.mark.parametrize("representation", ["backbone", "z", "content", "style"])
@pytest.mark.parametrize(("batch_size", "dtype"), [(4, torch.float32), (512, torch.float64)])
def test_it_is_the_guides_representation(representation: str, batch_size: int, dtype: torch.dtype) -> None:
    guide = small_guide(ResidualEncoder(SHAPE, width=2)).to(dtype)
    images = pixels()
    found = Embedding(guide, representation, batch_size).fit_transform(images)
    with torch.no_grad():
        expected = guide.eval().embed(torch.tensor(images).to(dtype) / 255).as_dict()[representation]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-6)


def variants(images: np.ndarray[Any, Any]) -> dict[str, Any]:
    unit = images / 255
    return {
        "uint8": images,
        "float64": unit,
        "float32": unit.astype(np.float32),
        "rows of uint8": images.reshape(len(images), -1),
        "rows of float64": unit.reshape(len(images), -1),
        "a tensor": torch.tensor(images),
        "not contiguous": np.asfortranarray(unit),
        "rows as lists": unit.reshape(len(images), -1).tolist(),
        "images as lists": unit.tolist(),
    }


@pytest.mark.parametrize("fitted_on", ["uint8", "rows of float64", None])
def test_images_may_come_in_any_form(fitted_on: str | None) -> None:
    guide = small_guide(ResidualEncoder(SHAPE, width=2))
    embedding = Embedding(guide, image_shape=SHAPE)
    if fitted_on is not None:
        embedding.fit(variants(pixels(3))[fitted_on])
    expected = Embedding(guide).transform(pixels())
    for form, images in variants(pixels()).items():
        np.testing.assert_allclose(embedding.transform(images), expected, rtol=0, atol=1e-6, err_msg=form)


def test_rows_take_the_shape_of_the_images_fit_saw() -> None:
    guide = small_guide(ResidualEncoder(SHAPE, width=2))
    embedding = Embedding(guide).fit(pixels())
    assert embedding.image_shape_ == SHAPE
    assert embedding.n_features_in_ == 64
    rows = pixels().reshape(10, -1)
    np.testing.assert_array_equal(embedding.transform(rows), embedding.transform(pixels()))
    assert embedding.fit(rows.reshape(10, 1, 4, 16)).image_shape_ == (1, 4, 16), "a second fit replaces the first"


def test_fit_and_transform_leave_the_guide_as_it_was() -> None:
    guide = small_guide(ResidualEncoder(SHAPE, width=2)).train()
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    random = torch.get_rng_state()
    Embedding(guide).fit(pixels()).transform(pixels())
    assert guide.training
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in guide.parameters())


def test_features_have_names_once_fitted() -> None:
    embedding = Embedding(small_guide(), "z")
    with pytest.raises(NotFittedError):
        embedding.get_feature_names_out()
    assert embedding.fit(pixels()).get_feature_names_out().tolist() == [f"embedding{axis}" for axis in range(6)]


def test_a_pipeline_of_it_and_logistic_regression_reads_digits() -> None:
    images, labels = digits()
    torch.manual_seed(0)
    prior = GaussianPrior(16)
    guide = AmortizedGuide(MLPEncoder(SHAPE, hidden=(64,)), prior)
    model = SimVE(prior, Bernoulli(MLPDecoder(16, SHAPE, hidden=(64,))))
    fit(model, guide, torch.tensor(images[:1400]), steps=100, lr=2e-3, device="cpu", precision="32")
    pipeline = make_pipeline(Embedding(guide, "backbone"), LogisticRegression(max_iter=2000))
    assert pipeline.fit(images[:1400], labels[:1400]).score(images[1400:], labels[1400:]) > 0.7

    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict_proba(images[1400:]), pipeline.predict_proba(images[1400:]))


def test_a_clone_has_a_guide_of_its_own_that_says_the_same() -> None:
    embedding = Embedding(small_guide(), "content", 3, SHAPE).fit(pixels())
    copied = clone(embedding)
    assert copied.guide is not embedding.guide
    assert {**copied.get_params(), "guide": 0} == {**embedding.get_params(), "guide": 0}
    assert not hasattr(copied, "image_shape_")
    np.testing.assert_array_equal(copied.transform(pixels()), embedding.transform(pixels()))
    frozen = FrozenEstimator(embedding)
    assert clone(frozen).estimator.guide is embedding.guide


ROWS = pixels().reshape(10, -1)
REFUSED: list[tuple[Embedding, Any, str]] = [
    (Embedding(Moments(), "zed"), pixels(), "unknown representation 'zed'; known are backbone, z, content, style"),
    (Embedding(Moments(), batch_size=0), pixels(), "batch_size must be one or more numbers >= 1"),
    (
        Embedding(unshared_guide(), "content"),
        pixels(),
        "content has no width under this prior; choose another representation, such as z",
    ),
    (Embedding(Moments(), image_shape=(3, 4, 4)), pixels(), r"shape \(image, 3, 4, 4\), got \(10, 1, 8, 8\)"),
    (Embedding(Moments(), image_shape=(3, 4, 4)), ROWS, r"rows have 64 numbers, but image_shape=\(3, 4, 4\) means 48"),
    (Embedding(Moments()), pixels()[:, 0], r"got \(10, 8, 8\); .* the channel to gray images, images\[:, None\]"),
    (Embedding(Moments()), pixels().astype(float), r"float in \[0, 1\], got values in \[0, 255\]; .* images / 255"),
    (Embedding(Moments()), pixels().astype(int), r"got int64; convert them: images.astype\(np.uint8\)"),
    (Embedding(Moments()), np.full((2, 3), np.nan), "Input X contains NaN"),
    (
        Embedding(small_guide(ResidualEncoder(SHAPE, width=2))),
        ROWS,
        r"cannot embed images of shape \(64, 1, 1\).*For rows set image_shape=\(channel, height, width\)",
    ),
]


@pytest.mark.parametrize(("embedding", "images", "message"), REFUSED)
@pytest.mark.parametrize("call", ["fit", "transform"])
def test_refuses(embedding: Embedding, images: Any, message: str, call: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(clone(embedding), call)(images)


@pytest.mark.parametrize("images", [ROWS.astype(float), -np.ones((2, 64)), ROWS.astype(int)])
def test_rows_outside_the_unit_range_are_warned_of(images: np.ndarray[Any, Any]) -> None:
    with pytest.warns(UserWarning, match=r"images are in \[.*\], expected \[0, 1\]; divide them by their largest"):
        Embedding(Moments()).transform(images)

"""Embedding: a fitted guide as a scikit-learn transformer from images to features."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data
from torch import Tensor

from pp_simve.evaluation.probes.base import checked_grid
from pp_simve.evaluation.records import REPRESENTATIONS, without_width
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.images import as_images
from pp_simve.inference.tools import evaluation_mode


class Embedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # untyped
    """Representations of a fitted guide as a scikit-learn transformer.

    ``fit`` only checks that the guide can embed such images; ``transform`` works without it. Neither changes the guide.
    ``sklearn.base.clone`` copies the guide; ``sklearn.frozen.FrozenEstimator`` avoids copies of a large one.

    Args:
        guide: of views of one modality, on any device. Images are arrays ``(image, channel, height, width)``, or rows
            of their pixels in that order: uint8 in 0..255, other numbers in [0, 1].
        representation: ``backbone``, ``z``, ``content`` or ``style``.
        batch_size: images per forward pass.
        image_shape: ``(channel, height, width)`` of images given as rows; by default that of the images in ``fit``, and
            for rows in ``fit`` itself ``(feature, 1, 1)``.

    Examples:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> from pp_simve.inference import AmortizedGuide, MLPEncoder
        >>> from pp_simve.models import GaussianPrior
        >>> guide = AmortizedGuide(MLPEncoder((1, 8, 8), hidden=(32,)), GaussianPrior(16))
        >>> images, labels = np.random.default_rng(0).random((20, 1, 8, 8)), np.arange(20) % 2
        >>> make_pipeline(Embedding(guide), LogisticRegression()).fit(images, labels).predict(images).shape
        (20,)
    """

    def __init__(
        self,
        guide: Guide,
        representation: str = "z",
        batch_size: int = 512,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        self.guide = guide
        self.representation = representation
        self.batch_size = batch_size
        self.image_shape = image_shape

    def fit(self, X: ArrayLike, y: object = None) -> Embedding:
        """Checks the images and the guide.

        Raises:
            ValueError: invalid images or parameters, or a guide that cannot embed images of this shape.
        """
        self.__dict__.pop("image_shape_", None)
        images = self._images(X, reset=True)
        self.image_shape_ = images.shape[1:]
        self._n_features_out = self._features(images[:1]).shape[1]
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Features, float32, ``(image, feature)``; raises `ValueError` as `fit`, or for images of another shape."""
        return self._features(self._images(X, reset=False))

    def _images(self, X: ArrayLike, *, reset: bool) -> NDArray[Any]:
        shape: tuple[int, ...] | None = getattr(self, "image_shape_", self.image_shape)
        dims = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
        if dims > 2:
            images = as_images(X if isinstance(X, Tensor) else np.asarray(X)).cpu().numpy()
            if images.shape[1:] != tuple(shape or images.shape[1:]):
                wanted = ", ".join(map(str, shape or ()))
                raise ValueError(f"images must have shape (image, {wanted}), got {images.shape}")
            shape, X = images.shape[1:], images.reshape(len(images), -1)
        rows: NDArray[Any] = validate_data(self, X, reset=reset)
        shape = tuple(shape or (rows.shape[1], 1, 1))
        if np.prod(shape) != rows.shape[1]:
            raise ValueError(f"rows have {rows.shape[1]} numbers, but image_shape={shape} means {np.prod(shape)}")
        return rows.reshape(-1, *shape)

    def _features(self, images: NDArray[Any]) -> NDArray[np.float32]:
        if self.representation not in REPRESENTATIONS:
            raise ValueError(f"unknown representation {self.representation!r}; known are {', '.join(REPRESENTATIONS)}")
        checked_grid("batch_size", [self.batch_size], least=1)
        if images.dtype != np.uint8 and not (images.min() >= 0 and images.max() <= 1):
            warnings.warn(
                f"{images.dtype} images are in [{images.min():g}, {images.max():g}], expected [0, 1]; divide them by "
                "their largest possible value, or give uint8 in 0..255",
                stacklevel=3,
            )
        rows = torch.from_numpy(
            np.require(images if images.dtype == np.uint8 else images.astype(float), requirements=["C", "W"])
        )
        try:
            # `embed` instead of `embed_batches`, which refuses the tables outside [0, 1] that were warned of.
            with torch.no_grad(), evaluation_mode(self.guide):
                parts = [
                    self.guide.embed(batch).as_dict()[self.representation] for batch in rows.split(self.batch_size)
                ]
        except ValueError as error:
            raise ValueError(f"{error}. For rows set image_shape=(channel, height, width)") from error
        features = [part.float().cpu().numpy() for part in parts]
        if not features[0].shape[1]:
            raise ValueError(without_width(self.representation))
        return np.concatenate(features)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        assert tags.transformer_tags is not None
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

"""A fitted guide as a scikit-learn transformer: images in, features out, one step of anybody's pipeline."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data

from pp_simve.evaluation.records import REPRESENTATIONS
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import unit_range

_IMAGE_DIMS = 4


class Embedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What a guide says of images, as features for scikit-learn.

    The guide is fitted already: ``fit`` only looks whether the images suit it, ``transform`` works without it too, and
    neither changes the guide. ``sklearn.base.clone`` copies it; wrap this in ``sklearn.frozen.FrozenEstimator`` where
    copies of a large guide cost too much.

    Images are arrays ``(image, channel, height, width)``, or rows of their pixels in that order,
    ``(image, channel·height·width)``: uint8 in 0..255, other numbers in [0, 1].

    Args:
        guide: of views of one modality, on any device.
        representation: ``backbone``, ``z``, ``content`` or ``style``.
        batch_size: images a forward pass.
        image_shape: ``(channel, height, width)`` of images that come as rows. None is that of the images ``fit`` saw,
            and for rows in ``fit`` itself a vector, ``(channel, 1, 1)``.

    Attributes:
        image_shape_: of the images seen in ``fit``.
        n_features_in_: numbers an image has.

    Example:
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
        """Looks whether the guide can read such images; nothing is fitted.

        Raises:
            ValueError: images or parameters that cannot be, or a guide that cannot read images of this shape.
        """
        self.__dict__.pop("image_shape_", None)
        rows, self.image_shape_ = self._rows(X, reset=True)
        self._n_features_out = self._features(rows[:1], self.image_shape_).shape[1]
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Features, float32, shape ``(image, feature)``.

        Raises:
            ValueError: as `fit`; images of another shape than those ``fit`` saw.
        """
        return self._features(*self._rows(X, reset=False))

    def _rows(self, X: ArrayLike, *, reset: bool) -> tuple[NDArray[Any], tuple[int, int, int]]:
        """The images as rows of numbers, and their shape."""
        shape = getattr(self, "image_shape_", self.image_shape)
        dims = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
        if dims == _IMAGE_DIMS - 1:
            raise ValueError(
                "images must have shape (image, channel, height, width), got 3 dimensions; for grey images without a "
                "channel give X[:, None]"
            )
        if dims == _IMAGE_DIMS:
            images = np.asarray(X)
            if shape is not None and images.shape[1:] != tuple(shape):
                raise ValueError(f"images have shape {images.shape[1:]}, expected {tuple(shape)}")
            shape, X = images.shape[1:], images.reshape(len(images), -1)
        rows: NDArray[Any] = validate_data(self, X, reset=reset)
        channels, height, width = shape or (rows.shape[1], 1, 1)
        numbers = channels * height * width
        if numbers != rows.shape[1]:
            raise ValueError(
                f"rows have {rows.shape[1]} numbers, but image_shape={channels, height, width} means {numbers}"
            )
        return rows, (channels, height, width)

    def _features(self, rows: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[np.float32]:
        if self.representation not in REPRESENTATIONS:
            raise ValueError(f"unknown representation {self.representation!r}; known are {', '.join(REPRESENTATIONS)}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if rows.dtype != np.uint8 and not (rows.min() >= 0 and rows.max() <= 1):
            warnings.warn(
                f"{rows.dtype} images are in [{rows.min():g}, {rows.max():g}], expected [0, 1]; divide them by their "
                "largest possible value, or give uint8 in 0..255",
                stacklevel=3,
            )
        parameter = next(self.guide.parameters(), torch.empty(0))
        parts = []
        for start in range(0, len(rows), self.batch_size):
            # A copy: torch warns of arrays it may not write to.
            images = unit_range(torch.as_tensor(rows[start : start + self.batch_size].copy())).reshape(-1, *shape)
            try:
                found = self.guide.embed_batches(images.to(parameter.device, parameter.dtype), self.batch_size)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"the guide cannot read images of shape {shape} ({str(error).splitlines()[0]}); give the images as "
                    "(image, channel, height, width), or say image_shape=(channel, height, width)"
                ) from error
            parts.append(found.as_dict()[self.representation].float().cpu().numpy())
        if not parts[0].shape[1]:
            raise ValueError(f"{self.representation} has no width under the guide's prior; choose another")
        return np.concatenate(parts)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        assert tags.transformer_tags is not None
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

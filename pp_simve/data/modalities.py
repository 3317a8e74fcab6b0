"""Modalities made of a data set: the halves of an image, or an image and its attributes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pp_simve.data.types import DataError, DataShape, ImageShape, Split


class Modalities(ABC):
    """Images of several modalities of each image, by one method, `images`; may be a user's class."""

    @abstractmethod
    def images(self, split: Split) -> dict[str, Tensor]:
        """Images by modality, uint8 (image, channel, height, width), all of the same images in the same order.

        A vector is an image of one pixel with many channels.

        Raises:
            DataError: the images do not have these modalities.
        """

    def shapes(self, shape: DataShape) -> dict[str, ImageShape]:
        """(channel, height, width) of each modality, for data of a shape."""
        blank = Split(
            images=torch.zeros(1, *shape.image, dtype=torch.uint8),
            labels=None,
            attributes=torch.zeros(1, shape.attributes, dtype=torch.bool) if shape.attributes else None,
        )
        return {
            name: (images.shape[1], images.shape[2], images.shape[3]) for name, images in self.images(blank).items()
        }


class Halves(Modalities):
    """``upper`` and ``lower`` half of each image."""

    def images(self, split: Split) -> dict[str, Tensor]:
        height = split.images.shape[-2]
        if height < 2:
            raise DataError(f"images {height} pixel high have no halves. Take images of 2 pixels or more.")
        upper, lower = split.images.split([height // 2, height - height // 2], -2)
        return {"upper": upper, "lower": lower}


class Attributes(Modalities):
    """``image`` and its ``attributes``, each of them black or white in an image of one pixel."""

    def images(self, split: Split) -> dict[str, Tensor]:
        if split.attributes is None:
            raise DataError("these images have no attributes. Take celeba, or other modalities, such as halves.")
        vectors = split.attributes.to(torch.uint8) * 255
        return {"image": split.images, "attributes": vectors[:, :, None, None]}


MODALITIES = {"halves": Halves, "attributes": Attributes}
"""Modalities by name."""

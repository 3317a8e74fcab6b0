"""What every source hands over: all images in one tensor, each marked with the split its source gives it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

# The values of `Collection.part`. UNDIVIDED images are split by us; validation images are drawn from TRAIN where the
# source gives none.
UNDIVIDED, TRAIN, VALIDATION, TEST = range(4)


@dataclass(frozen=True, eq=False)
class Collection:
    """Images of one source before they are divided into splits.

    images:      uint8 (image, channel, height, width)
    part:        int64 (image,), one of UNDIVIDED, TRAIN, VALIDATION, TEST
    labels:      int64 (image,), -1 of images without a label, or None
    attributes:  bool (image, attribute) or None
    files:       relative paths of the images; none of images that are no files
    mapped:      the images where they are in a file, in the order in which they are there
    order:       int64 (image,): positions in the source of mapped images that are in the order of their splits
    digest:      fingerprint of the data that they are divided into, where it is known
    """

    images: Tensor
    part: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None
    classes: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    mapped: np.memmap[Any, Any] | None = None
    order: Tensor | None = None
    digest: str = ""

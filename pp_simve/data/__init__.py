"""Image collections as uint8 tensors with fixed splits: built-in, torchvision, folders and arrays.

Views of the images, batches and devices do not live here: a loaded `ImageData` is plain tensors in memory.
"""

from pp_simve.data.load import DATA_NAMES, load_data
from pp_simve.data.types import DataError, DataShape, ImageData, ImageShape, Split

__all__ = ["DATA_NAMES", "DataError", "DataShape", "ImageData", "ImageShape", "Split", "load_data"]

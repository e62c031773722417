"""This module says which matrix the stages after ingest work on: how many features of which type one image has.

Planning asks here once. Everything after ingest is planned from the answer, and not from the size of the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigcluster.config import Settings
from bigcluster.planning.footprint import FLOAT32


@dataclass(frozen=True)
class FeatureShape:
    """One row of the feature matrix."""

    n_features: int
    dtype: str
    """`uint8` or `float32`."""
    of_pixels: bool
    """Whether the features are the stored pixels themselves. Others are stored beside the pixels."""
    n_classes: int = 0
    """The number of classes that are stored with the features of an image, each with its probability."""
    shared_bytes: int = 0
    """The bytes of memory that all threads share while pictures are decoded, such as those of a network."""
    thread_bytes: int = 0
    """The bytes of memory that each decoding thread adds for the features."""
    row_seconds: float = 0.0
    """The seconds of one thread for the features of one image. The decode is not included."""

    @property
    def itemsize(self) -> int:
        """The bytes of one feature."""
        return np.dtype(self.dtype).itemsize

    @property
    def stored_bytes(self) -> int:
        """The bytes of an image beside its pixels: features and classes; 0 where the pixels are the features."""
        return 0 if self.of_pixels else self.n_features * self.itemsize + 2 * self.n_classes * FLOAT32


def channels(settings: Settings) -> int:
    """Return the number of values of a stored pixel: 1 in gray, otherwise 3."""
    return 1 if settings.features == "gray" else 3


def feature_shape(settings: Settings, image_size: tuple[int, int]) -> FeatureShape:
    """Return the row of the feature matrix that these settings ask for. image_size : (width, height) in pixels."""
    return FeatureShape(image_size[0] * image_size[1] * channels(settings), "uint8", of_pixels=True)

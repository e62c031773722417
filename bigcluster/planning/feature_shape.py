"""This module says which matrix the stages after ingest work on: how many features of which type one image has.

Planning asks here once. Everything after ingest is planned from the answer, and not from the size of the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigcluster.config import Settings


@dataclass(frozen=True)
class FeatureShape:
    """One row of the feature matrix."""

    n_features: int
    dtype: str
    """`uint8` or `float32`."""
    of_pixels: bool
    """Whether the features are the stored pixels themselves, so that no stage has to compute them."""

    @property
    def itemsize(self) -> int:
        """The bytes of one feature."""
        return np.dtype(self.dtype).itemsize


def channels(settings: Settings) -> int:
    """Return the number of values of a stored pixel: 3 in color, otherwise 1."""
    return 3 if settings.features == "color" else 1


def feature_shape(settings: Settings, image_size: tuple[int, int]) -> FeatureShape:
    """Return the row of the feature matrix that these settings ask for. image_size : (width, height) in pixels."""
    return FeatureShape(image_size[0] * image_size[1] * channels(settings), "uint8", of_pixels=True)

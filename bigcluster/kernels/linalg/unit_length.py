"""This module scales rows to the length 1, so that k-means on them compares directions (cosine) and not lengths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_unit_length(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a vector, or each row of a matrix, to the Euclidean length 1: (..., n) float32 -> (..., n) float32.

    A row of zeros stays as it is. Lengths are summed in float64 along each row alone, so the result of a row does not
    depend on the rows beside it.
    """
    squares = np.add.reduce(np.square(rows, dtype=np.float64), axis=-1, keepdims=True)
    lengths = np.sqrt(squares)
    scaled: NDArray[np.float32] = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled

"""Exact integer sums of 8-bit pixels: what mean and total variance are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 18
"""Values squared at a time: their squares stay in the second-level cache."""


def column_sums(block: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """(rows, d) uint8 -> (d,) uint32. Exact up to 16 million rows."""
    sums: NDArray[np.uint32] = block.sum(axis=0, dtype=np.uint32)
    return sums


def square_sum(block: NDArray[np.uint8]) -> int:
    """Sum of all x^2 of a (rows, d) uint8 block, exact: squares fit uint16, sums of them uint64."""
    flat = block.reshape(-1)
    pieces = (flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE))
    return sum(int(np.square(piece, dtype=np.uint16).sum(dtype=np.uint64)) for piece in pieces)

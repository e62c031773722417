"""Exact integer sums of 8-bit pixels: what mean and total variance are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS = 257
"""Rows summed at a time in 16 bits: 257 * 255 is the largest uint16. Numpy adds them twice as fast as in 32."""
_PIECE = 1 << 16
"""Values squared at a time: their squares stay in the second-level cache, and 2^16 * 255^2 is below 2^32."""


def column_sums(block: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """(rows, d) uint8 -> (d,) uint32. Exact up to 16 million rows."""
    sums = np.zeros(block.shape[1], np.uint32)
    for start in range(0, len(block), _ROWS):
        sums += block[start : start + _ROWS].sum(axis=0, dtype=np.uint16)
    return sums


def square_sum(block: NDArray[np.uint8]) -> int:
    """Sum of all x^2 of a (rows, d) uint8 block, exact: squares fit uint16, sums of a piece's uint32."""
    flat = block.reshape(-1)
    pieces = (flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE))
    return sum(int(np.square(piece, dtype=np.uint16).sum(dtype=np.uint32)) for piece in pieces)

"""Exact products of 8-bit matrices in C (native/panels.c), for processors with AVX-512 VNNI.

    pack(x)                    either side of a product, in the order in which the loops read it
    add_product(total, a, b)   total += a b

A *unit* is a row of the left matrix or a column of the right one, and a *term* is what is summed over. Pixels count as
x - 128, as in bigcluster.kernels.linalg.gemm. One packed copy serves on both sides, which a symmetric product needs
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.compiled import address, library

PANEL = 16
"""Units that lie together, in fours of terms; both are filled up with zeros."""

_VNNI, _AMX = 1, 2


@dataclass(frozen=True)
class Panels:
    """values : (panels, quads of terms, PANEL, 4) int8, flat; sums : (units, filled up) int32, over all terms."""

    values: NDArray[np.int8]
    sums: NDArray[np.int32]
    n: int
    k: int


@cache
def available() -> bool:
    """Whether products in panels are the fastest that this processor has: AMX units are left to ONNX Runtime."""
    return bool(library().panels_known() == _VNNI)


def pack(x: NDArray[Any], *, by_row: bool, out: Panels | None = None) -> Panels:
    """x : uint8 pixels or int8 vectors, (n, k) by row, (k, n) otherwise; rows may lie apart.

    out : panels that are no longer needed; their memory is used again where it is as large.
    """
    if (x.shape[1] > 1 and x.strides[1] != 1) or x.dtype.itemsize != 1:  # of one column, the stride is anything
        raise ValueError("operands must be bytes, C-contiguous within their rows")
    n, k = x.shape if by_row else x.shape[::-1]
    n_panels, n_quads = -(-n // PANEL), -(-k // 4)
    size = n_panels * n_quads * PANEL * 4
    values = out.values if out is not None and len(out.values) == size else np.empty(size, np.int8)
    panels = Panels(values, np.empty(n_panels * PANEL, np.int32), n, k)
    library().pack(
        x.__array_interface__["data"][0],
        address(panels.values, np.int8),
        address(panels.sums, np.int32),
        *(x.strides[0], n, k, by_row, x.dtype == np.uint8),
    )
    return panels


def add_product(
    total: NDArray[np.int32], left: Panels, right: Panels, *, lower: bool = False, fresh: bool = False
) -> None:
    """total : (left units, right units), added to, or filled where `fresh`.

    lower : nothing is promised above the diagonal; of a square product, that saves nearly half.
    """
    if total.shape != (left.n, right.n) or left.k != right.k:
        raise ValueError(f"({left.n}, {left.k}) by ({right.k}, {right.n}) into {total.shape}")
    library().add_product(
        address(left.values, np.int8),
        address(left.sums, np.int32),
        address(right.values, np.int8),
        address(total, np.int32),
        *(left.n, right.n, left.k, lower, fresh),
    )

"""Exact products of 8-bit matrices in C (native/panels.c), for processors with AVX-512 VNNI.

    pack(x)                    either operand of a product, packed in the order in which the kernel reads it
    add_product(total, a, b)   total += a b

Pixels count as x - 128, as in bigcluster.kernels.linalg.gemm. An operand is packed in the same way for the left as for
the right, so a symmetric product packs its matrix once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.compiled import address, library

PANEL = 16
"""Rows of the left operand, or columns of the right one, in one packed panel, by fours of k; zeros fill both up."""

_VNNI, _AMX = 1, 2


@dataclass(frozen=True)
class Panels:
    """A packed operand: (n, k) on the left, (k, n) on the right.

    values : (ceil(n / PANEL), ceil(k / 4), PANEL, 4) int8, flat; sums : (n filled up to panels,) int32, over k.
    """

    values: NDArray[np.int8]
    sums: NDArray[np.int32]
    n: int
    k: int


@cache
def available() -> bool:
    """Whether packed products are the fastest on this processor: where it has AMX, ONNX Runtime's are faster."""
    return bool(library().panels_known() == _VNNI)


def pack(x: NDArray[Any], *, by_row: bool, out: Panels | None = None) -> Panels:
    """Pack uint8 pixels or int8 vectors.

    x : (n, k) by row, else (k, n), with contiguous rows that may lie apart.

    out : panels that are no longer needed; their memory is used again where the size is the same.
    Raises ValueError for other layouts and dtypes.
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
    """Add the product to `total`, (n of left, n of right) int32, or write it there where `fresh`.

    lower : values above the diagonal are undefined, which saves nearly half of a square product.
    Raises ValueError where shapes do not match.
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

"""Float32 products: our own kernel (native/floats.c) on processors with AVX-512, numpy's OpenBLAS elsewhere.

    float_product(a, b)         a b, a' b or a b', by the kernel that suits the processor
    own_product(a, b, out)      out = a b by our own kernel
    count_product(total, a, b)  total += a b of bytes, by our own kernel in float32 arithmetic that is exact

The processor alone decides, so a result never depends on a measurement of time. In our own kernel every entry is one
chain of fused multiply-adds over each 256 values of k, and these partial sums are added in order: a row of a product
has the same bits whatever other rows and columns there are. OpenBLAS promises that for a given shape only, so callers
keep the shapes of their products independent of the budget.

On an EPYC with AVX-512 ours reaches 160 to 225 GFlop/s on one thread at the shapes of PCA and k-means, OpenBLAS 170 to
230 with its AVX-512 kernels and 92 to 126 with its AVX2 kernels, which is close to the peak of AVX2. OpenBLAS was
preferred to ONNX Runtime, which is slower with a transposed operand (150 against 175 GFlop/s) and costs about 10 us
more for each call.
"""

from __future__ import annotations

from functools import cache
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import BigclusterError
from bigcluster.kernels.linalg.compiled import address, library
from bigcluster.kernels.linalg.types import Float32Array
from bigcluster.runtime.blas import blas_threads

_KINDS = {np.dtype(np.float32): 0, np.dtype(np.int8): 1, np.dtype(np.uint8): 2}
_of_thread = local()


@cache
def available() -> bool:
    """Whether this processor has the instructions."""
    return bool(library().floats_known())


def float_product(
    a: Float32Array,
    b: Float32Array,
    *,
    transpose_left: bool = False,
    transpose_right: bool = False,
    out: Float32Array | None = None,
    own: bool | None = None,
) -> Float32Array:
    """Return the float32 product a b, a' b or a b', computed on the calling thread.

    a : (m, k), or (k, m) with transpose_left; b : (k, n), or (n, k) with transpose_right; both float32, contiguous
    along one of their axes. out : (m, n) float32 to write to, with contiguous rows; None for a new array.
    own : True for the kernel of this module, False for numpy; None chooses by the processor.
    Raises ValueError for shapes that do not match, BigclusterError for own=True without AVX-512.
    """
    left, right = a.T if transpose_left else a, b.T if transpose_right else b
    if out is None:
        out = np.empty((left.shape[0], right.shape[1]), np.float32)
    if not out.size:
        return out
    if available() if own is None else own:
        return own_product(left, right, out)
    with blas_threads(1):
        return np.matmul(left, right, out=out)


def own_product(a: Float32Array, b: Float32Array, out: Float32Array) -> Float32Array:
    """Write a b into `out` with the AVX-512 kernel. a : (m, k), b : (k, n), out : (m, n), all float32."""
    if not a.shape[1]:
        out[...] = 0
        return out
    _run(a, b.T, out, whole_numbers=False)
    return out


def count_product(total: NDArray[np.int32], a: NDArray[Any], b: NDArray[Any], *, lower: bool = False) -> None:
    """total (m, n) += a b. a : (m, k), b : (k, n), uint8 (which counts as x - 128) or int8.

    Exact: sums of 256 products of bytes are far below 2^24. lower : values above the diagonal are undefined.
    """
    _run(a, b.T, total, whole_numbers=True, lower=lower)


def _run(
    left: NDArray[Any], right: NDArray[Any], out: NDArray[Any], *, whole_numbers: bool, lower: bool = False
) -> None:
    """left : (m, k), right : (n, k), each contiguous along one of its axes."""
    if not available():
        raise BigclusterError("our own float32 products need a processor with AVX-512")
    (m, k), n = left.shape, right.shape[0]
    if right.shape[1] != k or out.shape != (m, n) or (n > 1 and out.strides[1] != out.itemsize):
        raise ValueError(f"{left.shape} by {right.shape[::-1]} into {out.shape}")
    if out.dtype != (np.int32 if whole_numbers else np.float32) or not out.flags.writeable:
        raise ValueError(f"a product goes into writeable {'int32' if whole_numbers else 'float32'}, not {out.dtype}")
    for operand in (left, right):
        if (operand.dtype == np.float32) is whole_numbers:
            raise ValueError(f"{operand.dtype} is no operand of this product")
    library().float_product(
        left.__array_interface__["data"][0],
        right.__array_interface__["data"][0],
        out.__array_interface__["data"][0],
        address(_scratch(), np.float32),
        *(m, n, k, *_strides(left), *_strides(right), out.strides[0] // out.itemsize, whole_numbers, lower),
    )


def _strides(operand: NDArray[Any]) -> tuple[int, int, int]:
    """Strides along n (or m) and along k, in values, and the code of the dtype."""
    n_stride, k_stride = (
        stride // operand.itemsize if length > 1 else 1
        for stride, length in zip(operand.strides, operand.shape, strict=True)
    )
    if 1 not in (n_stride, k_stride):
        raise ValueError("one axis of each operand must be contiguous")
    return n_stride, k_stride, _KINDS[operand.dtype]


def _scratch() -> Float32Array:
    """Memory of this thread for packed panels, 2 MiB."""
    scratch: Float32Array | None = getattr(_of_thread, "scratch", None)
    if scratch is None:
        scratch = _of_thread.scratch = np.empty(library().float_scratch(), np.float32)
    return scratch

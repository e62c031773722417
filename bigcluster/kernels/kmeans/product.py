"""The float32 product behind the k-means filter: our own for few centers, else numpy's or ONNX Runtime's.

Which of them runs decides speed only: labels are proven with an error band that holds for any order of summation, so
the choice between the other two may be made by a stopwatch. numpy's OpenBLAS runs its AVX2 kernels on processors that
it does not know, at half the speed of ONNX Runtime's; with few centers it reaches two thirds of ours.
"""

from __future__ import annotations

from functools import cache
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg import floats
from bigcluster.kernels.linalg.gemm import float_product
from bigcluster.runtime.blas import blas_threads

WORTH_TUNING = 10**9
"""Multiply-adds of a pass, below which ONNX Runtime is not worth loading."""
_SMALL = 1 << 22  # multiply-adds of a call, below which its overhead of 20 us shows
_FEW = 2_048  # centers, on either side: of more, ours copies all for every tile, and is a tenth slower than numpy's
_TRIAL = (256, 128, 1024)  # rows, columns, centers
_GAIN = 1.2

Floats32 = NDArray[np.float32]


def multiply(a: Floats32, b: Floats32, out: Floats32 | None = None) -> Floats32:
    """a b, (m, n) float32. a : (m, r), b : (r, n), out : (m, n), C-contiguous.

    On the calling thread where numpy is held to it. A tile that is written again and again is worth an `out`: fresh
    pages of memory cost a good part of the product that fills them.
    """
    if floats.available() and b.shape[1] <= _FEW:
        return floats.product(a, b, out=np.empty((len(a), b.shape[1]), np.float32) if out is None else out)
    if _fast.cache_info().currsize and _fast() and a.size * b.shape[1] >= _SMALL:
        return float_product(np.ascontiguousarray(a), b, out=out)
    return np.matmul(a, b, out=out)


def multiply_transposed(a: Floats32, b: Floats32, out: Floats32) -> Floats32:
    """a b', (m, n) float32, otherwise as `multiply`. a : (m, r), b : (n, r)."""
    if floats.available() and len(a) <= _FEW:
        return floats.product(a, b, transpose_right=True, out=out)
    if _fast.cache_info().currsize and _fast() and a.size * len(b) >= _SMALL:
        return float_product(a, np.ascontiguousarray(b), transpose_right=True, out=out)
    return np.matmul(a, b.T, out=out)


def tune(multiply_adds: int) -> None:
    """Where ours does not run, choose the faster of the others from now on, if a pass has enough to do."""
    if multiply_adds >= WORTH_TUNING:
        _fast()


@cache
def _fast() -> bool:
    """Whether ONNX Runtime's product is clearly the faster one here."""
    m, r, n = _TRIAL
    a, b = np.ones((m, r), np.float32), np.ones((r, n), np.float32)
    with blas_threads(1):
        return _seconds(float_product, a, b) * _GAIN < _seconds(np.matmul, a, b)


def _seconds(function: object, a: Floats32, b: Floats32) -> float:
    assert callable(function)
    times = []
    for _ in range(5):
        start = perf_counter()
        function(a, b)
        times.append(perf_counter() - start)
    return min(times)

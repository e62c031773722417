"""Exact products of 8-bit matrices.

    Gemm.product(a, b)        int32    (a - 128) b      a (m, k) uint8, b (k, n) int8
    Gemm.left, Gemm.right     one side of many products, laid out once; add_product multiplies them
    flip(x)                   x - 128 as int8, of any shape: uint8 pixels on the right-hand side
    transpose(x)              (m, k) uint8 -> (k, m) uint8

Both sides of a product of pixels are x - 128, which needs no centering and moves none: a shift of every value leaves
each centered product as it is. uint8 on the left and int8 on the right is the pair that processors multiply natively
(two unsigned sides run at half the speed), and subtracting 128 from a uint8 is flipping its top bit.

8-bit products run on one of three kernels, all exact: our own integer kernel where the processor has AVX-512 VNNI
(bigcluster.kernels.linalg.panels, a third faster there), ONNX Runtime's integer kernel where it is exact, else float32
products of short blocks (bigcluster.kernels.linalg.floats).

Every call runs on the calling thread alone. Parallelism is over calls, so no result depends on the number of threads.

The two ONNX models are one operator each, as the bytes of their protocol buffers. They are part of the source so that
neither building nor running needs the `onnx` package; tests/test_gemm.py builds them again and compares. Inputs are `a`
(p, q) and `b` (r, s), the output is `c` (m, n); every size is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import BigclusterError, ConfigError
from bigcluster.kernels.linalg import floats, panels
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.panels import Panels
from bigcluster.kernels.linalg.types import Int8Array, Int32Array, UInt8Array
from bigcluster.runtime.onnx_runtime import onnx_runtime

KERNELS = ("auto", "integer", "float32")
MAX_K = 131_071
"""The longest contraction: |a - 128| and |b| are at most 128, so 2^17 - 1 products of at most 2^14 stay below 2^31."""
EXACT_FLOAT_K = 1_024
"""2^24 / 2^14: up to here float32 holds every partial sum exactly, in whatever order the kernel adds."""


@cache
def _session(model: bytes) -> Any:
    """An inference session on one thread that keeps no memory between calls."""
    onnxruntime = onnx_runtime()  # 0.1 s and 40 MiB: only when something is multiplied
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # An arena would keep the largest scratch of every thread, outside of any projection.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(model: bytes, inputs: dict[str, NDArray[Any]], out: NDArray[Any]) -> None:
    """Run a one-operator model straight into `out`, without copies on either side."""
    session = _session(model)
    binding = session.io_binding()
    for name, array in inputs.items():
        if not array.flags.c_contiguous:
            raise ValueError(f"operand {name} must be C-contiguous")
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    if not out.flags.c_contiguous:
        raise ValueError("the output must be C-contiguous")
    binding.bind_output("c", "cpu", 0, out.dtype, out.shape, out.ctypes.data)
    session.run_with_iobinding(binding)


def flip(pixels: UInt8Array, out: Int8Array | None = None) -> Int8Array:
    """x - 128 of uint8 x, as int8 of the same shape."""
    target = None if out is None else out.view(np.uint8)
    return np.bitwise_xor(pixels, np.uint8(128), out=target).view(np.int8)


def transpose(pixels: UInt8Array, out: UInt8Array | None = None) -> UInt8Array:
    """(m, k) uint8 -> (k, m) uint8, C-contiguous; several times faster than a strided copy."""
    if out is None:
        out = np.empty(pixels.shape[::-1], np.uint8)
    _run(BYTE_TRANSPOSE, {"a": pixels}, out)
    return out


Operand = Panels | NDArray[Any]
"""One operand of a product as its kernel reads it: packed panels, or uint8 (m, k) on the left and int8 (k, n) on the
right. Our own float32 kernel takes either dtype on both sides, transposed or not: uint8 is pixels, int8 is vectors."""


class Gemm:
    """The product of uint8 and int8 matrices, exact on every processor.

    kernel : "integer" multiplies in 8 bits and fails where the processor saturates; "float32" multiplies blocks of
    at most 1,024 values of k in float32, whose partial sums are all exact; "auto" is "integer" where its self-test
    passes. Both give the same integers.
    in_panels, in_floats : whether "integer", "float32" is our own kernel; None decides by the processor.
    Raises ConfigError for an unknown kernel.
    """

    def __init__(self, kernel: str = "auto", *, in_panels: bool | None = None, in_floats: bool | None = None) -> None:
        if kernel not in KERNELS:
            raise ConfigError(f"gemm.kernel is {kernel!r}; use one of {', '.join(KERNELS)}")
        self._requested = kernel
        self._integer = kernel != "float32"
        use_panels = panels.available() if in_panels is None else in_panels
        self.in_panels = self._integer and use_panels and _panels_are_exact()
        own_floats = floats.available() if in_floats is None else in_floats
        if kernel == "auto" and own_floats and not self.in_panels and not is_exact(_TRIAL):
            self._integer = False  # decided before sides are laid out: ours take fewer layouts
        self.in_floats = not self._integer and own_floats
        self._tested: set[tuple[int, int, int]] = set()
        self._lock = Lock()

    @property
    def kernel(self) -> str:
        """ "integer" or "float32": what products use now (the self-test of a new shape can still move it)."""
        return "integer" if self._integer else "float32"

    @property
    def one_layout(self) -> bool:
        """Whether one layout of a block serves as left and as right operand."""
        return self.in_panels or self.in_floats

    def left(self, x: NDArray[Any], *, by_row: bool) -> Operand:
        """The left operand of products. x : uint8 pixels or int8 vectors, (m, k) by row, else (k, m)."""
        if self.in_panels:
            return panels.pack(x, by_row=by_row)
        if self.in_floats:
            return x if by_row else x.T
        unsigned: UInt8Array = x if x.dtype == np.uint8 else np.bitwise_xor(x.view(np.uint8), np.uint8(128))
        return np.ascontiguousarray(unsigned) if by_row else transpose(np.ascontiguousarray(unsigned))

    def right(self, x: NDArray[Any], *, by_row: bool) -> Operand:
        """The right operand of products. x : uint8 pixels or int8 vectors, (n, k) by row, else (k, n)."""
        if self.in_panels:
            return panels.pack(x, by_row=by_row)
        if self.in_floats:
            return x.T if by_row else x
        if by_row:
            turned = transpose(np.ascontiguousarray(x.view(np.uint8)))
            return flip(turned, turned.view(np.int8)) if x.dtype == np.uint8 else turned.view(np.int8)
        return np.ascontiguousarray(flip(x) if x.dtype == np.uint8 else x)

    def multiply(self, left: Operand, right: Operand) -> Int32Array:
        """The (m, n) int32 product of two operands. Raises ValueError for a contraction longer than MAX_K."""
        if isinstance(left, Panels):
            assert isinstance(right, Panels)
            _check_k(left.k)
            out = np.empty((left.n, right.n), np.int32)
            panels.add_product(out, left, right, fresh=True)
            return out
        assert not isinstance(right, Panels)
        shape = left.shape[0], right.shape[1]
        if self.in_floats:
            _check_k(left.shape[1])
            out = np.zeros(shape, np.int32)
            floats.count_product(out, left, right)
            return out
        return self._product(left, right, np.empty(shape, np.int32))

    def both(self, x: NDArray[Any], *, by_row: bool, out: Operand | None = None) -> tuple[Operand, Operand]:
        """Left and right of a product of x with itself or its like, where `one_layout`: one copy, or none.

        out : a side that is no longer needed, for its memory.
        """
        if self.in_panels:
            packed = panels.pack(x, by_row=by_row, out=out if isinstance(out, Panels) else None)
            return packed, packed
        left = self.left(x, by_row=by_row)
        assert not isinstance(left, Panels)
        return left, left.T

    def add_product(self, total: NDArray[Any], left: Operand, right: Operand, *, lower: bool = False) -> None:
        """total : (m, n) int32 or int64, added to; where `lower`, what is above the diagonal may be left out."""
        if total.dtype == np.int32 and total.flags.c_contiguous and self.one_layout:
            if isinstance(left, Panels):
                assert isinstance(right, Panels)
                _check_k(left.k)
                panels.add_product(total, left, right, lower=lower)
            else:
                assert not isinstance(right, Panels)
                _check_k(left.shape[1])
                floats.count_product(total, left, right, lower=lower)
        else:
            np.add(total, self.multiply(left, right), out=total)

    def product(self, a: UInt8Array, b: Int8Array, out: Int32Array | None = None) -> Int32Array:
        """The sum over k of (a - 128) b, exact.

        a : (m, k) uint8, b : (k, n) int8, out : (m, n) int32, all C-contiguous; k at most MAX_K.
        """
        if out is None:
            out = np.empty((a.shape[0], b.shape[1]), np.int32)
        if not self.one_layout:
            return self._product(a, b, out)
        out[...] = 0
        self.add_product(out, self.left(a, by_row=True), self.right(b, by_row=False))
        return out

    def _product(self, a: UInt8Array, b: Int8Array, out: Int32Array) -> Int32Array:
        (m, k), n = a.shape, b.shape[1]
        _check_k(k)
        if self._integer and self._passes((m, k, n)):
            _run(INTEGER_PRODUCT, {"a": a, "b": b}, out)
        else:
            _float32_product(a, b, out)
        return out

    def _passes(self, shape: tuple[int, int, int]) -> bool:
        """Whether the integer kernel is exact at this shape; the kernel that runs depends on the shape."""
        if shape in self._tested:
            return True
        with self._lock:
            if self._integer and shape not in self._tested:
                if is_exact(shape):
                    self._tested.add(shape)
                elif self._requested == "integer":
                    raise BigclusterError(
                        f"8-bit products of shape {shape} are not exact on this processor; use gemm.kernel = 'float32'"
                    )
                else:
                    self._integer = False
        return self._integer


# What every even and odd place of the contraction holds, worst cases first: pairs of equal large products saturate a
# 16-bit intermediate, alternating signs hide it from a sum.
_LEFT_PATTERNS = ((255, 255), (0, 0), (255, 0), (0, 255), (128, 255), (129, 127))
_RIGHT_PATTERNS = ((-128, -128), (127, 127), (127, -128), (-128, 127), (0, -128))


_TRIAL = (64, 1024, 64)  # what stands for all shapes where a kernel is chosen before any is known


def _check_k(k: int) -> None:
    if k > MAX_K:
        raise ValueError(f"a contraction over {k} terms can pass 2^31; cut it into blocks of {MAX_K}")


@cache
def is_exact(shape: tuple[int, int, int]) -> bool:
    """Whether ONNX Runtime's integer kernel is exact on worst-case values of this (m, k, n)."""
    a, b, expected = _worst_case(shape)
    out = np.empty(expected.shape, np.int32)
    _run(INTEGER_PRODUCT, {"a": a, "b": b}, out)
    return bool(np.array_equal(out, expected))


@cache
def _panels_are_exact() -> bool:
    """The same of our own kernel, whose loops do not depend on the shape but at their edges."""
    a, b, expected = _worst_case((25, 8_199, 35))  # a longer k than is summed at once
    out = np.empty(expected.shape, np.int32)
    panels.add_product(out, panels.pack(a, by_row=True), panels.pack(b, by_row=False), fresh=True)
    return bool(np.array_equal(out, expected))


def _worst_case(shape: tuple[int, int, int]) -> tuple[UInt8Array, Int8Array, NDArray[np.int64]]:
    """Operands of worst-case values, and their product.

    Rows and columns cycle through the patterns, so that all pairs meet wherever the kernel has its edges; the right
    answer of each pair is known in closed form, so the test costs one product.
    """
    m, k, n = shape
    left = np.array(_LEFT_PATTERNS, np.uint8)[np.arange(m) % len(_LEFT_PATTERNS)]  # (m, 2)
    right = np.array(_RIGHT_PATTERNS, np.int8)[np.arange(n) % len(_RIGHT_PATTERNS)]  # (n, 2)
    patterns = np.tile(np.array(_LEFT_PATTERNS, np.uint8), (1, -(-k // 2)))[:, :k]  # whole rows, copied as such
    a = patterns[np.arange(m) % len(patterns)]
    b = np.empty((k, n), np.int8)
    for parity in (0, 1):
        b[parity::2] = right[:, parity]
    counts = np.array([(k + 1) // 2, k // 2])  # how many even and odd places
    return a, b, ((left.astype(np.int64) - 128) * counts) @ right.T.astype(np.int64)  # (m, n)


def _float32_product(a: UInt8Array, b: Int8Array, out: Int32Array) -> None:
    out[...] = 0
    add_float32_products(out, a, [b])


def add_float32_products(
    total: NDArray[Any], a: UInt8Array, column_blocks: Sequence[Any], *, lower: bool = False
) -> None:
    """Add (a - 128) [b_1 b_2 ...] to `total`, exactly, by float32 products.

    total : (m, n) int32 or int64; a : (m, k) uint8, converted once for all column blocks; column_blocks : b_i, (k, n_i)
    int8. lower : each column block counts from the row that is its first column.
    """
    for start in range(0, a.shape[1], EXACT_FLOAT_K):
        k_block = slice(start, start + EXACT_FLOAT_K)
        left = a[:, k_block].astype(np.float32)
        left -= 128
        first = 0
        for column_block in column_blocks:
            last, top = first + column_block.shape[1], first if lower else 0
            part = float_product(left[top:], column_block[k_block].astype(np.float32))
            # Reinterpreted in place: one scratch instead of two.
            np.add(total[top:, first:last], part.astype(np.int32), out=total[top:, first:last])
            first = last


# MatMulInteger(a uint8, b int8, a_zero_point=128) -> int32: the sum over k of (a - 128) b
INTEGER_PRODUCT = (
    b'\x08\x07\x12\x00:p\n\x1b\n\x01a\n\x01b\n\x01z\x12\x01c"\rMatMulInteger\x12\x01g*\t\x10\x02*\x02\x80\x01B\x01z'
    b"Z\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12\n\n\x03\x12\x01p\n\x03\x12\x01q"
    b"Z\x15\n\x01b\x12\x10\n\x0e\x08\x03\x12\n\n\x03\x12\x01r\n\x03\x12\x01s"
    b"b\x15\n\x01c\x12\x10\n\x0e\x08\x06\x12\n\n\x03\x12\x01m\n\x03\x12\x01nB\x04\n\x00\x10\r"
)

# Transpose(a uint8)
BYTE_TRANSPOSE = (
    b'\x08\x07\x12\x00:S\n \n\x01a\x12\x01c"\tTranspose*\r\n\x04perm@\x01@\x00\xa0\x01\x07\x12\x01g'
    b"Z\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12\n\n\x03\x12\x01p\n\x03\x12\x01q"
    b"b\x15\n\x01c\x12\x10\n\x0e\x08\x02\x12\n\n\x03\x12\x01m\n\x03\x12\x01nB\x04\n\x00\x10\r"
)

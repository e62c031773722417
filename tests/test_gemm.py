"""Exactness of the 8-bit products, on both kernels, and the bytes of the models behind them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcluster.errors import BigclusterError, ConfigError
from bigcluster.kernels.linalg import floats, gemm, panels
from bigcluster.kernels.linalg.compiled import library
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.gemm import MAX_K, Gemm, flip, is_exact, transpose
from bigcluster.kernels.linalg.panels import Panels

HAS_VNNI = bool(library().panels_known() & 1)
WIDE = pytest.mark.skipif(not floats.available(), reason="this processor has no AVX-512")
KERNELS = [
    pytest.param({"kernel": "float32", "in_floats": False}, id="float32 of numpy"),
    pytest.param({"kernel": "float32", "in_floats": True}, id="float32", marks=WIDE),
    pytest.param({"kernel": "integer", "in_panels": False}, id="onnxruntime"),
    pytest.param(
        {"kernel": "integer", "in_panels": True},
        id="panels",
        marks=pytest.mark.skipif(not HAS_VNNI, reason="this processor has no AVX-512 VNNI"),
    ),
]


def exact(a, b):
    """(a - 128) b in float64: every value is an integer below 2^53."""
    return (a.astype(np.float64) - 128) @ b.astype(np.float64)


def operands(m, k, n, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (m, k), np.uint8), random.integers(-128, 128, (k, n), np.int8)


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 70), k=st.integers(1, 1500), n=st.integers(1, 70), seed=st.integers(0, 99))
def test_products_are_exact(kernel, m, k, n, seed):
    a, b = operands(m, k, n, seed)
    np.testing.assert_array_equal(Gemm(**kernel).product(a, b), exact(a, b))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("k", [MAX_K, MAX_K - 1, 65_794, 8_192, 1_025])
@pytest.mark.parametrize(("left", "right"), [(0, -128), (255, 127), (255, -128), (0, 127), ("alternating", -128)])
def test_worst_cases_at_the_longest_contraction(kernel, k, left, right):
    a = np.empty((5, k), np.uint8)
    a[...] = np.where(np.arange(k) % 2, 255, 0) if left == "alternating" else left
    b = np.full((k, 19), right, np.int8)
    np.testing.assert_array_equal(Gemm(**kernel).product(a, b), exact(a, b))


def test_a_contraction_that_can_overflow_is_refused():
    a, b = np.zeros((1, MAX_K + 1), np.uint8), np.zeros((MAX_K + 1, 1), np.int8)
    with pytest.raises(ValueError, match="cut it into blocks"):
        Gemm().product(a, b)


@pytest.mark.parametrize("shape", [(1024, 2048, 512), (1022, 6120, 510), (1, 1, 1), (448, 4096, 333), (3, 131_071, 65)])
def test_self_test_passes_here_or_says_no(shape):
    assert is_exact(shape) in (True, False)


def test_the_self_test_catches_saturation(monkeypatch):
    """A kernel that saturates 16-bit sums of pairs, as processors without VNNI do."""

    def saturating(model, inputs, out):
        a, b = inputs["a"].astype(np.int64), inputs["b"].astype(np.int64)
        terms = a[:, :, None] * b[None]
        odd = terms.shape[1] // 2 * 2
        pairs = np.clip(terms[:, :odd:2] + terms[:, 1:odd:2], -32768, 32767).sum(axis=1)
        out[...] = pairs + terms[:, odd:].sum(axis=1) - 128 * b.sum(axis=0)

    is_exact.cache_clear()
    monkeypatch.setattr(gemm, "_run", saturating)
    try:
        assert not is_exact((13, 30, 11))
        with pytest.raises(BigclusterError, match="float32"):
            Gemm("integer", in_panels=False).product(*operands(13, 30, 11))
        assert not is_exact((13, 30, 11))
    finally:
        is_exact.cache_clear()


def test_auto_falls_back_where_the_self_test_fails(monkeypatch):
    monkeypatch.setattr(gemm, "is_exact", lambda shape: False)
    kernel = Gemm("auto", in_panels=False, in_floats=False)
    assert kernel.kernel == "integer"
    a, b = operands(9, 1100, 7)
    np.testing.assert_array_equal(kernel.product(a, b), exact(a, b))
    assert kernel.kernel == "float32"


@WIDE
def test_auto_takes_our_float32_kernel_at_once_where_the_self_test_fails(monkeypatch):
    monkeypatch.setattr(gemm, "is_exact", lambda shape: False)
    kernel = Gemm("auto", in_panels=False)
    assert kernel.one_layout
    a, b = operands(9, 1100, 7)
    np.testing.assert_array_equal(kernel.product(a, b), exact(a, b))


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 70),
    k=st.integers(1, 300),
    n=st.integers(1, 70),
    seed=st.integers(0, 99),
    rows=st.tuples(st.booleans(), st.booleans()),
    vectors=st.tuples(st.booleans(), st.booleans()),
    gap=st.integers(0, 5),
)
def test_sides_are_pixels_or_vectors_by_row_or_by_column(kernel, m, k, n, seed, rows, vectors, gap):
    """However a side lies in memory, within wider rows too, the product is that of what it means."""
    random = np.random.default_rng(seed)

    def side(length, by_row, signed):
        shape = (length, k) if by_row else (k, length)
        wide = random.integers(0, 256, (shape[0], shape[1] + gap), np.uint8)
        means = wide[:, : shape[1]].astype(int) - 128
        lies = (wide ^ np.uint8(128)).view(np.int8) if signed else wide
        return lies[:, : shape[1]], means if by_row else means.T

    left, left_means = side(m, rows[0], vectors[0])
    right, right_means = side(n, rows[1], vectors[1])
    multiply = Gemm(**kernel)
    sides = multiply.left(left, by_row=rows[0]), multiply.right(right, by_row=rows[1])
    expected = left_means @ right_means.T
    np.testing.assert_array_equal(multiply.multiply(*sides), expected)
    for dtype in (np.int32, np.int64):
        total = np.full((m, n), 7, dtype)
        multiply.add_product(total, *sides)
        np.testing.assert_array_equal(total, expected + 7)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n", [1, 16, 100, 257])
def test_the_lower_triangle_of_a_symmetric_product_is_complete(kernel, n):
    x, _ = operands(n, 90, 1)
    multiply = Gemm(**kernel)
    total = np.zeros((n, n), np.int32)
    multiply.add_product(total, multiply.left(x, by_row=True), multiply.right(x, by_row=True), lower=True)
    means = x.astype(int) - 128
    np.testing.assert_array_equal(np.tril(total), np.tril(means @ means.T))


@pytest.mark.parametrize("own", [pytest.param(False, id="numpy"), pytest.param(True, id="own", marks=WIDE)])
@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 150),
    k=st.integers(1, 600),
    n=st.integers(1, 120),
    turned=st.sampled_from([(False, False), (True, False), (False, True)]),
    seed=st.integers(0, 9),
)
def test_float_products(own, m, k, n, turned, seed):
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((m, k), np.float32), random.standard_normal((k, n), np.float32)
    left = np.ascontiguousarray(a.T) if turned[0] else a
    right = np.ascontiguousarray(b.T) if turned[1] else b
    out = np.full((m, n), np.nan, np.float32)
    found = float_product(left, right, transpose_left=turned[0], transpose_right=turned[1], out=out, own=own)
    assert found is out
    np.testing.assert_allclose(out, a.astype(np.float64) @ b, atol=1e-6 * k)


@WIDE
@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 150), k=st.integers(1, 600), n=st.integers(1, 120), data=st.data())
def test_an_entry_of_our_own_float_product_has_the_same_bits_in_any_company(m, k, n, data):
    random = np.random.default_rng(m)
    a, b = random.standard_normal((m, k), np.float32), random.standard_normal((k, n), np.float32)
    whole = floats.own_product(a, b, out=np.empty((m, n), np.float32))
    top, left = data.draw(st.integers(0, m - 1)), data.draw(st.integers(0, n - 1))
    part = floats.own_product(a[top:], b[:, left:], out=np.empty((m - top, n - left), np.float32))
    np.testing.assert_array_equal(part, whole[top:, left:])


@WIDE
def test_products_of_more_columns_than_are_copied_at_a_time():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 256, (21, 300), np.uint8), random.integers(0, 256, (300, 4_101), np.uint8)
    means = a.astype(int) - 128, b.astype(int) - 128
    total = np.full((21, 4_101), 3, np.int32)
    floats.count_product(total, a, b)
    np.testing.assert_array_equal(total, means[0] @ means[1] + 3)
    square = np.zeros((4_101, 4_101), np.int32)
    floats.count_product(square, b[:40].T, b[:40], lower=True)
    np.testing.assert_array_equal(np.tril(square), np.tril(means[1][:40].T @ means[1][:40]))


@WIDE
def test_float_products_of_no_terms_are_zero_and_what_does_not_fit_is_refused():
    a, b = np.zeros((3, 0), np.float32), np.zeros((0, 2), np.float32)
    np.testing.assert_array_equal(floats.own_product(a, b, out=np.full((3, 2), np.nan, np.float32)), 0)
    x = np.zeros((4, 6), np.float32)
    with pytest.raises(ValueError, match=r"\(4, 6\) by \(4, 6\) into \(4, 4\)"):
        floats.own_product(x, x, out=np.empty((4, 4), np.float32))
    for out in (np.empty((4, 4)), np.empty((4, 4), np.int32), np.empty((4, 4), np.float16)):
        with pytest.raises(ValueError, match="a product goes into writeable float32"):
            floats.own_product(x, x.T, out=out)
    with pytest.raises(ValueError, match="uint8 is no operand of this product"):
        floats.own_product(x.astype(np.uint8), x.T, out=np.empty((4, 4), np.float32))
    with pytest.raises(ValueError, match="one axis of each operand must be contiguous"):
        floats.own_product(np.zeros((8, 12), np.float32)[::2, ::2], x.T, out=np.empty((4, 4), np.float32))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 70), k=st.integers(1, 90), by_row=st.booleans(), spent=st.sampled_from([None, 0, -16]))
def test_panels_in_the_memory_of_others_are_the_same_to_the_byte(n, k, by_row, spent):
    """Whether it is as large or not, nothing of what was there is left."""
    if not HAS_VNNI:
        pytest.skip("this processor has no AVX-512 VNNI")
    x, _ = operands(n, k, 1)
    x = x if by_row else np.ascontiguousarray(x.T)
    fresh = panels.pack(x, by_row=by_row)
    size = max(1, len(fresh.values) + (spent or 0))
    old = None if spent is None else Panels(np.full(size, 77, np.int8), fresh.sums, n, k)
    again = panels.pack(x, by_row=by_row, out=old)
    assert (old is not None and again.values is old.values) is (spent == 0)
    np.testing.assert_array_equal(again.values, fresh.values)
    np.testing.assert_array_equal(again.sums, fresh.sums)


def test_sides_that_do_not_fit_are_refused():
    if not HAS_VNNI:
        pytest.skip("this processor has no AVX-512 VNNI")
    x, _ = operands(20, 30, 1)
    packed, other = panels.pack(x, by_row=True), panels.pack(x[:, :28], by_row=True)
    with pytest.raises(ValueError, match=r"\(20, 30\) by \(28, 20\) into \(20, 20\)"):
        panels.add_product(np.zeros((20, 20), np.int32), packed, other)
    with pytest.raises(ValueError, match="into \\(20, 19\\)"):
        panels.add_product(np.zeros((20, 19), np.int32), packed, packed)


def test_output_goes_where_it_is_wanted():
    a, b = operands(6, 40, 5)
    out = np.empty((6, 5), np.int32)
    assert Gemm().product(a, b, out) is out
    np.testing.assert_array_equal(out, exact(a, b))


def test_strided_operands_are_refused():
    a, b = operands(6, 40, 5)
    with pytest.raises(ValueError, match="C-contiguous"):
        Gemm("integer").product(a[:, ::2], b[::2])
    with pytest.raises(ValueError, match="C-contiguous"):
        Gemm("integer", in_panels=False).product(a[:, ::2], b[::2])


def test_unknown_kernel_names_the_valid_ones():
    with pytest.raises(ConfigError, match="auto, integer, float32"):
        Gemm("int4")


@settings(max_examples=30, deadline=None)
@given(m=st.integers(1, 90), n=st.integers(1, 90), seed=st.integers(0, 9))
def test_layout_helpers(m, n, seed):
    x = np.random.default_rng(seed).integers(0, 256, (m, n), np.uint8)
    np.testing.assert_array_equal(transpose(x), x.T)
    np.testing.assert_array_equal(flip(x), x.astype(int) - 128)
    a, b = x.astype(np.float32), np.eye(n, dtype=np.float32)
    np.testing.assert_array_equal(float_product(a, b), a)
    np.testing.assert_array_equal(float_product(a, np.eye(m, dtype=np.float32), transpose_left=True), a.T)


def test_read_only_input_is_fine():
    a, b = operands(6, 40, 5)
    a.flags.writeable = b.flags.writeable = False
    np.testing.assert_array_equal(Gemm().product(a, b), exact(a, b))


def test_model_bytes_are_what_onnx_builds():
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    def build(nodes, a, b, c, constants=()):
        names = [("a", a, ["p", "q"])] + ([("b", b, ["r", "s"])] if b else [])
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(*name) for name in names],
            [helper.make_tensor_value_info("c", c, ["m", "n"])],
            list(constants),
        )
        model = helper.make_model(graph, producer_name="", opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    byte, signed, integer = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32
    zero = helper.make_tensor("z", byte, [], [128])
    integers = helper.make_node("MatMulInteger", ["a", "b", "z"], ["c"])
    assert build([integers], byte, signed, integer, [zero]) == gemm.INTEGER_PRODUCT
    turned = helper.make_node("Transpose", ["a"], ["c"], perm=[1, 0])
    assert build([turned], byte, None, byte) == gemm.BYTE_TRANSPOSE

"""The compiled loops against numpy, and what is said where they are missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigcluster.errors import InstallationError
from bigcluster.kernels.linalg import compiled, loops


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the library and its sources, which the loops are loaded from."""
    shutil.copytree(compiled.NATIVE, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(compiled, "LIBRARY", tmp_path / compiled.LIBRARY.name)
    monkeypatch.setattr(compiled, "NATIVE", tmp_path)
    compiled.library.cache_clear()
    yield compiled.LIBRARY
    compiled.library.cache_clear()


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    n=st.integers(1, 1200),
    ahead=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
    coarse=st.booleans(),
    bar=st.booleans(),
)
def test_two_least_is_numpys(sizes: list[int], n: int, ahead: int, seed: int, coarse: bool, bar: bool) -> None:
    """Ties go to the least number; a barred center counts for nothing; a tile touches its rows alone."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum([0, *sizes])
    score = rng.integers(0, 5, (ends[-1], n)).astype(np.float32) if coarse else rng.random((ends[-1], n), np.float32)
    add, reach = rng.random(ends[-1], np.float32), rng.random(len(sizes), np.float32) / 8
    block = n + ahead + 2
    barred = np.full((len(sizes) if bar else 1, block), -1, np.int32)
    if bar:
        barred[:] = rng.integers(-1, np.array(sizes)[:, None], barred.shape)
    label = np.full((len(sizes), block), -7, np.int32)
    close, n_close = np.full((len(sizes), block), -7, np.int32), np.zeros(len(sizes), np.int64)
    loops.two_least(score, add, ends, reach, ahead, barred, label, close, n_close)
    for number in range(len(sizes)):
        own = score[ends[number] : ends[number + 1]] + add[ends[number] : ends[number + 1], None]
        own = np.vstack([own, np.full((1, n), np.inf, np.float32)])
        out = barred[number if bar else 0, ahead : ahead + n]
        own[out[out >= 0], np.flatnonzero(out >= 0)] = np.inf
        np.testing.assert_array_equal(label[number, ahead : ahead + n], np.argmin(own, axis=0))
        two = np.sort(own, axis=0)[:2]
        with np.errstate(invalid="ignore"):  # inf - inf: a single center that is barred is close to nothing
            expected = ahead + np.flatnonzero(two[1] - two[0] <= reach[number])
        np.testing.assert_array_equal(close[number, : n_close[number]], expected)
    assert (label[:, :ahead] == -7).all()
    assert (label[:, ahead + n :] == -7).all()


@given(n=st.integers(0, 60), r=st.integers(1, 33), k=st.integers(1, 7), seed=st.integers(0, 2**32 - 1))
def test_spread_adds_row_after_row(n: int, r: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, starts = rng.normal(size=(n, r)), np.cumsum(np.concatenate([[0], rng.integers(0, 3, n)]))
    targets, factors = rng.integers(0, k, starts[-1]), rng.normal(size=starts[-1])
    sums, weights, counts = np.zeros((k, r)), np.zeros(k), np.zeros(k, np.int64)
    loops.spread(x, starts, targets, factors, sums, weights, counts)
    expected = np.zeros((k, r))
    for row in range(n):
        for place in range(starts[row], starts[row + 1]):
            expected[targets[place]] += factors[place] * x[row]
    np.testing.assert_array_equal(sums, expected)
    np.testing.assert_array_equal(counts, [np.sign(factors[targets == target]).sum() for target in range(k)])
    np.testing.assert_allclose(weights, np.bincount(targets, factors, minlength=k), atol=1e-12)


@given(st.integers(1, 40), st.integers(1, 70), st.booleans(), st.integers(0, 99))
def test_add_scaled_is_numpys_to_the_bit(n: int, m: int, by_row: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    to, scale = rng.standard_normal((n, m), np.float32), rng.random(n if by_row else m, np.float32)
    product = rng.integers(-(2**31), 2**31, (n, m), np.int32)
    expected = to + np.multiply(product, scale[:, None] if by_row else scale, dtype=np.float32)
    loops.add_scaled(to, product, scale, by_row=by_row)
    np.testing.assert_array_equal(to, expected)


def test_a_missing_library_is_one_line(library: Path) -> None:
    library.unlink()
    with pytest.raises(InstallationError, match=r"cannot be loaded .* install bigcluster again, with a C compiler"):
        loops.spread(*(np.zeros(0),) * 7)  # type: ignore[arg-type]


def test_a_library_of_another_source_is_refused(library: Path) -> None:
    (compiled.NATIVE / "loops.c").write_text("/* newer */", encoding="utf-8")
    with pytest.raises(InstallationError, match=r"made from another floats\.c, loops\.c, panels\.c; install"):
        loops.spread(*(np.zeros(0),) * 7)  # type: ignore[arg-type]

"""Every PCA solver against numpy.linalg.svd, and against itself under other budgets, threads, kernels and chunks."""

from __future__ import annotations

import tracemalloc

import dask.array as da
import numpy as np
import pytest
from conftest import MemoryTiles, float_kernel
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcluster.errors import ConfigError, InvalidDataError, TooFewSamplesError, VarianceNotReachedError
from bigcluster.kernels.linalg import floats
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.kernels.linalg.quantize import quantize
from bigcluster.kernels.pca import choose_rank, orthonormal_transform, ritz_generalised, round_to_step, score_step
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.pca import SOLVERS, Components, ExactSums, Variance, choose, fit_pca, operator
from bigcluster.solvers.pca.footprint import least_bytes, project_bytes
from bigcluster.solvers.pca.operands import DENSE_LIMIT
from bigcluster.solvers.pca.products import plan_products
from bigcluster.solvers.pca.schedule import iteration_schedule, plan_schedule, rmatmat_bytes
from bigcluster.solvers.spill import FolderTiles, SpillBuffer
from bigcluster.store.row_source import ArrayRows, DaskRows

MIB = 1024**2
NAMES = sorted(SOLVERS)


def exact_variances(x):
    """All of them, descending."""
    centered = x - x.mean(axis=0, dtype=np.float64)
    small = centered @ centered.T if len(x) <= x.shape[1] else centered.T @ centered
    return np.linalg.eigvalsh(small)[::-1] / (len(x) - 1)


class Collect:
    """A sink that puts the blocks together again and sees that they come in order."""

    def __init__(self, axis):
        self.axis, self.blocks, self.at = axis, [], 0

    def write(self, start, block):
        assert start == self.at
        assert block.dtype == np.float32
        self.at += block.shape[self.axis]
        self.blocks.append(block.copy())

    @property
    def array(self):
        return np.concatenate(self.blocks, axis=self.axis)


def solve(name, x, target, *, workspace_mib=256, threads=2, kernel="auto", tiles=None, seed=0, **options):
    rows = x if hasattr(x, "read") else ArrayRows(x)
    fit = fit_pca(
        name,
        rows,
        target=target if not isinstance(target, int) else Components(target),
        runtime=EmbeddedRuntime(threads),
        workspace_bytes=int(workspace_mib * MIB),
        tiles=tiles or MemoryTiles(),
        gemm=kernel if isinstance(kernel, Gemm) else Gemm(kernel),
        seed=seed,
        **options,
    )
    scores, components = Collect(0), Collect(1)
    fit.write_scores(scores)
    fit.write_components(components)
    return fit, scores.array, components.array


def pictures(n, d, rank=12, noise=4.0, seed=0):
    """uint8 rows with a falling spectrum."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((n, rank)) * 40 / np.arange(1, rank + 1) ** 0.7
    x = 128 + weights @ random.standard_normal((rank, d)) + noise * random.standard_normal((n, d))
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def exact_fit(x):
    centered = x - x.mean(axis=0, dtype=np.float64)
    _, singular, vectors = np.linalg.svd(centered, full_matrices=False)
    return centered, singular**2 / (len(x) - 1), vectors


SHAPES = {"wide": (120, 700), "tall": (700, 120), "square": (200, 200)}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_svd(name, shape, dtype):
    x = pictures(*SHAPES[shape]).astype(dtype)
    if dtype != np.uint8:
        x = x * dtype(0.37) + dtype(11)
    fit, scores, components = solve(name, x, 10)
    centered, variances, vectors = exact_fit(x)
    loose = name == "subspace"
    assert fit.total_variance == pytest.approx(variances.sum(), rel=1e-6)
    np.testing.assert_allclose(fit.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(fit.eigenvalues[:10], variances[:10], rtol=1e-3 if loose else 1e-5)
    cosines = np.linalg.svd(components @ vectors[:10].T, compute_uv=False)
    assert cosines.min() > (0.999 if loose else 0.999999)
    np.testing.assert_allclose(components @ components.T, np.eye(10), atol=1e-5)
    scale = np.abs(scores).max()
    np.testing.assert_allclose(centered @ components.T, scores, atol=1e-5 * scale)
    np.testing.assert_allclose(scores.var(axis=0, ddof=1, dtype=np.float64), fit.eigenvalues[:10], rtol=1e-4)
    residual = ((centered - scores @ components) ** 2).sum() / (len(x) - 1)
    # The subspace solver's 8-bit components lose about 1e-4 of what they explain.
    assert residual == pytest.approx(variances[10:].sum(), abs=(2e-4 if loose else 1e-6) * variances.sum())


@pytest.mark.parametrize("name", NAMES)
def test_total_variance_of_pixels_is_exact(name):
    x = pictures(90, 150)
    integers = x.astype(int)
    n = len(x)
    exact = (n * int((integers**2).sum()) - int((integers.sum(axis=0) ** 2).sum())) / (n * (n - 1))
    moments = ExactSums(integers.sum(axis=0), int((integers**2).sum()))
    assert solve(name, x, 3)[0].total_variance == pytest.approx(exact, rel=1e-15)
    assert solve(name, x, 3, moments=moments)[0].total_variance == pytest.approx(exact, rel=1e-15)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    n=st.integers(2, 40),
    d=st.integers(1, 50),
    kind=st.sampled_from(["noise", "duplicates", "constant columns", "two values", "all equal"]),
    dtype=st.sampled_from([np.uint8, np.float32, np.float64]),
    data=st.data(),
)
def test_laws_on_small_data(name, n, d, kind, dtype, data):
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    x = random.integers(0, 256, (n, d))
    if kind == "duplicates":
        x = x[random.integers(0, max(1, n // 4), n)]
    elif kind == "constant columns":
        x[:, random.random(d) < 0.7] = 255
    elif kind == "two values":
        x = np.where(x > 127, 255, 0)
    elif kind == "all equal":
        x[...] = x[0]
    x = x.astype(dtype)
    r = data.draw(st.integers(1, min(n, d)))
    fit, scores, components = solve(name, x, r)
    centered, variances, _ = exact_fit(x)
    assert scores.shape == (n, r)
    assert components.shape == (r, d)
    assert fit.n_components == r
    tolerance = 5e-4 if name == "subspace" else 1e-5
    largest = variances[0]
    np.testing.assert_allclose(fit.eigenvalues[:r], variances[:r], atol=tolerance * largest + 1e-9)
    assert (np.diff(fit.eigenvalues) <= 1e-6 * largest + 1e-12).all()
    np.testing.assert_allclose(centered @ components.T, scores, atol=1e-4 * np.sqrt(largest * n) + 1e-6)
    lengths = (components.astype(np.float64) ** 2).sum(axis=1)
    assert all(length == pytest.approx(1, abs=1e-2) or length == 0 for length in lengths)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.3, 0.8, 0.95])
def test_variance_target_takes_the_first_that_reaches_it(name, share):
    x = pictures(150, 400, rank=30)
    fit, scores, _ = solve(name, x, Variance(share))
    shares = fit.cumulative_shares
    n = fit.n_components
    assert shares[n - 1] >= share
    assert n == 1 or shares[n - 2] < share
    assert scores.shape == (150, n)
    assert abs(n - (np.searchsorted(np.cumsum(exact_fit(x)[1]) / exact_fit(x)[1].sum(), share) + 1)) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_all_of_the_variance(name):
    fit, scores, components = solve(name, pictures(40, 300), Variance(1))
    assert fit.cumulative_shares[fit.n_components - 1] == pytest.approx(1, abs=1e-3)
    assert 38 <= fit.n_components <= 40
    assert np.isfinite(scores).all()
    assert np.isfinite(components).all()


def test_a_basis_that_outgrows_its_memory_is_refused_in_one_line():
    noise = np.random.default_rng(0).integers(0, 256, (2500, 2600), np.uint8)
    with pytest.raises(
        VarianceNotReachedError,
        match=r"2160 basis vectors .* leaves PCA 64 MiB; ask for a smaller share, or allow 332 MiB more",
    ):
        solve("subspace", noise, Variance(0.999), workspace_mib=64)


def test_a_share_of_more_components_than_are_reckoned_with_is_refused_in_one_line():
    """By column the last read takes all of them at once."""
    noise = np.random.default_rng(0).integers(0, 256, (4000, 1000), np.uint8)
    reckoned, taken = (rmatmat_bytes(n, 1000, 16, 1) for n in (800, 880))
    with pytest.raises(VarianceNotReachedError, match=r"\d+ components at once, .* ask for a smaller share"):
        solve("subspace", noise, Variance(0.97), threads=16, workspace_mib=(reckoned + taken) / 2 / MIB)
    fit, _, _ = solve("subspace", noise, Variance(0.97), threads=16, workspace_mib=2 * taken / MIB)
    assert fit.n_components > 880


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_for_any_budget_and_threads_on_the_float_kernel_of_numpy(name):
    """What processors without AVX-512 use: the same laws hold, and the same variances come out up to rounding."""
    shape = {"gram": (1700, 600), "covariance": (600, 1700), "subspace": (600, 500)}[name]
    x = pictures(*shape, rank=40).astype(np.float32)
    own, *_ = solve(name, x, 24)
    with float_kernel(own=False):
        fit, scores, components = solve(name, x, 24)
        for variant in ({"workspace_mib": 12}, {"threads": 3}, {"threads": 1, "workspace_mib": 40}):
            _, other_scores, other_components = solve(name, x, 24, **variant)
            np.testing.assert_array_equal(scores, other_scores, err_msg=str(variant))
            np.testing.assert_array_equal(components, other_components, err_msg=str(variant))
    np.testing.assert_allclose(fit.eigenvalues[:24], own.eigenvalues[:24], rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_same_bits_for_any_budget_threads_kernel_and_chunks(name, dtype, tmp_path):
    """Lanczos in gram and covariance (more than 1,536 units), several tiles in each direction, spilled and not."""
    shape = {"gram": (1700, 2300), "covariance": (2300, 1700), "subspace": (4300, 4500)}[name]
    check_same_bits(name, pictures(*shape, rank=40).astype(dtype), tmp_path)


def test_same_bits_by_column(tmp_path):
    check_same_bits("subspace", pictures(4500, 4300, rank=40), tmp_path)


def check_same_bits(name, x, tmp_path):
    dtype = x.dtype
    fit, scores, components = solve(name, x, 24)
    variants = [
        {"workspace_mib": 12, "tiles": FolderTiles(tmp_path / "tiles")},
        {"threads": 3},
        {"threads": 1, "workspace_mib": 40},
        {"workspace_mib": 80},  # some tiles of a slab kept, others read twice
    ]
    if dtype == np.uint8:
        variants += [{"kernel": Gemm("float32", in_floats=own)} for own in {False, floats.available()}]
        variants += [{"kernel": Gemm("integer", in_panels=False)}]
    for variant in variants:
        other, other_scores, other_components = solve(name, x, 24, **variant)
        np.testing.assert_array_equal(scores, other_scores, err_msg=str(variant))
        np.testing.assert_array_equal(components, other_components, err_msg=str(variant))
        np.testing.assert_array_equal(fit.eigenvalues, other.eigenvalues, err_msg=str(variant))
        other.close()
    assert not list((tmp_path / "tiles").iterdir())


@pytest.mark.parametrize("shape", [(260, 300), (300, 260)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_same_bits_for_any_number_of_vectors_at_once(shape, dtype):
    x, item = pictures(*shape, rank=100, noise=30).astype(dtype), np.dtype(dtype).itemsize
    by_row = shape[0] <= shape[1]
    budgets = 2, 8, 64
    plans = [iteration_schedule(Components(200), 260, 2, item, mib * MIB, by_row=by_row)[0] for mib in budgets]
    assert {plan.columns for plan in plans} == {32, 64}, "a block in two groups, and in one"
    found = [solve("subspace", x, 200, workspace_mib=mib) for mib in budgets]
    for _, scores, components in found[1:]:
        np.testing.assert_array_equal(scores, found[0][1])
        np.testing.assert_array_equal(components, found[0][2])


def test_blocks_of_pixels_read_together_give_the_bits_of_blocks_read_alone():
    x = pictures(300, 17_000)
    plans = {plan_schedule(300, 32, 2, 1, 3 * mib * MIB // 4, by_row=True).k_blocks: mib for mib in (2, 14, 20, 64)}
    assert sorted(plans) == [1, 2, 4]
    found = [solve("subspace", x, 20, workspace_mib=mib) for mib in plans.values()]
    for _, scores, components in found[1:]:
        np.testing.assert_array_equal(scores, found[0][1])
        np.testing.assert_array_equal(components, found[0][2])


@given(n=st.integers(1, 600), width=st.integers(1, 70), group=st.integers(1, 40), seed=st.integers(0, 99))
def test_weighted_sums_of_a_group_of_vectors_are_those_of_all(n, width, group, seed):
    """How many come at once is the budget's."""
    random = np.random.default_rng(seed)
    code = quantize(random.standard_normal((n, width), np.float32), to_int8=True)
    weights = random.standard_normal(n)
    parts = [code.columns(start, start + group).weighted(weights) for start in range(0, width, group)]
    np.testing.assert_array_equal(np.concatenate(parts), code.columns(0, width).weighted(weights))


@pytest.mark.parametrize("name", NAMES)
def test_chunks_do_not_show(name):
    x = pictures(300, 260)
    _, scores, components = solve(name, x, 9)
    for chunks in [(300, 260), (7, 260), (64, 33)]:
        _, other, others = solve(name, DaskRows(da.from_array(x, chunks=chunks)), 9)
        np.testing.assert_array_equal(scores, other)
        np.testing.assert_array_equal(components, others)


@pytest.mark.parametrize("name", NAMES)
def test_scores_sum_exactly_in_any_order(name):
    fit, scores, _ = solve(name, pictures(500, 300), 12)
    steps = scores.astype(np.float64) / fit.score_step
    np.testing.assert_array_equal(steps, np.rint(steps))
    order = np.random.default_rng(0).permutation(len(scores))
    forward, shuffled = np.zeros(12), np.zeros(12)
    for i, j in enumerate(order):
        forward += scores[i]
        shuffled += scores[j]
    np.testing.assert_array_equal(forward, shuffled)


@pytest.mark.parametrize("name", NAMES)
def test_extremes_of_pixels_past_the_int32_bound(name):
    """A contraction of more than 131,071 terms of 255 and 0 in each orientation."""
    n, d = (6, 140_000) if name != "covariance" else (140_000, 6)
    x = np.zeros((n, d), np.uint8)
    x[::2] = 255
    x[:, ::3] ^= 255
    fit, _, _ = solve(name, x, 1)
    centered = x - x.mean(axis=0, dtype=np.float64)
    assert fit.total_variance == pytest.approx((centered**2).sum() / (n - 1), rel=1e-12)
    small = centered @ centered.T if n < d else centered.T @ centered
    assert fit.eigenvalues[0] == pytest.approx(np.linalg.eigvalsh(small)[-1] / (n - 1), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_refusals_are_one_clear_line(name):
    x = pictures(20, 30)
    with pytest.raises(TooFewSamplesError, match="use at most 20"):
        solve(name, x, 21)
    with pytest.raises(TooFewSamplesError, match="at least 2 rows"):
        solve(name, x[:1], 1)
    for value in (np.nan, np.inf, -np.inf):
        bad = x.astype(np.float32)
        bad[[13, 17], 5] = value
        with pytest.raises(InvalidDataError, match="row 13 "):
            solve(name, bad, 2)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan")])
def test_impossible_shares(share):
    with pytest.raises(ConfigError, match="at most 1"):
        Variance(share)


def test_impossible_components():
    with pytest.raises(ConfigError, match="at least 1"):
        Components(0)


@pytest.mark.parametrize("shape", [(400, 1500), (1500, 400)])
@pytest.mark.parametrize("name", NAMES)
def test_small_variances_are_told_from_large_ones(name, shape):
    """The first variance is thousands of times the last one that is wanted."""
    random = np.random.default_rng(1)
    weights = random.standard_normal((shape[0], 60)) * 40 / np.arange(1, 61)
    x = 128 + weights @ np.sign(random.standard_normal((60, shape[1])))
    x = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    fit, scores, components = solve(name, x, 50)
    centered, variances, _ = exact_fit(x)
    assert variances[0] > 2000 * variances[49]
    np.testing.assert_allclose(fit.eigenvalues[:50], variances[:50], rtol=3e-3)
    np.testing.assert_allclose(components @ components.T, np.eye(50), atol=1e-5)
    correlations = np.corrcoef(scores.T.astype(np.float64)) - np.eye(50)
    assert np.abs(correlations).max() < 1e-3
    deviations = scores.std(axis=0, dtype=np.float64)
    assert np.abs((centered @ components.T - scores) / deviations).max() < 2e-3


def light_and_dark(rest, dtype=np.uint8):
    """Every other row light: a first variance that dwarfs those of `rest`."""
    return np.clip(np.rint(np.where(np.arange(len(rest))[:, None] % 2, 228, 28) + rest), 0, 255).astype(dtype)


# Beyond 1,536 units gram and covariance matrices are solved by Lanczos.
DWARFED = [
    *((name, shape) for name in NAMES for shape in ((400, 600), (600, 400))),
    ("gram", (1600, 1700)),
    ("covariance", (1700, 1600)),
]


@pytest.mark.parametrize("noise", [4, 8])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("name", "shape"), DWARFED)
def test_one_variance_that_dwarfs_all_others_hides_none_of_them(name, shape, dtype, noise):
    x = light_and_dark(noise * np.random.default_rng(1).standard_normal(shape), dtype)
    fit, _, components = solve(name, x, 100)
    variances = exact_variances(x)
    assert variances[0] > 10_000 * variances[1]
    assert (fit.eigenvalues[:100] > 0).all()
    # A float32 Gram matrix holds the others to so many digits less than the first.
    of_float32 = name == "gram" and min(shape) > DENSE_LIMIT
    np.testing.assert_allclose(components @ components.T, np.eye(100), atol=1e-3 if of_float32 else 1e-5)
    assert fit.eigenvalues[1:100].sum() >= 0.975 * variances[1:100].sum(), "of noise, which converges slowest"


@pytest.mark.parametrize("name", NAMES)
def test_of_a_spectrum_that_one_variance_dwarfs_a_thousandth_is_lost(name):
    random = np.random.default_rng(2)
    falling = random.standard_normal((1600, 200)) * 5 / np.arange(1, 201) ** 0.7 @ random.standard_normal((200, 1700))
    x = light_and_dark(falling + 3 * random.standard_normal(falling.shape))
    variances = exact_variances(x)
    assert variances[0] > 0.9 * variances.sum()
    fit, _, _ = solve(name, x, 100)
    assert fit.eigenvalues[1:100].sum() >= 0.999 * variances[1:100].sum()


@pytest.mark.parametrize("name", NAMES)
def test_a_share_beyond_a_dwarfing_variance_is_reached(name):
    x = light_and_dark(3 * np.random.default_rng(1).standard_normal((600, 400)))
    shares = np.cumsum(exact_variances(x)) / exact_variances(x).sum()
    asked = float(shares[75]) - 1e-6
    fit, _, _ = solve(name, x, Variance(asked))
    assert fit.cumulative_shares[fit.n_components - 1] >= asked
    assert 76 <= fit.n_components <= 82


@pytest.mark.parametrize(
    ("name", "shape"), [("subspace", (400, 300)), ("gram", (1600, 1700)), ("covariance", (1700, 1600))]
)
def test_a_share_that_float32_cannot_tell_from_rounding_is_refused(name, shape):
    x = np.random.default_rng(0).standard_normal(shape)
    x[:, 0] *= 2000
    with pytest.raises(
        VarianceNotReachedError, match=r"0\.999\d+ of the variance, 0\.99999 was asked for; ask for less"
    ):
        solve(name, x, Variance(0.99999))


@pytest.mark.parametrize("name", NAMES)
def test_the_spectrum_ends_where_no_variance_is_left(name):
    """Of 40 rows there are 39 components, however many columns a basis has."""
    fit, _, _ = solve(name, pictures(40, 1700, rank=6), 30)
    assert (fit.eigenvalues > 0).all()
    assert 30 <= len(fit.eigenvalues) <= 39


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("name", "n"), [*((name, 300) for name in NAMES), ("gram", 1600), ("covariance", 1600)])
def test_equal_variances_are_all_found(name, n, dtype):
    """Powers of a matrix of equal eigenvalues reach no more vectors than they start from."""
    x = 200 * np.eye(n, dtype=dtype)
    fit, _, components = solve(name, x, 150)
    np.testing.assert_allclose(fit.eigenvalues[:150], exact_variances(x)[:150], rtol=1e-4)
    np.testing.assert_allclose(components @ components.T, np.eye(150), atol=1e-5)
    if n == 300:
        assert 284 <= solve(name, x, Variance(0.95))[0].n_components <= 286


@pytest.mark.parametrize("shape", [(100, 200), (200, 100)])
@pytest.mark.parametrize("name", NAMES)
def test_more_components_than_there_are_have_no_variance(name, shape):
    random = np.random.default_rng(0)
    x = (random.standard_normal((shape[0], 6)) @ random.standard_normal((6, shape[1]))).astype(np.float32)
    fit, scores, components = solve(name, x, 20)
    np.testing.assert_allclose(fit.eigenvalues[:6], exact_fit(x)[1][:6], rtol=1e-3)
    assert not fit.eigenvalues[6:20].any()
    assert not scores[:, 6:].any()
    assert not components[6:].any()


@pytest.mark.parametrize("shape", [(100, 300), (300, 100)])
def test_without_variance_in_several_tiles_all_is_zero(shape, monkeypatch):
    monkeypatch.setattr(operator, "TILE_ROWS", 16)  # sums over tiles leave rounding behind
    _, scores, components = solve("subspace", np.full(shape, 200, np.uint8), 3)
    assert not scores.any()
    assert not components.any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", [Components(3), Variance(0.8)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_without_variance_all_scores_are_zero(name, target, dtype):
    x = np.full((30, 50), 7, dtype)
    fit, scores, components = solve(name, x, target)
    assert fit.total_variance == 0
    assert not scores.any()
    assert not components.any()
    assert not fit.cumulative_shares.any()


@pytest.mark.parametrize("name", NAMES)
def test_progress_reaches_its_total(name):
    seen = []
    solve(name, pictures(60, 80), 4, on_progress=lambda fit: seen.append((fit.done, fit.total)))
    dones = [done for done, _ in seen]
    assert dones == sorted(dones)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("gram", (2500, 5000)), ("covariance", (5000, 2500)), ("subspace", (2500, 5000)), ("subspace", (5000, 2500))],
)
def test_projected_bytes_hold_what_a_fit_takes(name, shape, tmp_path):
    workspace_mib = 64
    x = pictures(*shape, rank=4)
    target, dtype = Components(16), np.dtype(np.uint8)
    assert least_bytes(name, x.shape, dtype, target, 2) <= workspace_mib * MIB
    projected = project_bytes(name, x.shape, dtype, target, 2, workspace_mib * MIB)
    assert projected <= workspace_mib * MIB
    solve(name, x[:40, :50], 2)  # sessions of the kernels
    tracemalloc.start()
    try:
        fit, *_ = solve(name, x, target, workspace_mib=workspace_mib, tiles=FolderTiles(tmp_path / "tiles"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    fit.close()
    assert peak <= projected + 8 * MIB  # this test's sinks and the self-test of the kernel


def test_least_bytes_of_the_catalog_fit_half_a_gibibyte():
    shape, dtype = (8190, 129_000), np.dtype(np.uint8)
    assert least_bytes("gram", shape, dtype, Components(800), 2) <= 170 * MIB
    assert project_bytes("gram", shape, dtype, Components(800), 2, 750 * MIB) <= 420 * MIB
    assert least_bytes("subspace", (100_000, 129_000), dtype, Components(800), 2) <= 700 * MIB
    with pytest.raises(ConfigError, match="gram, covariance, subspace"):
        least_bytes("lanczos", shape, dtype, Components(8), 2)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 20_000), d=st.integers(1, 300_000), workspace=st.integers(16, 2000), threads=st.integers(1, 8))
def test_plans_cover_every_tile_once(n, d, workspace, threads):
    plan = plan_products(n, d, np.dtype(np.uint8), threads, workspace * MIB)
    tiles = len(plan.tile_spans)
    assert [first for first, _ in plan.block_columns] == [0, *(last for _, last in plan.block_columns[:-1])]
    assert plan.block_columns[-1][1] == tiles
    assert plan.k_block >= 1


def test_choice_depends_on_shape_alone():
    assert choose(8190, 129_000, Components(800)).solver == "gram"
    assert choose(50_000, 4096, Variance(0.8)).solver == "covariance"
    assert choose(100_000, 129_000, Components(800)).solver == "subspace"
    assert choose(100, 4096, Variance(0.8)).solver == "gram"
    assert "8,190" in choose(8190, 129_000, Components(800)).reason


def test_a_buffer_spills_and_finds_again(tmp_path):
    tiles = FolderTiles(tmp_path / "tiles")
    buffer = SpillBuffer(tiles, 3000)
    arrays = {f"tile/{i}": np.full(250, i, np.float32) for i in range(6)}  # 1,000 bytes each
    for name, array in arrays.items():
        buffer.put(name, array)
    assert len(list((tmp_path / "tiles").iterdir())) == 3
    buffer.limit(1000)
    assert len(list((tmp_path / "tiles").iterdir())) == 5
    for name, array in arrays.items():
        np.testing.assert_array_equal(buffer.get(name), array)
    buffer.limit(9000)
    for name, array in arrays.items():
        buffer.put(name, array + 1)
    assert not list((tmp_path / "tiles").iterdir())
    np.testing.assert_array_equal(buffer.get("tile/3"), arrays["tile/3"] + 1)
    buffer.clear()
    with pytest.raises(KeyError):
        buffer.get("tile/3")


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 30), b=st.integers(1, 8), rank=st.integers(0, 8), seed=st.integers(0, 99))
def test_orthonormal_transform_drops_what_is_dependent(n, b, rank, seed):
    random = np.random.default_rng(seed)
    w = random.standard_normal((n, rank)) @ random.standard_normal((rank, b))
    transform = orthonormal_transform(w.T @ w, 1e-9)
    q = w @ transform
    np.testing.assert_allclose(q.T @ q, np.eye(q.shape[1]), atol=1e-6)
    assert q.shape[1] <= min(n, b, rank)


def test_generalised_ritz_is_orthonormal_in_its_inner_product():
    random = np.random.default_rng(1)
    basis = random.standard_normal((20, 6))
    basis[:, 5] = basis[:, 0]
    operator = np.diag(np.arange(20.0))
    values, vectors = ritz_generalised(basis.T @ operator @ basis, basis.T @ basis)
    u = basis @ vectors
    np.testing.assert_allclose(u.T @ u, np.diag([1, 1, 1, 1, 1, 0]), atol=1e-6)
    np.testing.assert_allclose(u.T @ operator @ u, np.diag(values), atol=1e-6)


def test_rank_for_a_share():
    values = np.array([5.0, 3.0, 2.0])
    assert [choose_rank(values, 10, share) for share in (0.5, 0.51, 0.8, 1.0)] == [1, 2, 2, 3]
    assert choose_rank(values, 11, 1.0) is None
    assert choose_rank(np.zeros(3), 0, 0.8) == 1


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 10**9), norm=st.floats(1e-20, 1e20), share=st.floats(-1, 1))
def test_score_grid(n, norm, share):
    step = score_step(n, norm)
    score = round_to_step(np.array([share * norm]), step)[0]
    assert float(score) / step == np.rint(float(score) / step)
    assert n * norm / step <= 2.0**53

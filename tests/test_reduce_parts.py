"""PCA on several workers: any parts give the same sums, and what is stored has the same bits as in one process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import Sent, context_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_ingest_parts import PICTURES, content, write

from bigcluster.catalog import list_images
from bigcluster.errors import InvalidDataError
from bigcluster.files.layout import OURS
from bigcluster.kernels.decode import DecodeSpec, prepare_codecs
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.planning.plan import StagePlan
from bigcluster.runtime.cluster import Cluster, Handle
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.pca import fit_pca, operator, product_panels, products, subspace_jobs
from bigcluster.solvers.pca.moments import column_mean
from bigcluster.solvers.pca.product_panels import products_in_parts
from bigcluster.solvers.pca.products import TILE
from bigcluster.solvers.pca.result import Components, ExactSums
from bigcluster.solvers.pca.subspace_jobs import ExtendBasis, Streamed, extend_on_workers
from bigcluster.solvers.spill import FolderTiles
from bigcluster.stages.features import features_of
from bigcluster.stages.ingest import ingest
from bigcluster.stages.reduce import reduce
from bigcluster.store import StageCheckpoints, Store, StoredRows
from bigcluster.store.refs import CheckpointsRef, RowsRef, StoreRef

SPEC = DecodeSpec(6, 4)


@settings(max_examples=6)
@given(st.sampled_from(["gram", "covariance"]), st.integers(1, 40), st.integers(0, 99))
def test_any_parts_of_k_give_the_exact_sums(
    tmp_path_factory: pytest.TempPathFactory, solver: str, k: int, seed: int
) -> None:
    n = TILE + 5  # two rows of tiles
    shape = (n, k) if solver == "gram" else (k, n)
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    ok = np.random.default_rng(seed + 1).random(shape[0]) < 0.9
    ok[:2] = True
    store = Store(tmp_path_factory.mktemp("store"))
    store.save("pixels", pixels, (min(64, shape[0]), min(3, shape[1])))
    store.save("ok", ok)
    rows = StoredRows(store.array("pixels"), ok, mask="ok")

    def lower(cluster: Cluster) -> NDArray[Any]:
        """The lower triangle of the matrix that the tiles of the fit make."""
        found = products_in_parts(
            solver, rows, target=Components(1), cluster=cluster, threads=1, workspace_bytes=1 << 30, kernel="auto",
            mean=None, scratch="scratch", on_progress=None, checkpoints=StageCheckpoints(store, "reduce", "f"),
        )  # fmt: skip
        assert found is not None
        assert found.sums is not None
        size = rows.shape[0] if solver == "gram" else n
        matrix = np.zeros((size, size), np.int64)
        for (j, i), tile in found.sums.take().items():
            matrix[j * TILE : (j + 1) * TILE, i * TILE : (i + 1) * TILE] = tile
        return np.tril(matrix)

    found = lower(Sent(seed))
    np.testing.assert_array_equal(found, lower(context_of(store, threads=1).cluster))
    # Rows of x - 128, beside sums of rows that centering takes out again.
    good = pixels[ok].astype(np.int64) - 128
    product = good @ good.T if solver == "gram" else good.T @ good
    matrix = found + np.tril(found, -1).T
    centered = [m - m.mean(0) - m.mean(1)[:, None] + m.mean() for m in (matrix, product)]
    if solver == "gram":
        np.testing.assert_allclose(*centered, atol=1e-6 * max(1.0, float(np.abs(product).max())))
    else:
        np.testing.assert_array_equal(matrix, product)


def reduced(
    images: Path, out: Path, solver: str, cluster: Cluster | None, workspace_bytes: int = 1 << 28
) -> dict[str, Any]:
    """Ingest in one process, reduce on the cluster, and return the facts of the reduction."""
    store = Store(out)
    context = context_of(store)
    ingested = ingest(context, list_images(str(images), out), SPEC, block_shape=(4, 5), in_flight=2)
    plan = StagePlan("reduce", solver, "", (4, 5), "1", 0, 0, 0, {"workspace_bytes": workspace_bytes})
    context = context_of(store, cluster=cluster)
    done = reduce(context, features_of(context, ingested), ingested, plan)
    assert store.mark("reduce") is not None
    assert done.rows.shape == (int(ingested.ok.sum()), done.n_components)
    return done.facts


@pytest.mark.parametrize("solver", ["gram", "covariance", "subspace"])
def test_the_reduction_has_the_same_bits_on_any_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: str
) -> None:
    prepare_codecs()
    monkeypatch.setattr(subspace_jobs, "SPREAD_FROM", 0)
    write(tmp_path / "images", {f"{i}.png": data for i, data in enumerate([*PICTURES, b""])})
    facts = reduced(tmp_path / "images", tmp_path / "one", solver, None)
    assert facts["solver"] == solver
    for seed in range(2):
        out = tmp_path / f"many{seed}"
        cluster = Sent(seed)
        found = reduced(tmp_path / "images", out, solver, cluster)
        one, many = content(tmp_path / "one"), content(out)
        if solver == "subspace":  # on workers, each application of A takes two passes
            assert found["passes"] >= facts["passes"]
            reads = {"passes": 0, "bytes_read": 0}
            facts, found = facts | reads, found | reads
            one.pop(".bigcluster/marks/reduce/done.json")
            many.pop(".bigcluster/marks/reduce/done.json")
        assert found == facts
        assert many == one
        subspace = ["ExtendBasis", "SketchBlocks", "MultiplyRows", "FitPCA"]
        expected = {"subspace": subspace, "gram": ["SumProducts", "FitPCA"]}
        jobs = expected.get(solver, ["SumProducts", "FitPCA", "ProjectRows"])
        assert list(dict.fromkeys(cluster.jobs)) == jobs


class EndedError(Exception):
    """The process that asks for work ends."""


class Ending(Sent):
    """Workers of a process that ends after some jobs on one worker."""

    def __init__(self, seed: int, most_jobs: int) -> None:
        super().__init__(seed)
        self.left = most_jobs

    def once(self, job: Callable[..., Any], *handles: Handle[Any]) -> Any:
        found = super().once(job, *handles)
        self.left -= 1
        if self.left == 0:
            raise EndedError
        return found


@pytest.mark.parametrize("workspace_bytes", [0, 1 << 28], ids=["panels", "one panel"])
@pytest.mark.parametrize("solver", ["gram", "covariance"])
def test_products_in_panels_and_rounds_have_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: str, workspace_bytes: int
) -> None:
    prepare_codecs()
    monkeypatch.setattr(products, "TILE", 4)
    write(tmp_path / "images", {f"{i}.png": data for i, data in enumerate([*PICTURES, b""])})
    facts = reduced(tmp_path / "images", tmp_path / "whole", solver, None)
    one = tmp_path / "one"
    found = reduced(tmp_path / "images", one, solver, None, workspace_bytes)
    n_panels = {"gram": 3, "covariance": 6}[solver] if workspace_bytes == 0 else 1
    assert {**found, "passes": 0, "bytes_read": 0} == {**facts, "passes": 0, "bytes_read": 0}
    assert found["passes"] == n_panels + facts["passes"] - 1
    for name in ("scores", "mean", "explained_variance"):
        assert Store(one).load(name).tobytes() == Store(tmp_path / "whole").load(name).tobytes()
    monkeypatch.setattr(product_panels, "MOST_SECONDS", 0.0)  # each unit is a round
    saving: set[str] = set()
    for seed in range(4):
        out, cluster = tmp_path / f"many{seed}", Ending(seed, 2 + seed)
        with suppress(EndedError):
            reduced(tmp_path / "images", out, solver, cluster, workspace_bytes)
        is_saved = (out / ".bigcluster/marks/state/reduce.json").exists()
        assert is_saved == (cluster.left == 0 and "KeepSums" in cluster.jobs)
        again = None if seed == 1 else Sent(seed)  # begun on workers, and ended in one process
        assert reduced(tmp_path / "images", out, solver, again, workspace_bytes) == found
        assert content(out) == content(one)
        saving |= {*cluster.jobs}
    assert "KeepSums" in saving


@pytest.mark.parametrize("shape", [(260, 500), (500, 260)], ids=["by row", "by column"])
@pytest.mark.parametrize("workspace_bytes", [0, 1 << 26])
def test_a_basis_extended_on_workers_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], workspace_bytes: int
) -> None:
    for module, name, value in (
        (operator, "TILE_ROWS", 64), (operator, "K_BLOCK", 32), (subspace_jobs, "K_BLOCK", 32),
        (subspace_jobs, "_ROWS", 24), (subspace_jobs, "_COLUMNS", 72), (subspace_jobs, "SPREAD_FROM", 0),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    rng = np.random.default_rng(0)
    low_rank = rng.normal(size=(shape[0], 40)) @ rng.normal(size=(40, shape[1]))
    pixels = (low_rank * 8 + rng.normal(size=shape) * 5 + 128).clip(0, 255).astype(np.uint8)
    moments = ExactSums(pixels.sum(axis=0, dtype=np.int64), int((pixels.astype(np.int64) ** 2).sum()))
    target = Components(120)  # two groups of columns where there is no workspace

    def fitted(name: str, clusters: list[Cluster | None]) -> tuple[bytes, ...]:
        store = Store(tmp_path / name)
        if not (store.root / "pixels").exists():
            store.save("pixels", pixels, (50, 64))
            store.save("ok", np.ones(len(pixels), np.bool_))
            store.save("column_sums", moments.column_sums)
        rows = StoredRows(store.array("pixels"), np.ones(len(pixels), np.bool_), mask="ok")
        streamed = Streamed(StoreRef.of(store), RowsRef.of(rows), moments.total_square_sum, "auto", "scratch")
        for cluster in clusters:
            checkpoints = StageCheckpoints(store, "reduce", "f")
            job = ExtendBasis(streamed, target, 5, workspace_bytes, CheckpointsRef.of(checkpoints))
            projected = None
            with suppress(EndedError):
                if cluster is not None:
                    projected = extend_on_workers(job, cluster, lambda fit: None)
        fit = fit_pca(
            "subspace", rows, target=target, runtime=EmbeddedRuntime(2), workspace_bytes=workspace_bytes,
            tiles=FolderTiles(tmp_path / name / "tiles"), gemm=Gemm("auto"), seed=5, moments=moments,
            checkpoints=StageCheckpoints(store, "reduce", "f"),
            projected=None if projected is None else projected.take_from(store.out / OURS / "scratch"),
        )  # fmt: skip
        parts: list[bytes] = []
        sink = type("Sink", (), {"write": lambda self, start, block: parts.append(block.tobytes())})()
        fit.write_scores(sink)
        fit.write_components(sink)
        fit.close()
        return fit.eigenvalues.tobytes(), *parts

    expected = fitted("one", [None])
    for seed in range(3):
        workers = Sent(seed)
        # Ended in one process; ended on workers; begun, killed, and ended.
        clusters: list[list[Cluster | None]] = [[Ending(seed, 2)], [workers], [Ending(seed, 3), workers]]
        assert fitted(f"many{seed}", clusters[seed]) == expected
    by_column = {"ProjectBlocks"} if shape[0] > shape[1] else set()
    assert set(workers.jobs) == {"ExtendBasis", "SketchBlocks", "MultiplyRows"} | by_column
    assert workers.largest_bytes < 100_000


@settings(max_examples=8)
@given(st.sampled_from(["uint8", "float32"]), st.integers(1, 5000), st.integers(0, 99))
def test_the_mean_has_the_same_bits_on_any_cluster(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, n_rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(n_rows, 3)) * 50 + 100).clip(0, 255).astype(dtype)
    store = Store(tmp_path_factory.mktemp("store"))
    store.save("features", values, (700, 3))
    rows = StoredRows(store.array("features"))
    here = column_mean(rows, context_of(store).cluster)
    assert column_mean(rows, Sent(seed)).tobytes() == here.tobytes()
    np.testing.assert_allclose(here, values.mean(axis=0, dtype=np.float64))
    if dtype == "float32":
        values[n_rows // 2, 1] = np.nan
        store.save("features", values, (700, 3))
        with pytest.raises(InvalidDataError, match=f"row {n_rows // 2}"):
            column_mean(StoredRows(store.array("features")), Sent(seed))

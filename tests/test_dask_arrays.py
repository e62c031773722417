"""The stored arrays as dask arrays: lazy, in their stored chunks, and computed by any process that sees the store."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from conftest import write_pictures
from dask.task_spec import DataNode, Task
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import bigcluster as bc
from benchmarks.stress.work import Job
from bigcluster.errors import StoreError
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.pca import Components
from bigcluster.store import Store, StoredRows
from bigcluster.store.row_source import ArrayRows, FirstColumns


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arrays")
    write_pictures(folder / "images", 20)
    (folder / "images" / "p003 bad.png").write_bytes(b"no picture")
    Job(folder / "images", {"k": 3, "size": "8x8", "components": 4}).run(folder / "out")
    return folder / "out"


def stored(out: Path) -> np.ndarray[Any, Any]:
    """The good rows of the pixels, read by plain zarr."""
    group = zarr.open_group(out / "store.zarr", mode="r")
    return np.asarray(group["pixels"])[np.asarray(group["ok"])]


def from_store(lazy: Any) -> set[str]:
    """The names of the zarr arrays in a graph."""
    return set(zarr_arrays(dict(lazy.__dask_graph__())))


def zarr_arrays(node: Any) -> Iterator[str]:
    """The names of the zarr arrays in a part of a graph: tasks hold other tasks where dask has fused them."""
    if isinstance(node, zarr.Array):
        yield node.path
    elif isinstance(node, dict):
        yield from zarr_arrays(list(node.values()))
    elif isinstance(node, list | tuple | set):
        for inner in node:
            yield from zarr_arrays(inner)
    elif isinstance(node, DataNode):
        yield from zarr_arrays(node.value)
    elif isinstance(node, Task):
        yield from zarr_arrays([*node.args, *node.kwargs.values()])


def test_the_pixels_of_a_run_are_a_lazy_array_of_its_good_images(out: Path) -> None:
    pixels = bc.open(out).pixels
    assert (pixels.shape, pixels.dtype) == ((20, 64), np.uint8)
    assert from_store(pixels) == {"pixels"}
    np.testing.assert_array_equal(pixels.compute(scheduler="synchronous"), stored(out))
    assert pixels.name == bc.open(out).pixels.name


@pytest.mark.slow
def test_a_dask_cluster_computes_the_arrays_of_a_run(out: Path) -> None:
    """The workers are processes of their own: what they get is a path, and no lock, no open file and no data."""
    from dask.distributed import Client, LocalCluster

    run = bc.open(out)
    assert len(pickle.dumps(dict(run.pixels.__dask_graph__()))) < 10_000
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": None}
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **here)
    with cluster, Client(cluster):
        mean = run.pixels.mean(axis=0).compute()
        scores = run.scores.compute()
    np.testing.assert_allclose(mean, run.mean)
    np.testing.assert_array_equal(scores, run.scores.compute(scheduler="synchronous"))


def test_a_lost_chunk_is_no_zeros_in_another_process_either(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create("pixels", (8, 3), np.uint8, (4, 3))
    store.write_rows("pixels", 0, np.ones((8, 3), np.uint8))
    elsewhere = pickle.loads(pickle.dumps(store.array("pixels")))  # noqa: S301 - as dask sends it
    (tmp_path / "store.zarr" / "pixels" / "c" / "1" / "0").unlink()
    np.testing.assert_array_equal(elsewhere[:4], np.ones((4, 3)))
    with pytest.raises(ValueError, match="is gone"):
        elsewhere[4:]
    with pytest.raises(ValueError, match="read-only"):
        elsewhere[:4] = 0


@given(
    rows=st.integers(1, 30),
    chunk=st.tuples(st.integers(1, 8), st.integers(1, 5)),
    data=st.data(),
)
def test_rows_that_are_left_out_are_left_out_lazily(
    rows: int, chunk: tuple[int, int], data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = data.draw(arrays.arrays(np.uint8, (rows, 5)))
    ok = data.draw(arrays.arrays(bool, rows))
    store = Store(tmp_path_factory.mktemp("lazy"))
    store.create("pixels", values.shape, np.uint8, chunk)
    store.write_rows("pixels", 0, values)
    source = StoredRows(store.array("pixels"), ok)
    lazy = source.dask()
    assert lazy.shape == source.shape
    assert lazy.chunksize[0] <= max(chunk[0], 1)
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), values[ok])
    first = FirstColumns(source, 2).dask()
    np.testing.assert_array_equal(first.compute(scheduler="synchronous"), values[ok][:, :2])
    np.testing.assert_array_equal(ArrayRows(values).dask().compute(scheduler="synchronous"), values)


@pytest.fixture
def graphs() -> Iterator[list[set[str]]]:
    """The zarr arrays in every graph that dask is about to compute."""
    from dask.callbacks import Callback

    seen: list[set[str]] = []

    def start(graph: Any) -> None:
        seen.append(set(zarr_arrays(dict(graph))))

    with Callback(start=start):
        yield seen


def test_dask_mls_solvers_compute_the_array_of_the_store_itself(out: Path, graphs: list[set[str]]) -> None:
    from bigcluster.solvers.kmeans.dask_ml import fit_dask_ml
    from bigcluster.solvers.pca.incremental import fit_incremental

    store, runtime = Store(out, create=False), EmbeddedRuntime(2)
    pixels = StoredRows(store.array("pixels"), store.load("ok"))
    fitted = fit_incremental(
        pixels, target=Components(4), rank=4, batch_rows=6, iterated_power=2, moments=None, runtime=runtime
    )
    assert {"pixels"} in graphs
    np.testing.assert_allclose(fitted.eigenvalues, store.load("explained_variance")[:4], rtol=0.05)
    graphs.clear()
    found = fit_dask_ml(StoredRows(store.array("scores")), 3, runtime=runtime)
    assert {"scores"} in graphs
    assert found.rows is not None
    assert len(found.rows.labels) == 20
    assert dask.config.get("scheduler", None) is None


@pytest.mark.parametrize("reduce", ["pca", "none"])
def test_arrays_of_an_earlier_run_never_give_rows_of_a_later_one(tmp_path: Path, reduce: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    files = write_pictures(images, 12)
    job = Job(images, {"k": 2, "size": "8x8", "components": 3, "reduce": reduce, "report.write": False})
    job.run(out)
    pixels, scores = bc.open(out).pixels, bc.open(out).scores
    elsewhere = pickle.loads(pickle.dumps(pixels))  # noqa: S301 - as dask sends it
    before = pixels.compute(scheduler="synchronous")
    job.run(out)
    np.testing.assert_array_equal(pixels.compute(scheduler="synchronous"), before)
    scores.compute(scheduler="synchronous")
    files[0].unlink()
    job.run(out)
    for lazy in (pixels, scores, elsewhere):
        with pytest.raises(StoreError, match="was clustered anew"):
            lazy.compute(scheduler="synchronous")
    np.testing.assert_array_equal(bc.open(out).pixels.compute(scheduler="synchronous"), before[1:])

"""All stages on workers that are real processes leave the same bits as in this one, and no picture ends a worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from conftest import encoded, picture
from distributed import Client
from test_cluster_parts import clustered
from test_group_parts import grouped
from test_ingest_parts import BAD, content, write
from test_reduce_parts import reduced
from test_second_look import asks, put_in_front

from benchmarks.stress.possessed import POSSESSED
from bigcluster.kernels.decode import prepare_codecs
from bigcluster.runtime.cluster import Cluster
from bigcluster.runtime.dask_cluster import DaskCluster, Link
from bigcluster.runtime.dask_cluster.start import local_cluster
from bigcluster.solvers.pca import subspace_jobs
from bigcluster.stages import cluster_jobs
from bigcluster.store import Store

pytestmark = pytest.mark.slow


@contextmanager
def workers(n_workers: int) -> Iterator[Cluster]:
    with local_cluster(n_workers, 1) as started:
        link = Link(partial(Client, started.address, set_as_default=False))
        link.wait_for_workers(n_workers)
        cluster = DaskCluster(link, "test", 1 << 30)
        yield cluster
        cluster.close()


def decoders() -> set[int]:
    """The child processes that decode, of whatever process of this test."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile, or its parent has not noticed yet that it did
            if "bigcluster.stages.loading.child" in process.cmdline():
                found.add(process.pid)
    return found


@pytest.mark.parametrize("n_workers", [1, 2])
def test_workers_in_processes_leave_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_workers: int
) -> None:
    put_in_front(tmp_path / "possessed", POSSESSED, monkeypatch)
    prepare_codecs()
    files = {f"{i:03d}.png": encoded(picture(i)) for i in range(30)} | {f"x{i}.png": data for i, data in enumerate(BAD)}
    write(tmp_path / "images", files)
    facts = clustered(tmp_path / "images", tmp_path / "one", "lloyd", "4", None)
    with workers(n_workers) as cluster:
        processes = {process.pid for process in psutil.Process().children(recursive=True)}
        assert clustered(tmp_path / "images", tmp_path / "whole", "lloyd", "4", cluster) == facts
        assert content(tmp_path / "whole") == content(tmp_path / "one")
        labels = grouped(tmp_path / "images", tmp_path / "grouped", "pca", cluster)
        assert labels.tobytes() == grouped(tmp_path / "images", tmp_path / "grouped one", "pca", None).tobytes()
        monkeypatch.setattr(subspace_jobs, "SPREAD_FROM", 0)
        reduced(tmp_path / "images", tmp_path / "reduced", "subspace", cluster)
        reduced(tmp_path / "images", tmp_path / "reduced one", "subspace", None)
        one, many = (Store(tmp_path / out).load("scores") for out in ("reduced one", "reduced"))
        assert one.tobytes() == many.tobytes()
        # Now in passes, and with pictures that crash their decoder: they cost their rows, and no worker.
        monkeypatch.setattr(cluster_jobs, "SPREAD_FROM", 0)
        if n_workers > 1:
            write(tmp_path / "images", files | {f"y{wish}.png": asks(wish, 9) for wish in ("segfault", "exit")})
        clustered(tmp_path / "images", tmp_path / "whole", "lloyd", "4", cluster)
        assert Store(tmp_path / "whole").load("ok").sum() == 30
        for name in ("labels", "distance", "runner_up", "centers", "scores"):
            found, expected = (Store(tmp_path / out).load(name) for out in ("whole", "one"))
            assert found.tobytes() == expected.tobytes(), name
        assert processes <= {process.pid for process in psutil.Process().children(recursive=True)}
        assert not decoders()

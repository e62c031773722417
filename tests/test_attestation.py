"""What a worker must have in common with the process that starts a run, and workers that join while it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_SECONDS, environment
from distributed import Client

from bigcluster.files.durable import write_bytes
from bigcluster.pipeline.attestation import (
    CLOCK_SECONDS,
    JOINED_SECONDS,
    Attest,
    Judge,
    _of_size,
    variables,
)
from bigcluster.runtime.cluster import Part, Worker, cut
from bigcluster.runtime.dask_cluster import DaskCluster, Link, tasks
from bigcluster.runtime.dask_cluster.start import local_cluster
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import resident_bytes
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.units import GIB

NETWORK = "/net/network.onnx"
OF_NETWORK = {"digest": "a1", "processor": "x86_64 avx2"}


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    write_bytes(tmp_path / "nonce", b"nonce", tmp_path)
    write_bytes(tmp_path / "image.png", b"picture", tmp_path)
    asked = Attest(str(tmp_path / "image.png"), tmp_path, "nonce")
    return Judge(replace(asked, network=NETWORK), asked.compared() | {"network": OF_NETWORK, "variables": {}})


def answer_to(judge: Judge, **other: Any) -> dict[str, Any]:
    """What a worker like this process answers, but for some facts."""
    facts = replace(judge.asked, network=None)(Worker(EmbeddedRuntime(1), GIB))
    return facts | {"network": OF_NETWORK, "variables": {}} | other  # whatever the environment of the tests is


def faults(judge: Judge, facts: Any) -> list[str]:
    return list(judge.faults(facts, time.time(), JOINED_SECONDS))


def test_a_worker_like_this_process_has_no_fault(judge: Judge, tmp_path: Path) -> None:
    assert faults(judge, answer_to(judge)) == []
    assert sorted(os.listdir(tmp_path)) == ["image.png", "nonce"], "what the worker wrote is gone"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"user": 12345}, ("it runs as user 12345", "the files of the other in OUT")),
        ({"variables": {"OPENCV_IO_MAX_IMAGE_PIXELS": "9"}}, ("OPENCV_IO_MAX_IMAGE_PIXELS=9", "no OPENCV_IO_MAX")),
        ({"network": OF_NETWORK | {"digest": "b2"}}, (f"the network {NETWORK} is another file there", "b2")),
        ({"network": OF_NETWORK | {"processor": "x86_64"}}, ("its processor (x86_64) is of another kind", "features")),
        ({"network": {"error": "no such file"}}, (f"it cannot use the network {NETWORK} (no such file)",)),
        ({"image": {"error": "Permission denied"}}, ("it cannot read", "Permission denied")),
        ({"image": {"n_bytes": 7, "digest": "c"}}, ("is another file there",)),
        ({"nonce": None}, ("it does not see what this process wrote",)),
        ({"written": {"error": "Read-only file system"}}, ("it cannot write in", "Read-only file system")),
        ({"written": {"name": "nowhere"}}, ("is not seen here",)),
    ],
)  # fmt: skip
def test_each_fault_of_a_worker_is_one_line(judge: Judge, facts: dict[str, Any], words: tuple[str, ...]) -> None:
    (line,) = faults(judge, answer_to(judge, **facts))
    assert all(word in line for word in words), line
    assert "\n" not in line


def test_every_version_counts(judge: Judge) -> None:
    answer = answer_to(judge)
    for name in answer["versions"]:
        (line,) = faults(judge, answer_to(judge, versions=answer["versions"] | {name: "0.0"}))
        assert line.startswith(f"it has {name} 0.0, and this process has {name} ")


@pytest.mark.parametrize("seconds", [-7200, -CLOCK_SECONDS - 2, -CLOCK_SECONDS / 2, 5, CLOCK_SECONDS + 2, 86_400])
def test_a_clock_that_is_far_off_is_told(judge: Judge, seconds: float) -> None:
    found = faults(judge, answer_to(judge, clock=time.time() + seconds))
    if abs(seconds) <= CLOCK_SECONDS:
        assert found == []
    else:
        (line,) = found
        assert f"{'ahead of' if seconds > 0 else 'behind'} that of this process" in line


def test_a_worker_that_fails_has_one_fault(judge: Judge) -> None:
    assert faults(judge, ImportError("No module named 'bigcluster'")) == [
        "it cannot do the work: No module named 'bigcluster'"
    ]


def test_variables_that_change_results_or_safety_are_compared_and_no_others() -> None:
    given = {"OPENBLAS_CORETYPE": "Haswell", "JSIMD_FORCENONE": "1", "OPENCV_IO_MAX_IMAGE_WIDTH": "5", "HOME": "/x"}
    assert variables(given) == {name: value for name, value in given.items() if name != "HOME"}
    assert "OMP_NUM_THREADS" not in variables({"OMP_NUM_THREADS": "4", "OPENCV_LOG_LEVEL": "silent"})


def test_a_worker_that_joins_must_be_large_enough() -> None:
    resources = Resources(GIB, 2, joined=True)
    assert _of_size({"memory_limit": 2 * GIB, "nthreads": 2}, resources) == []
    assert _of_size({"memory_limit": 0, "nthreads": 1}, resources) == [], "dask sets no limit"
    small, many = _of_size({"memory_limit": GIB, "nthreads": 3}, resources)
    assert "it may hold 768 MiB" in small
    assert "it has 3 threads, and the plan counts with 2" in many


@dataclass(frozen=True)
class Asked:
    """Says which process a worker is."""

    def __call__(self, worker: Worker) -> int:
        return os.getpid()


@dataclass(frozen=True)
class Resident:
    """Returns the resident bytes of a worker."""

    def __call__(self, worker: Worker) -> int:
        return resident_bytes()


@dataclass(frozen=True)
class Replaced:
    """Leaves a worker as a new process is that has taken its address."""

    def __call__(self, worker: Worker) -> None:
        tasks._ADMITTED.clear()


@dataclass(frozen=True)
class Fragments:
    """Holds 100 MiB in small pieces and frees all but the last one. Returns the resident bytes of the worker."""

    pieces: int

    def __call__(self, worker: Worker) -> int:
        made = [bytes(2000) for _ in range(self.pieces)]
        last = made[-1]
        worker.cached("the last piece", self.pieces, lambda: last)
        made.clear()
        return resident_bytes()


@dataclass(frozen=True)
class Slow:
    """Returns the process that does the part."""

    def __call__(self, worker: Worker, part: Part) -> int:
        time.sleep(0.05)
        return os.getpid()


@contextmanager
def joining(address: str, *options: str) -> Iterator[int]:
    """A worker process that joins a scheduler. Yields its number."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; from distributed.cli.dask_worker import main; main()"
    given = (
        "--host",
        "127.0.0.1",
        "--nthreads",
        "1",
        "--no-nanny",
        "--no-dashboard",
        "--dashboard-address",
        "127.0.0.1:0",
        *options,
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, address, *given], env=environment(), stderr=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_worker_that_joins_is_asked_before_it_gets_a_part(tmp_path: Path) -> None:
    """One that lacks something gets none, and the run goes on with the others."""
    told: list[str] = []
    with local_cluster(1, 1) as started:
        link = Link(partial(Client, started.address, set_as_default=False), tell=told.append)
        link.wait_for_workers(1)
        cluster = DaskCluster(link, "test", 1 << 28)
        found = cluster.each(Asked())
        (first,) = found.values()
        refused: list[int] = []

        def faults_of(answer: Any, of_scheduler: Any) -> list[str]:
            if answer in refused:
                return ["it is one of those"]
            return [] if isinstance(answer, int) and of_scheduler["nthreads"] == 1 else [f"{answer}"]

        cluster.admit(found, Asked(), faults_of)

        def workers_until(words: str) -> list[int]:
            """The processes that did parts until the user was told this, and for some parts more."""
            found, left = [], 40
            deadline = time.monotonic() + PATIENCE_SECONDS
            while left:
                assert time.monotonic() < deadline, told
                parts = cut(8, 8)
                found += list(cluster.spread(Slow(), parts))
                left -= 8 if any(words in line for line in told) else 0
            return found

        folder = ("--local-directory", str(tmp_path))
        with joining(started.address, *folder) as second:
            refused.append(second)
            assert set(workers_until("gets no work: it is one of those")) == {first}
            assert sum("gets no work" in line for line in told) == 1, "it is told once"
            assert cluster.n_workers == 1
            with joining(started.address, *folder) as third:
                deadline = time.monotonic() + PATIENCE_SECONDS
                while cluster.n_workers < 2:
                    assert time.monotonic() < deadline, told
                    time.sleep(0.1)
                assert set(cluster.spread(Slow(), cut(40, 40))) == {first, third}
        (before,) = cluster.each(Fragments(50_000)).values()
        cluster.release()
        (after,) = cluster.each(Resident()).values()
        assert after < before - (40 << 20), "between stages, freed memory goes back to the system"
        told.clear()
        cluster.each(Replaced())
        assert set(cluster.spread(Slow(), cut(4, 4))) == {first}, "it is asked again, and goes on"
        assert sum("has joined" in line for line in told) == 1
        cluster.close()


@pytest.mark.slow
def test_two_runs_share_the_workers_of_one_cluster() -> None:
    def begun(name: str) -> DaskCluster:
        link = Link(partial(Client, started.address, set_as_default=False))
        link.wait_for_workers(1)
        cluster = DaskCluster(link, name, 1 << 28)
        cluster.admit(cluster.each(Asked()), Asked(), lambda answer, _: [])
        return cluster

    with local_cluster(1, 1) as started:
        one = begun("one")
        first = list(one.spread(Slow(), cut(2, 2)))
        other = begun("other")
        assert list(other.spread(Slow(), cut(2, 2))) == list(one.spread(Slow(), cut(2, 2))) == first
        one.close()
        assert list(other.spread(Slow(), cut(2, 2))) == first, "the end of one run does not concern the other"
        other.close()

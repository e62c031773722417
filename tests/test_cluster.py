"""Every cluster gives the same results: one process, or processes that are killed, frozen or cut off."""

from __future__ import annotations

import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from conftest import PATIENCE_SECONDS, environment
from distributed import Client, get_worker
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcluster.errors import ClusterError, OutOfMemoryError, StoreError
from bigcluster.outdir import locked
from bigcluster.outdir.holder import HeldBy
from bigcluster.runtime.cluster import Cluster, Part, Worker, cut
from bigcluster.runtime.dask_cluster import DaskCluster, Link, join, link
from bigcluster.runtime.dask_cluster.join import connector, first
from bigcluster.runtime.dask_cluster.start import Started, local_cluster
from bigcluster.runtime.dask_cluster.tasks import Held, SpentResultError
from bigcluster.runtime.embedded import Embedded
from bigcluster.runtime.supervisor import InternalError
from bigcluster.runtime.threads import EmbeddedRuntime

MEMORY_BYTES = 1 << 28


@dataclass(frozen=True)
class Squares:
    """Returns the squares of its units, and the process."""

    seconds: float = 0.0

    def __call__(self, worker: Worker, part: Part) -> tuple[list[int], int]:
        time.sleep(self.seconds)
        return list(worker.runtime.map(lambda unit: unit * unit, part.units)), os.getpid()


@dataclass(frozen=True)
class Sums:
    """Exact sums of rows that every process can make."""

    seconds: float = 0.0

    def __call__(self, worker: Worker, part: Part) -> Any:
        time.sleep(self.seconds)
        return sum((rows_of(unit) for unit in part.units), np.zeros((3, 4), np.int64))


@dataclass(frozen=True)
class ByDask:
    """Returns the processes in which dask computes, as a library does that is called inside a job."""

    def __call__(self, worker: Worker) -> set[int]:
        with worker.computing_by_dask():
            return set(dask.compute(*[dask.delayed(_process_of)(unit, pure=False) for unit in range(12)]))


def _process_of(unit: int) -> int:
    time.sleep(0.1)
    return os.getpid()


def rows_of(unit: int) -> Any:
    return np.random.default_rng(unit).integers(-(2**40), 2**40, (3, 4))


def add(one: Any, other: Any) -> Any:
    return one + other


def scaled(worker: Worker, one: Any, other: Any) -> Any:
    return 2 * one - other


@dataclass(frozen=True)
class Fails:
    """Raises an error at one unit, and leaves a file for every part that it works on."""

    at: int
    error: Exception
    folder: Path | None = None

    def __call__(self, worker: Worker, part: Part) -> int:
        if self.folder is not None:
            (self.folder / str(part.index)).touch()
        if self.at in part.units:
            raise self.error
        return part.start


def fails_over(worker: Worker, largest: int) -> None:
    raise StoreError(f"the largest is {largest}")


@dataclass(frozen=True)
class Overlaps:
    """Says when it began and ended, and in which process."""

    def __call__(self, worker: Worker, part: Part) -> tuple[int, float, float]:
        began = time.monotonic()
        time.sleep(0.05)
        return os.getpid(), began, time.monotonic()


def calls(worker: Worker, part: Part) -> int:
    """The number of jobs of this run in this process, so far."""
    seen: list[int] = worker.cached("calls", 0, list)
    seen.append(part.index)
    return len(seen)


@dataclass(frozen=True)
class Once:
    """Does something to its process the first time, which a file remembers."""

    marker: Path
    what: int
    at: int = 5

    def __call__(self, worker: Worker, part: Part) -> Any:
        if self.at in part.units:
            try:
                self.marker.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), self.what)
        time.sleep(0.02)
        return Sums()(worker, part)


@dataclass(frozen=True)
class FreezesOnce:
    marker: Path

    def __call__(self, worker: Worker) -> str:
        Once(self.marker, signal.SIGSTOP)(worker, Part(0, 5, 6))
        return "done"


@dataclass(frozen=True)
class Deadly:
    def __call__(self, worker: Worker, part: Part) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Sleeps:
    """Sleeps in the first process that gets one of its parts."""

    marker: Path
    seconds: float

    def __call__(self, worker: Worker, part: Part) -> int:
        if part.index == 3:
            try:
                self.marker.touch(exist_ok=False)
            except FileExistsError:
                return part.index
            time.sleep(self.seconds)
        time.sleep(0.05)
        return part.index


@dataclass(frozen=True)
class TakesApart:
    """Empties what it is given and writes into it, as a job does that frees memory early. It pauses in the middle."""

    marker: Path

    def __call__(self, worker: Worker, rows: dict[int, Any]) -> Any:
        total = np.zeros((3, 4), np.int64)
        while rows:
            _, one = rows.popitem()
            total += one
            one[:] = 0
            if len(rows) == 5 and not self.marker.exists():
                self.marker.write_text(get_worker().address)
                time.sleep(4.0)
        return total


def rows_by_unit(worker: Worker, part: Part) -> dict[int, Any]:
    return {unit: rows_of(unit) for unit in part.units}


def united(one: dict[int, Any], other: dict[int, Any]) -> dict[int, Any]:
    return one | other


def the_sum(n_units: int) -> Any:
    return sum((rows_of(unit) for unit in range(n_units)), np.zeros((3, 4), np.int64))


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    with local_cluster(2, 1) as found:
        yield found


@contextmanager
def joined(address: str, told: list[str] | None = None, patience_seconds: float = 30.0) -> Iterator[DaskCluster]:
    link = Link(
        lambda: Client(address, set_as_default=False, timeout=5),
        patience_seconds=patience_seconds,
        tell=(told if told is not None else []).append,
    )
    cluster = DaskCluster(link, f"test-{random.randbytes(4).hex()}", MEMORY_BYTES)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(params=["embedded", "dask"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "embedded":
        yield Embedded(Worker(EmbeddedRuntime(2), MEMORY_BYTES))
        return
    with joined(request.getfixturevalue("started").address) as found:
        yield found


@pytest.fixture(scope="module")
def shared(started: Started) -> Iterator[DaskCluster]:
    with joined(started.address) as found:
        yield found


def test_results_come_in_the_order_of_the_parts(cluster: Cluster) -> None:
    parts = cluster.parts(50)
    assert [unit for part in parts for unit in part.units] == list(range(50))
    assert len(parts) in (1, 4 * cluster.n_workers)
    assert [one for some, _ in cluster.spread(Squares(), parts) for one in some] == [unit * unit for unit in range(50)]
    assert list(cluster.spread(Squares(), [])) == []
    few = [Part(0, 3, 5), Part(1, 8, 9)]
    assert [found for found, _ in cluster.spread(Squares(), few)] == [[9, 16], [64]]


def test_a_merged_result_is_taken_or_given_to_a_job(cluster: Cluster) -> None:
    one, other = (cluster.merged(Sums(), cluster.parts(n), add) for n in (40, 3))
    np.testing.assert_array_equal(cluster.once(scaled, one, other), 2 * the_sum(40) - the_sum(3))
    np.testing.assert_array_equal(cluster.merged(Sums(), cluster.parts(7), add).take(), the_sum(7))
    with pytest.raises(ValueError, match="no parts"):
        cluster.merged(Sums(), [], add)


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (StoreError("the unit 5 is gone"), StoreError),
        (MemoryError(), OutOfMemoryError),
        (OSError(28, "No space left on device", "/x"), StoreError),
    ],
    ids=["ours", "memory", "disk"],
)
def test_the_error_of_a_part_comes_in_its_place(cluster: Cluster, error: Exception, seen: type[Exception]) -> None:
    parts = [Part(0, 0, 5), Part(1, 5, 6), Part(2, 6, 9)]
    expected = type(error) if isinstance(cluster, Embedded) else seen
    results = cluster.spread(Fails(5, error), parts)
    assert next(results) == 0
    with pytest.raises(expected):
        next(results)
    with pytest.raises(expected):
        cluster.merged(Fails(5, error), parts, max).take()
    with pytest.raises(StoreError, match="the largest is 6"):
        cluster.once(fails_over, cluster.merged(Fails(99, error), parts, max))


def test_a_fault_of_the_program_comes_with_its_traceback(shared: DaskCluster) -> None:
    with pytest.raises(InternalError, match=r"KeyError: 'x' \(on the worker tcp://127") as caught:
        list(shared.spread(Fails(0, KeyError("x")), cut(3, 1)))
    assert "in __call__" in caught.value.__notes__[0]


def test_few_parts_start_before_results_are_taken(started: Started, tmp_path: Path) -> None:
    with joined(started.address) as cluster:
        results = cluster.spread(Fails(-1, ValueError(), tmp_path), cut(100, 100))
        assert next(results) == 0
        time.sleep(0.5)
        assert len(list(tmp_path.iterdir())) <= 4 * 2 + 1
        results.close()
    before = len(list(tmp_path.iterdir()))
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) == before


def test_a_worker_runs_one_job_at_a_time_and_keeps_what_a_run_caches() -> None:
    """Also where dask would give it several, because it has several threads."""
    with local_cluster(1, 3) as started, joined(started.address) as cluster:
        found = sorted(cluster.spread(Overlaps(), cut(6, 6)), key=lambda one: one[1])
        assert len({pid for pid, _, _ in found}) == 1
        assert all(one[2] <= after[1] for one, after in pairwise(found))
        assert max(cluster.spread(calls, cut(4, 4))) == 4
        with joined(started.address) as other:
            assert max(other.spread(calls, cut(4, 4))) == 4
        assert max(cluster.spread(calls, cut(4, 4))) == 4


def test_a_part_goes_where_it_went_before(shared: DaskCluster) -> None:
    parts = cut(8, 4)
    first, second = ([pid for _, pid in shared.spread(Squares(0.05), parts)] for _ in range(2))
    assert len(set(first)) == 2
    assert first == second


@settings(max_examples=15, deadline=None)
@given(data=st.data(), n_units=st.integers(1, 30))
def test_a_merge_is_exact_for_all_cuts_and_trees(shared: DaskCluster, data: st.DataObject, n_units: int) -> None:
    edges = sorted(data.draw(st.sets(st.integers(1, n_units), max_size=20)) | {n_units})
    parts = [Part(index, *edge) for index, edge in enumerate(zip([0, *edges[:-1]], edges, strict=True))]
    parts = data.draw(st.permutations(parts))
    parts = [Part(index, part.start, part.stop) for index, part in enumerate(parts)]
    np.testing.assert_array_equal(shared.merged(Sums(), parts, add).take(), the_sum(n_units))


def listening(pid: int) -> list[Any]:
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return [one for process in tree for one in process.net_connections("all") if one.status == psutil.CONN_LISTEN]


def test_jobs_of_a_run_that_has_lost_out_do_not_run(started: Started, tmp_path: Path) -> None:
    with joined(started.address) as found:
        found.before_jobs = HeldBy(tmp_path, between_hosts=False)
        with locked(tmp_path):
            assert [numbers for numbers, _ in found.spread(Squares(), [Part(0, 3, 5)])] == [[9, 16]]
            found.before_jobs = HeldBy(tmp_path, between_hosts=False, token="0" * 16)
            with pytest.raises(StoreError, match="is not held by the run any more for which this process works"):
                list(found.spread(Squares(), [Part(0, 3, 5)]))


def test_nothing_listens_off_loopback(started: Started, shared: DaskCluster) -> None:
    list(shared.spread(Squares(), shared.parts(4)))
    found = listening(os.getpid())
    assert len(found) >= 3, "a scheduler and two workers"
    assert {one.laddr.ip for one in found} == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_a_worker_that_dies_or_freezes_costs_a_retry_and_never_a_result(name: str, tmp_path: Path) -> None:
    signal_number = getattr(signal, name)
    with local_cluster(2, 1) as started, joined(started.address) as cluster:
        parts = cut(12, 8)
        results = [one.tolist() for one in cluster.spread(Once(tmp_path / "a", signal_number), parts)]
        assert results == [Sums()(Worker(EmbeddedRuntime(1), 1), part).tolist() for part in parts]
        frozen = [child for child in psutil.Process().children(recursive=True) if child.status() == "stopped"]
        assert len(frozen) == (name == "SIGSTOP")
        for child in frozen:
            child.resume()
        handle = cluster.merged(Once(tmp_path / "b", signal_number), parts, add)
        np.testing.assert_array_equal(handle.take(), the_sum(12))
        for child in psutil.Process().children(recursive=True):
            if child.status() == "stopped":
                child.resume()


@pytest.mark.slow
def test_the_only_job_of_a_frozen_worker_is_given_to_another_one(tmp_path: Path) -> None:
    """Nothing tells how long it should take: that its worker is silent must be enough."""
    told: list[str] = []
    with local_cluster(2, 1) as started, joined(started.address, told) as cluster:
        assert cluster.once(FreezesOnce(tmp_path / "a")) == "done"
        for child in psutil.Process().children(recursive=True):
            if child.status() == "stopped":
                child.resume()
    assert [line for line in told if "no sign of life" in line]


@pytest.mark.slow
def test_what_a_dead_worker_held_is_computed_again(tmp_path: Path) -> None:
    with local_cluster(2, 1) as started, joined(started.address) as cluster:
        for number in (signal.SIGKILL, signal.SIGSTOP):
            one, other = (cluster.merged(Sums(), cluster.parts(n, 1), add) for n in (8, 5))
            workers = {pid for _, pid in cluster.spread(Squares(0.05), cut(4, 4))}
            victim = workers.pop()
            os.kill(victim, number)
            np.testing.assert_array_equal(cluster.once(scaled, one, other), 2 * the_sum(8) - the_sum(5))
            third = cluster.merged(Sums(), cluster.parts(9, 1), add)
            np.testing.assert_array_equal(third.take(), the_sum(9))
            if number == signal.SIGSTOP:
                os.kill(victim, signal.SIGCONT)


@pytest.mark.slow
def test_a_worker_that_leaves_while_its_job_takes_a_result_apart_changes_nothing(tmp_path: Path) -> None:
    """dask sends what is left of the result to another worker, and runs the job there."""
    marker, retired = tmp_path / "a", list[str]()

    def retire(address: str) -> None:
        while not marker.exists() or not marker.read_text():
            time.sleep(0.01)
        with Client(address, set_as_default=False) as client:
            retired.extend(client.retire_workers([marker.read_text()], close_workers=True))

    with local_cluster(2, 1) as started, joined(started.address) as cluster:
        handle = cluster.merged(rows_by_unit, cluster.parts(12, 1), united)
        retiring = threading.Thread(target=retire, args=(started.address,))
        retiring.start()
        np.testing.assert_array_equal(cluster.once(TakesApart(marker), handle), the_sum(12))
        retiring.join()
    assert retired == [marker.read_text()]


@pytest.mark.parametrize("sent_first", [True, False])
def test_a_result_is_whole_wherever_it_was_sent_before_it_was_taken(sent_first: bool) -> None:
    rows = {unit: rows_of(unit) for unit in range(4)}
    held: Held[dict[int, Any]] = Held(rows)
    buffers: list[pickle.PickleBuffer] = []
    sent = pickle.dumps(held, 5, buffer_callback=buffers.append) if sent_first else b""
    taken = held.take()
    while taken:
        taken.popitem()[1][:] = 0
    if sent_first:
        np.testing.assert_array_equal(sum(pickle.loads(sent, buffers=buffers).take().values()), the_sum(4))  # noqa: S301
        return
    for one in (held, pickle.loads(pickle.dumps(held))):  # noqa: S301
        for use in (one.take, one.seen):
            with pytest.raises(SpentResultError):
                use()


def test_a_late_part_is_started_a_second_time(started: Started, tmp_path: Path) -> None:
    with joined(started.address) as cluster:
        assert list(cluster.spread(Sleeps(tmp_path / "a", 4.0), cut(8, 8))) == list(range(8))
        assert (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_part_that_kills_all_its_workers_is_given_up() -> None:
    told: list[str] = []
    first_death = dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with first_death, local_cluster(2, 1) as started, joined(started.address, told) as cluster:
        with pytest.raises(ClusterError, match=r"3 times all workers died that tried a part of Deadly.* tcp://127"):
            list(cluster.spread(Deadly(), cut(1, 1)))
        assert len([line for line in told if "died over a part" in line]) == 2


SCHEDULER = """
import sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=int(sys.argv[2]), threads_per_worker=1, host="127.0.0.1", memory_limit=0,
                      scheduler_port=int(sys.argv[1]), dashboard_address="127.0.0.1:0") as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@contextmanager
def other_cluster(tmp_path: Path, port: int = 0, n_workers: int = 1) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A cluster of another process, which imports bigcluster and these tests."""
    script = tmp_path / "cluster.py"
    script.write_text(SCHEDULER)
    path = os.pathsep.join([str(Path(__file__).parent), environment().get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, script, str(port), str(n_workers)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment() | {"PYTHONPATH": path},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        tree = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        with process:  # closes its pipes
            process.wait()
        psutil.wait_procs(tree, timeout=PATIENCE_SECONDS)


def test_what_is_no_scheduler_is_refused_and_not_waited_for(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    with joined(started.address) as cluster:
        worker = min(cluster._link.look())
    with pytest.raises(ClusterError, match=f"{worker} is the address of a worker of dask: give that of its scheduler"):
        connector(worker, None, None, None)()
    monkeypatch.setattr(join, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(join, "ANSWER_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match=rf"no scheduler of dask answers at {address}: it was waited for 0.4 s"):
            first(connector(address, None, None, None), address)()


@pytest.mark.slow
def test_a_scheduler_that_is_lost_is_waited_for_and_its_work_done_again(tmp_path: Path) -> None:
    told: list[str] = []
    with ExitStack() as later, other_cluster(tmp_path) as (address, process), joined(address, told) as cluster:
        parts = cut(8, 8)
        kept = cluster.merged(Sums(), parts, add)
        results = cluster.spread(Squares(0.1), parts)
        found = [next(results)]
        process.kill()
        process.wait()
        later.enter_context(other_cluster(tmp_path, int(address.rpartition(":")[2])))
        found += results
        assert [one for some, _ in found for one in some] == [unit * unit for unit in range(8)]
        assert len({pid for _, pid in found}) == 2
        np.testing.assert_array_equal(kept.take(), the_sum(8))
    assert [line for line in told if "there again" in line]


@pytest.mark.slow
def test_dask_computes_inside_a_job_on_all_workers(tmp_path: Path) -> None:
    """The jobs of two runs do not keep each other from it, where one worker has both of them."""
    assert Embedded(Worker(EmbeddedRuntime(1), MEMORY_BYTES)).once(ByDask()) == {os.getpid()}
    for n_workers in (2, 1):
        # Clients of two threads at once restore the scheduler of dask in the wrong order, as two runs never do.
        with dask.config.set(scheduler=None), local_cluster(n_workers, 1) as started, ExitStack() as stack:
            one, other = (stack.enter_context(joined(started.address)) for _ in range(2))
            with ThreadPoolExecutor(2) as both:
                found = list(both.map(lambda cluster: cluster.once(ByDask()), (one, other)))
            assert {len(processes) for processes in found} == {n_workers}
            assert os.getpid() not in found[0] | found[1]


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_frozen_scheduler_counts_as_lost(comes_back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections stay open, and dask waits for ever for its answers."""
    monkeypatch.setattr(link, "ANSWER_SECONDS", 1.0)
    told: list[str] = []
    patience_seconds = PATIENCE_SECONDS if comes_back else 1.0
    with other_cluster(tmp_path) as (address, process), joined(address, told, patience_seconds) as cluster:
        results = cluster.spread(Squares(0.1), cut(8, 8))
        found = [next(results)]
        process.send_signal(signal.SIGSTOP)
        if not comes_back:
            with pytest.raises(ClusterError, match="not reached for 1 s; run again to resume"):
                list(results)
            return
        threading.Timer(3.0, process.send_signal, [signal.SIGCONT]).start()
        found += results
        assert [one for some, _ in found for one in some] == [unit * unit for unit in range(8)]
    assert [line for line in told if "there again" in line]


@pytest.mark.slow
def test_a_scheduler_that_stays_away_ends_the_run_with_one_line(tmp_path: Path) -> None:
    with other_cluster(tmp_path) as (address, process), joined(address, patience_seconds=1.0) as cluster:
        results = cluster.spread(Squares(0.1), cut(8, 8))
        next(results)
        process.kill()
        with pytest.raises(ClusterError, match="not reached for 1 s; run again to resume"):
            list(results)

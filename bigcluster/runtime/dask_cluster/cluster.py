"""This module is the `Cluster` whose workers are those of dask.distributed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, Generic

from distributed import Future, wait
from distributed.client import ClosedClientError

from bigcluster.errors import BigclusterError, ClusterError
from bigcluster.runtime.cluster import Handle, Job, Part, Result, Worker, cut
from bigcluster.runtime.dask_cluster.entrance import Entrance
from bigcluster.runtime.dask_cluster.flight import FETCH_SECONDS, Flight, LostResultError, Task, fetched
from bigcluster.runtime.dask_cluster.link import Facts, Link, LostSchedulerError
from bigcluster.runtime.dask_cluster.tasks import (
    JobFailedError,
    SpentResultError,
    Terms,
    admit,
    forget_run,
    hold_result,
    merge_results,
    run_job,
)
from bigcluster.runtime.sampler import release_memory

Merge = Callable[[Any, Any], Any]
AHEAD = 2
"""Number of parts that a worker has at once: one that it works on and the next. Where a worker dies, dask blames all
tasks that it had."""
WAITING = 4
"""Number of parts for each worker that are started and not yet taken from `spread`, at most. It bounds the results that
wait behind a slow part."""
FEW = 2
"""Up to this number of parts for each worker, results are merged in pairs: a pass with so few parts has large results,
and a worker then holds three of them at most."""
FAN = 8
"""Number of results that are merged at once where there are more parts. Merging in pairs would double the tasks."""
ANSWER_SECONDS = 90.0
"""Seconds in which a worker must answer at the start: it waits 35 s for a file on a shared disk. Chosen, not
measured."""
RELEASE_SECONDS = 1.0
"""Seconds for which the end of a stage waits for workers to free memory, which takes milliseconds. Chosen, not
measured."""
CLOSE_SECONDS = 10.0
"""Seconds for which the end of a run waits for jobs that nobody needs any more. Chosen, not measured."""


class Remote(Generic[Result]):
    """A result on a worker. Where it gets lost, it is computed again."""

    def __init__(self, cluster: DaskCluster, compute: Callable[[], tuple[Future, int]]) -> None:
        """compute : returns the future of the result, and the generation of the workers that hold it."""
        self._cluster, self._compute = cluster, compute
        self._results = [compute()]

    def take(self) -> Result:
        """Bring the result into this process."""
        result: Result = self._cluster.fetch(self)
        return result

    def spend(self, generation: int) -> Future:
        """Return the future of the result, which this object holds no longer. generation : that of today's workers."""
        future, held = self._results.pop()
        return future if held == generation else self._compute()[0]

    def again(self) -> None:
        """Compute the result once more, after it got lost."""
        self._results = [self._compute()]


class DaskCluster:
    """The workers of a dask cluster, each a process that runs one job at a time with its own threads.

    A part goes to the worker that had it before, because that one may have kept something; others take it where they
    have nothing to do.
    """

    def __init__(self, link: Link, run: str, memory_bytes: int) -> None:
        """run : a name of this run that no other one has. memory_bytes : what a job may hold in its process."""
        self._link, self._run, self._memory = link, run, memory_bytes
        self.before_jobs: Callable[[], None] | None = None
        """A function that a worker calls before each job, which does not run where it raises an error."""
        self._homes: dict[Part, str] = {}
        self._numbers = itertools.count()

    @property
    def n_workers(self) -> int:
        """The number of workers that take work now."""
        return max(1, len(self._workers()))

    def parts(self, n_units: int, per_worker: int = 4) -> list[Part]:
        """Return a few parts for each worker, as `Cluster.parts` says."""
        return cut(n_units, per_worker * self.n_workers)

    def spread(self, job: Job[Result], parts: Sequence[Part]) -> Generator[Result, None, None]:
        """Yield the results in the order of the parts, as `Cluster.spread` says."""
        found: dict[int, Result] = {}
        taken = 0
        while taken < len(parts):
            with suppress(LostSchedulerError):
                left = [number for number in range(taken, len(parts)) if number not in found]
                feed = _Feed(self, job, parts, left, Flight(self._link, fetch=True, holding=False))
                while taken < len(parts):
                    feed.fill(taken + WAITING * len(feed.workers))
                    if taken not in found:
                        found |= {task.number: result for task, result in feed.flight.finished()}
                    while taken in found:
                        taken += 1
                        yield _result(found.pop(taken - 1))
                        feed.fill(taken + WAITING * len(feed.workers))
                return
            self._link.restore()

    def merged(
        self, job: Job[Result], parts: Sequence[Part], merge: Callable[[Result, Result], Result]
    ) -> Handle[Result]:
        """Return the merged result, which stays on a worker, as `Cluster.merged` says."""
        if not parts:
            raise ValueError("there are no parts to merge")
        return Remote(self, lambda: self._merged(job, parts, merge))

    def once(self, job: Callable[..., Result], *handles: Handle[Any]) -> Result:
        """Run one job on one worker, as `Cluster.once` says."""
        remotes = [handle for handle in handles if isinstance(handle, Remote)]
        assert len(remotes) == len(handles), "a handle of another cluster"
        while True:
            self._workers()
            futures = [remote.spend(self._link.generation) for remote in remotes]
            try:
                flight = Flight(self._link, fetch=True, holding=bool(remotes))
                flight.start(self._task(0, job, tuple(futures), None))
                ((_, result),) = flight.finished()
                return _result(result)  # type: ignore[no-any-return]
            except LostSchedulerError:
                self._link.restore()
            except LostResultError:  # a silent worker gets nothing in the next attempt
                pass
            for remote in remotes:
                remote.again()

    def each(self, job: Callable[[Worker], Any]) -> dict[str, Any]:
        """Run job(worker) on every worker, and return the results by address; where it failed, the error.

        It waits for workers where there are none now. Raises ClusterError where none comes, or the scheduler is lost.
        """
        try:
            while not (workers := sorted(self._link.look(now=True))):
                self._link.wait_for_workers()
            # A worker of dask ends when it is sent a function of a module that it does not have.
            imported = self._ask_each(workers, import_module, type(job).__module__)
            able = [address for address, future in imported.items() if _error(future) is None]
            asked = self._ask_each(able, run_job, self._terms(admitted_only=False), job)
            return {
                address: _answer(asked[address]) if address in asked else _error(future)
                for address, future in imported.items()
            }
        except (LostSchedulerError, CancelledError, ClosedClientError) as error:
            raise ClusterError("the scheduler was lost at the start; run again to resume") from error

    def admit(
        self, known: Iterable[str], job: Callable[[Worker], Any], faults_of: Callable[[Any, Facts], list[str]]
    ) -> None:
        """Admit these workers. From now on, another one that joins gets no work until it is admitted too.

        known : their addresses. job : what a new worker is asked, as by `each`. faults_of : returns what speaks against
        a worker, for its answer (or its error) and for what the scheduler says of it; the user is told. Raises
        ClusterError where a worker does not answer, or the scheduler is lost.
        """
        workers = sorted(self._link.look(now=True).keys() & set(known))
        errors = [error for future in self._ask_each(workers, admit, self._run).values() if (error := _error(future))]
        if errors:
            raise ClusterError(f"a worker does not answer: {errors[0]}")
        self._link.admitted = set(workers)
        self._link.greet = Entrance(self._link, self._terms(admitted_only=False), job, faults_of).look

    def _terms(self, *, admitted_only: bool) -> Terms:
        return Terms(self._run, self._memory, self.before_jobs, admitted_only)

    def _ask_each(self, workers: Sequence[str], function: Callable[..., Any], *arguments: Any) -> dict[str, Future]:
        submit, name = self._link.client.submit, f"{_name(function)}-{self._run.rpartition('-')[2]}"
        return {
            address: submit(function, *arguments, key=f"{name}{next(self._numbers):08x}", pure=False, workers=[address])
            for address in workers
        }

    def fetch(self, remote: Remote[Result]) -> Result:
        """Return the result of a handle, which is spent. It is computed again where its worker does not send it."""
        while True:
            self._workers()
            generation = self._link.generation
            future, seconds = remote.spend(generation), FETCH_SECONDS
            try:
                while True:
                    with suppress(TimeoutError):
                        return fetched(self._link, future, seconds).take()  # type: ignore[no-any-return]
                    seconds *= 2
                    self._link.look(now=True)
                    holders = self._link.ask(partial(self._link.client.who_has, [future]))
                    if self._link.silent.intersection(*holders.values()) or self._link.generation != generation:
                        break
            except LostSchedulerError:
                self._link.restore()
            except SpentResultError:
                pass
            remote.again()

    def release(self) -> None:
        """Have the workers give freed memory back to their systems: a stage is over."""
        with suppress(LostSchedulerError, TimeoutError, CancelledError, OSError, ClosedClientError):
            futures = list(self._ask_each(sorted(self._link.look()), release_memory).values())
            if futures:
                with self._link.client.as_current():
                    wait(futures, timeout=RELEASE_SECONDS)

    def close(self, wait_seconds: float = CLOSE_SECONDS) -> None:
        """Wait for jobs that still run, discard what the workers keep of this run, and leave the cluster."""
        with suppress(LostSchedulerError, TimeoutError, CancelledError):
            client = self._link.client
            workers = self._link.look(now=True) if wait_seconds else self._link.seen
            ends = [
                client.submit(forget_run, self._run, key=f"forget-{self._run}-{number}", pure=False, workers=[address])
                for number, address in enumerate(workers)
            ]
            if ends and wait_seconds:
                with client.as_current():
                    wait(ends, timeout=wait_seconds)
        self._link.close()

    def _workers(self) -> list[str]:
        while True:
            try:
                workers = sorted(self._link.look())
                if not workers:
                    self._link.wait_for_workers()
                    workers = sorted(self._link.look())
                return workers
            except LostSchedulerError:
                self._link.restore()

    def _task(
        self, number: int, job: Callable[..., Any], arguments: tuple[Any, ...], home: str | None, *, held: bool = False
    ) -> Task:
        """held : whether the result stays on its worker."""
        function = hold_result if held else run_job
        terms = self._terms(admitted_only=self._link.admitted is not None)
        return Task(number, _name(job), function, (terms, job, *arguments), home)

    def _merged(self, job: Job[Result], parts: Sequence[Part], merge: Merge) -> tuple[Future, int]:
        """Run a pass and return the future of its merged result, and the generation of the workers.

        A pass that gets lost is begun again.
        """
        while True:
            self._workers()
            generation = self._link.generation
            try:
                return self._try_merged(job, parts, merge), generation
            except LostSchedulerError:
                self._link.restore()
            except LostResultError:  # the silent worker gets nothing in the next attempt
                continue

    def _try_merged(self, job: Job[Result], parts: Sequence[Part], merge: Merge) -> Future:
        """Start parts a few at a time, and merge what is there."""
        flight = Flight(self._link, fetch=False, holding=True)
        feed = _Feed(self, job, parts, list(range(len(parts))), flight)
        fan = 2 if len(parts) <= FEW * len(feed.workers) else FAN
        ready: list[Future] = []
        while True:
            feed.fill(len(parts))
            # Where all parts are started, what is ready is merged while the last of them run.
            while len(ready) >= fan or (len(ready) > 1 and not len(flight) and not feed.waiting):
                flight.start(_merging(merge, ready[:fan]))
                del ready[:fan]
            if not len(flight):
                (last,) = ready
                return last
            ready += [_result(future) for _, future in flight.finished()]

    def _homes_of(self, parts: Sequence[Part], workers: Sequence[str]) -> None:
        """Give every part a worker: the one that had it, or the one with the fewest parts."""
        of_pass = set(parts)
        load = dict.fromkeys(workers, 0)
        for part in of_pass:
            if self._homes.get(part) in load:
                load[self._homes[part]] += 1
        for part in parts:
            if self._homes.get(part) not in load:
                self._homes[part] = min(load, key=load.__getitem__)
                load[self._homes[part]] += 1


class _Feed:
    """Starts the parts of one pass on their workers, a few at a time."""

    def __init__(
        self, cluster: DaskCluster, job: Job[Any], parts: Sequence[Part], numbers: Sequence[int], flight: Flight
    ) -> None:
        self._cluster, self._job, self._parts, self.flight = cluster, job, parts, flight
        self.waiting = deque(numbers)
        self.workers = cluster._workers()
        cluster._homes_of(parts, self.workers)

    def fill(self, stop: int) -> None:
        """Start parts whose number is below `stop` while a worker has less than it may have."""
        workers = self._cluster._workers()
        if workers != self.workers:  # some came or went
            self.workers = workers
            self._cluster._homes_of([self._parts[number] for number in self.waiting], workers)
        load = self.flight.load()
        while self.waiting and self.waiting[0] < stop:
            free = [address for address in self.workers if load[address] < AHEAD]
            if not free:
                return
            homes = self._cluster._homes
            within = [number for number in self.waiting if number < stop]
            number = next((number for number in within if homes[self._parts[number]] in free), self.waiting[0])
            part = self._parts[number]
            if homes[part] not in free:
                homes[part] = min(free, key=load.__getitem__)
            self.waiting.remove(number)
            load[homes[part]] += 1
            held = not self.flight.fetch
            self.flight.start(self._cluster._task(number, self._job, (part,), homes[part], held=held))


def _result(found: Any) -> Any:
    """Return a result, or raise the error of the job that failed."""
    if isinstance(found, BigclusterError):
        raise found
    return found


def _error(future: Future) -> Exception | None:
    """Return the error of a task, or the one that says that it does not answer; None where it has ended well."""
    try:
        error = future.exception(timeout=ANSWER_SECONDS)
    except TimeoutError:
        return TimeoutError(f"no answer for {ANSWER_SECONDS:g} s")
    return error.as_error() if isinstance(error, JobFailedError) else error


def _answer(future: Future) -> Any:
    error = _error(future)
    return future.result(timeout=ANSWER_SECONDS) if error is None else error


def _merging(merge: Merge, results: list[Future]) -> Task:
    return Task(-1, f"merge-{_name(merge)}", merge_results, (merge, *results))


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)

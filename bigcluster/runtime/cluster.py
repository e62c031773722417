"""This module says how work is spread over processes: a pass is cut into parts, and a job works on one part.

There are two levels. Inside a process, `Runtime.map` runs tasks in threads that share memory. Above it a `Cluster`
runs jobs on its workers, which are processes. A stage or a solver cannot see how many there are: it asks the cluster
for parts, and every result is either merged exactly or taken in the order of the parts. So results do not depend on it.

A job and its results travel between processes. They consist of references, numbers and arrays: no lock, no open file,
no secret, and no path but that of OUT. The jobs of one worker run one after the other, and threads work inside each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

from bigcluster.runtime.events import Progress
from bigcluster.runtime.threads import Runtime, dask_on_threads

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


@dataclass(frozen=True)
class Part:
    """Units start .. stop - 1 of one pass, such as row blocks or canonical blocks. It never holds data."""

    index: int
    start: int
    stop: int

    @property
    def units(self) -> range:
        """The numbers of the units of this part."""
        return range(self.start, self.stop)


class Local(Generic[Result]):
    """An object of this process beside a reference. It does not travel: in another process `value` is None."""

    def __init__(self, value: Result | None = None) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return Local, ()


class Worker:
    """What a process offers to the jobs that it runs."""

    def __init__(
        self,
        runtime: Runtime,
        memory_bytes: int,
        progress: Progress | None = None,
        *,
        decodes_in_children: bool = False,
    ) -> None:
        """runtime : the threads of this process. memory_bytes : bytes that a job may hold in this process.

        progress : where jobs report what they have done; by default nowhere.
        decodes_in_children : whether every file is decoded in a child process. It is so where nobody starts this
        process again after a codec crashed or hung.
        """
        self.runtime, self.memory_bytes = runtime, memory_bytes
        self.progress = progress or Progress()
        self.decodes_in_children = decodes_in_children
        self._lock = threading.RLock()
        self._cache: dict[str, tuple[Hashable, Any]] = {}

    def cached(self, name: str, version: Hashable, make: Callable[[], Result]) -> Result:
        """Return an object that stays in this process between jobs, such as an open store. It is made if need be.

        name : there is one object of each name. version : an object of another version is discarded first.
        An object may vanish between two jobs, so a job must be able to make it again.
        """
        with self._lock:
            if name not in self._cache or self._cache[name][0] != version:
                self._cache.pop(name, None)  # before the new one is made: there may be no memory for both
                self._cache[name] = version, make()
            found: Result = self._cache[name][1]
            return found

    def computing_by_dask(self) -> AbstractContextManager[None]:
        """Return a context within which dask computes its collections on the threads of this process, or on all workers
        of the cluster of dask to which this process belongs."""
        return dask_on_threads(self.runtime.threads)

    def forget(self) -> None:
        """Discard all cached objects."""
        with self._lock:
            self._cache.clear()


@dataclass(frozen=True)
class Forget:
    """A job that discards the cached object of a name on the workers that get a part."""

    name: str

    def __call__(self, worker: Worker, part: Part) -> None:
        worker.cached(self.name, None, lambda: None)


Job = Callable[[Worker, Part], Result]
"""A function of a module, or an object of a frozen dataclass that can be called. It works on one part."""


class Handle(Protocol[Result_co]):
    """A result that stays where it was made until a job on the same worker, or the coordinator, takes it."""

    def take(self) -> Result_co:
        """Bring the result into this process; it may be taken once. Raises the error of the job."""


class Cluster(Protocol):
    """The workers of a run, as stages and solvers see them."""

    @property
    def n_workers(self) -> int:
        """The number of workers now. It decides nothing that a result could depend on."""

    def parts(self, n_units: int, per_worker: int = 4) -> list[Part]:
        """Cut the units 0 .. n_units - 1 of a pass into as many parts as this cluster likes, one after the other.

        per_worker : the number of parts for each worker, where there are several workers.
        """

    def spread(self, job: Job[Result], parts: Sequence[Part]) -> Generator[Result, None, None]:
        """Run the job on every part and yield the results in the order of the parts.

        Few parts are started before their results are taken. Where the caller stops early, the rest does not start.
        Raises the error of a job where its result would come.
        """

    def merged(
        self, job: Job[Result], parts: Sequence[Part], merge: Callable[[Result, Result], Result]
    ) -> Handle[Result]:
        """Run the job on every part and merge the results, which do not pass through this process.

        merge : exact, so that the order and the grouping of the parts change no bit, or a concatenation that sorts. It
        must not change its arguments. Raises ValueError where there are no parts.
        """

    def once(self, job: Callable[..., Result], *handles: Handle[Any]) -> Result:
        """Run job(worker, *results of the handles) on one worker and return its result. The handles are spent."""


def cut(n_units: int, n_parts: int) -> list[Part]:
    """Cut n_units units into at most n_parts parts whose lengths differ by one at most."""
    n_parts = max(1, min(n_parts, n_units))
    edges = [n_units * index // n_parts for index in range(n_parts + 1)] if n_units else [0]
    return [Part(index, *edge) for index, edge in enumerate(pairwise(edges))]

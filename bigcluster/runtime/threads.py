"""This module runs the tasks of blocks. Stages and solvers use only `Runtime.map`.

The embedded runtime is a pool of threads in this process. It is a bounded, ordered map over threads. The threaded
scheduler of dask neither bounds the number of waiting results nor returns them in order. The bound is needed for the
memory budget, and the order for sums that do not depend on timing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cached_property
from typing import Protocol, TypeVar

from bigcluster.runtime.blas import available_cores, blas_threads

Item = TypeVar("Item")
Result = TypeVar("Result")


class Runtime(Protocol):
    """The way in which stages and solvers run tasks."""

    @property
    def threads(self) -> int:
        """The number of tasks that compute at once."""

    def map(
        self, task: Callable[[Item], Result], items: Iterable[Item], *, in_flight: int | None = None
    ) -> Generator[Result, None, None]:
        """Yield the results in the order of `items`.

        in_flight : the largest number of items that are started and not yet taken; by default the number of threads.
        Tasks also start in that order. Where the caller stops early, no task starts after one that never does, so a
        task may wait for earlier ones. Raises the error of a task where its result would come.
        """


@contextmanager
def dask_on_threads(threads: int) -> Iterator[None]:
    """Have dask compute on so many threads of this process within the block."""
    import dask

    with dask.config.set(scheduler="threads", num_workers=threads):
        yield


class EmbeddedRuntime:
    """Threads of this process, each with one BLAS thread. Work is parallel over blocks, so it does not change results.

    The threads start with the first map and end with this object: k-means makes thousands of short passes, and starting
    a thread takes as long as some of them. A task must not call `map` of its own runtime: it would wait for itself.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or available_cores()

    @property
    def threads(self) -> int:
        """The number of tasks that compute at once."""
        return self._threads

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads)

    def map(
        self, task: Callable[[Item], Result], items: Iterable[Item], *, in_flight: int | None = None
    ) -> Generator[Result, None, None]:
        """Yield the results in the order of `items`, as `Runtime.map` says."""
        window = in_flight or self._threads
        waiting: deque[Future[Result]] = deque()
        with blas_threads(1):
            try:
                for item in items:
                    if len(waiting) == window:
                        yield waiting.popleft().result()
                    waiting.append(self._pool.submit(task, item))
                while waiting:
                    yield waiting.popleft().result()
            finally:
                # After an error or an interrupt, tasks that have not started never do, and the others are awaited.
                for future in reversed(waiting):
                    future.cancel()
                wait(waiting)

"""Where block tasks run. Stages and solvers know only `Runtime.map`.

The embedded runtime is a pool of threads in this process. A bounded, ordered map over threads is used rather than
dask's threaded scheduler, which neither bounds the results that wait to be taken nor hands them over in order: both
are needed here, the one for the memory budget, the other for sums that do not depend on timing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Protocol, TypeVar

from bigcluster.runtime.blas import available_cores, blas_threads

Item = TypeVar("Item")
Result = TypeVar("Result")


class Runtime(Protocol):
    @property
    def threads(self) -> int:
        """How many tasks compute at once."""

    def map(
        self, task: Callable[[Item], Result], items: Iterable[Item], *, in_flight: int | None = None
    ) -> Generator[Result, None, None]:
        """Results in the order of `items`; at most `in_flight` items started and not yet taken (default: threads).

        Tasks start in that order too, and where the rest is given up, no task starts that comes after one that never
        does: a task may wait for what earlier ones do.
        """


class EmbeddedRuntime:
    """Threads of this process, each with one BLAS thread: parallelism is over blocks, so results do not feel it.

    The threads start with the first map and end with this object: k-means makes thousands of short passes, and starting
    a thread takes as long as some of them. A task must not map on its own runtime: it would wait for itself.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or available_cores()

    @property
    def threads(self) -> int:
        return self._threads

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads)

    def map(
        self, task: Callable[[Item], Result], items: Iterable[Item], *, in_flight: int | None = None
    ) -> Generator[Result, None, None]:
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
                # An error or an interrupt: what has not started never does, and what has is awaited.
                for future in reversed(waiting):
                    future.cancel()
                wait(waiting)

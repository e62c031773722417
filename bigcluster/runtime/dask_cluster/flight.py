"""This module runs tasks on workers that may die, freeze or be slow. Each task ends once, whatever happens to a copy.

A job is pure: what it returns and writes depends on its arguments alone. So a task of a worker that is late or silent
is started a second time on another worker, and the copy that ends first counts.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

from distributed import Future, KilledWorker, wait
from distributed.client import ClosedClientError

from bigcluster.errors import BigclusterError, ClusterError
from bigcluster.runtime.dask_cluster.link import LOOK_SECONDS, Link, LostSchedulerError
from bigcluster.runtime.dask_cluster.tasks import JobFailedError, NotAdmittedError, SpentResultError

TRIES = 3
"""How often a task is given to the scheduler before it counts as a task that kills workers. Each time, dask lets it end
as many workers as its setting `allowed-failures` says (3), and one more."""
LATE_FACTOR = 3.0
"""A task is late after this number of medians of the tasks of its pass. Chosen as in cubed (runtime/backup.py)."""
LATE_SECONDS = 1.0
"""A task is never late before: starting a copy of a shorter one would cost more than waiting. Chosen, not measured."""
LEAST_SAMPLES = 2
"""Number of tasks of a pass that must be done before one of the others counts as late. Chosen, not measured."""
FETCH_SECONDS = 2.0
"""Seconds after which a result that does not arrive is computed by another worker; doubled at each attempt."""
_NUMBERS = itertools.count()
_PROCESS = os.urandom(6).hex()
"""Random digits in the keys of this process, so that no other client has them."""


class LostResultError(Exception):
    """A worker that holds results gives no sign of life, or a job that took a result is to be run again."""


@dataclass(eq=False)
class Task:
    """One piece of work, and the copies of it that run."""

    number: int
    name: str
    """A name for the dashboard. There are few of them: a scheduler keeps each one for ever."""
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    home: str | None = None
    """The worker on which it should run."""
    copies: dict[Future, float] = field(default_factory=dict)
    """The running copies, with the time when each was started (time.monotonic)."""
    only: tuple[str, ...] = ()
    """The workers that may run the newest copy; empty where all may."""
    failures: int = 0
    fetch_seconds: float = FETCH_SECONDS


def submitted(link: Link, task: Task, *, avoid: frozenset[str] = frozenset()) -> tuple[Future, tuple[str, ...]]:
    """Give a task to the scheduler, and return its future and the workers that alone may run it.

    avoid : workers that should not get it; those that are silent or not admitted do not get it in any case. Raises
    LostSchedulerError.
    """
    avoid |= link.silent | link.strangers
    others = tuple(address for address in link.look() if address not in avoid) if avoid else ()
    where: dict[str, Any] = {}
    if others:  # strictly: to dask, a silent worker, or a new one, has little to do, and it moves tasks there
        where = {"workers": list(others)}
    elif task.home is not None:
        where = {"workers": [task.home], "allow_other_workers": True}
    key = f"{task.name}-{_PROCESS}{next(_NUMBERS):08x}"
    try:  # it waits for no answer
        return link.client.submit(task.function, *task.arguments, key=key, pure=False, **where), others
    except (OSError, ClosedClientError) as error:
        raise LostSchedulerError from error


def fetched(link: Link, future: Future, seconds: float) -> Any:
    """Return the result of a task that has ended well. Raises TimeoutError where it does not come in time, and
    LostSchedulerError."""
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        raise
    except (CancelledError, OSError, ClosedClientError) as error:
        raise LostSchedulerError from error


class Flight:
    """The tasks of one pass that run now.

    fetch : whether results are brought into this process; otherwise they stay on the workers, and futures stand for
    them. holding : whether workers hold results that tasks need, so that a worker that falls silent ends the flight.
    """

    def __init__(self, link: Link, *, fetch: bool, holding: bool) -> None:
        self._link, self.fetch, self._holding = link, fetch, holding
        self._generation, self._silent_before = link.generation, link.silent
        self._only: set[tuple[str, ...]] = set()
        self._task_of: dict[Future, Task] = {}
        self._refused: set[Task] = set()
        self._seconds: list[float] = []
        self._looked = time.monotonic()

    def __len__(self) -> int:
        return len(self._tasks())

    def _tasks(self) -> set[Task]:
        return self._refused.union(self._task_of.values())

    def load(self) -> Counter[str | None]:
        """Return the number of tasks that each worker was given and has not done."""
        return Counter(task.home for task in self._tasks())

    def start(self, task: Task, *, avoid: frozenset[str] = frozenset()) -> None:
        """Give a task, or another copy of it, to the scheduler. avoid : workers that should not get it."""
        self._refused.discard(task)
        future, task.only = submitted(self._link, task, avoid=avoid)
        task.copies[future] = time.monotonic()
        self._task_of[future] = task
        if task.only:
            self._only.add(task.only)

    def finished(self) -> list[tuple[Task, Any]]:
        """Wait until tasks have ended, and return them with their results (or futures). Of a job that failed, that is
        an error of bigcluster.

        Raises ClusterError where a task ends its workers, LostSchedulerError, and LostResultError.
        """
        while True:
            found: list[tuple[Task, Any]] = []
            result: Any
            for future in self._ended():
                task = self._task_of.get(future)
                if task is None:  # a copy of a task that has ended just now
                    continue
                if future.status != "finished":
                    error = self._failed(task, future)
                    if error is None:
                        continue
                    result = error
                elif self.fetch:
                    try:
                        result = self._fetched(future, task)
                    except TimeoutError:
                        continue
                else:
                    result = future
                self._seconds.append(time.monotonic() - task.copies[future])
                self._drop(task)
                found.append((task, result))
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._look()
            if found:
                return found

    def _drop(self, task: Task) -> None:
        """Release all copies of a task. Those that still run are ignored when they end."""
        for future in task.copies:
            del self._task_of[future]
        task.copies = {}

    def _ended(self) -> set[Future]:
        if not self._task_of:  # all tasks wait for a worker that may run them
            time.sleep(LOOK_SECONDS / 4)
            return set()
        try:
            with self._link.client.as_current():
                return set(wait(list(self._task_of), timeout=LOOK_SECONDS / 4, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return set()
        except (CancelledError, OSError) as error:
            if any(future.status == "cancelled" for future in self._task_of):
                raise LostSchedulerError from error
            raise

    def _fetched(self, future: Future, task: Task) -> Any:
        """Return the result of a copy. Raises TimeoutError where its worker does not send it, once another one runs."""
        try:
            return fetched(self._link, future, task.fetch_seconds)
        except TimeoutError:
            task.fetch_seconds *= 2
            holders = self._link.ask(lambda: self._link.client.who_has([future]))
            del self._task_of[future], task.copies[future]
            if not task.copies:
                self.start(task, avoid=frozenset(address for held in holders.values() for address in held))
            raise

    def _failed(self, task: Task, future: Future) -> BigclusterError | None:
        """Return the error of a job that failed. A task whose workers died is started again, and None is returned."""
        if future.status == "cancelled":
            raise LostSchedulerError
        error = future.exception()
        if isinstance(error, JobFailedError):
            return error.as_error()
        if isinstance(error, SpentResultError):
            raise LostResultError
        del self._task_of[future], task.copies[future]
        if isinstance(error, NotAdmittedError):  # dask has moved it to a worker that came just now
            self._link.dismiss(*error.args)
            if not task.copies:
                self._refused.add(task)
                if self._link.look(now=True):
                    self.start(task)
            return None
        if not isinstance(error, KilledWorker):
            raise ClusterError(f"a worker cannot do what it is given: {type(error).__name__}: {error}")
        task.failures += 1
        if task.failures >= TRIES:
            raise ClusterError(
                f"{TRIES} times all workers died that tried a part of {task.name}, the last one at "
                f"{error.last_worker.address}: its log says why; where memory ran out, use a smaller --memory"
            )
        self._link.tell(f"workers died over a part of {task.name}: it is tried again")
        if not task.copies:
            self.start(task)
        return None

    def _look(self) -> None:
        """Start late tasks, and tasks of silent workers, a second time. Raises ClusterError where no worker is left."""
        self._looked = now = time.monotonic()
        self._link.check_workers()
        running, silent = self._link.look().keys(), self._link.silent
        stuck = {only for only in self._only if not running & set(only)}
        is_new = self._link.generation != self._generation
        if self._holding and (is_new or stuck or silent - self._silent_before):
            raise LostResultError
        self._generation, self._silent_before = self._link.generation, self._silent_before & silent
        self._only -= stuck
        tasks = self._tasks()
        for task in tasks:
            if is_new or task.only in stuck or (task in self._refused and running):
                self.start(task)
        limit = float("inf")
        if len(self._seconds) >= LEAST_SAMPLES:
            limit = max(LATE_SECONDS, LATE_FACTOR * statistics.median(self._seconds))
        tasks -= self._refused
        late = {task for task in tasks if len(task.copies) == 1 and now - max(task.copies.values()) > limit}
        if not (silent or late):
            return
        processing = self._link.ask(self._link.client.processing)
        place = {key: address for address, keys in processing.items() for key in keys}
        for task in tasks:
            places = {place.get(future.key, "") for future in task.copies}  # "" waits for a worker, or has just ended
            if places <= silent or (task in late and "" not in places):
                self.start(task, avoid=silent | places)

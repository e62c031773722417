"""This module holds the functions that workers of dask run, one job at a time in each worker process."""

from __future__ import annotations

import copy
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, Generic

from dask.sizeof import sizeof
from distributed import get_worker, worker_client

from bigcluster import errors
from bigcluster.errors import BigclusterError
from bigcluster.runtime.cluster import Result, Worker
from bigcluster.runtime.dask_cluster.memory import SentMemory
from bigcluster.runtime.events import SEND_SECONDS, Progress
from bigcluster.runtime.failures import as_known_error
from bigcluster.runtime.supervisor import InternalError
from bigcluster.runtime.threads import EmbeddedRuntime

MOST_CHARACTERS = 4000
"""Characters of a message and of a traceback that are sent, at most. dask replaces errors of more than 10,000
(distributed.admin.max-error-length)."""
_ALONE = threading.Lock()
"""Held by the job that runs in this process. The threads of a worker work inside one job, and it has the memory of the
process."""
_MOST_RUNS = 1000
"""Number of runs whose admission a process remembers: where a run was killed, nobody says that it is over. Each takes
some 100 bytes. Chosen, not measured: so many runs at once would not get to work."""
_ADMITTED: deque[str] = deque(maxlen=_MOST_RUNS)
"""The names of the runs to whose jobs this process is admitted. Several runs may use it in turn, a job at a time."""
_OF_RUN: dict[str, _Used] = {}
"""What this process has of the run that used it last, by the name of the run. There is at most one."""


class NotAdmittedError(Exception):
    """This process was given a job before the run had found it able to do it. Its argument is the address of the
    worker."""


class JobFailedError(Exception):
    """A job failed on a worker. Its arguments are texts: the class of the error, its message, the traceback, and the
    address of the worker. So any process can read it, whatever the error held."""

    def as_error(self) -> BigclusterError:
        """Return the error of bigcluster that the job raised, or an InternalError with its traceback."""
        kind, text, trace, address = self.args
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, BigclusterError):
            return known(text)
        error = InternalError(f"{kind}: {text} (on the worker {address})")
        error.add_note(trace)
        return error


class SpentResultError(Exception):
    """A task needs a result that a job has taken, and perhaps changed. It must be computed again."""


class Held(Generic[Result]):
    """A result that stays on a worker until a job takes it. The job may change it, so that memory is freed early.

    dask may copy a result to another worker at any moment, as when its worker leaves, and may then run the job there. A
    copy that was sent before the job took the result is whole; one that was sent after it says that it is spent.
    """

    def __init__(self, value: Result | None, *, spent: bool = False) -> None:
        self._value, self._spent = value, spent
        self._sent = False
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        with self._lock:  # the buffers of arrays are sent later, so nobody may write into them from now on
            self._sent = True
            return _held, (self._value, self._spent)

    def __sizeof__(self) -> int:
        """Return the bytes of the result: dask sends a task to the worker that has most of what it needs."""
        return int(sizeof(self._value))

    def seen(self) -> Result:
        """Return the result, which must not be changed. Raises SpentResultError."""
        with self._lock:
            return self._whole()

    def take(self) -> Result:
        """Return the result, or a copy where it may just be sent. Raises SpentResultError where it was taken before."""
        with self._lock:
            value = self._whole()
            if self._sent:
                return copy.deepcopy(value)
            self._value, self._spent = None, True
            return value

    def _whole(self) -> Result:
        if self._spent:
            raise SpentResultError
        return self._value  # type: ignore[return-value]


def _held(value: Any, spent: bool) -> Held[Any]:
    return Held(value, spent=spent)


TOPIC = "bigcluster"
"""The name under which workers report their progress and memory. A scheduler keeps the last events of each name."""


class _SentProgress(Progress):
    """Sends what is done to the process that started the run, a few times a second."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run, self._dask_worker = run, get_worker()
        self._counting = threading.Lock()
        self._unsent, self._sent_at = 0, time.monotonic()

    def advance(self, by: int = 1) -> None:
        with self._counting:
            self._unsent += by
            if time.monotonic() - self._sent_at >= SEND_SECONDS:
                self._flush()

    def flush(self) -> None:
        """Send what has not been sent: a job is over."""
        with self._counting:
            self._flush()

    def _flush(self) -> None:
        if self._unsent:
            self._dask_worker.log_event(TOPIC, {"run": self._run, "advance": self._unsent})
        self._unsent, self._sent_at = 0, time.monotonic()


class _DaskWorker(Worker):
    """A worker process of dask."""

    @contextmanager
    def computing_by_dask(self) -> Iterator[None]:
        """Return a context within which dask computes on all workers. The job waits for them and computes nothing.

        Its thread is lent to dask, and so is this process to other jobs: a job of another run that waited here for the
        end of this one would keep the thread from the tasks for which this one waits.
        """
        _ALONE.release()
        try:
            with worker_client():
                yield
        finally:
            _ALONE.acquire()


@dataclass(frozen=True)
class _Used:
    """What a run uses in this process."""

    worker: Worker
    progress: _SentProgress
    memory: SentMemory


@dataclass(frozen=True)
class Terms:
    """What a job needs to know of its run."""

    run: str
    """The name of the run. What other runs keep in this process is discarded."""
    memory_bytes: int
    """What a job may hold in its process."""
    before: Callable[[], None] | None
    """It is called before each job, which does not run where this raises an error."""
    admitted_only: bool
    """Whether only a process runs the job that was admitted to the run (`admit`)."""


def run_job(terms: Terms, job: Callable[..., Any], *arguments: Any) -> Any:
    """Return job(worker, *arguments). It waits until no other job runs in this process.

    arguments : the job takes those that are held on workers. Raises JobFailedError, SpentResultError, and
    NotAdmittedError.
    """

    def work() -> Any:
        if terms.before is not None:
            terms.before()
        return job(used.worker, *taken)

    with _ALONE:
        if terms.admitted_only and terms.run not in _ADMITTED:
            raise NotAdmittedError(get_worker().address)
        taken = [argument.take() if isinstance(argument, Held) else argument for argument in arguments]
        used = _used_by(terms.run, terms.memory_bytes)
        try:
            with used.memory.of_job():
                return _reported(work)
        finally:
            used.progress.flush()


def hold_result(*arguments: Any) -> Held[Any]:
    """Return what `run_job` returns, for tasks of this worker or of another one."""
    return Held(run_job(*arguments))


def merge_results(merge: Callable[[Any, Any], Any], *results: Held[Any]) -> Held[Any]:
    """Return the merged results of some jobs, which the scheduler brings to this worker. Raises JobFailedError."""
    with _ALONE, ExitStack() as stack:
        for used in _OF_RUN.values():
            stack.enter_context(used.memory.of_job())
        return Held(_reported(lambda: reduce(merge, (result.seen() for result in results))))


def admit(run: str) -> None:
    """Admit this process to the jobs of a run: it has shown that it can do them."""
    with _ALONE:
        if run not in _ADMITTED:
            _ADMITTED.append(run)


def forget_run(run: str) -> None:
    """Discard what a run keeps in this process, once its job is over."""
    with _ALONE:
        if run in _ADMITTED:
            _ADMITTED.remove(run)
        used = _OF_RUN.pop(run, None)
        if used is not None:
            used.worker.forget()


def _used_by(run: str, memory_bytes: int) -> _Used:
    if run not in _OF_RUN:
        for used in _OF_RUN.values():
            used.worker.forget()
        _OF_RUN.clear()
        dask_worker, progress = get_worker(), _SentProgress(run)
        runtime = EmbeddedRuntime(dask_worker.state.nthreads)

        def send(message: dict[str, Any]) -> None:
            dask_worker.log_event(TOPIC, {"run": run, "memory": message})

        # dask gives up a task whose workers died; files must not be able to do that.
        worker = _DaskWorker(runtime, memory_bytes, progress, decodes_in_children=True)
        _OF_RUN[run] = _Used(worker, progress, SentMemory(dask_worker.address, send))
    return _OF_RUN[run]


def _reported(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        known = error if isinstance(error, BigclusterError) else as_known_error(error)
        shown = error if known is None else known
        texts = (str(shown)[:MOST_CHARACTERS], traceback.format_exc()[-MOST_CHARACTERS:])
        raise JobFailedError(type(shown).__name__, *texts, get_worker().address) from None

"""This module holds the functions that workers of dask run, one job at a time in each worker process."""

from __future__ import annotations

import copy
import threading
import time
import traceback
from collections.abc import Callable
from functools import reduce
from typing import Any, Generic

from dask.sizeof import sizeof
from distributed import get_worker

from bigcluster import errors
from bigcluster.errors import BigclusterError
from bigcluster.runtime.cluster import Result, Worker
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
_OF_RUN: dict[str, Worker] = {}
"""The worker of the run that used this process last, by the name of the run. There is at most one."""


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
"""The name under which workers report their progress. A scheduler keeps the last events of each name."""


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


def run_job(
    run: str, memory_bytes: int, before: Callable[[], None] | None, job: Callable[..., Any], *arguments: Any
) -> Any:
    """Return job(worker, *arguments). It waits until no other job runs in this process.

    run : the name of the run; what other runs keep in this process is discarded. memory_bytes : what a job may hold.
    before : is called before the job, which does not run where this raises an error. arguments : the job takes those
    that are held on workers. Raises JobFailedError and SpentResultError.
    """

    def work() -> Any:
        if before is not None:
            before()
        return job(worker, *taken)

    with _ALONE:
        taken = [argument.take() if isinstance(argument, Held) else argument for argument in arguments]
        worker = _worker_of(run, memory_bytes)
        try:
            return _reported(work)
        finally:
            if isinstance(worker.progress, _SentProgress):
                worker.progress.flush()


def hold_result(*arguments: Any) -> Held[Any]:
    """Return what `run_job` returns, for tasks of this worker or of another one."""
    return Held(run_job(*arguments))


def merge_results(merge: Callable[[Any, Any], Any], *results: Held[Any]) -> Held[Any]:
    """Return the merged results of some jobs, which the scheduler brings to this worker. Raises JobFailedError."""
    with _ALONE:
        return Held(_reported(lambda: reduce(merge, (result.seen() for result in results))))


def forget_run(run: str) -> None:
    """Discard what a run keeps in this process, once its job is over."""
    with _ALONE:
        worker = _OF_RUN.pop(run, None)
        if worker is not None:
            worker.forget()


def _worker_of(run: str, memory_bytes: int) -> Worker:
    if run not in _OF_RUN:
        for worker in _OF_RUN.values():
            worker.forget()
        _OF_RUN.clear()
        runtime = EmbeddedRuntime(get_worker().state.nthreads)
        # dask gives up a task whose workers died; files must not be able to do that.
        _OF_RUN[run] = Worker(runtime, memory_bytes, _SentProgress(run), decodes_in_children=True)
    return _OF_RUN[run]


def _reported(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        known = error if isinstance(error, BigclusterError) else as_known_error(error)
        shown = error if known is None else known
        texts = (str(shown)[:MOST_CHARACTERS], traceback.format_exc()[-MOST_CHARACTERS:])
        raise JobFailedError(type(shown).__name__, *texts, get_worker().address) from None

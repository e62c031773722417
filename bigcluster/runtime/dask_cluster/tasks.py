"""This module holds the functions that workers of dask run, one job at a time in each worker process."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from functools import reduce
from typing import Any

from distributed import get_worker

from bigcluster import errors
from bigcluster.errors import BigclusterError
from bigcluster.runtime.cluster import Worker
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
    before : is called before the job, which does not run where this raises an error. Raises JobFailedError.
    """

    def work() -> Any:
        if before is not None:
            before()
        return job(worker, *arguments)

    with _ALONE:
        worker = _worker_of(run, memory_bytes)
        try:
            return _reported(work)
        finally:
            if isinstance(worker.progress, _SentProgress):
                worker.progress.flush()


def merge_results(merge: Callable[[Any, Any], Any], *results: Any) -> Any:
    """Return the merged results of some jobs, which the scheduler brings to this worker. Raises JobFailedError."""
    with _ALONE:
        return _reported(lambda: reduce(merge, results))


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

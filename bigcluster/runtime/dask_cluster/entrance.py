"""This module asks workers that join during a run what they have, before they get work. Nothing waits for them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from enum import Enum, auto
from importlib import import_module
from typing import Any

from distributed import Future

from bigcluster.runtime.cluster import Worker
from bigcluster.runtime.dask_cluster.link import Facts, Link
from bigcluster.runtime.dask_cluster.tasks import JobFailedError, Terms, admit, run_job

ANSWER_SECONDS = 2.0
"""Seconds in which an answer that is ready must arrive. Chosen, not measured."""
_NUMBERS = itertools.count()
_PROCESS = os.urandom(6).hex()
"""Random digits in the keys of this process, so that no other client has them."""


class _Step(Enum):
    """What a worker that has joined is asked."""

    IMPORT = auto()
    """Whether it has bigcluster."""
    ATTEST = auto()
    """What else it has."""
    ADMIT = auto()
    """To take jobs from now on."""


class Entrance:
    """Admits workers that join, one question after the other: whether they have bigcluster, and what else they have."""

    def __init__(
        self, link: Link, terms: Terms, job: Callable[[Worker], Any], faults_of: Callable[[Any, Facts], list[str]]
    ) -> None:
        """job, faults_of : as in `DaskCluster.admit`."""
        self._link, self._terms, self._job, self._faults_of = link, terms, job, faults_of
        self._asked: dict[str, tuple[_Step, Future]] = {}
        self._refused: set[str] = set()

    def look(self) -> None:
        """Ask workers that have come, and admit those that have answered well. It does not wait for an answer."""
        strangers = self._link.strangers
        self._asked = {address: asked for address, asked in self._asked.items() if address in strangers}
        self._refused &= strangers
        for address in sorted(strangers - self._refused):
            step, future = self._asked.get(address, (None, None))
            if step is None or future is None or future.status in ("cancelled", "lost"):
                # A worker of dask ends when it is sent a function of a module that it does not have.
                self._ask(address, _Step.IMPORT, import_module, type(self._job).__module__)
            elif future.status == "error":
                error = future.exception()
                answer = error.as_error() if isinstance(error, JobFailedError) else error
                self._refuse(address, self._faults_of(answer, self._link.facts_of(address)))
            elif future.status == "finished":
                self._answered(address, step, future)

    def _answered(self, address: str, step: _Step, future: Future) -> None:
        if step is _Step.IMPORT:
            self._ask(address, _Step.ATTEST, run_job, self._terms, self._job)
        elif step is _Step.ATTEST:
            try:
                found = future.result(timeout=ANSWER_SECONDS)
            except TimeoutError:  # it is asked for again at the next look
                return
            if faults := self._faults_of(found, self._link.facts_of(address)):
                self._refuse(address, faults)
            else:
                self._ask(address, _Step.ADMIT, admit, self._terms.run)
        else:
            del self._asked[address]
            if self._link.admitted is not None:
                self._link.admitted.add(address)
            self._link.tell(f"the worker {address} has joined")

    def _refuse(self, address: str, faults: list[str]) -> None:
        self._link.tell(f"the worker {address} has joined, and gets no work: {'; '.join(faults)}")
        del self._asked[address]
        self._refused.add(address)

    def _ask(self, address: str, step: _Step, function: Callable[..., Any], *arguments: Any) -> None:
        key = f"{function.__name__}-{_PROCESS}{next(_NUMBERS):08x}"
        future = self._link.client.submit(function, *arguments, key=key, pure=False, workers=[address])
        self._asked[address] = step, future

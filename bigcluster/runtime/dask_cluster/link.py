"""This module is the connection to the scheduler of a dask cluster, and what it says about the workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from distributed import Client
from distributed.client import ClosedClientError

from bigcluster.errors import ClusterError

Result = TypeVar("Result")
Facts = dict[str, Any]
"""What a scheduler says of a worker, such as its threads and its memory limit."""

PATIENCE_SECONDS = 120.0
"""Seconds for which a lost scheduler, or the first worker, is waited for. A scheduler that a batch system starts again
is back within a minute or two. Chosen, not measured."""
SILENT_BEATS = 6
"""Number of heartbeats that a worker may miss before its work is also given to another one. Chosen, not measured."""
LOOK_SECONDS = 1.0
"""Seconds between two questions to the scheduler about its workers, at least; each takes some milliseconds."""
ANSWER_SECONDS = 30.0
"""Seconds for which an answer of the scheduler is waited for: as long as dask waits for a connection. A busy scheduler
takes a second."""
_PAUSE_SECONDS = 0.2
"""Seconds between two attempts to reach a scheduler or to find a worker. Chosen, not measured."""


class LostSchedulerError(Exception):
    """The scheduler is not reached, and with it all tasks are lost."""


class Link:
    """The connection to a scheduler. `restore` makes a new one where it was lost."""

    def __init__(
        self,
        connect: Callable[[], Client],
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """connect : returns a new client; raises OSError. tell : takes one line for the user about a fault."""
        self._connect, self._patience, self._tell = connect, patience_seconds, tell
        self._last_sign: dict[str, tuple[float, float]] = {}
        self._looked = float("-inf")
        self._workers: dict[str, dict[str, Any]] = {}
        self._named: set[str] = set()
        self.admitted: set[str] | None = None
        """The addresses of the workers that may get work; None where all may."""
        self.greet: Callable[[], None] = lambda: None
        """It is called after each look, and may admit workers that have come."""
        self._too_few_since: float | None = None
        self._witnesses: set[str] = set()
        self.generation = 0
        """It changes when none of the workers is left that there were before. A task that was meant for one of them and
        had no worker at all for a moment never runs: dask does not give it to workers that come later."""
        self.client = connect()
        self.look(now=True)

    def close(self) -> None:
        """End the connection."""
        self.client.close()

    def tell(self, text: str) -> None:
        """Tell the user something."""
        self._tell(text)

    def ask(self, question: Callable[[], Result]) -> Result:
        """Return the answer of the scheduler. Raises LostSchedulerError, also where no answer comes in time."""
        answer: Future[Result] = Future()

        def put() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        # dask waits for ever for the answer of a scheduler that is frozen: its connection is not closed.
        threading.Thread(target=put, daemon=True).start()
        try:
            return answer.result(ANSWER_SECONDS)
        except (OSError, ClosedClientError) as error:  # a TimeoutError is an OSError
            raise LostSchedulerError from error

    def look(self, *, now: bool = False) -> dict[str, dict[str, Any]]:
        """Return what the scheduler says of each worker that takes work, by address. Silent ones are left out, and so
        are those that have not been admitted.

        now : ask, also where the last answer is new. Raises LostSchedulerError.
        """
        if now or time.monotonic() - self._looked >= LOOK_SECONDS:
            found = self.ask(lambda: self.client.scheduler_info(n_workers=-1)).get("workers")
            if found is None:  # the client has given up, and dask returns an empty dict
                raise LostSchedulerError
            self._looked = time.monotonic()
            # The clock of the scheduler is another one: what counts is whether the time that it names has changed.
            self._last_sign = {
                address: self._last_sign[address]
                if address in self._last_sign and self._last_sign[address][0] == facts["last_seen"]
                else (facts["last_seen"], self._looked)
                for address, facts in found.items()
            }
            self._workers = {address: facts for address, facts in found.items() if facts["status"] == "running"}
            self._witnesses &= found.keys()
            if not self._witnesses:
                self.generation += 1
                self._witnesses = set(found)
            for address in self.silent - self._named:
                self._tell(f"the worker {address} gives no sign of life: its work is also given to others")
            self._named = set(self.silent)
            self.ask(self.greet)
        silent = self.silent
        return {
            address: facts
            for address, facts in self._workers.items()
            if address not in silent and (self.admitted is None or address in self.admitted)
        }

    def dismiss(self, address: str) -> None:
        """Take back that a worker was admitted: another process has its address now."""
        if self.admitted is not None:
            self.admitted.discard(address)

    def facts_of(self, address: str) -> Facts:
        """Return what the scheduler said of a worker at the last look; nothing where it is gone."""
        return self._workers.get(address, {})

    @property
    def strangers(self) -> frozenset[str]:
        """The addresses of running workers that have not been admitted, at the last look."""
        return frozenset() if self.admitted is None else frozenset(self._workers.keys() - self.admitted)

    @property
    def seen(self) -> list[str]:
        """The addresses of the workers that took work at the last look."""
        return list(self._workers)

    @property
    def silent(self) -> frozenset[str]:
        """The addresses of the workers that gave no sign of life for a while, at the last look."""
        limit = self._looked - SILENT_BEATS * _beat_seconds(len(self._last_sign))
        return frozenset(address for address, (_, heard) in self._last_sign.items() if heard < limit)

    def check_workers(self, least: int = 1) -> bool:
        """Return whether there are so many workers; the user is told once where there are less.

        Raises ClusterError where that lasts for too long, and LostSchedulerError.
        """
        found = len(self.look())
        if found >= least:
            self._too_few_since = None
            return True
        if self._too_few_since is None:
            self._too_few_since = time.monotonic()
            self._tell(f"the cluster has {found} workers, and {least} are needed: waiting for {self._patience:g} s")
        elif time.monotonic() - self._too_few_since > self._patience:
            raise ClusterError(
                f"the cluster has {found} workers, and {least} are needed: they did not come for {self._patience:g} s; "
                "start workers and run again to resume, or lower cluster.min_workers"
            )
        return False

    def wait_for_workers(self, least: int = 1) -> None:
        """Wait until there are so many workers. Raises ClusterError and LostSchedulerError as `check_workers` does."""
        while not self.check_workers(least):
            time.sleep(_PAUSE_SECONDS)
            self.look(now=True)

    def restore(self) -> None:
        """Wait until the scheduler and a worker are there again. Raises ClusterError where they stay away."""
        self._tell("the scheduler is not reached: waiting for it")
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            try:
                if self.client.status == "closed":
                    self.client = self._connect()
                if self.client.status == "running":
                    self._last_sign = {}
                    self.wait_for_workers()
                    self._tell("the scheduler is there again: what was lost is computed again")
                    return
            except (OSError, LostSchedulerError):
                pass
            time.sleep(_PAUSE_SECONDS)
        raise ClusterError(f"the scheduler was not reached for {self._patience:g} s; run again to resume")


def _beat_seconds(n_workers: int) -> float:
    """Return the seconds between two heartbeats of a worker, as the scheduler asks for them.

    Source: distributed 2026.8, scheduler.heartbeat_interval.
    """
    for most, seconds in ((10, 0.5), (49, 1.0), (199, 2.0)):
        if n_workers <= most:
            return seconds
    return n_workers / 200 + 1

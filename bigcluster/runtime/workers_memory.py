"""This module holds what the workers of a cluster have said of their memory, in the process that started the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bigcluster.runtime.sampler import Reading, Timeline

MOST_ROWS = 512
"""The largest number of rows of the timeline of one worker: there may be hundreds of them. Chosen, not measured."""


ALL = "all"
"""The name of the processes of a run on the host where it was started, workers included, taken together."""
COORDINATOR = "coordinator"
"""The name of the processes that start a run on a cluster, taken together; where the run starts its workers, the
scheduler is one of them."""


class ProcessName(NamedTuple):
    """A process of a run, or several of one host."""

    host: str
    process: str
    """ALL, COORDINATOR, or the address of a worker."""


@dataclass(frozen=True)
class LargestWorker:
    """The worker that held most."""

    name: ProcessName
    stage: str
    peak_bytes: int


class WorkersMemory:
    """The memory of each worker with its children, over time and by stage. Any thread may call it."""

    def __init__(self, place: Callable[[float], tuple[float, str]]) -> None:
        """place : returns the seconds since the start of the run, and the stage, at a moment of time.monotonic."""
        self._place = place
        self._lock = threading.Lock()
        self._timelines: dict[ProcessName, Timeline] = {}
        self._peaks: dict[str, LargestWorker] = {}
        self._unseen: dict[ProcessName, int] = {}

    def add(self, message: Mapping[str, Any]) -> None:
        """Take what a worker has sent (`dask_cluster.memory`).

        Its samples have an age, not a time: the clock of another host may differ.
        """
        now = time.monotonic()
        name = ProcessName(message["host"], message["process"])
        with self._lock:
            timeline = self._timelines.setdefault(name, Timeline(MOST_ROWS))
            for age, n_bytes in message["samples"]:
                seconds, stage = self._place(now - age)
                timeline.add(Reading(seconds, stage, n_bytes))
                if stage not in self._peaks or n_bytes > self._peaks[stage].peak_bytes:
                    self._peaks[stage] = LargestWorker(name, stage, n_bytes)
            self._unseen[name] = message["unseen"]

    def peak_of(self, stage: str) -> int | None:
        """Return the largest sample of a worker in a stage, in bytes; None where there is none."""
        with self._lock:
            return self._peaks[stage].peak_bytes if stage in self._peaks else None

    def largest(self) -> LargestWorker | None:
        """Return the worker that held most in the whole run; None where no worker has said anything."""
        with self._lock:
            return max(self._peaks.values(), key=lambda peak: peak.peak_bytes, default=None)

    @property
    def unseen_bytes(self) -> int:
        """The bytes by which a worker once exceeded its largest sample, as `MemorySampler.unseen_bytes` says."""
        with self._lock:
            return max(self._unseen.values(), default=0)

    def timelines(self) -> dict[ProcessName, list[Reading]]:
        """Return the readings of each worker, in the order in which they were first heard of."""
        with self._lock:
            return {name: list(timeline.rows) for name, timeline in self._timelines.items()}

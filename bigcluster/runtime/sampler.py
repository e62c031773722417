"""This module samples the memory of a process tree while it runs.

A process counts with its PSS: its private pages and its share of the pages that it has in common with other processes.
The page cache does not count. Where the system has no PSS, the USS or RSS is used, and results name it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psutil

SAMPLE_SECONDS = 0.1
"""Seconds between two samples, at least. Chosen, not measured: a stage takes much longer."""
SAMPLE_SHARE = 0.03
"""The largest share of the time of one core that sampling may take: the kernel visits all pages of a process for its
PSS. Without this limit, ten samples a second of a large process took 7 % of a core."""
CHILDREN_SECONDS = 1.0
"""Seconds after which the list of child processes is read again. Chosen, not measured."""
MOST_ROWS = 4096
"""The largest number of rows of a timeline; a longer one is thinned to half. Chosen, not measured."""


def memory_metric() -> str:
    """Return `pss`, or the best measure that this system has: `uss` or `rss`."""
    return next(name for name in ("pss", "uss", "rss") if hasattr(psutil.Process().memory_full_info(), name))


def release_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(psutil.Process().memory_info().rss)


def has_ended(pid: int) -> bool:
    """Return whether no process of this number runs. A zombie does not run, but its threads may still be in the
    kernel."""
    try:
        return bool(psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
    except psutil.NoSuchProcess:
        return True


def started_at(pid: int) -> float | None:
    """Return the time at which a process started, in seconds since 1970; None where there is none of this number."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


class ProcessMemory(NamedTuple):
    """The memory of one process at one moment."""

    n_bytes: int
    """Bytes by `memory_metric`."""
    highest_rss_bytes: int
    """VmHWM: the largest resident size in bytes that the process ever had."""


class _WholeProcess:
    counts: bool = False


def count_whole_process() -> None:
    """Declare that this process exists only for its job, as that of the command line does: all its memory counts."""
    _WholeProcess.counts = True


@dataclass(frozen=True)
class Caller:
    """The process tree whose memory a budget covers, and the memory before the job, which does not count."""

    pid: int
    before: Mapping[int, ProcessMemory] = field(default_factory=dict)
    """The memory before the job, by process id. It is empty where the process was started for the job: all memory
    counts."""

    @classmethod
    def now(cls) -> Caller:
        """Return this process with the present memory of its tree; without it where all memory counts."""
        if _WholeProcess.counts:
            return cls(os.getpid())
        metric = memory_metric()
        before = {}
        for process in _tree_of(os.getpid()):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                n_bytes = getattr(process.memory_full_info(), metric)
                before[process.pid] = ProcessMemory(n_bytes, highest_rss_bytes(process.pid))
        return cls(os.getpid(), before)

    def to_json(self) -> dict[str, Any]:
        """Return the caller as a JSON object."""
        return {"pid": self.pid, "before": {str(pid): list(memory) for pid, memory in self.before.items()}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Caller:
        """Return the caller that `to_json` wrote."""
        return cls(values["pid"], {int(pid): ProcessMemory(*memory) for pid, memory in values["before"].items()})


def _tree_of(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants; an empty list where it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@dataclass
class StagePeak:
    """The largest sum over the process tree among the samples of one stage."""

    peak_bytes: int = 0
    samples: int = 0


class Reading(NamedTuple):
    """One row of a timeline."""

    seconds: float
    """Seconds since the sampler started."""
    stage: str
    n_bytes: int


class Timeline:
    """Readings in order of time, at most MOST_ROWS (or `most_rows`) however long a run takes.

    Where there are more, two neighbours of one stage become one row, the larger of them. From then on each row covers
    twice as many readings. No peak is lost.
    """

    def __init__(self, most_rows: int | None = None) -> None:
        self.rows: list[Reading] = []
        self._most_rows = MOST_ROWS if most_rows is None else most_rows
        self._stride = 1
        self._merged = 0

    def add(self, reading: Reading) -> None:
        """Append a reading, or merge it into the last row."""
        if self.rows and self._merged < self._stride and self.rows[-1].stage == reading.stage:
            self.rows[-1] = _larger(self.rows[-1], reading)
            self._merged += 1
            return
        self.rows.append(reading)
        self._merged = 1
        if len(self.rows) > self._most_rows:
            self._thin()

    def _thin(self) -> None:
        thinned: list[Reading] = []
        merged = False
        for reading in self.rows:
            merged = bool(thinned) and not merged and thinned[-1].stage == reading.stage
            if merged:
                thinned[-1] = _larger(thinned[-1], reading)
            else:
                thinned.append(reading)
        self.rows = thinned
        self._stride = self._merged = 2 * self._stride


def _larger(one: Reading, other: Reading) -> Reading:
    return one if one.n_bytes >= other.n_bytes else other


@dataclass
class MemorySampler:
    """Samples the memory of a process tree from a thread of its own until it is stopped.

    The growth of processes that ran before the job counts, and all memory of newer processes. Where the older processes
    shrink, the newer ones do not count less.
    """

    caller: Caller = field(default_factory=lambda: Caller(os.getpid()))
    interval_seconds: float = SAMPLE_SECONDS
    children_seconds: float = CHILDREN_SECONDS
    peaks: dict[str, StagePeak] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)

    def __post_init__(self) -> None:
        self.metric = memory_metric()
        self.stage = ""
        self.of_coordinator: Timeline | None = None
        """The readings of the process that started the run and of this one, where they are kept: without workers."""
        self._began = time.monotonic()
        self._pause = 0.0
        """Seconds between the last sample and the next one, at least."""
        self._entered: list[tuple[float, str]] = []
        self._resident: dict[int, int] = {}
        self._unseen_in_all: int | None = None
        self._sampling = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stop,), name="memory-sampler", daemon=True)

    def __enter__(self) -> MemorySampler:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._unseen_in_all = self.unseen_bytes

    @property
    def unseen_bytes(self) -> int:
        """The bytes by which a running process once exceeded its largest sample, in a peak between two samples.

        It is computed from the maximum that the kernel keeps (VmHWM).
        """
        if self._unseen_in_all is not None:
            return self._unseen_in_all
        with self._sampling:
            return max((self._unseen(pid, seen) for pid, seen in self._resident.items()), default=0)

    @property
    def held_before_bytes(self) -> int:
        """Bytes of the tree before the job. They do not count."""
        return sum(memory.n_bytes for memory in self.caller.before.values())

    @property
    def peak_bytes(self) -> int:
        """The largest sample of all stages in bytes."""
        return max((peak.peak_bytes for peak in self.peaks.values()), default=0)

    def enter(self, stage: str) -> None:
        """Count samples for this stage from now on. The first one is taken at once, so that a short stage has one."""
        with self._sampling:  # a sample that is being taken belongs to the stage before and is complete by then
            self.stage = stage
            self._entered.append((time.monotonic(), stage))
            self._sample(_tree_of(self.caller.pid))

    def place(self, moment: float) -> tuple[float, str]:
        """Return the seconds since the sampler started, and the stage, at a moment of time.monotonic."""
        with self._sampling:
            number = bisect_right(self._entered, moment, key=lambda entered: entered[0])
            stage = self._entered[number - 1][1] if number else ""
            return max(0.0, moment - self._began), stage

    def so_far(self) -> tuple[dict[str, int], list[Reading]]:
        """Return the largest sample of each stage in bytes, and the timeline, both of the same moment."""
        with self._sampling:
            return {stage: peak.peak_bytes for stage, peak in self.peaks.items()}, list(self.timeline.rows)

    def _run(self, stop: threading.Event) -> None:
        tree: list[psutil.Process] = []
        looked = float("-inf")
        while not stop.wait(max(self.interval_seconds, self._pause)):
            with self._within_share():
                if time.monotonic() - looked > self.children_seconds:
                    tree, looked = _tree_of(self.caller.pid), time.monotonic()
                self._sample(tree)

    @contextmanager
    def _within_share(self) -> Iterator[None]:
        """Take a sample in this block, and have the next one wait so long that sampling keeps to its share of time."""
        began = time.thread_time()
        yield
        self._pause = (time.thread_time() - began) / SAMPLE_SHARE

    def _sample(self, tree: list[psutil.Process]) -> None:
        with self._sampling:
            self._add(self._counted_bytes(tree))

    def _counted_bytes(self, tree: list[psutil.Process]) -> int:
        new = old = own = 0
        for process in tree:
            try:
                info = process.memory_full_info()
                n_bytes = getattr(info, self.metric)
                if process.pid in self.caller.before:
                    old += n_bytes
                else:
                    new += n_bytes
                if process.pid in (self.caller.pid, os.getpid()):
                    held = self.caller.before.get(process.pid)
                    own += n_bytes if held is None else max(0, n_bytes - held.n_bytes)
                self._resident[process.pid] = max(info.rss, self._resident.get(process.pid, 0))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        if self.of_coordinator is not None:
            self.of_coordinator.add(Reading(time.monotonic() - self._began, self.stage, own))
        # Older processes are compared together: pages that they share count for another one when one of them ends.
        return new + max(0, old - self.held_before_bytes)

    def _add(self, total: int) -> None:
        peak = self.peaks.setdefault(self.stage, StagePeak())
        peak.peak_bytes = max(peak.peak_bytes, total)
        peak.samples += 1
        self.timeline.add(Reading(time.monotonic() - self._began, self.stage, total))

    def _unseen(self, pid: int, largest_seen_bytes: int) -> int:
        highest, before = highest_rss_bytes(pid), self.caller.before.get(pid)
        if before is not None and highest <= before.highest_rss_bytes:
            return 0  # the maximum was reached before the job
        return max(0, highest - largest_seen_bytes)


def highest_rss_bytes(pid: int) -> int:
    """Return VmHWM in bytes; 0 where the system does not say it or the process has ended."""
    with suppress(OSError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0

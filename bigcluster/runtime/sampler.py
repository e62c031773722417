"""Memory of a process tree, sampled while it runs.

A process counts with its PSS (its private pages, and its share of the pages it has in common with others); page cache
does not count. Where the system has no PSS, USS or RSS stands in and is named.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psutil

SAMPLE_SECONDS = 0.1
SAMPLE_SHARE = 0.03
"""Of one core's time, at most, goes into sampling: the kernel walks all pages of a process for its PSS."""
CHILDREN_SECONDS = 1.0
MOST_ROWS = 4096
"""A timeline of more is thinned to half."""


def memory_metric() -> str:
    """`pss`, or the best there is here: `uss`, `rss`."""
    return next(name for name in ("pss", "uss", "rss") if hasattr(psutil.Process().memory_full_info(), name))


def release_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def has_ended(pid: int) -> bool:
    """Whether no process of this number runs: it is gone, or a zombie, whose threads may be in the kernel yet."""
    try:
        return bool(psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
    except psutil.NoSuchProcess:
        return True


class ProcessMemory(NamedTuple):
    """What one process held at a time."""

    n_bytes: int
    """By `memory_metric`."""
    highest_rss_bytes: int
    """VmHWM: the largest resident size that the process ever had."""


class _WholeProcess:
    counts: bool = False


def count_whole_process() -> None:
    """Say that this process exists for its job alone, as the command line's does: all that it holds counts."""
    _WholeProcess.counts = True


@dataclass(frozen=True)
class Caller:
    """The process tree whose memory a budget covers, and what of it does not count: what it held before the job."""

    pid: int
    before: Mapping[int, ProcessMemory] = field(default_factory=dict)
    """By process id. Empty where the process was started for the job, as by the command line: all of it counts."""

    @classmethod
    def now(cls) -> Caller:
        """This process, with what it and its children hold at this moment; none of it where all of it counts."""
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
        return {"pid": self.pid, "before": {str(pid): list(memory) for pid, memory in self.before.items()}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Caller:
        return cls(values["pid"], {int(pid): ProcessMemory(*memory) for pid, memory in values["before"].items()})


def _tree_of(pid: int) -> list[psutil.Process]:
    """A process and its children, and theirs; empty where it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@dataclass
class StagePeak:
    """The largest sum over the tree seen during one stage."""

    peak_bytes: int = 0
    samples: int = 0


class Reading(NamedTuple):
    """One row of a timeline."""

    seconds: float
    """Since the sampler started."""
    stage: str
    n_bytes: int


class Timeline:
    """Readings in order, at most MOST_ROWS however long a run takes.

    Where it grows beyond, neighbours of one stage become one row, the larger of them, and so do as many readings each
    from then on: no peak is lost.
    """

    def __init__(self) -> None:
        self.rows: list[Reading] = []
        self._stride = 1
        self._merged = 0

    def add(self, reading: Reading) -> None:
        if self.rows and self._merged < self._stride and self.rows[-1].stage == reading.stage:
            self.rows[-1] = _larger(self.rows[-1], reading)
            self._merged += 1
            return
        self.rows.append(reading)
        self._merged = 1
        if len(self.rows) > MOST_ROWS:
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
    """Samples a process tree from a thread of its own until stopped.

    What counts is what the tree holds beyond what it held before the job: the growth of the processes that were there,
    and all of those that were not. Processes that were there and shrink make no room for others.
    """

    caller: Caller = field(default_factory=lambda: Caller(os.getpid()))
    interval_seconds: float = SAMPLE_SECONDS
    peaks: dict[str, StagePeak] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)

    def __post_init__(self) -> None:
        self.metric = memory_metric()
        self.stage = ""
        self._resident: dict[int, int] = {}
        self._unseen_in_all: int | None = None
        self._sampling = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)

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
        """How far a process that still runs went beyond its largest sample so far: a spike between samples.

        By the kernel's own maximum (VmHWM).
        """
        if self._unseen_in_all is not None:
            return self._unseen_in_all
        with self._sampling:
            return max((self._unseen(pid, seen) for pid, seen in self._resident.items()), default=0)

    @property
    def held_before_bytes(self) -> int:
        """What the tree held before the job; it does not count."""
        return sum(memory.n_bytes for memory in self.caller.before.values())

    @property
    def peak_bytes(self) -> int:
        return max((peak.peak_bytes for peak in self.peaks.values()), default=0)

    def enter(self, stage: str) -> None:
        """Samples belong to this stage from now on; the first is taken at once, so that a short stage has one."""
        with self._sampling:  # a sample on its way is of the stage before, and is through by then
            self.stage = stage
            self._sample(_tree_of(self.caller.pid))

    def so_far(self) -> tuple[dict[str, int], list[Reading]]:
        """The largest sample of each stage in bytes, and the timeline that they are in: both of one moment."""
        with self._sampling:
            return {stage: peak.peak_bytes for stage, peak in self.peaks.items()}, list(self.timeline.rows)

    def _run(self) -> None:
        tree = _tree_of(self.caller.pid)
        looked = time.monotonic()
        pause = self.interval_seconds
        while not self._stop.wait(pause):
            began = time.thread_time()
            if time.monotonic() - looked > CHILDREN_SECONDS:
                tree, looked = _tree_of(self.caller.pid), time.monotonic()
            self._sample(tree)
            pause = max(self.interval_seconds, (time.thread_time() - began) / SAMPLE_SHARE)

    def _sample(self, tree: list[psutil.Process]) -> None:
        with self._sampling:
            self._add(self._held(tree))

    def _held(self, tree: list[psutil.Process]) -> int:
        new = old = 0
        for process in tree:
            try:
                info = process.memory_full_info()
                if process.pid in self.caller.before:
                    old += getattr(info, self.metric)
                else:
                    new += getattr(info, self.metric)
                self._resident[process.pid] = max(info.rss, self._resident.get(process.pid, 0))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        # Together, not one by one: pages that the old ones share move from one to another as they end.
        return new + max(0, old - self.held_before_bytes)

    def _add(self, total: int) -> None:
        peak = self.peaks.setdefault(self.stage, StagePeak())
        peak.peak_bytes = max(peak.peak_bytes, total)
        peak.samples += 1
        self.timeline.add(Reading(time.monotonic() - self._began, self.stage, total))

    def _unseen(self, pid: int, largest_seen_bytes: int) -> int:
        highest, before = highest_rss_bytes(pid), self.caller.before.get(pid)
        if before is not None and highest <= before.highest_rss_bytes:
            return 0  # its spike was before the job
        return max(0, highest - largest_seen_bytes)


def highest_rss_bytes(pid: int) -> int:
    """VmHWM; 0 where the system does not say or the process has gone."""
    with suppress(OSError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0

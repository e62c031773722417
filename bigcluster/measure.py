"""Memory of a process tree, sampled while it runs.

A process counts with its PSS (its private pages, and its share of the pages it has in common with others); page cache
does not count. Where the system has no PSS, USS or RSS stands in and is named.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

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
    """Samples a process tree from a thread of its own until stopped."""

    root_pid: int = field(default_factory=os.getpid)
    interval_seconds: float = SAMPLE_SECONDS
    peaks: dict[str, StagePeak] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)

    unseen_bytes: int = 0
    """How far a process went beyond its largest sample, by the kernel's own maximum: a spike between samples. Known at
    the end, of processes that still run."""

    def __post_init__(self) -> None:
        self.metric = memory_metric()
        self.stage = ""
        self._resident: dict[int, int] = {}
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
        self.unseen_bytes = max((_unseen(pid, seen) for pid, seen in self._resident.items()), default=0)

    @property
    def peak_bytes(self) -> int:
        return max((peak.peak_bytes for peak in self.peaks.values()), default=0)

    def enter(self, stage: str) -> None:
        """Samples belong to this stage from now on; the first is taken at once, so that a short stage has one."""
        with self._sampling:  # a sample on its way is of the stage before, and is through by then
            self.stage = stage
            self._sample(self._tree())

    def so_far(self) -> tuple[dict[str, int], list[Reading]]:
        """The largest sample of each stage in bytes, and the timeline that they are in: both of one moment."""
        with self._sampling:
            return {stage: peak.peak_bytes for stage, peak in self.peaks.items()}, list(self.timeline.rows)

    def _run(self) -> None:
        tree = self._tree()
        looked = time.monotonic()
        pause = self.interval_seconds
        while not self._stop.wait(pause):
            began = time.thread_time()
            if time.monotonic() - looked > CHILDREN_SECONDS:
                tree, looked = self._tree(), time.monotonic()
            self._sample(tree)
            pause = max(self.interval_seconds, (time.thread_time() - began) / SAMPLE_SHARE)

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.root_pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _sample(self, tree: list[psutil.Process]) -> None:
        with self._sampling:
            self._add(self._held(tree))

    def _held(self, tree: list[psutil.Process]) -> int:
        total = 0
        for process in tree:
            try:
                info = process.memory_full_info()
                total += getattr(info, self.metric)
                self._resident[process.pid] = max(info.rss, self._resident.get(process.pid, 0))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return total

    def _add(self, total: int) -> None:
        peak = self.peaks.setdefault(self.stage, StagePeak())
        peak.peak_bytes = max(peak.peak_bytes, total)
        peak.samples += 1
        self.timeline.add(Reading(time.monotonic() - self._began, self.stage, total))


def highest_rss_bytes(pid: int) -> int:
    """VmHWM; 0 where the system does not say or the process has gone."""
    with suppress(OSError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _unseen(pid: int, largest_seen_bytes: int) -> int:
    return max(0, highest_rss_bytes(pid) - largest_seen_bytes)

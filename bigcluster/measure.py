"""Memory of a process tree, sampled while it runs.

A process counts with its PSS (its private pages, and its share of the pages it has in common with others); page cache
does not count. Where the system has no PSS, USS or RSS stands in and is named.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from dataclasses import dataclass, field

import psutil

SAMPLE_SECONDS = 0.1
CHILDREN_SECONDS = 1.0


def memory_metric() -> str:
    """`pss`, or the best there is here: `uss`, `rss`."""
    return next(name for name in ("pss", "uss", "rss") if hasattr(psutil.Process().memory_full_info(), name))


def release_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


@dataclass
class StagePeak:
    """The largest sum over the tree seen during one stage."""

    peak_bytes: int = 0
    samples: int = 0


@dataclass
class MemorySampler:
    """Samples a process tree from a thread of its own until stopped."""

    root_pid: int = field(default_factory=os.getpid)
    interval_seconds: float = SAMPLE_SECONDS
    peaks: dict[str, StagePeak] = field(default_factory=dict)
    keeps_timeline: bool = False
    timeline: list[tuple[float, str, int]] = field(default_factory=list)
    """(seconds since start, stage, bytes), one per sample, where it is kept: a long run takes many."""

    def __post_init__(self) -> None:
        self.metric = memory_metric()
        self.stage = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)

    def __enter__(self) -> MemorySampler:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak_bytes(self) -> int:
        return max((peak.peak_bytes for peak in self.peaks.values()), default=0)

    def enter(self, stage: str) -> None:
        """Samples belong to this stage from now on; the first is taken at once, so that a short stage has one."""
        self.stage = stage
        self._sample(self._tree())

    def _run(self) -> None:
        tree = self._tree()
        looked = time.monotonic()
        while not self._stop.wait(self.interval_seconds):
            if time.monotonic() - looked > CHILDREN_SECONDS:
                tree, looked = self._tree(), time.monotonic()
            self._sample(tree)

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.root_pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _sample(self, tree: list[psutil.Process]) -> None:
        total = 0
        for process in tree:
            try:
                total += getattr(process.memory_full_info(), self.metric)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        stage = self.stage
        peak = self.peaks.setdefault(stage, StagePeak())
        peak.peak_bytes = max(peak.peak_bytes, total)
        peak.samples += 1
        if self.keeps_timeline:
            self.timeline.append((time.monotonic() - self._began, stage, total))

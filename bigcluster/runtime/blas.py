"""This module counts the usable cores and limits the number of threads of BLAS."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import OpenBLASController, ThreadpoolController


def available_cores() -> int:
    """Return the number of cores that this process may use. CPU affinity is respected."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Libraries:
    """The BLAS libraries of this process, their number of threads, and how many of our threads rely on that number.

    Finding the libraries reads the memory map of the process, which takes 2 ms, so it is repeated only after modules
    were loaded. A library has one setting per process: the first thread that enters sets it, the last one that leaves
    restores it, and a thread that needs another number waits.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._mine = threading.local()
        self._users = 0
        self._threads = 0
        self._n_modules = -1
        self._controller: ThreadpoolController | None = None
        self._limits: list[Any] = []

    def enter(self, threads: int) -> None:
        depth = getattr(self._mine, "depth", 0)
        with self._free:
            if depth and threads != self._threads:
                raise RuntimeError(
                    f"this thread holds BLAS to {self._threads} threads and {threads} would wait forever"
                )
            while self._users and threads != self._threads:
                self._free.wait()
            loaded = len(sys.modules) != self._n_modules
            if not self._users or loaded:
                if loaded or self._controller is None:
                    self._controller = ThreadpoolController()
                    self._n_modules = len(sys.modules)
                _take_control()
                self._limits.append(self._controller.limit(limits=threads))
            self._users += 1
            self._threads = threads
        self._mine.depth = depth + 1

    def leave(self) -> None:
        self._mine.depth -= 1
        with self._free:
            self._users -= 1
            if not self._users:
                _take_control()
                while self._limits:
                    self._limits.pop().restore_original_limits()
                _take_control()  # so that another library may set its own limit now
                self._free.notify_all()


def _take_control() -> None:
    """Let any thread change the limits: threadpoolctl otherwise ignores every thread but the first one that set a
    limit."""
    OpenBLASController.clear_controlling_thread(force=True)


_LIBRARIES = _Libraries()


@contextmanager
def blas_threads(threads: int) -> Iterator[None]:
    """Have BLAS and OpenMP libraries compute on this many threads, whatever the environment says. It may be nested.

    It waits while another thread of this process limits them to another number. Raises RuntimeError where this thread
    itself has limited them to another number, because it would wait forever.
    """
    _LIBRARIES.enter(threads)
    try:
        yield
    finally:
        _LIBRARIES.leave()

"""How many cores there are to use, and holding BLAS to a number of threads."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import OpenBLASController, ThreadpoolController


def available_cores() -> int:
    """Cores that this process may use (affinity respected)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Libraries:
    """The BLAS libraries of this process, and how many of our threads want which number of threads of them.

    Finding them reads the memory map of the process, 2 ms each time: it is done again only when modules were loaded.
    Libraries have one setting per process: the first that asks sets it, the last restores it, and who wants another
    number waits.
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
                _take_control()  # for nobody: another library may limit it now
                self._free.notify_all()


def _take_control() -> None:
    """threadpoolctl ignores every thread but the one that set a limit first; which one that was is no matter here."""
    OpenBLASController.clear_controlling_thread(force=True)


_LIBRARIES = _Libraries()


@contextmanager
def blas_threads(threads: int) -> Iterator[None]:
    """BLAS and OpenMP libraries compute on so many threads, whatever the environment says. May be nested.

    Waits while another thread of this process holds them to another number.
    """
    _LIBRARIES.enter(threads)
    try:
        yield
    finally:
        _LIBRARIES.leave()

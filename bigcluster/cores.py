"""How many cores there are to use, and holding BLAS to one of them where our own threads take the others."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController


def available_cores() -> int:
    """Cores that this process may use (affinity respected)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Libraries:
    """The BLAS libraries of this process and how many of our threads want them on one thread.

    Finding them reads the memory map of the process, 2 ms each time: it is done again only when modules were loaded.
    Libraries have one setting per process, so the first that asks sets it and the last restores it, in any order.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._n_modules = -1
        self._controller: ThreadpoolController | None = None
        self._limits: list[object] = []

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            loaded = len(sys.modules) != self._n_modules
            if self._users > 1 and not loaded:
                return
            if loaded or self._controller is None:
                self._controller = ThreadpoolController()
                self._n_modules = len(sys.modules)
            self._limits.append(self._controller.limit(limits=1))

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            while not self._users and self._limits:
                self._limits.pop().restore_original_limits()  # type: ignore[attr-defined]


_LIBRARIES = _Libraries()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS and OpenMP libraries compute on the thread that calls them. May be nested and used from many threads."""
    _LIBRARIES.enter()
    try:
        yield
    finally:
        _LIBRARIES.leave()

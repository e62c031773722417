"""This module says what signals mean to our processes: an interrupt, or a library that got no thread."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

from bigcluster.errors import OutOfMemoryError

NO_THREADS = (
    "no memory for threads: the system starts no more of them; raise the limits of this shell (ulimit -v, ulimit -u), "
    "or use fewer --threads"
)
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals by which systems ask a process to end. They mean the same as Ctrl-C."""


_is_interrupted = threading.Event()
"""Set by the first signal that asks this process to end, where one of the functions below handles it."""


def end_as_interrupted() -> None:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread, as SIGINT does. Ignored signals stay ignored.

    A SIGHUP after another of these signals is not a second request: a terminal that closes sends several.
    """
    is_ending = False
    _is_interrupted.clear()

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_ending
        if is_ending and number not in (signal.SIGTERM, signal.SIGINT):
            return
        is_ending = True
        _is_interrupted.set()
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` has SIGHUP ignored
            signal.signal(number, interrupt)


def end_on_sigterm_alone() -> None:
    """Make SIGTERM an interrupt, for a process that our supervisor starts and ends, whatever handlers it inherited.

    Such a process has a session of its own, so no keyboard sends SIGINT to it. OpenBLAS sends SIGINT to its own process
    where the system starts no thread: then OutOfMemoryError is raised.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        _is_interrupted.set()
        raise KeyboardInterrupt

    def no_threads(number: int, frame: FrameType | None) -> None:
        raise OutOfMemoryError(NO_THREADS)

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, no_threads)


def raise_lost_interrupt() -> None:
    """Raise KeyboardInterrupt where a signal came whose own KeyboardInterrupt was lost; to be called now and then.

    Python drops an exception that is raised while C code calls a Python function that cannot fail: the callbacks of
    ctypes by which threadpoolctl finds the BLAS libraries, weak references, `__del__`. A signal that comes at such a
    moment would be forgotten. Does nothing in other threads than the main one, and while an exception is handled: then
    the interrupt is on its way.
    """
    if _is_interrupted.is_set() and threading.current_thread() is threading.main_thread() and sys.exception() is None:
        raise KeyboardInterrupt

"""What a signal means to our processes: an interrupt, after which what is done is saved; or a library in need."""

from __future__ import annotations

import signal
from types import FrameType

from bigcluster.errors import OutOfMemoryError

NO_THREADS = (
    "no memory for threads: the system starts no more of them; raise the limits of this shell (ulimit -v, ulimit -u), "
    "or use fewer --workers"
)
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""How systems ask a process to end: they mean the same as Ctrl-C."""


def end_as_interrupted() -> None:
    """Have SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread, as SIGINT does; what is ignored stays so.

    A SIGHUP that comes after another one of them is no second request: a terminal that closes sends several.
    """
    is_ending = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_ending
        if is_ending and number not in (signal.SIGTERM, signal.SIGINT):
            return
        is_ending = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` has SIGHUP ignored
            signal.signal(number, interrupt)


def end_on_sigterm_alone() -> None:
    """For a process that another one of ours started and ends by SIGTERM: that is an interrupt, whatever was inherited.

    Nobody at a keyboard sends SIGINT to it, which has a session of its own. OpenBLAS does, to its own process, where
    the system starts no thread.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def no_threads(number: int, frame: FrameType | None) -> None:
        raise OutOfMemoryError(NO_THREADS)

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, no_threads)

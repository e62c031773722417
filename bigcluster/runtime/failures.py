"""This module turns unexpected errors whose cause is known into errors of bigcluster with a one-line message."""

from __future__ import annotations

import errno
from collections.abc import Callable

from bigcluster.errors import BigclusterError, OutOfMemoryError, StoreError
from bigcluster.runtime.signals import NO_THREADS

OUT_OF_MEMORY = (
    "the system gave no more memory, though the plan fits the budget: other processes hold it, or a limit is lower; "
    "what is done is kept: run again to resume, with a smaller --memory where this comes back"
)
_NO_ROOM = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space"}
_MEMORY_PHRASES = (
    *("bad_alloc", "bad allocation", "Insufficient memory", "failed to map segment", "allocate memory"),
    *("Memory allocation", "MemoryError"),
)
"""Messages of C++ libraries, OpenBLAS and the loader of shared libraries, which report a lack of memory only as
text."""


def as_known_error(error: BaseException) -> BigclusterError | None:
    """Return an error of bigcluster that says what ran out or what the system refused; None for a fault of the
    program."""
    if _any_of(error, lambda one: "start new thread" in str(one)):
        return OutOfMemoryError(NO_THREADS)
    if _any_of(error, _is_of_memory):
        return OutOfMemoryError(OUT_OF_MEMORY)
    if not isinstance(error, OSError):
        return None
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.EFBIG:
        return StoreError(
            f"a file may not become so large{where}: raise the limit of this shell (ulimit -f), or use another file "
            "system; then run again to resume"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreError(
            f"{error.strerror}{where}: what lies there belongs to somebody else or is closed to you; permit it, or "
            "move it away; then run again to resume"
        )
    first = _NO_ROOM.get(error.errno or 0)
    return StoreError(f"{error.strerror or error}{where}; {f'{first} and run' if first else 'run'} again to resume")


def mentions_memory(text: str) -> bool:
    """Return whether a message of a library reports a lack of memory."""
    return any(phrase in text for phrase in _MEMORY_PHRASES)


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return mentions_memory(str(error))


def _any_of(error: BaseException | None, applies: Callable[[BaseException], bool]) -> bool:
    """Return whether `applies` is true for this error or for one of its causes."""
    while error is not None:
        if applies(error):
            return True
        error = error.__cause__ or error.__context__
    return False

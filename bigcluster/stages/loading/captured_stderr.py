"""This module captures what codecs print. C libraries write warnings to fd 2, which all threads of a process share."""

from __future__ import annotations

import os
import sys
import tempfile
from types import TracebackType

from bigcluster.units import MIB

ROOM_BYTES = 1 * MIB
"""Bytes that codecs may print until `take` is called. This is room for thousands of warnings; one valid file prints a
few. Chosen, not measured."""
_FORWARDED_BYTES = 64 << 10
"""Bytes at the end of the captured text that are passed on to the old fd 2. Chosen, not measured."""
_LONGEST_LINE_BYTES = 8 << 10
"""The longest message in bytes that a codec writes at once. A message that finds too little room is not written at
all, so less room than this counts as lost text. Chosen, not measured."""


class CapturedStderr:
    """While this context is open, fd 2 writes into memory that is allocated beforehand.

    It is memory and not a file, because a disk can be full, and a picture whose damage could not be recorded would
    count as undamaged. It is allocated beforehand for the same reason. It is not a pipe, because the text must be
    complete when the codec returns, and its length costs one system call. Text that was not taken goes to the old fd 2
    at the end. Raises OSError on entry where there is no room for the memory.
    """

    def __enter__(self) -> CapturedStderr:
        self._file = _allocated(ROOM_BYTES)
        sys.stderr.flush()
        self._outer = os.dup(2)
        os.dup2(self._file, 2)  # the same open file, with the same position
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stderr.flush()
        os.dup2(self._outer, 2)
        os.write(2, self.take().encode()[-_FORWARDED_BYTES:])
        os.close(self._outer)
        os.close(self._file)

    def n_bytes(self) -> int:
        """Return how many bytes were written since the last `take`."""
        return os.lseek(self._file, 0, os.SEEK_CUR)

    def since(self, n_bytes: int) -> str:
        """Return the text after the first `n_bytes` bytes."""
        return os.pread(self._file, max(0, self.n_bytes() - n_bytes), n_bytes).decode(errors="replace")

    def are_lost(self) -> bool:
        """Return whether the room may have run out, so that the last messages may be missing."""
        return self.n_bytes() > ROOM_BYTES - _LONGEST_LINE_BYTES

    def take(self) -> str:
        """Return the text since the last call and make its room free. No codec may run meanwhile."""
        text = self.since(0)
        os.lseek(self._file, 0, os.SEEK_SET)
        return text


def _allocated(n_bytes: int) -> int:
    """Return the descriptor of an unnamed file of `n_bytes` bytes. On Linux it is in memory and has a fixed size.

    Raises OSError where there is no room for it.
    """
    if hasattr(os, "memfd_create"):
        import fcntl

        file = os.memfd_create("bigcluster-words", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.posix_fallocate(file, 0, n_bytes)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        return file
    with tempfile.TemporaryFile() as unnamed:
        unnamed.write(bytes(n_bytes))
        unnamed.flush()
        unnamed.seek(0)
        return os.dup(unnamed.fileno())

"""What codecs print: C libraries write their warnings to fd 2, which belongs to the process and not to a thread."""

from __future__ import annotations

import os
import sys
import tempfile
from types import TracebackType

from bigcluster.units import MIB

ROOM_BYTES = 1 * MIB
"""What codecs may print until somebody takes it: many thousands of remarks; one file of sane content prints a few."""
_FORWARDED_BYTES = 64 << 10
_LONGEST_LINE_BYTES = 8 << 10
"""Of what a codec writes in one go: a line that finds less room than it needs is not written at all."""


class CapturedStderr:
    """While it is open, fd 2 leads into a piece of memory of our own, whose room is allocated beforehand.

    Memory and not a file: a disk can be full, and a picture whose damage could not be written down would pass for a
    sound one. Allocated beforehand, for the same reason. And not a pipe: what was written is there when the codec
    returns, and its length is known at the cost of one system call. What nobody took goes to the old fd 2 at the end.
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
        """How much has been written since the last `take`."""
        return os.lseek(self._file, 0, os.SEEK_CUR)

    def since(self, n_bytes: int) -> str:
        """What was written since there were so many bytes."""
        return os.pread(self._file, max(0, self.n_bytes() - n_bytes), n_bytes).decode(errors="replace")

    def are_lost(self) -> bool:
        """Whether there was more to write than there is room for: what came last may be missing."""
        return self.n_bytes() > ROOM_BYTES - _LONGEST_LINE_BYTES

    def take(self) -> str:
        """What was written since the last call. Nobody may be writing meanwhile."""
        said = self.since(0)
        os.lseek(self._file, 0, os.SEEK_SET)
        return said


def _allocated(n_bytes: int) -> int:
    """A file descriptor of a file without a name, in memory where the system can (Linux), of a fixed size there.

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

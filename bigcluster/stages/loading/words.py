"""What codecs print: C libraries write their warnings to fd 2, which belongs to the process and not to a thread."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType

_LAST_BYTES = 64 << 10


class CodecWords:
    """While it is open, fd 2 leads into a file of our own.

    A file and not a pipe: what was written is there when the codec returns, and its length is known at the cost of one
    system call. What nobody took goes to the old fd 2 at the end.
    """

    def __enter__(self) -> CodecWords:
        descriptor, name = tempfile.mkstemp(prefix="bigcluster-words-")
        os.close(descriptor)
        self._file = os.open(name, os.O_RDWR | os.O_APPEND)  # appending: `take` may cut it short at any time
        Path(name).unlink()
        sys.stderr.flush()
        self._outer = os.dup(2)
        os.dup2(self._file, 2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stderr.flush()
        os.dup2(self._outer, 2)
        os.write(2, self.take().encode())
        os.close(self._outer)
        os.close(self._file)

    def n_bytes(self) -> int:
        """How much has been written since the last `take`."""
        return os.fstat(self._file).st_size

    def since(self, n_bytes: int) -> str:
        """The last of what was written since there were so many bytes."""
        start = max(n_bytes, self.n_bytes() - _LAST_BYTES)
        return os.pread(self._file, _LAST_BYTES, start).decode(errors="replace")

    def take(self) -> str:
        """The last of what was written since the last call."""
        said = self.since(0)
        os.truncate(self._file, 0)
        return said

"""Standard streams whose errors do not end the job: what cannot be printed is lost, and the job goes on.

A stream may be closed (`>&-`), full (`>/dev/full`), or a terminal that is gone. File names may hold characters that its
encoding does not have.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO


class Outlet(io.TextIOBase):
    """A standard stream that raises no error, and remembers the first one in `error`."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, stream: TextIO | None, number: int) -> None:
        """number : the file descriptor. stream : None where it was closed when the process started."""
        self._stream, self._number = stream, number
        self.error: OSError | None = None
        if stream is None:
            self.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=self.errors)
            self.encoding = stream.encoding

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return self._number

    def _try(self, what: str, *arguments: Any) -> None:
        if self._stream is None or self.error is not None:
            return
        try:
            getattr(self._stream, what)(*arguments)
        except OSError as error:
            self.error = error
            # The interpreter flushes the stream's buffer at its end: that must not fail either.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._number)
            os.close(nowhere)


def guard() -> tuple[Outlet, Outlet]:
    """Replace sys.stdout and sys.stderr by outlets, and return both.

    Standard streams that are closed are opened on the null device first. Otherwise the next file that is opened would
    get their number, and the messages of libraries would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    out, err = Outlet(sys.stdout, 1), Outlet(sys.stderr, 2)
    sys.stdout, sys.stderr = out, err
    return out, err

"""The file of `--log`: what a command says, each line with its time."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import IO

from bigcluster.errors import UsageError
from bigcluster.paths import local_path
from bigcluster.units import printable


class LogFile:
    """Lines are added at its end. A log that cannot be written any more is told of once, and ends nothing."""

    def __init__(self, given: str) -> None:
        """Raises UsageError where the file cannot be opened for writing."""
        path = Path(local_path("--log", given))
        try:
            self._file: IO[str] | None = path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UsageError(f"--log cannot be written: {path}: {error.strerror}; give another file") from error
        self._path = path
        self.line(f"started: {shlex.join(['bigcluster', *sys.argv[1:]])} (process {os.getpid()})")

    def line(self, text: str) -> None:
        """Add a line, at once on its way to the disk."""
        if self._file is None:
            return
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            self._file.write(f"{now} {printable(text)}\n")
            self._file.flush()
        except OSError as error:
            self._file = None
            print(f"warning: the log cannot be written any more: {self._path}: {error.strerror}", file=sys.stderr)

"""The file of `--log`: it gets every message of a command, each line with its time.

Lines are appended to a new file, to an earlier log of bigcluster, or to a stream. Any other file is refused, so that a
typing error cannot write into a picture.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import IO

from bigcluster.errors import UsageError
from bigcluster.files import targets
from bigcluster.files.bounded import open_regular
from bigcluster.files.paths import local_path
from bigcluster.units import printable

OPTION = "--log"
_STARTED = "started: bigcluster"
_FIRST_LINE = re.compile(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\S* {_STARTED} ".encode())
"""The beginning of every log that bigcluster writes."""


class LogFile:
    """A log to which lines are appended. When it can no longer be written, one warning says so, and the run goes on."""

    def __init__(self, file: str) -> None:
        """Raises UsageError where the file cannot be opened for writing, or exists and is not a log of bigcluster."""
        path = Path(local_path(OPTION, file))
        if targets.check(OPTION, str(path)) and path.exists() and not _is_log(path):
            raise UsageError(f"{OPTION} {path} exists and is not a log of bigcluster; give another file")
        try:
            self._file: IO[str] | None = path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UsageError(f"--log cannot be written: {path}: {error.strerror}; give another file") from error
        self._path = path
        self.line(f"{_STARTED} {shlex.join(sys.argv[1:])} (process {os.getpid()})")

    def line(self, text: str) -> None:
        """Append one line with its time, and flush it."""
        if self._file is None:
            return
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            self._file.write(f"{now} {printable(text)}\n")
            self._file.flush()
        except OSError as error:
            self._file = None
            print(f"warning: the log cannot be written any more: {self._path}: {error.strerror}", file=sys.stderr)


def _is_log(path: Path) -> bool:
    """Whether a file is empty, or begins as the logs of bigcluster begin."""
    with open_regular(path, follow=True) as file:
        beginning = file.read(64)
    return not beginning or _FIRST_LINE.match(beginning) is not None

"""A decode that may crash or hang: in a child, one file at a time. What happens to the child becomes the file's record.

The parent writes one JSON line a file; the child (child.py) answers with the record as a JSON line and, where that is
ok, with the pixels. An alarm ends the child where a file takes too long: the kernel's, so it needs no help from the
codec, and it rings for an orphan too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.processes import start_python
from bigcluster.stages.loading.files import stat_of

READY = b"ready\n"


class IsolatedDecoder:
    """The parent's side. The child is started when it is first needed, and again after one that died."""

    def __init__(self, spec: DecodeSpec, timeout_seconds: float) -> None:
        self._start = json.dumps({"spec": asdict(spec), "timeout_seconds": timeout_seconds}).encode() + b"\n"
        self._timeout_seconds = timeout_seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> IsolatedDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.kill()
            self._end()

    def load(self, path: str, confined_to: Path | None, into: NDArray[np.uint8]) -> FileRecord:
        """Read and decode one file into its row, (d,), which is zero where that fails."""
        stdin, stdout = self._pipes()
        try:
            request = [to_wire(path), None if confined_to is None else to_wire(confined_to)]
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            answer = stdout.readline()
        except BrokenPipeError:
            answer = b""
        if answer.endswith(b"\n"):
            record = FileRecord.from_json(json.loads(answer))
            if not record.ok or stdout.readinto(into.data) == into.nbytes:  # type: ignore[attr-defined]
                if not record.ok:
                    into[:] = 0
                return record
        into[:] = 0
        return self._what_happened(path)

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._child is None:
            self._child = start_python("bigcluster.stages.loading.child", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stdin, stdout = _both(self._child)
            stdin.write(self._start)
            stdin.flush()
            if stdout.readline() != READY:
                raise RuntimeError(f"the decoding child does not start (exit status {self._end()})")
        return _both(self._child)

    def _what_happened(self, path: str) -> FileRecord:
        """The child died over this file."""
        code = self._end()
        n_bytes, mtime_ns = stat_of(path)
        if code == -signal.SIGALRM:
            reason = f"not decoded within {self._timeout_seconds:g} s"
            return FileRecord(n_bytes, mtime_ns, None, None, "", "timeout", reason, None, self._timeout_seconds)
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return FileRecord(n_bytes, mtime_ns, None, None, "", "crashed", f"decoding it ended the process ({how})")

    def _end(self) -> int:
        """Reap the child; its exit status."""
        assert self._child is not None
        child, self._child = self._child, None
        for pipe in _both(child):
            with suppress(BrokenPipeError):  # closing flushes
                pipe.close()
        return child.wait()


def _both(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert child.stdin is not None
    assert child.stdout is not None
    return child.stdin, child.stdout


def to_wire(path: str | Path) -> str:
    return os.fsencode(path).hex()


def from_wire(text: str) -> str:
    return os.fsdecode(bytes.fromhex(text))

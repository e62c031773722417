"""A file that may crash the codec, hang it, or need more memory than its header says is decoded in a child process.

The child decodes one file at a time, and its fate becomes the record of the file. The parent writes one JSON line for
each file. The child (child.py) answers with one line and, where it decoded the picture, with the pixels. An alarm of
the kernel ends the child where a file takes too long: it needs no help from the codec and works without the parent too.
The system limits the memory of the child.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from queue import LifoQueue
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord
from bigcluster.kernels.decode import DecodeSpec, Workload
from bigcluster.runtime.processes import start_python
from bigcluster.stages.loading.files import stat_of
from bigcluster.units import MIB, show_bytes

READY = b"ready\n"
NO_MEMORY = "no memory"
"""The answer of the child, in place of a record, where the system gave it no more memory."""
_HEAP = str(1 * MIB)
"""Freed blocks of at least this many bytes go back to the system, so that no picture leaves memory to the next one.
Chosen, not measured."""
_VARIABLES = {"MALLOC_MMAP_THRESHOLD_": _HEAP, "MALLOC_TRIM_THRESHOLD_": _HEAP, "MALLOC_ARENA_MAX": "1"}


class IsolatedDecoder:
    """The parent's side of one child. The child is started when it is first needed, and again after it died."""

    def __init__(self, spec: DecodeSpec, timeout_seconds: float, limit_bytes: int | None) -> None:
        """limit_bytes : bytes that the child may allocate beyond Python and the codecs; None for no limit."""
        values = {"spec": asdict(spec), "timeout_seconds": timeout_seconds, "limit_bytes": limit_bytes}
        self._start = json.dumps(values).encode() + b"\n"
        self._timeout_seconds, self._limit_bytes = timeout_seconds, limit_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._is_fresh = False
        self.n_lost = 0
        """Children that died over a file."""

    def __enter__(self) -> IsolatedDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._reap()

    def load(self, path: str, confined_to: Path | None, into: NDArray[np.uint8]) -> FileRecord:
        """Read and decode one file into its row, (d,) uint8, and return its record. The row is zero where that
        fails."""
        answer = self._ask("load", path, confined_to)
        if answer is not None and answer != NO_MEMORY:
            record = FileRecord.from_json(answer)
            if not record.ok:
                into[:] = 0
                return record
            if _both(self._child)[1].readinto(into.data) == into.nbytes:  # type: ignore[attr-defined]
                return record
        into[:] = 0
        return self._too_large(path) if answer == NO_MEMORY else self._what_happened(path)

    def look(self, path: str, confined_to: Path | None, spec: DecodeSpec) -> Workload | None:
        """Return the work of decoding a file, as its header says; None where the header cannot be read."""
        answer = self._ask("look", path, confined_to, asdict(spec))
        return None if not answer or answer == NO_MEMORY else Workload(**answer)

    def size(self, path: str, confined_to: Path | None) -> tuple[int, int] | None:
        """Return (width, height) in pixels after the EXIF rotation, as the header says; None where it cannot be
        read."""
        answer = self._ask("size", path, confined_to)
        return None if not answer or answer == NO_MEMORY else (answer[0], answer[1])

    def _ask(self, task: str, path: str, confined_to: Path | None, spec: dict[str, Any] | None = None) -> Any:
        """Return the answer of the child, or None where it died."""
        request = [task, to_wire(path), None if confined_to is None else to_wire(confined_to), spec]
        answer = self._answer(request)
        if answer == NO_MEMORY and not self._is_fresh:  # the pictures before may have left the heap in pieces
            self.end()
            answer = self._answer(request)
        self._is_fresh = False
        return answer

    def _answer(self, request: list[Any]) -> Any:
        stdin, stdout = self._pipes()
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            answer = stdout.readline()
        except BrokenPipeError:
            answer = b""
        if answer.endswith(b"\n"):
            return json.loads(answer)
        self.n_lost += 1
        if request[0] != "load":  # of that, `load` says how the child ended
            self.end()
        return None

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._child is None:
            self._child = start_python(
                "bigcluster.stages.loading.child",
                variables=_VARIABLES,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            self._is_fresh = True
            stdin, stdout = _both(self._child)
            stdin.write(self._start)
            stdin.flush()
            if stdout.readline() != READY:
                raise RuntimeError(f"the decoding child does not start (exit status {self._reap()})")
        return _both(self._child)

    def _too_large(self, path: str) -> FileRecord:
        """Return the record of a file for which the child got no more memory, although its header promised enough."""
        assert self._limit_bytes is not None
        n_bytes, mtime_ns = stat_of(path)
        reason = f"decoding it takes more than the {show_bytes(self._limit_bytes)} that the memory budget leaves"
        return FileRecord(n_bytes, mtime_ns, None, None, "", "too_large", reason, self._limit_bytes + 1)

    def _what_happened(self, path: str) -> FileRecord:
        """Return the record of a file over which the child died."""
        code = self._reap()
        n_bytes, mtime_ns = stat_of(path)
        if code == -signal.SIGALRM:
            reason = f"not decoded within {self._timeout_seconds:g} s"
            return FileRecord(n_bytes, mtime_ns, None, None, "", "timeout", reason, None, self._timeout_seconds)
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return FileRecord(n_bytes, mtime_ns, None, None, "", "crashed", f"decoding it ended the process ({how})")

    def _reap(self) -> int:
        """Wait for the child, which has ended or is about to, and return its exit status."""
        child, self._child = self._child, None
        assert child is not None
        for pipe in _both(child):
            with suppress(BrokenPipeError):  # closing flushes
                pipe.close()
        return child.wait()


class IsolatedDecoders:
    """Several isolated decoders that threads share. A thread that finds none free waits."""

    def __init__(self, number: int, spec: DecodeSpec, timeout_seconds: float, limit_bytes: int | None) -> None:
        self.number = number
        self._limit_bytes = limit_bytes
        # The last one to be given back is the first one to be taken: no more children start than are needed at once.
        self._free: LifoQueue[IsolatedDecoder] = LifoQueue()
        self._all = [IsolatedDecoder(spec, timeout_seconds, limit_bytes) for _ in range(max(1, number))]
        for decoder in reversed(self._all):
            self._free.put(decoder)

    def __enter__(self) -> IsolatedDecoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            for decoder in self._all:
                stack.callback(decoder.end)

    @contextmanager
    def one(self) -> Iterator[IsolatedDecoder]:
        """Lend one decoder to the caller; wait until one is free."""
        decoder = self._free.get()
        try:
            yield decoder
        finally:
            self._free.put(decoder)

    def load(self, path: str, confined_to: Path | None, into: NDArray[np.uint8]) -> FileRecord:
        """Do the same as IsolatedDecoder.load. Where the budget has no room for a child, the file is `too_large`."""
        if self.number == 0:
            into[:] = 0
            n_bytes, mtime_ns = stat_of(path)
            reason = "it is decoded in a process of its own, for which the memory budget leaves no room"
            return FileRecord(n_bytes, mtime_ns, None, None, "", "too_large", reason, (self._limit_bytes or 0) + 1)
        with self.one() as decoder:
            return decoder.load(path, confined_to, into)


def _both(child: subprocess.Popen[bytes] | None) -> tuple[IO[bytes], IO[bytes]]:
    assert child is not None
    assert child.stdin is not None
    assert child.stdout is not None
    return child.stdin, child.stdout


def to_wire(path: str | Path) -> str:
    """Return a path as hexadecimal text: names need not be valid UTF-8."""
    return os.fsencode(path).hex()


def from_wire(text: str) -> str:
    """Return the path that `to_wire` wrote."""
    return os.fsdecode(bytes.fromhex(text))

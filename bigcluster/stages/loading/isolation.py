"""A decode that may crash, hang, or take more memory than its header says: in a child, one file at a time.

What happens to the child becomes the file's record. The parent writes one JSON line a file; the child (child.py)
answers with one, and where it decoded the picture, with its pixels. An alarm ends the child where a file takes too
long: the kernel's, so it needs no help from the codec, and it rings for an orphan too. The system limits its memory.
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
"""What the child answers where the system gave it no more, in place of a record."""
_HEAP = str(1 * MIB)
"""Blocks from this size on go back to the system when they are freed: nothing of one picture is left for the next."""
_VARIABLES = {"MALLOC_MMAP_THRESHOLD_": _HEAP, "MALLOC_TRIM_THRESHOLD_": _HEAP, "MALLOC_ARENA_MAX": "1"}


class IsolatedDecoder:
    """The parent's side. The child is started when it is first needed, and again after one that died."""

    def __init__(self, spec: DecodeSpec, timeout_seconds: float, limit_bytes: int | None) -> None:
        """limit_bytes : what the child may allocate beyond what Python and the codecs hold; None for no limit."""
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
        """Read and decode one file into its row, (d,), which is zero where that fails."""
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
        """What the header says of the work that the file makes; None where it cannot be read."""
        answer = self._ask("look", path, confined_to, asdict(spec))
        return None if not answer or answer == NO_MEMORY else Workload(**answer)

    def size(self, path: str, confined_to: Path | None) -> tuple[int, int] | None:
        """(width, height) as the header says, as seen; None where it cannot be read."""
        answer = self._ask("size", path, confined_to)
        return None if not answer or answer == NO_MEMORY else (answer[0], answer[1])

    def _ask(self, task: str, path: str, confined_to: Path | None, spec: dict[str, Any] | None = None) -> Any:
        """The child's answer; None where there is none, or it died."""
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
        """The system gave the child no more memory, though the header promised that it would be enough."""
        assert self._limit_bytes is not None
        n_bytes, mtime_ns = stat_of(path)
        reason = f"decoding it takes more than the {show_bytes(self._limit_bytes)} that the memory budget leaves"
        return FileRecord(n_bytes, mtime_ns, None, None, "", "too_large", reason, self._limit_bytes + 1)

    def _what_happened(self, path: str) -> FileRecord:
        """The child died over this file."""
        code = self._reap()
        n_bytes, mtime_ns = stat_of(path)
        if code == -signal.SIGALRM:
            reason = f"not decoded within {self._timeout_seconds:g} s"
            return FileRecord(n_bytes, mtime_ns, None, None, "", "timeout", reason, None, self._timeout_seconds)
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return FileRecord(n_bytes, mtime_ns, None, None, "", "crashed", f"decoding it ended the process ({how})")

    def _reap(self) -> int:
        """The child has ended, or is about to; its exit status."""
        child, self._child = self._child, None
        assert child is not None
        for pipe in _both(child):
            with suppress(BrokenPipeError):  # closing flushes
                pipe.close()
        return child.wait()


class IsolatedDecoders:
    """A few of them, for threads that share them: who finds none free waits."""

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
        decoder = self._free.get()
        try:
            yield decoder
        finally:
            self._free.put(decoder)

    def load(self, path: str, confined_to: Path | None, into: NDArray[np.uint8]) -> FileRecord:
        """As IsolatedDecoder.load; where the budget has no room for a child, the file is `too_large`."""
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
    return os.fsencode(path).hex()


def from_wire(text: str) -> str:
    return os.fsdecode(bytes.fromhex(text))

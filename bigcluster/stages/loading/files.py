"""This module decodes one listed file into pixels and a record. A fault of the file becomes its record, not an
error."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord, is_confined
from bigcluster.files.bounded import UnfitFileError, open_regular
from bigcluster.files.durable import digest_of
from bigcluster.kernels.decode import (
    FILLED,
    DecodeSpec,
    damage_in,
    decode,
    has_bounded_memory,
    header_may_lie,
    without_what_was_filled,
)
from bigcluster.kernels.decode.bounded_memory import HEAD_BYTES
from bigcluster.stages.loading.captured_stderr import ROOM_BYTES, CapturedStderr
from bigcluster.units import show_bytes

_OUTSIDE = "outside the manifest's folder; manifest.allow_outside = true permits it"

_TOO_MUCH_OUTPUT = f"its codec complained in more than {show_bytes(ROOM_BYTES)}, which is too much to read"


@dataclass(frozen=True)
class _Content:
    data: bytes
    mtime_ns: int
    digest: str


Isolated = Callable[[str, Path | None, NDArray[np.uint8]], FileRecord]
"""A function of (path, confined_to, into) that decodes a file whose header cannot be trusted, in a child process with
limited memory."""


def load_picture(
    path: str,
    confined_to: Path | None,
    spec: DecodeSpec,
    into: NDArray[np.uint8],
    isolated: Isolated,
    known: FileRecord | None = None,
) -> FileRecord:
    """Read and decode one file into its row `into`, (n,) uint8, and return its record.

    The row is zero where decoding fails. A file that is not plain is decoded by `isolated`.
    known : the record of what the row already holds. Where the content of the file is the same, the row is not changed.
    """
    content = _read(path, confined_to, spec.max_bytes, passing=known is None)
    if isinstance(content, FileRecord):
        into[:] = 0
        return content
    if content is not None and known is not None and known.digest == content.digest:
        return replace(known, mtime_ns=content.mtime_ns)
    if content is None or not has_bounded_memory(io.BytesIO(content.data), whole=True):
        del content  # the child reads it itself
        return isolated(path, confined_to, into)
    return _decode(content, spec, into)


def same_content(path: str, confined_to: Path | None, max_bytes: int | None, known: FileRecord) -> FileRecord | None:
    """Return the record with the present time of the file, or None where the content of the file has changed."""
    if stat_of(path)[0] != known.n_bytes:
        return None
    content = _read(path, confined_to, max_bytes)
    if not isinstance(content, _Content) or content.digest != known.digest:
        return None
    return replace(known, mtime_ns=content.mtime_ns)


def load_alone(
    path: str, confined_to: Path | None, spec: DecodeSpec, into: NDArray[np.uint8], captured: CapturedStderr
) -> FileRecord:
    """Do the same as `load_picture` while no other thread decodes: all captured messages belong to this file.

    captured : the open capture of fd 2.
    """
    content = _read(path, confined_to, spec.max_bytes)
    if not isinstance(content, _Content):
        assert content is not None
        into[:] = 0
        return content
    captured.take()
    record = _decode(content, spec, into)
    damage = _damage(captured, content.data)
    if record.ok and damage:
        for data in without_what_was_filled(damage, content.data):
            again = _decode(replace(content, data=data), spec, into)
            if again.ok and not _damage(captured, data):
                return replace(again, n_bytes=len(content.data), reason=FILLED)
        into[:] = 0
        return replace(record, status="damaged", reason=damage)
    return record


def _damage(captured: CapturedStderr, data: bytes) -> str:
    """Return what the captured messages say about damage since the last call, or ''."""
    lost = captured.are_lost()
    return damage_in(captured.take(), data) or (_TOO_MUCH_OUTPUT if lost else "")


def stat_of(path: str) -> tuple[int, int] | tuple[None, None]:
    """Return (size in bytes, modification time in ns), or (None, None) where the file cannot be examined."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None, None
    return status.st_size, status.st_mtime_ns


def is_out_of_reach(path: str) -> bool:
    """Return whether a file cannot be examined at all, as in a closed folder or on a failing disk. A missing file
    can."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        return False
    except OSError as error:
        return error.errno not in (errno.ELOOP, errno.ENAMETOOLONG)
    return False


def announce(path: str, confined_to: Path | None) -> None:
    """Ask the system to fetch a file that will soon be read. Errors are ignored here: they show when it is read."""
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError, ValueError):
        if stat.S_ISREG(os.stat(path).st_mode) and is_confined(path, confined_to):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)


def opened(path: str, confined_to: Path | None) -> io.BufferedReader:
    """Open a listed file. Raises OSError where it is missing, lies outside the folder, or cannot be read."""
    if not is_confined(path, confined_to):
        raise PermissionError(errno.EACCES, _OUTSIDE, path)
    try:
        return open_regular(path, follow=True)
    except ValueError:  # a NUL in the name
        raise FileNotFoundError(errno.ENOENT, "no such file", path) from None


def _read(
    path: str, confined_to: Path | None, max_bytes: int | None, *, passing: bool = False
) -> _Content | FileRecord | None:
    """Return the content of a file, or the record of a file that cannot be decoded.

    passing : return None for a file that is not plain.
    """
    n_bytes = mtime_ns = None
    try:
        before = os.stat(path)
        n_bytes, mtime_ns = before.st_size, before.st_mtime_ns
        if not is_confined(path, confined_to):
            return _failed("unreadable", _OUTSIDE, n_bytes, mtime_ns)
        if not stat.S_ISREG(before.st_mode):
            return _failed("unreadable", "not a regular file", n_bytes, mtime_ns)
        if max_bytes is not None and n_bytes > max_bytes:
            reason = f"reading it needs {show_bytes(n_bytes)}, the memory budget leaves {show_bytes(max_bytes)}"
            return _failed("too_large", reason, n_bytes, mtime_ns, n_bytes)
        with open_regular(path, follow=True) as file:
            if passing and header_may_lie(file.peek(HEAD_BYTES)):
                return None
            data = file.read(n_bytes + 1)  # a file may grow while it is read
        after = os.stat(path)
    except (FileNotFoundError, ValueError):  # ValueError: a NUL in the name
        # Names are normalised, but for a URL in a manifest.
        return _failed("missing", "a URL: only files on disks are read" if "://" in path else "no such file")
    except OSError as error:
        if isinstance(error, UnfitFileError):
            return _failed("unreadable", "not a regular file", n_bytes, mtime_ns)
        return _failed("unreadable", error.strerror or type(error).__name__, n_bytes, mtime_ns)
    if (n_bytes, mtime_ns) != (after.st_size, after.st_mtime_ns) or len(data) != n_bytes:
        return _failed("changed_during_run", "it was written to while it was read", n_bytes, mtime_ns)
    return _Content(data, mtime_ns, digest_of(data))


def _decode(content: _Content, spec: DecodeSpec, into: NDArray[np.uint8]) -> FileRecord:
    result = decode(content.data, spec)
    into[:] = 0 if result.pixels is None else result.pixels
    return FileRecord(
        len(content.data),
        content.mtime_ns,
        result.width,
        result.height,
        content.digest,
        result.status,
        result.reason,
        result.needed_bytes,
    )


def _failed(
    status: str, reason: str, n_bytes: int | None = None, mtime_ns: int | None = None, needed_bytes: int | None = None
) -> FileRecord:
    return FileRecord(n_bytes, mtime_ns, None, None, "", status, reason, needed_bytes)

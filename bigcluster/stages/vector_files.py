"""The files of vectors that a user brings: 2-D arrays of numpy, and list columns of Parquet files.

A vector is read by its number, one at a time, whenever its row is decoded. It is read by its position in the file
(pread), and not through memory that is mapped: mapped pages would count for the memory of the run, and a file that is
cut meanwhile would end the process. Nobody can read one row of a Parquet file, so a child unfolds the column into an
unnamed file, which the system removes with the process, however that ends.
"""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog.manifest_rows import ENDED, MOST_SAID, NO_PYARROW, TOO_LARGE, UNFOLDED_TIMES, why_unread
from bigcluster.errors import InputChangedError, StoreError, UsageError
from bigcluster.files.bounded import open_regular
from bigcluster.runtime.processes import start_python
from bigcluster.units import MIB, counted, show_bytes

_HEADER_BYTES = 16 << 10
"""Bytes of the header of a .npy file, at most. Chosen: the header of a matrix has 128."""
_READ_BYTES = 1 * MIB
"""Bytes that are read or copied at a time. Chosen, not measured."""
_UNFOLDED_BYTES = 64 * MIB
"""The vectors of a Parquet file may have this number of bytes and UNFOLDED_TIMES those of the file. Chosen, not
measured."""
_HEADER_LINE_BYTES = 100
"""Bytes of the first line of the child, at most. Chosen: a JSON object with one number is shorter."""


@dataclass(frozen=True)
class SourceFile:
    """A file of the user, as it was when its content was read for the digest."""

    path: Path
    sha256: str
    identity: tuple[int, int, int]
    """Size in bytes, time in ns, and number of the file in its file system."""

    @classmethod
    def read(cls, path: Path, what: str) -> SourceFile:
        """Read a whole file for its digest. what : the kind of file, for the message. Raises UsageError."""
        try:
            with open_regular(path, follow=True) as file:
                before, digest = _identity(os.fstat(file.fileno())), sha256()
                while data := file.read(_READ_BYTES):
                    digest.update(data)
        except OSError as error:
            raise UsageError(f"cannot read the {what} {path}: {error.strerror or error}") from error
        source = cls(path, digest.hexdigest(), before)
        source.check()
        return source

    def check(self, descriptor: int | None = None) -> None:
        """Raise InputChangedError where the file is no longer what it was. descriptor : of the open file."""
        try:
            now = _identity(os.stat(self.path) if descriptor is None else os.fstat(descriptor))
        except OSError:
            now = (0, 0, 0)
        if now != self.identity:
            raise InputChangedError(f"{self.path} was changed while it was in use; run again")


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


class VectorRows:
    """The vectors of a file, which are read one by one. Any number of threads may read at the same time."""

    def __init__(self, source: SourceFile, file: IO[bytes], layout: _Layout) -> None:
        """file : it holds the vectors: the source itself, or what a Parquet file unfolds to."""
        self._source, self._file, self._layout = source, file, layout
        self._is_source = layout.flags == 0
        self.n_rows, self.n_features = layout.n_rows, layout.n_features

    @property
    def row_bytes(self) -> int:
        """The bytes of one row in the file."""
        return self._layout.dtype.itemsize * (self._layout.flags + self.n_features)

    def row(self, number: int) -> NDArray[np.float32] | None:
        """Return a vector, (n_features,), or None where the row has none. number : 0 .. n_rows - 1.

        Values beyond the range of float32 are infinite. Raises InputChangedError where the file was changed.
        """
        descriptor, n_bytes = self._file.fileno(), self.row_bytes
        data = os.pread(descriptor, n_bytes, self._layout.offset + number * n_bytes)
        if self._is_source:
            self._source.check(descriptor)
        values = np.frombuffer(data, self._layout.dtype)
        if self._layout.flags and not values[0]:
            return None
        with np.errstate(over="ignore"):
            vector: NDArray[np.float32] = values[self._layout.flags :].astype(np.float32)
        return vector

    def close(self) -> None:
        """Close the file, and with it remove what a Parquet file was unfolded to."""
        self._file.close()


@dataclass(frozen=True)
class _Layout:
    """The position and the type of the vectors in a file."""

    offset: int
    """Bytes before the first row."""
    n_rows: int
    n_features: int
    dtype: np.dtype[Any]
    flags: int = 0
    """1 where a value before each vector says whether there is one, else 0."""


def open_npy(source: SourceFile) -> VectorRows:
    """Open a file of numpy that holds a matrix of floats, one row for each vector. Nothing in it is unpickled.

    Raises UsageError for any other content, and where the file is shorter or longer than its header says.
    """
    path = source.path
    file = open_regular(path, follow=True)
    try:
        source.check(file.fileno())
        layout = _layout_of(path, file.read(_HEADER_BYTES), os.fstat(file.fileno()).st_size)
    except BaseException:
        file.close()
        raise
    return VectorRows(source, file, layout)


def _layout_of(path: Path, head: bytes, n_bytes: int) -> _Layout:
    begin = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(begin)
        if version == (1, 0):
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(begin)
        elif version == (2, 0):
            shape, by_columns, dtype = np.lib.format.read_array_header_2_0(begin)
        else:
            raise ValueError(f"version {version} of the format")
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{path} is no file of numpy that can be read: {reason:.200}; write it with numpy.save"
        ) from error
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        what = "pickled objects" if dtype.hasobject else f"values of {dtype.str if dtype.names is None else 'records'}"
        raise UsageError(f"{path} holds {what}; vectors are of float16, float32 or float64: array.astype('float32')")
    if len(shape) != 2:
        raise UsageError(f"{path} has the shape {shape}; a matrix with one row for each vector is needed")
    if 0 in shape:
        raise UsageError(f"{path} has the shape {shape}: it holds no vectors")
    if by_columns and 1 not in shape:
        raise UsageError(
            f"{path} is stored column by column; write it with numpy.save(path, numpy.ascontiguousarray(x))"
        )
    layout = _Layout(begin.tell(), *shape, dtype)
    n_stored, n_needed = n_bytes - layout.offset, shape[0] * shape[1] * dtype.itemsize
    if n_stored != n_needed:
        how = "it was cut" if n_stored < n_needed else "more is appended"
        raise UsageError(
            f"{path} holds {n_stored} bytes of vectors, and its header says {shape[0]} x {shape[1]} values, {n_needed} "
            f"bytes: {how}; write it anew"
        )
    return layout


def open_parquet(source: SourceFile, column: str, limit_bytes: int, scratch: Path | None) -> VectorRows:
    """Write the vectors of a list column of a Parquet file one after the other into an unnamed file, and check them.

    limit_bytes : the bytes that the child may use beyond Python and pyarrow. scratch : the folder for the unnamed file;
    None to check the column without storing it, and then no row can be read.
    Raises UsageError for a column that does not hold vectors of one length, StoreError where the disk has no room.
    """
    path = source.path
    try:
        file: IO[bytes] = _nowhere() if scratch is None else tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
    except OSError as error:
        raise StoreError(f"no file for the vectors of {path} can be made in {scratch}: {error.strerror}") from error
    try:
        child = start_python(
            "bigcluster.catalog.parquet_vectors",
            *(os.fspath(path), column, str(limit_bytes)),
            variables={"OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            n_features, n_bytes = _copy(child, path, file, _UNFOLDED_BYTES + UNFOLDED_TIMES * source.identity[0])
            lines = child.stderr.read(MOST_SAID).decode(errors="replace").strip().splitlines()  # type: ignore[union-attr]
            if child.wait() != 0:
                raise UsageError(_why(path, lines[-1] if lines else ENDED, limit_bytes))
        finally:
            child.kill()
            child.wait()
            for pipe in (child.stdout, child.stderr):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
        source.check()
        file.flush()
    except BaseException:
        file.close()
        raise
    dtype = np.dtype(np.float32)
    n_rows = n_bytes // (dtype.itemsize * (1 + n_features))
    return VectorRows(source, file, _Layout(0, n_rows, n_features, dtype, flags=1))


def _nowhere() -> IO[bytes]:
    return Path(os.devnull).open("wb")


def _copy(child: subprocess.Popen[bytes], path: Path, into: IO[bytes], most_bytes: int) -> tuple[int, int]:
    """Copy what the child writes to a file; return the number of features, 0 for an error, and of bytes."""
    assert child.stdout is not None
    header = child.stdout.readline(_HEADER_LINE_BYTES)
    if not header:
        return 0, 0
    n_features, n_bytes = int(json.loads(header)["n_features"]), 0
    while data := child.stdout.read(_READ_BYTES):
        n_bytes += len(data)
        if n_bytes > most_bytes:
            raise UsageError(f"{path} unfolds to more than {UNFOLDED_TIMES} times its size; write it as vectors.npy")
        try:
            into.write(data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StoreError(
                f"the disk has no room for the vectors of {path}, {show_bytes(n_bytes)} so far; free some"
            ) from error
    return n_features, n_bytes


def _why(path: Path, said: str, limit_bytes: int) -> str:
    if said == NO_PYARROW:
        return "a Parquet file of vectors needs pyarrow: pip install 'bigcluster[parquet]', or use vectors.npy"
    if said == TOO_LARGE:
        return f"{why_unread(path, said, limit_bytes)}, or give the vectors as a .npy file"
    return f"cannot take vectors from {path}: {said}"


def check_lengths(rows: VectorRows, n_paths: int, of_rows: Path, of_paths: Path) -> None:
    """Raise UsageError where there are not as many paths as vectors."""
    if rows.n_rows != n_paths:
        raise UsageError(
            f"{of_rows} has {counted(rows.n_rows, 'vector')} and {of_paths} {counted(n_paths, 'path')}; there must be "
            "one path for each vector, in the same order"
        )

"""Listed files -> their pixels and their records. Whatever is wrong with a file becomes its record, never an error."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord, Listing
from bigcluster.durable import digest_of
from bigcluster.kernels.decode import DecodeSpec, decode
from bigcluster.rows import spans
from bigcluster.units import show_bytes

FILES_PER_TASK = 8
"""Files that a decode thread takes at a time: enough to make handing over cheap, few enough to balance."""


def load_rows(
    listing: Listing,
    span: tuple[int, int],
    spec: DecodeSpec,
    decoders: ThreadPoolExecutor,
    advance: Callable[[int], None],
) -> tuple[NDArray[np.uint8], list[FileRecord]]:
    """Rows span[0] .. span[1] - 1: (rows, d) pixels, zero where a file failed, and the records."""
    first = span[0]
    pixels = np.zeros((span[1] - first, spec.n_values), np.uint8)

    def load_some(part: tuple[int, int]) -> list[FileRecord]:
        loaded = [load_picture(listing, first + i, spec, pixels[i]) for i in range(*part)]
        advance(len(loaded))
        return loaded

    ledger = [record for some in decoders.map(load_some, spans(len(pixels), FILES_PER_TASK)) for record in some]
    return pixels, ledger


def load_picture(listing: Listing, row: int, spec: DecodeSpec, into: NDArray[np.uint8]) -> FileRecord:
    """Read and decode one file into its row; whatever is wrong with it becomes its record."""
    path = listing.path(row)
    n_bytes = mtime_ns = None
    digest = ""
    try:
        found = os.stat(path)
        n_bytes, mtime_ns = found.st_size, found.st_mtime_ns
        if not listing.may_read(row):
            return FileRecord(n_bytes, mtime_ns, None, None, "", "unreadable", _OUTSIDE)
        if not stat.S_ISREG(found.st_mode):
            return FileRecord(n_bytes, mtime_ns, None, None, "", "unreadable", "not a regular file")
        if spec.max_bytes is not None and n_bytes > spec.max_bytes:
            return _too_large_file(n_bytes, mtime_ns, spec.max_bytes)
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, ValueError):  # ValueError: a NUL in the name
        return FileRecord(None, None, None, None, "", "missing", "no such file")
    except OSError as error:
        return FileRecord(n_bytes, mtime_ns, None, None, "", "unreadable", error.strerror or type(error).__name__)
    digest = digest_of(data)
    result = decode(data, spec)
    if result.pixels is not None:
        into[:] = result.pixels
    return FileRecord(
        n_bytes, mtime_ns, result.width, result.height, digest, result.status, result.reason, result.needed_bytes
    )


_OUTSIDE = "outside the manifest's folder; manifest.allow_outside = true permits it"


def _too_large_file(n_bytes: int, mtime_ns: int, limit: int) -> FileRecord:
    reason = f"reading it needs {show_bytes(n_bytes)}, the memory budget leaves {show_bytes(limit)}"
    return FileRecord(n_bytes, mtime_ns, None, None, "", "too_large", reason, n_bytes)

"""One listed file -> its pixels and its record. Whatever is wrong with a file becomes its record, never an error."""

from __future__ import annotations

import os
import stat

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord, Listing
from bigcluster.durable import digest_of
from bigcluster.kernels.decode import DecodeSpec, decode
from bigcluster.units import show_bytes


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

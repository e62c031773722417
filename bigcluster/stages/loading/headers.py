"""Headers of listed files, read before a plan is made: a bounded number of bytes of each, or in a limited child.

A few headers decide what a run plans for, so they are read before anything else knows how large the pictures are.
"""

from __future__ import annotations

import os
from types import TracebackType

from bigcluster.bounded import BoundedFile
from bigcluster.catalog import Listing
from bigcluster.kernels.decode import DecodeSpec, Look, is_plain, look, prepare_codecs, read_header
from bigcluster.stages.loading.files import opened
from bigcluster.stages.loading.isolated import IsolatedDecoder
from bigcluster.units import MIB

MOST_LOST = 3
"""Children that may die or run out of time over headers; such files come in numbers, and ingest deals with each."""
HEADER_BYTES = 2 * MIB
"""Read of a plain file until its header is known: metadata of up to 1 MiB, some of them twice."""


class Headers:
    """Of the rows of one listing. Whatever is wrong with a file, it has no header; ingest says what."""

    def __init__(self, listing: Listing, timeout_seconds: float, limit_bytes: int) -> None:
        """limit_bytes : what the child may allocate that reads headers which may lie."""
        self._listing = listing
        self._child = IsolatedDecoder(DecodeSpec(1, 1), timeout_seconds, limit_bytes)

    def __enter__(self) -> Headers:
        prepare_codecs()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.end()

    def size(self, row: int) -> tuple[int, int] | None:
        """(width, height) in pixels as seen."""
        path, confined_to = self._listing.path(row), self._listing.confined_to
        try:
            with opened(path, confined_to) as file:
                if is_plain(file, whole=False):
                    return read_header(BoundedFile(file, HEADER_BYTES))
        except OSError:
            return None
        return self._child.size(path, confined_to) if self._child.n_lost < MOST_LOST else None

    def look(self, row: int, spec: DecodeSpec) -> tuple[Look, bool] | None:
        """What work a file makes that is to become as `spec` says, and whether a child decodes it."""
        path, confined_to = self._listing.path(row), self._listing.confined_to
        try:
            with opened(path, confined_to) as file:
                if is_plain(file, whole=False):
                    seen = look(BoundedFile(file, HEADER_BYTES), os.fstat(file.fileno()).st_size, spec)
                    return None if seen is None else (seen, False)
        except OSError:
            return None
        seen = self._child.look(path, confined_to, spec) if self._child.n_lost < MOST_LOST else None
        return None if seen is None else (seen, True)

"""Headers of listed files, read before a plan is made: a bounded number of bytes of each, or in a limited child.

A few headers decide what a run plans for, so they are read before anything else knows how large the pictures are.

The one size that every image takes. For `native` it is that of the first image; the others are held to it.

A look at some of the files, for the plan: how large they are and what decoding them takes. Nothing is decoded.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from bigcluster.catalog import FileRecord, Listing
from bigcluster.errors import ImageSizeError, NoImagesError
from bigcluster.files.bounded import BoundedFile
from bigcluster.kernels.decode import (
    DecodeSpec,
    Workload,
    has_bounded_memory,
    prepare_codecs,
    read_header,
    read_workload,
)
from bigcluster.planning.plan import Pictures
from bigcluster.stages.loading.files import opened
from bigcluster.stages.loading.isolation import IsolatedDecoder
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
                if has_bounded_memory(file, whole=False):
                    return read_header(BoundedFile(file, HEADER_BYTES))
        except OSError:
            return None
        return self._child.size(path, confined_to) if self._child.n_lost < MOST_LOST else None

    def look(self, row: int, spec: DecodeSpec) -> tuple[Workload, bool] | None:
        """What work a file makes that is to become as `spec` says, and whether a child decodes it."""
        path, confined_to = self._listing.path(row), self._listing.confined_to
        try:
            with opened(path, confined_to) as file:
                if has_bounded_memory(file, whole=False):
                    seen = read_workload(BoundedFile(file, HEADER_BYTES), os.fstat(file.fileno()).st_size, spec)
                    return None if seen is None else (seen, False)
        except OSError:
            return None
        seen = self._child.look(path, confined_to, spec) if self._child.n_lost < MOST_LOST else None
        return None if seen is None else (seen, True)


NATIVE = "native"
SHOWN = 3


def image_size(listing: Listing, size: str, headers: Headers) -> tuple[int, int]:
    """(width, height) in pixels; for `native`, of the first listed image with a readable header."""
    if size != NATIVE:
        return image_size_of(size)
    for row in range(len(listing)):
        size_in_header = headers.size(row)
        if size_in_header is not None:
            return size_in_header
    raise NoImagesError(f"none of the {len(listing)} listed images has a readable header")


def image_size_of(size: str) -> tuple[int, int]:
    """`"300x430"` -> (300, 430)."""
    width, height = size.split("x")
    return int(width), int(height)


def check_native(listing: Listing, first_row: int, ledger: Sequence[FileRecord], size: tuple[int, int]) -> None:
    """Raise ImageSizeError where decoded images, rows first_row and on, are not all of the native size."""
    sizes = Counter((record.width, record.height) for record in ledger if record.ok)
    if set(sizes) - {size}:
        seen = ", ".join(f"{width}x{height} ({number})" for (width, height), number in sizes.most_common(SHOWN))
        at, odd = next((i, r) for i, r in enumerate(ledger) if r.ok and (r.width, r.height) != size)
        raise ImageSizeError(
            f"size = native needs images of one size: the first is {size[0]}x{size[1]}, but "
            f"{listing.names[first_row + at]} is {odd.width}x{odd.height}; seen so far: {seen}; use --size WIDTHxHEIGHT"
        )


SIZES_READ = 20_000
"""Files whose size is read: the large ones decide what a decode takes."""
HEADERS_READ = 64
"""Headers read of the largest of these, and as many spread evenly over the listing."""


def look_at(listing: Listing, headers: Headers, spec: DecodeSpec) -> Pictures | None:
    """Of up to 20,000 files the sizes, of 128 the headers; None where no header could be read."""
    sizes = {row: _size(listing, row) for row in _spread(len(listing), SIZES_READ)}
    largest = sorted(sizes, key=lambda row: -sizes[row])[:HEADERS_READ]
    seen = _look_each(headers, _spread(len(listing), HEADERS_READ), spec)
    both = [*seen, *_look_each(headers, largest, spec)]
    if not both:
        return None
    every, spread = [each for each, _ in both], [each for each, _ in seen]
    typical = spread or every

    def pixels(kind: Callable[[Workload], bool]) -> float:
        """Of this kind, per file of any kind."""
        return sum(each.n_pixels for each in typical if kind(each)) / len(typical)

    return Pictures(
        looked_at=len(every),
        working_bytes=tuple(sorted({each.working_bytes for each in every})),
        file_bytes=sum(sizes.values()) / len(sizes),
        jpeg_pixels=pixels(lambda each: each.is_jpeg and each.reduction == 1),
        reduced_pixels=pixels(lambda each: each.is_jpeg and each.reduction > 1),
        other_pixels=pixels(lambda each: not each.is_jpeg),
        isolated=any(isolated for _, isolated in both),
    )


def _spread(n: int, most: int) -> list[int]:
    """Up to `most` rows, evenly spread, the first included."""
    if n <= most:
        return list(range(n))
    return [i * n // most for i in range(most)]


def _size(listing: Listing, row: int) -> int:
    """Bytes of a regular file; 0 for whatever else is listed."""
    try:
        status = os.stat(listing.path(row))
    except (OSError, ValueError):  # ingest says what is wrong with it
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _look_each(headers: Headers, rows: Iterable[int], spec: DecodeSpec) -> list[tuple[Workload, bool]]:
    looks = (headers.look(row, spec) for row in rows)
    return [seen for seen in looks if seen is not None]

"""This module reads the headers of some listed files before a plan is made. Nothing is decoded.

At most a bounded number of bytes of each file is read, or a child with limited memory reads it. The headers give the
one size of all images, which for `native` is the size of the first one, and an estimate of what decoding takes.
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
from bigcluster.units import EXAMPLES, MIB

MOST_LOST = 3
"""Number of children that may die or run out of time over headers, after which no more are tried: such files often come
in large numbers, and ingest records each of them anyway. Chosen, not measured."""
HEADER_BYTES = 2 * MIB
"""Bytes of a plain file that may be read until its header is known: 1 MiB of metadata, some of which is read twice."""


class Headers:
    """Reads the headers of listed files. A file with any fault counts as one without a header; ingest records the
    fault."""

    def __init__(self, listing: Listing, timeout_seconds: float, limit_bytes: int) -> None:
        """limit_bytes : bytes that the child may allocate which reads headers that cannot be trusted."""
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
        """Return (width, height) in pixels after the EXIF rotation; None where there is no readable header."""
        path, confined_to = self._listing.path(row), self._listing.confined_to
        try:
            with opened(path, confined_to) as file:
                if has_bounded_memory(file, whole=False):
                    return read_header(BoundedFile(file, HEADER_BYTES))
        except OSError:
            return None
        return self._child.size(path, confined_to) if self._child.n_lost < MOST_LOST else None

    def look(self, row: int, spec: DecodeSpec) -> tuple[Workload, bool] | None:
        """Return the work of decoding a file by `spec`, and whether a child decodes it; None without a readable
        header."""
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


def image_size(listing: Listing, size: str, headers: Headers) -> tuple[int, int]:
    """Return (width, height) in pixels of all images; for `native`, of the first one with a readable header.

    Raises NoImagesError where `native` finds no readable header.
    """
    if size != NATIVE:
        return image_size_of(size)
    for row in range(len(listing)):
        size_in_header = headers.size(row)
        if size_in_header is not None:
            return size_in_header
    message = f"none of the {len(listing)} listed images has a readable header"
    if not listing.may_read(0):
        message += "; files outside the manifest's folder are read with manifest.allow_outside = true"
    raise NoImagesError(message)


def image_size_of(size: str) -> tuple[int, int]:
    """Return (width, height) in pixels of a text such as "300x430"."""
    width, height = size.split("x")
    return int(width), int(height)


def check_native(listing: Listing, first_row: int, ledger: Sequence[FileRecord], size: tuple[int, int]) -> None:
    """Raise ImageSizeError where one of the decoded images from row first_row on has not the native size."""
    sizes = Counter((record.width, record.height) for record in ledger if record.ok)
    if set(sizes) - {size}:
        seen = ", ".join(f"{width}x{height} ({number})" for (width, height), number in sizes.most_common(EXAMPLES))
        at, odd = next((i, r) for i, r in enumerate(ledger) if r.ok and (r.width, r.height) != size)
        raise ImageSizeError(
            f"size = native needs images of one size: the first is {size[0]}x{size[1]}, but "
            f"{listing.names[first_row + at]} is {odd.width}x{odd.height}; seen so far: {seen}; use --size WIDTHxHEIGHT"
        )


SIZES_READ = 20_000
"""Number of files whose size in bytes is read, at most: the largest ones decide the memory of a decode. Chosen, not
measured."""
HEADERS_READ = 64
"""Number of headers that are read of the largest of these, and as many again spread over the listing. Chosen, not
measured."""
PHOTO_SHARE = 0.8
"""Share of the headers that must be of JPEGs in colour before the images count as photographs. Chosen, not measured."""


def look_at(listing: Listing, headers: Headers, spec: DecodeSpec) -> Pictures | None:
    """Read the sizes of up to 20,000 files and the headers of up to 128; None where no header could be read."""
    sizes = {row: _size(listing, row) for row in _spread(len(listing), SIZES_READ)}
    largest = sorted(sizes, key=lambda row: -sizes[row])[:HEADERS_READ]
    seen = _look_each(headers, _spread(len(listing), HEADERS_READ), spec)
    both = [*seen, *_look_each(headers, largest, spec)]
    if not both:
        return None
    every, spread = [each for each, _ in both], [each for each, _ in seen]
    typical = spread or every

    def pixels(kind: Callable[[Workload], bool]) -> float:
        """Return the pixels of files of this kind, divided by the number of all files."""
        return sum(each.n_pixels for each in typical if kind(each)) / len(typical)

    return Pictures(
        looked_at=len(every),
        working_bytes=tuple(sorted({each.working_bytes for each in every})),
        file_bytes=sum(sizes.values()) / len(sizes),
        jpeg_pixels=pixels(lambda each: each.is_jpeg and each.reduction == 1),
        reduced_pixels=pixels(lambda each: each.is_jpeg and each.reduction > 1),
        other_pixels=pixels(lambda each: not each.is_jpeg),
        isolated=any(isolated for _, isolated in both),
        are_photos=_are_photos(spread),
    )


def _are_photos(looks: Sequence[Workload]) -> bool:
    """Return whether most of these files, spread over the listing, look like photographs."""
    in_color = [(each.width, each.height) for each in looks if each.has_color]
    return len(in_color) > PHOTO_SHARE * len(looks) and len(set(in_color)) > 1


def _spread(n: int, most: int) -> list[int]:
    """Return up to `most` row numbers of n, evenly spread, the first included."""
    if n <= most:
        return list(range(n))
    return [i * n // most for i in range(most)]


def _size(listing: Listing, row: int) -> int:
    """Return the size in bytes of a regular file, and 0 for anything else."""
    try:
        status = os.stat(listing.path(row))
    except (OSError, ValueError):  # ingest says what is wrong with it
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _look_each(headers: Headers, rows: Iterable[int], spec: DecodeSpec) -> list[tuple[Workload, bool]]:
    looks = (headers.look(row, spec) for row in rows)
    return [seen for seen in looks if seen is not None]

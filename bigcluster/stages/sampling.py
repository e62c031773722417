"""A look at some of the files, for the plan: how large they are and what decoding them takes. Nothing is decoded."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from bigcluster.catalog import Listing
from bigcluster.kernels.decode import DecodeSpec, Look, look, prepare_codecs
from bigcluster.planning import Pictures

SIZES_READ = 20_000
"""Files whose size is read: the large ones decide what a decode takes."""
HEADERS_READ = 64
"""Headers read of the largest of these, and as many spread evenly over the listing."""


def look_at(listing: Listing, spec: DecodeSpec) -> Pictures | None:
    """Of up to 20,000 files the sizes, of 128 the headers; None where no header could be read."""
    prepare_codecs()
    sizes = {row: _size(listing, row) for row in _spread(len(listing), SIZES_READ)}
    largest = sorted(sizes, key=lambda row: -sizes[row])[:HEADERS_READ]
    spread = _look_each(listing, _spread(len(listing), HEADERS_READ), spec)
    every = [*spread, *_look_each(listing, largest, spec)]
    if not every:
        return None
    typical = spread or every

    def pixels(kind: Callable[[Look], bool]) -> float:
        """Of this kind, per file of any kind."""
        return sum(each.n_pixels for each in typical if kind(each)) / len(typical)

    return Pictures(
        looked_at=len(every),
        working_bytes=tuple(sorted({each.working_bytes for each in every})),
        file_bytes=sum(sizes.values()) / len(sizes),
        jpeg_pixels=pixels(lambda each: each.is_jpeg and each.reduction == 1),
        reduced_pixels=pixels(lambda each: each.is_jpeg and each.reduction > 1),
        other_pixels=pixels(lambda each: not each.is_jpeg),
    )


def _spread(n: int, most: int) -> list[int]:
    """Up to `most` rows, evenly spread, the first included."""
    if n <= most:
        return list(range(n))
    return [i * n // most for i in range(most)]


def _size(listing: Listing, row: int) -> int:
    """Bytes of a regular file; 0 for whatever else is listed."""
    try:
        found = os.stat(listing.path(row))
    except (OSError, ValueError):  # ingest says what is wrong with it
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _look_each(listing: Listing, rows: Iterable[int], spec: DecodeSpec) -> list[Look]:
    found = []
    for row in rows:
        if not listing.is_readable_file(row):
            continue
        try:
            with open(listing.path(row), "rb") as file:
                seen = look(file, os.fstat(file.fileno()).st_size, spec)
        except OSError:  # ingest says what is wrong with it
            continue
        if seen is not None:
            found.append(seen)
    return found

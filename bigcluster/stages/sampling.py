"""A look at some of the files, for the plan: how large they are and what decoding them takes. Nothing is decoded."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from bigcluster.catalog import Listing
from bigcluster.kernels.decode import DecodeSpec, Look
from bigcluster.planning import Pictures
from bigcluster.stages.loading.headers import Headers

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
        found = os.stat(listing.path(row))
    except (OSError, ValueError):  # ingest says what is wrong with it
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _look_each(headers: Headers, rows: Iterable[int], spec: DecodeSpec) -> list[tuple[Look, bool]]:
    found = (headers.look(row, spec) for row in rows)
    return [seen for seen in found if seen is not None]

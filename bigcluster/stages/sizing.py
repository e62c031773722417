"""The one size that every image takes. For `native` it is that of the first image; the others are held to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bigcluster.catalog import FileRecord, Listing
from bigcluster.errors import ImageSizeError, NoImagesError
from bigcluster.stages.loading.headers import Headers

NATIVE = "native"
SHOWN = 3


def image_size(listing: Listing, size: str, headers: Headers) -> tuple[int, int]:
    """(width, height) in pixels; for `native`, of the first listed image with a readable header."""
    if size != NATIVE:
        return image_size_of(size)
    for row in range(len(listing)):
        found = headers.size(row)
        if found is not None:
            return found
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

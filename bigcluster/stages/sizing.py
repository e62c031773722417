"""The one size that every image takes; for `native` it is read from the headers before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bigcluster.catalog import Listing
from bigcluster.errors import ImageSizeError, NoImagesError
from bigcluster.kernels.decode import prepare_codecs, read_header
from bigcluster.rows import spans

FILES_PER_TASK = 256
SHOWN = 3


def image_size(listing: Listing, size: str) -> tuple[int, int]:
    """(width, height) in pixels. Raises ImageSizeError where `native` meets unequal sizes and says which differ."""
    if size != "native":
        asked = size.split("x")
        return int(asked[0]), int(asked[1])
    first: tuple[int, int] | None = None
    first_name = ""
    others: list[str] = []
    n_others = 0
    for row, found in _headers(listing):
        if found is None:
            continue  # its decode will say why
        if first is None:
            first, first_name = found, listing.names[row]
        elif found != first:
            n_others += 1
            if len(others) < SHOWN:
                others.append(f"{listing.names[row]} is {found[0]}x{found[1]}")
    if first is None:
        raise NoImagesError(f"none of the {len(listing)} listed images has a readable header")
    if n_others:
        width, height = first
        raise ImageSizeError(
            f"size = native needs images of one size: {first_name} is {width}x{height}, but {n_others} of "
            f"{len(listing)} differ ({', '.join(others)}); use --size {width}x{height} or another WIDTHxHEIGHT"
        )
    return first


def _headers(listing: Listing) -> Iterator[tuple[int, tuple[int, int] | None]]:
    prepare_codecs()

    def read_some(span: tuple[int, int]) -> list[tuple[int, tuple[int, int] | None]]:
        return [(row, _header(listing, row)) for row in range(*span)]

    with ThreadPoolExecutor(4) as readers:  # waiting for the disk, not computing
        for some in readers.map(read_some, spans(len(listing), FILES_PER_TASK)):
            yield from some


def _header(listing: Listing, row: int) -> tuple[int, int] | None:
    if not listing.is_readable_file(row):
        return None
    try:
        with open(listing.path(row), "rb") as file:
            return read_header(file)
    except OSError:
        return None

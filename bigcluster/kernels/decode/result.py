"""The target of a decode (`DecodeSpec`) and its outcome (`Decoded`): pixels, or a status that says why not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STATUSES = {
    "ok": "decoded",
    "empty": "the file has no bytes",
    "truncated": "the file ends early",
    "damaged": "the data inside is broken",
    "unsupported": "not a picture, or of a kind that has no agreed grey",
    "too_large": "more pixels than image.max_pixels, or more memory to decode than the budget leaves",
    "unreadable": "the system would not let us read it",
    "missing": "listed in the manifest, but not there",
    "changed_during_run": "written to while it was read; the next run reads it again",
    "timeout": "decoding it took longer than image.timeout",
    "crashed": "decoding it ended the process that tried",
    "no_features": "the network, or the file of vectors, has no finite features for it",
}


class View(NamedTuple):
    """The size of a second picture from the same decode, in the same colours, for a network. In pixels."""

    width: int
    height: int
    rule: str
    """How the picture is resized: "crop", "squash" or "pad" (see `resize_for_network`)."""


@dataclass(frozen=True)
class DecodeSpec:
    """The target of every decode.

    width, height : pixels. fit : "stretch", "pad" or "crop". normalize : "none" or "image". max_pixels : most of a
    file.
    """

    width: int
    height: int
    color: bool = False
    fit: str = "stretch"
    normalize: str = "none"
    max_pixels: int = 250_000_000
    max_bytes: int | None = None
    """Bytes of working memory that one decode may take; a picture that needs more is `too_large`."""
    view: View | None = None
    """The second picture of a decode, or None. A list of values, as in JSON, becomes a `View`."""

    def __post_init__(self) -> None:
        if self.view is not None:
            object.__setattr__(self, "view", View(*self.view))

    @property
    def n_channels(self) -> int:
        return 3 if self.color else 1

    @property
    def n_values(self) -> int:
        """Number of values of a picture, d."""
        return self.width * self.height * self.n_channels

    @property
    def n_view_values(self) -> int:
        """Number of values of the second picture; 0 where there is none."""
        return 0 if self.view is None else self.view.width * self.view.height * self.n_channels

    @property
    def n_decoded_values(self) -> int:
        """Number of values of both pictures, which one decode returns in one array."""
        return self.n_values + self.n_view_values


@dataclass(frozen=True)
class Decoded:
    """The outcome of one decode.

    status : a key of STATUSES. reason : why there are no pixels, or what is wrong with an "ok" file beside its picture.
    width, height : of the file, as a person sees it. pixels : (n_decoded_values,) uint8, row by row, RGB interleaved,
    first the picture and then the view; None unless "ok".
    """

    status: str
    reason: str = ""
    width: int | None = None
    height: int | None = None
    pixels: NDArray[np.uint8] | None = None
    needed_bytes: int | None = None
    """Bytes of working memory that the decode takes, where `max_bytes` allowed less."""


class RejectedError(Exception):
    """Raised inside this package for a picture that cannot be decoded; `decode` turns it into a `Decoded`."""

    def __init__(self, status: str, reason: str, needed_bytes: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.needed_bytes = needed_bytes


def one_line(error: Exception) -> str:
    """The text of an error as one line of at most 200 characters; its type where it has no text."""
    return " ".join(str(error).split())[:200] or type(error).__name__


_NO_MEMORY = re.compile(
    r"out of memory|not enough memory|(?:in|un)sufficient memory|bad_alloc|can(?:not|'t) allocate"
    r"|failed to map segment",
    re.IGNORECASE,
)
"""Messages of codecs, C++ libraries and the loader of shared libraries where the system has no memory."""


def check_memory(error: Exception) -> None:
    """Raise MemoryError where the error of a library comes from a lack of memory, which is not damage of the file."""
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error.__cause__, MemoryError) or _NO_MEMORY.search(str(error)):
        raise MemoryError(one_line(error)) from error


MOST_PARTS = 10_000
"""Segments, chunks or boxes of one file that are read, at most. Chosen, not measured: real files have a few dozen."""
MOST_METADATA_BYTES = 16 << 20
"""Bytes of one chunk or box of metadata that are read, at most. Chosen, not measured: colour profiles are the largest
metadata, and much smaller."""
_WORDS = (
    (r"image file is truncated.*|.*truncated data", "truncated", "the file ends before the last pixels"),
    (
        r"broken data stream when reading image file|failed to read next frame",
        "damaged",
        "the data of its pixels are broken",
    ),
    (r"decoder error -\d+", "damaged", "the data of its pixels are broken, or end early"),
    (r".*decoding of \w+ planes failed", "damaged", "the data of its pixels are broken"),
    (
        r"(?:.*could not create decoder object|cannot identify image file.*)",
        "damaged",
        "its header is broken, or the file ends early",
    ),
)
"""(pattern of what Pillow and its codecs say, status, a sentence for the owner of the picture)."""


def verdict(error: Exception) -> RejectedError:
    """Make a RejectedError of a decoder's error: its status, and a reason; unknown texts are quoted."""
    said = one_line(error)
    for pattern, status, reason in _WORDS:
        if re.fullmatch(pattern, said, re.IGNORECASE):
            return RejectedError(status, reason)
    return RejectedError(status_of(error), f"its decoder says: {said}")


_NOT_DECODED = ("unsupported", "not support", "unknown raw mode", "not available", "cannot handle")


def status_of(error: Exception) -> str:
    """Choose the status of an error by its text: Pillow's plugins raise OSError, SyntaxError, ValueError and others."""
    said = one_line(error).lower()
    if any(words in said for words in _NOT_DECODED):
        return "unsupported"
    early = "truncated" in said or "end of" in said or isinstance(error, EOFError)
    return "truncated" if early else "damaged"

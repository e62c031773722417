"""Many strings in one block of bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ENCODING = ("utf-8", "surrogatepass")
"""Encoding and error handler: in the name of a file, lone surrogates stand for bytes that are not UTF-8."""


class StringArray:
    """A column of strings, appended one by one and read by index, as an Arrow string array stores them.

    Each string takes its UTF-8 text and 8 bytes for the offset at which it ends; in a list of str it would take about
    60 bytes beyond its text. Every str comes back as it was: the surrogate escapes of a file name that is not UTF-8
    take three bytes each.
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        """strings : the first items; they are read one at a time, so that a generator of any length may be given."""
        self._data = bytearray()
        self._ends = array("q", [0])  # (n + 1,) byte offsets into _data
        for string in strings:
            self._data += string.encode(*_ENCODING)
            self._ends.append(len(self._data))

    def append(self, string: str) -> None:
        """Add one string at the end."""
        self._data += string.encode(*_ENCODING)
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        """The string of that index. index : 0 .. n - 1; it may not be negative."""
        return self._data[self._ends[index] : self._ends[index + 1]].decode(*_ENCODING)

    def __iter__(self) -> Iterator[str]:
        return self.between(0, len(self))

    def between(self, start: int, stop: int) -> Iterator[str]:
        """Yield the strings start .. stop - 1, in half the time that single strings take."""
        data, ends = self._data, self._ends
        first = ends[start]
        for index in range(start + 1, stop + 1):
            last = ends[index]
            yield data[first:last].decode(*_ENCODING)
            first = last

    def to_columns(self, start: int = 0, stop: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The strings start .. stop - 1 as (ends, text): (n,) where each ends in the text, and the bytes of all."""
        import numpy as np  # not above: the process that supervises lists names without it

        offsets = np.array(self._ends[start : (len(self) if stop is None else stop) + 1], np.int64)
        text = np.frombuffer(bytes(self._data[offsets[0] : offsets[-1]]), np.uint8)
        return offsets[1:] - offsets[0], text

    @classmethod
    def from_columns(cls, ends: NDArray[Any], text: NDArray[Any]) -> StringArray:
        """The strings of columns that `to_columns` made. Anybody may write columns: ValueError is raised for others."""
        import numpy as np

        if ends.dtype != np.int64 or text.dtype != np.uint8:
            raise ValueError("columns of strings have another type")
        starts = np.concatenate([np.zeros(1, np.int64), ends])
        if (np.diff(starts) < 0).any() or starts[-1] != len(text):
            raise ValueError("strings end before they begin, or beyond the text")
        data = text.tobytes()
        data.decode(*_ENCODING)  # UnicodeDecodeError is a ValueError
        inner = starts[starts < len(text)]
        if ((text[inner] & 0xC0) == 0x80).any():
            raise ValueError("a string ends within a character")
        strings = cls()
        strings._data, strings._ends = bytearray(data), array("q", starts.tobytes())
        return strings

"""Many strings in one block of bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator


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
            self._data += string.encode("utf-8", "surrogatepass")
            self._ends.append(len(self._data))

    def append(self, string: str) -> None:
        """Add one string at the end."""
        self._data += string.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        """The string of that index. index : 0 .. n - 1; it may not be negative."""
        return self._data[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

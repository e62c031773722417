"""Where solvers keep arrays that their workspace does not hold.

    Tiles         put, get, delete by name: memory or a folder of .npy files; the store offers its own
    Shelf         a solver's view of its tiles: what fits stays in memory, the rest goes to Tiles

Whether a tile was in memory or on disk never shows in its values, so the budget cannot change a result.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import StoreError
from bigcluster.files.durable import remove_folder

Array = NDArray[Any]


class Tiles(Protocol):
    """Named arrays, written whole and read whole. Safe to call from several threads."""

    def put(self, name: str, array: Array) -> None:
        """Keep a copy of `array`, replacing any earlier one of this name."""

    def get(self, name: str) -> Array:
        """The array; the caller must not write into it. KeyError if there is none."""

    def delete(self, name: str) -> None:
        """Forget it; nothing happens if there is none."""


class MemoryTiles:
    """Tiles in memory: for data that is known to fit, and for tests."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def put(self, name: str, array: Array) -> None:
        self._arrays[name] = array.copy()

    def get(self, name: str) -> Array:
        return self._arrays[name]

    def delete(self, name: str) -> None:
        self._arrays.pop(name, None)


class FolderTiles:
    """Tiles as .npy files of one folder: scratch that is not fsynced, since a solver that dies starts over."""

    def __init__(self, path: Path) -> None:
        """path : a folder of our own; it is made when the first tile is put."""
        self._path = path

    def _file(self, name: str) -> Path:
        return self._path / (name.replace("/", "-") + ".npy")

    def put(self, name: str, array: Array) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            np.save(self._file(name), array, allow_pickle=False)
        except OSError as error:
            raise StoreError(f"cannot write scratch tile {self._file(name)}: {error.strerror or error}") from error

    def get(self, name: str) -> Array:
        try:
            array: Array = np.load(self._file(name), allow_pickle=False)
        except FileNotFoundError:
            raise KeyError(name) from None
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(f"cannot read scratch tile {self._file(name)}: {error}") from error
        return array

    def delete(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the folder with all that is in it, where there is one."""
        remove_folder(self._path)


class Shelf:
    """Arrays by name, of which at most `limit_bytes` stay in memory and the others go to `tiles`.

    First come, first kept: solvers read every array once a sweep, and for cyclic reads a fixed resident set is the
    best there is (the least recently used one would be evicted just before its turn).
    """

    def __init__(self, tiles: Tiles, limit_bytes: int) -> None:
        self._tiles = tiles
        self._limit_bytes = limit_bytes
        self._resident: dict[str, Array] = {}
        self._resident_bytes = 0
        self._spilled: set[str] = set()
        self._lock = Lock()

    def limit(self, limit_bytes: int) -> None:
        """Change the limit; arrays that no longer fit are written out, last come first."""
        with self._lock:
            self._limit_bytes = limit_bytes
            for name in reversed(list(self._resident)):
                if self._resident_bytes <= limit_bytes:
                    break
                array = self._resident.pop(name)
                self._resident_bytes -= array.nbytes
                self._tiles.put(name, array)
                self._spilled.add(name)

    def put(self, name: str, array: Array) -> None:
        """Take over `array`: the caller gives up writing to it."""
        with self._lock:
            previous = self._resident.pop(name, None)
            if previous is not None:
                self._resident_bytes -= previous.nbytes
            fits = self._resident_bytes + array.nbytes <= self._limit_bytes
            if fits:
                self._resident[name] = array
                self._resident_bytes += array.nbytes
        if fits:
            self._forget(name)
        else:
            self._tiles.put(name, array)
            self._spilled.add(name)

    def get(self, name: str) -> Array:
        array = self._resident.get(name)
        return self._tiles.get(name) if array is None else array

    def delete(self, name: str) -> None:
        with self._lock:
            previous = self._resident.pop(name, None)
            if previous is not None:
                self._resident_bytes -= previous.nbytes
        self._forget(name)

    def clear(self) -> None:
        """Forget everything, in memory and in tiles."""
        for name in [*self._resident, *self._spilled]:
            self.delete(name)

    def _forget(self, name: str) -> None:
        if name in self._spilled:
            self._spilled.discard(name)
            self._tiles.delete(name)

"""Memory of a bounded size that spills to disk: where solvers keep arrays that their workspace cannot hold.

    Tiles         stores named arrays outside of memory: a folder of .npy files here, the scratch of the store elsewhere
    SpillBuffer   keeps the arrays that fit its limit in memory and puts the others into Tiles

An array has the same values wherever it was kept, so the budget cannot change a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np

from bigcluster.errors import StoreError
from bigcluster.files.durable import remove_folder
from bigcluster.files.shared_disk import comes_to_light
from bigcluster.kernels.linalg.types import AnyArray


class Tiles(Protocol):
    """Named arrays, written whole and read whole. Safe to call from several threads."""

    def put(self, name: str, array: AnyArray) -> None:
        """Store a copy of `array`, which replaces an earlier array of this name."""

    def get(self, name: str) -> AnyArray:
        """The array of this name; the caller must not write into it. Raises KeyError where there is none."""

    def delete(self, name: str) -> None:
        """Delete the array of this name, where there is one."""


class FolderTiles:
    """Tiles as .npy files of one folder. They are not fsynced: a fit that dies never reads them again.

    The jobs of a cluster write folders of their own, so that two copies of one job are not in each other's way.
    """

    def __init__(self, path: Path) -> None:
        """path : a folder that nobody else uses; it is created when the first array is put."""
        self._path = path

    def _file(self, name: str) -> Path:
        return self._path / (name.replace("/", "-") + ".npy")

    def put(self, name: str, array: AnyArray) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            np.save(self._file(name), array, allow_pickle=False)
        except OSError as error:
            raise StoreError(f"cannot write scratch tile {self._file(name)}: {error.strerror or error}") from error

    def get(self, name: str) -> AnyArray:
        file = self._file(name)
        try:
            if not file.exists() and not comes_to_light(file):
                raise KeyError(name)
            array: AnyArray = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(f"cannot read scratch tile {file}: {error}") from error
        return array

    def delete(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the folder and everything in it, where there is one."""
        remove_folder(self._path)


class GivenTiles:
    """Tiles of which some were put into other folders before. Those are only read: another fit may need them again."""

    def __init__(self, tiles: Tiles, given: Mapping[str, Tiles]) -> None:
        """tiles : where arrays are put. given : where the arrays are that were put before, by name."""
        self._tiles, self._given = tiles, dict(given)

    def put(self, name: str, array: AnyArray) -> None:
        self._tiles.put(name, array)
        self._given.pop(name, None)

    def get(self, name: str) -> AnyArray:
        return self._given.get(name, self._tiles).get(name)

    def delete(self, name: str) -> None:
        if self._given.pop(name, None) is None:
            self._tiles.delete(name)


class SpillBuffer:
    """Named arrays, of which at most `limit_bytes` stay in memory; the others are in `tiles`.

    The first arrays stay in memory. Solvers read every array once in each sweep, and for cyclic reads a fixed resident
    set is optimal: the least recently used array would be evicted just before its turn.
    Several threads may call the methods at once.
    """

    def __init__(self, tiles: Tiles, limit_bytes: int) -> None:
        self._tiles = tiles
        self._limit_bytes = limit_bytes
        self._resident: dict[str, AnyArray] = {}
        self._resident_bytes = 0
        self._spilled: set[str] = set()
        self._lock = Lock()

    def limit(self, limit_bytes: int) -> None:
        """Change the limit. Arrays that no longer fit are written to `tiles`, the newest ones first."""
        with self._lock:
            self._limit_bytes = limit_bytes
            for name in reversed(list(self._resident)):
                if self._resident_bytes <= limit_bytes:
                    break
                array = self._resident.pop(name)
                self._resident_bytes -= array.nbytes
                self._tiles.put(name, array)
                self._spilled.add(name)

    def put(self, name: str, array: AnyArray) -> None:
        """Keep `array` itself, not a copy: the caller must not write into it any more."""
        with self._lock:
            previous = self._resident.pop(name, None)
            if previous is not None:
                self._resident_bytes -= previous.nbytes
            fits = self._resident_bytes + array.nbytes <= self._limit_bytes
            if fits:
                self._resident[name] = array
                self._resident_bytes += array.nbytes
        if fits:
            self._delete_spilled(name)
        else:
            self._tiles.put(name, array)
            self._spilled.add(name)

    def get(self, name: str) -> AnyArray:
        """The array of this name; the caller must not write into it. Raises KeyError where there is none."""
        array = self._resident.get(name)
        return self._tiles.get(name) if array is None else array

    def fetch(self, name: str) -> bool:
        """Keep the array of this name in memory from now on, where it fits. Returns whether it is there."""
        if name in self._resident:
            return True
        array = self._tiles.get(name)
        with self._lock:
            if self._resident_bytes + array.nbytes > self._limit_bytes:
                return False
            self._resident[name] = array
            self._resident_bytes += array.nbytes
        self._delete_spilled(name)
        return True

    def delete(self, name: str) -> None:
        """Delete the array of this name, where there is one."""
        with self._lock:
            previous = self._resident.pop(name, None)
            if previous is not None:
                self._resident_bytes -= previous.nbytes
        self._delete_spilled(name)

    def clear(self) -> None:
        """Delete all arrays, in memory and in `tiles`."""
        for name in [*self._resident, *self._spilled]:
            self.delete(name)

    def _delete_spilled(self, name: str) -> None:
        if name in self._spilled:
            self._spilled.discard(name)
            self._tiles.delete(name)

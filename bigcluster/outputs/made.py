"""What we made in a folder that others may write to as well: so much of every entry that it is known again.

store.zarr/marks/<created>/done.json      names the lists that count, and vouches for their files
store.zarr/made/<created>-<digest>.list   one list: 4 columns of 64 bits, little-endian, ordered by the first
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import path_key
from bigcluster.durable import digest_of, write_bytes
from bigcluster.store import MADE, Mark, Marks

_WORD = (1 << 64) - 1


class Identity(NamedTuple):
    """What an entry is known by; each modulo 2^64, since a file's time may lie anywhere."""

    inode: int
    """0 for files of their own, which a moved OUT finds under other inodes."""
    n_bytes: int
    mtime_ns: int


def identity(path: str | Path, *, copied: bool = False) -> Identity:
    """What an entry is known by, links not followed. copied : a file of its own, not another name of an image."""
    found = os.lstat(path)
    return Identity(0 if copied else found.st_ino & _WORD, found.st_size & _WORD, found.st_mtime_ns & _WORD)


class Made:
    """Path inside the folder -> identity, in 32 bytes each: a million entries are of every day.

    For a path stand 64 bits of its hash. Two of a million paths share them with a chance of 3e-8, and then one of the
    two counts as foreign: it is kept.
    """

    def __init__(self, columns: NDArray[np.uint64]) -> None:
        """columns : (4, n), the hash of the path and the identity, ordered by the hash."""
        self._columns = columns

    @classmethod
    def of(cls, entries: Iterable[tuple[str, Identity]] = ()) -> Made:
        flat = array("Q")
        for name, known in entries:
            flat.extend((_key(name), *known))
        rows = np.frombuffer(flat, np.uint64)
        order = np.argsort(rows[::4], kind="stable")
        columns = np.empty((4, len(order)), np.uint64)
        for column in range(4):
            columns[column] = rows[column::4][order]
        return cls(columns)

    def __len__(self) -> int:
        return len(self._columns[0])

    def get(self, name: str) -> Identity | None:
        """The identity under which we made an entry of that path; None where it is none of ours."""
        key = _key(name)
        at = int(np.searchsorted(self._columns[0], np.uint64(key)))
        if at == len(self) or int(self._columns[0, at]) != key:
            return None
        return Identity(*self._columns[1:, at].tolist())

    def to_bytes(self) -> memoryview:
        return self._columns.astype("<u8", copy=False).view(np.uint8).reshape(-1).data

    @classmethod
    def from_bytes(cls, data: bytes) -> Made:
        return cls(np.frombuffer(data, "<u8").reshape(4, -1))


def _key(name: str) -> int:
    return int.from_bytes(path_key(name), "little")


@dataclass(frozen=True)
class Lists:
    """The lists of one folder, by name. They are replaced at once: the mark decides which files count."""

    store_root: Path
    created: str
    """The name of the mark."""

    def read(self) -> dict[str, Made] | None:
        """None where they are lost or damaged, of another version, or never were."""
        mark = Marks(self.store_root).read(self.created)
        if mark is None or not mark.digests:
            return None
        try:
            return {name: self._load(file, mark.digests[file]) for name, file in mark.payload.items()}
        except (OSError, ValueError):
            return None

    def _load(self, file: str, digest: str) -> Made:
        data = (self.store_root / file).read_bytes()
        if digest_of(data) != digest:
            raise ValueError(f"{file} is damaged")
        return Made.from_bytes(data)

    def write(self, lists: Mapping[str, Made]) -> None:
        folder = self.store_root / MADE
        folder.mkdir(exist_ok=True)
        digests: dict[str, str] = {}
        payload: dict[str, Any] = {}
        for name, made in lists.items():
            data = made.to_bytes()
            digest = digest_of(data)
            file = folder / f"{self.created}-{digest}.list"
            write_bytes(file, data)
            payload[name] = file.relative_to(self.store_root).as_posix()
            digests[payload[name]] = digest
        Marks(self.store_root).write(self.created, Mark("", digests, payload))
        for file in folder.glob(f"{self.created}-*.list"):
            if file.relative_to(self.store_root).as_posix() not in digests:
                file.unlink()

"""Completion marks: small sealed JSON files that vouch for data already on disk. Resume reads them and never guesses.

    store.zarr/marks/<stage>/<block>.json     one block of a stage
    store.zarr/marks/<stage>/done.json        the whole stage

A mark holds the fingerprint of what it vouches for, the digests of the files, and what the stage wants to remember. Its
seal is a digest of all that, byte for byte: a damaged mark counts as absent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigcluster.errors import StoreError
from bigcluster.files.bounded import UnfitFileError, parse_json, read_bounded
from bigcluster.files.durable import digest_of, is_regular, unlink_below, write_bytes
from bigcluster.files.kept import set_aside
from bigcluster.units import MIB, show_bytes

DONE = "done"
FOLDER = "marks"
LIMIT_BYTES = 48 * MIB
"""Of a mark: a block of 65,536 rows, the most there are, whose paths and records have 768 bytes each."""
LIMIT_VALUES = 16 * 65_536
"""Of a mark: a record has nine values, and there is the path."""


def fingerprint(**parts: Any) -> str:
    """Digest of named JSON values: equal exactly where all parts are equal."""
    return digest_of(_canonical(parts))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Mark:
    fingerprint: str
    digests: dict[str, str] = field(default_factory=dict)
    """File, relative to the store -> digest of its content."""
    payload: dict[str, Any] = field(default_factory=dict)


class Marks:
    """The marks of one store."""

    def __init__(self, store_root: Path) -> None:
        self._root, self._out = store_root / FOLDER, store_root.parent

    def read(self, stage: str, block: str = DONE) -> Mark | None:
        """The mark, or None where there is none, its seal does not fit, or no mark can be what stands there."""
        try:
            raw = read_bounded(self.path(stage, block), LIMIT_BYTES)
        except (FileNotFoundError, NotADirectoryError, UnfitFileError):
            return None
        body = memoryview(raw)[len(_seal(b"")) : -len(_END)]  # a block of many rows has a mark of many MiB
        if not (raw.startswith(_seal(body)) and raw.endswith(_END)):
            return None
        text = bytes(body)
        del raw, body
        try:
            values = parse_json(text, LIMIT_VALUES)
            return Mark(**values) if _is_of_a_store(**values) else None
        except (ValueError, TypeError):  # of another version
            return None

    def write(self, stage: str, mark: Mark, block: str = DONE) -> None:
        """Put a mark in place; what it vouches for must be synced already."""
        path = self.path(stage, block)
        self._set_aside(stage, block)
        content = {"fingerprint": mark.fingerprint, "digests": mark.digests, "payload": mark.payload}
        body = json.dumps(content).encode()
        if len(body) + len(_seal(b"")) + len(_END) > LIMIT_BYTES:
            raise StoreError(
                f"{path}: the paths and records of one block take {show_bytes(len(body))}, a mark may take "
                f"{show_bytes(LIMIT_BYTES)}; shorten the paths below IMAGES, or use a larger --size"
            )
        write_bytes(path, _seal(body) + body + _END, self._out)

    def remove(self, stage: str, block: str = DONE) -> None:
        self._set_aside(stage, block)
        unlink_below(self.path(stage, block), self._out)

    def _set_aside(self, stage: str, block: str) -> None:
        """A file at a mark's place that has no seal of ours is damaged, or somebody else's: it goes to OUT/kept."""
        path = self.path(stage, block)
        if os.path.lexists(path) and self.read(stage, block) is None:
            set_aside(path, self._out)

    def names(self) -> Iterator[tuple[str, str]]:
        """(stage, block) of every mark there is, sound or not."""
        for path in sorted(self._root.glob("*/*.json")):
            if is_regular(path) and not path.name.startswith("."):  # `...json` would name the folder above
                yield path.parent.name, path.stem

    def blocks(self, stage: str) -> list[str]:
        """The blocks of a stage that have a mark, sound or not."""
        found = (self._root / stage).glob("*.json")
        return sorted(path.stem for path in found if path.stem != DONE and not path.name.startswith("."))

    def numbers(self, stage: str) -> list[str]:
        """Those of the blocks that are called by their numbers; a file of another name there is not of us."""
        return [block for block in self.blocks(stage) if block.isascii() and block.isdecimal()]

    def all(self) -> Iterator[tuple[str, str, Mark]]:
        """(stage, block, mark) of every sound mark."""
        for stage, block in self.names():
            mark = self.read(stage, block)
            if mark is not None:
                yield stage, block, mark

    def path(self, stage: str, block: str = DONE) -> Path:
        """The file of a mark, there or not."""
        return self._root / stage / f"{block}.json"


def _is_of_a_store(fingerprint: Any, digests: Any, payload: Any) -> bool:
    """Whether all files that a mark names lie in the store. Anybody can write a sealed mark, and OUT may be a
    stranger's: what a mark vouches for is read, and removed when it is of no use any more."""
    if not (isinstance(fingerprint, str) and isinstance(digests, dict) and isinstance(payload, dict)):
        return False
    return all(
        isinstance(digest, str) and not file.startswith("/") and "\0" not in file and ".." not in file.split("/")
        for file, digest in digests.items()
    )


def _seal(body: bytes | memoryview) -> bytes:
    """What stands before a mark in its file: `{"seal": "<digest of body>", "mark": body}`."""
    return b'{"seal": "%s", "mark": ' % digest_of(body).encode()


_END = b"}"

"""Completion marks: small sealed JSON files that vouch for data already on disk. Resume reads them and never guesses.

    .bigcluster/marks/<stage>/<block>.json    one block of a stage
    .bigcluster/marks/<stage>/done.json       the whole stage

A mark holds the fingerprint of what it vouches for, the digests of the files, and what the stage wants to remember. Its
seal is a digest of all that, byte for byte: a damaged mark counts as absent, and so does one whose payload lacks the
form that its stage writes (see `payloads`).
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigcluster.errors import OutError, StoreError
from bigcluster.files.bounded import UnfitFileError, check_room, count_values, json_bytes, parse_json, read_bounded
from bigcluster.files.durable import digest_of, is_folder, is_regular, unlink_below, write_bytes
from bigcluster.files.kept import clear_way, set_aside
from bigcluster.files.layout import ARRAYS, MARKS, OURS
from bigcluster.store.payloads import has_form
from bigcluster.units import MIB, show_bytes

DONE = "done"
LIMIT_BYTES = 8 * MIB
"""Bytes of a mark, at most. That of a stage names all its chunks, in about 60 bytes each: 10 GB have 2,600 chunks."""
LIMIT_VALUES = 1 << 18
"""JSON values of a mark, at most: a digest for each of 100,000 chunks, and as many numbers in its facts."""
_TOGETHER = 2
"""Marks of whole stages that are in memory at the same time; of blocks, it is one."""
_NUMBER_DIGITS = 9
"""Digits of the number of a block, at most: numbers of blocks are stored in 32 bits."""
_SHOWN_CHARACTERS = 200
"""Characters of the values of a mark in a message, at most."""
_OTHERWISE = "or delete it: what it vouches for is computed anew"


@dataclass(frozen=True)
class Mark:
    """What a mark says: of which settings and input its files were made, what they hold, and facts for later stages."""

    fingerprint: str
    digests: dict[str, str] = field(default_factory=dict)
    """By file, relative to OUT: the digest of its content."""
    payload: dict[str, Any] = field(default_factory=dict)
    """JSON values that the stage stores; see `payloads` for their form."""


class Marks:
    """The marks in one OUT."""

    def __init__(self, out: Path) -> None:
        self.out, self._root = out, out / MARKS

    def read(self, stage: str, block: str = DONE) -> Mark | None:
        """Read a mark. Returns None where there is none, its seal does not fit, or its content has another form.

        Raises MemoryBudgetError where parsing it takes more memory than the budget leaves (bounded.limit_parsing).
        """
        path = self.path(stage, block)
        share = 1 if block != DONE else _TOGETHER
        try:
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size <= LIMIT_BYTES:
                check_room(path, json_bytes(status.st_size, 0) * share, _OTHERWISE)
            raw = read_bounded(path, LIMIT_BYTES)
        except (FileNotFoundError, NotADirectoryError, UnfitFileError):
            return None
        body = memoryview(raw)[len(_seal(b"")) : -len(_END)]
        if not (raw.startswith(_seal(body)) and raw.endswith(_END)):
            return None
        text = bytes(body)
        del raw, body
        n_values = count_values(text)
        if n_values > LIMIT_VALUES:
            return None
        check_room(path, json_bytes(len(text), n_values) * share, _OTHERWISE)
        try:
            values = parse_json(text, LIMIT_VALUES)
            mark = Mark(**values)
        except (ValueError, TypeError):  # of another version
            return None
        return mark if _is_ours(stage, block, mark) else None

    def write(self, stage: str, mark: Mark, block: str = DONE) -> None:
        """Write a mark, which is on disk when this returns. The files that it vouches for must be synced already.

        Raises StoreError for a mark that `read` would take for absent: its stage would be computed anew at every run.
        """
        path = self.path(stage, block)
        self._set_aside(stage, block)
        data = sealed(mark)
        n_bytes, n_values = len(data), count_values(data)
        if n_bytes > LIMIT_BYTES or n_values > LIMIT_VALUES:
            raise StoreError(
                f"{path}: what it holds takes {show_bytes(n_bytes)} in {n_values:,} values, and "
                f"{show_bytes(LIMIT_BYTES)} in {LIMIT_VALUES:,} values are the most; use fewer images"
            )
        as_read = Mark(**json.loads(data)["mark"])
        if not _is_ours(stage, block, as_read):
            raise StoreError(f"{path}: a value in it is longer or larger than any that is read back: {_shown(as_read)}")
        clear_way(path.parent, self.out)
        write_bytes(path, data, self.out)

    def remove(self, stage: str, block: str = DONE) -> None:
        """Remove a mark; nothing happens where there is none. A file that is not ours goes to OUT/kept."""
        self._set_aside(stage, block)
        unlink_below(self.path(stage, block), self.out)

    def _set_aside(self, stage: str, block: str) -> None:
        """Move a file at the place of a mark that is no sound mark of ours to OUT/kept: it may be somebody else's."""
        path = self.path(stage, block)
        if os.path.lexists(path) and self.read(stage, block) is None:
            set_aside(path, self.out)

    def check_open(self) -> None:
        """Raise OutError where the marks, or a folder among them, cannot be read."""
        try:
            for path in (self._root, *sorted(self._root.iterdir())):
                if is_folder(path):
                    with os.scandir(path) as entries:
                        next(entries, None)
                    if not os.access(path, os.X_OK):
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except PermissionError as error:
            raise OutError(
                f"{error.filename or self._root} cannot be read: {error.strerror}; it belongs to somebody else or is "
                "closed to you: permit it, or move it away"
            ) from error
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise OutError(
                f"{error.filename or self._root} is a link that leads nowhere, where bigcluster keeps a folder of its "
                "own; move it away"
            ) from error

    def names(self) -> Iterator[tuple[str, str]]:
        """The (stage, block) of every mark file, whether its content is sound or not."""
        for path in sorted(self._root.glob("*/*.json")):
            if is_regular(path) and not path.name.startswith("."):  # `...json` would name the folder above
                yield path.parent.name, path.stem

    def blocks(self, stage: str) -> list[str]:
        """The blocks of a stage that have a mark file, ascending, whether its content is sound or not."""
        paths = (self._root / stage).glob("*.json")
        return sorted(path.stem for path in paths if path.stem != DONE and not path.name.startswith("."))

    def numbers(self, stage: str) -> list[str]:
        """The blocks of a stage whose names are numbers. A mark file of another name is not ours."""
        return [block for block in self.blocks(stage) if is_number(block)]

    def all(self) -> Iterator[tuple[str, str, Mark]]:
        """(stage, block, mark) of every sound mark."""
        for stage, block in self.names():
            mark = self.read(stage, block)
            if mark is not None:
                yield stage, block, mark

    def path(self, stage: str, block: str = DONE) -> Path:
        """The path of a mark file, whether it exists or not."""
        return self._root / stage / f"{block}.json"


def sealed(mark: Mark) -> bytes:
    """The content of the file of a mark, whatever it says."""
    content = {"fingerprint": mark.fingerprint, "digests": mark.digests, "payload": mark.payload}
    body = json.dumps(content).encode()
    return _seal(body) + body + _END


def is_number(name: str) -> bool:
    """Whether a name is the number of a block, or of a row of chunks, as this program may write it."""
    return name.isascii() and name.isdecimal() and len(name) <= _NUMBER_DIGITS


def _is_ours(stage: str, block: str, mark: Mark) -> bool:
    """Whether a mark has the form of those that this program writes for a stage and a block."""
    is_ours = _names_our_places(mark.fingerprint, mark.digests, mark.payload)
    return is_ours and has_form(stage, block, mark.fingerprint, mark.payload)


def _shown(mark: Mark) -> str:
    text = json.dumps(mark.payload)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _names_our_places(fingerprint: Any, digests: Any, payload: Any) -> bool:
    """Whether all files that a mark names lie in the folders of the store.

    Anybody can write a sealed mark, and the files that it names are read, and removed when they are not needed.
    """
    if not (isinstance(fingerprint, str) and isinstance(digests, dict) and isinstance(payload, dict)):
        return False
    return all(
        isinstance(digest, str)
        and file.startswith((f"{ARRAYS}/", f"{OURS}/"))
        and "\0" not in file
        and ".." not in file.split("/")
        for file, digest in digests.items()
    )


def _seal(body: bytes | memoryview) -> bytes:
    """The first bytes of a mark file, which reads `{"seal": "<digest of body>", "mark": body}`."""
    return b'{"seal": "%s", "mark": ' % digest_of(body).encode()


_END = b"}"

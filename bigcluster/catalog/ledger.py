"""The ledger: one record for every listed file, whatever happened to the file, in columns.

A row takes 53 bytes, and more only where it has a note, such as the reason why its file failed. On disk it is one table
of columns for each block of pixels (see stages.pixel_blocks), from which all numbers and texts are read as they were.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog.records import FileRecord
from bigcluster.catalog.string_array import StringArray
from bigcluster.planning.footprint import RECORDS_AT_ONCE

Columns = dict[str, NDArray[Any]]
_Index = slice | NDArray[np.intp]

OK = "ok"
_NONE = -(1 << 63)
"""Stands in a column of int64 for a number that is not known."""
_NS = 10**9
"""Nanoseconds of a second. A time takes two columns: in 64 bits of nanoseconds a year after 2262 has no room."""
_SECONDS_IN_64_BITS = (1 << 63) // _NS - 1
"""Seconds whose nanoseconds have room in 64 bits, at most."""
_DIGEST_BYTES = 16
"""Bytes of the digest of a content; all are zero where the content could not be read."""
_STATUS_CHARACTERS = 100
"""Characters of the name of a status that is read, at most: ours have less than 20."""
_NUMBERS = ("n_bytes", "mtime_s", "width", "height")
_REQUIRED = {
    *(*_NUMBERS, "mtime_ns", "digests", "status", "statuses"),
    *("noted", "reason_ends", "reasons", "needed", "tried"),
}
"""The columns of a table that has records."""
_NOT_SET = 255
"""Stands for the status of a row until its record is set."""


class _Note(NamedTuple):
    """What is known of few files only: the reason why one failed, the memory that it needs, how long it was tried."""

    reason: str
    needed_bytes: int | None
    tried_seconds: float | None


_PLAIN = _Note("", None, None)


class Facts(NamedTuple):
    """What images.csv says of consecutive files, in columns; None for a number that is not known."""

    n_bytes: list[int | None]
    mtime_ns: list[int | None]
    width: list[int | None]
    height: list[int | None]
    digest: list[str]
    status: list[str]
    reason: list[str]


class Ledger:
    """The records of consecutive files. Rows may be set from several threads, each thread its own ones."""

    def __init__(self, n_rows: int) -> None:
        """n_rows : the number of files. The record of every row must be set before any is read."""
        self._numbers = {name: np.full(n_rows, _NONE, np.int64) for name in _NUMBERS}
        self._mtime_ns = np.zeros(n_rows, np.uint32)
        self._digests = np.zeros((n_rows, _DIGEST_BYTES), np.uint8)
        self._status = np.full(n_rows, _NOT_SET, np.uint8)
        self._statuses: list[str] = [OK]
        self._notes: dict[int, _Note] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, records: Iterable[FileRecord]) -> Ledger:
        """The ledger of some records, in their order."""
        rows = list(records)
        ledger = cls(len(rows))
        for row, record in enumerate(rows):
            ledger.set(row, record)
        return ledger

    def __len__(self) -> int:
        return len(self._status)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which rows hold a picture, (n,)."""
        ok: NDArray[np.bool_] = self._status == 0
        return ok

    def digest_numbers(self) -> NDArray[np.uint64]:
        """The first 64 bits of every digest as a number, (n,), as outdir.owned.short_digest gives it."""
        return np.ascontiguousarray(self._digests[:, :8]).view(">u8")[:, 0].astype(np.uint64)

    def sizes(self) -> NDArray[np.int64]:
        """Width and height in pixels, (n, 2); negative where they are not known."""
        return np.stack([self._numbers["width"], self._numbers["height"]], axis=1)

    def counts(self) -> Counter[str]:
        """How many rows have each status."""
        numbers = np.bincount(self._status, minlength=len(self._statuses)).tolist()
        return Counter({status: n for status, n in zip(self._statuses, numbers, strict=True) if n})

    def set(self, row: int, record: FileRecord) -> None:
        """Put the record of one row in place of what was there."""
        seconds, ns = (None, 0) if record.mtime_ns is None else divmod(record.mtime_ns, _NS)
        for name, value in zip(_NUMBERS, (record.n_bytes, seconds, record.width, record.height), strict=True):
            self._numbers[name][row] = value if value is not None and abs(value) < -_NONE else _NONE
        self._mtime_ns[row] = ns
        self._digests[row] = np.frombuffer(bytes.fromhex(record.digest) or bytes(_DIGEST_BYTES), np.uint8)
        self._status[row] = self._code(record.status)
        note = _Note(record.reason, record.needed_bytes, record.tried_seconds)
        if note == _PLAIN:
            self._notes.pop(row, None)
        else:
            self._notes[row] = note

    def _code(self, status: str) -> int:
        with self._lock:
            if status not in self._statuses:
                self._statuses.append(status)
            return self._statuses.index(status)

    def put(self, start: int, part: Ledger) -> None:
        """Put the records of a part in place of the rows from `start` on."""
        rows = slice(start, start + len(part))
        for name in _NUMBERS:
            self._numbers[name][rows] = part._numbers[name]
        self._mtime_ns[rows], self._digests[rows] = part._mtime_ns, part._digests
        self._status[rows] = np.array([self._code(status) for status in part._statuses], np.uint8)[part._status]
        if self._notes:  # they may be those of millions of rows: a part costs what its own rows cost
            for row in range(rows.start, rows.stop):
                self._notes.pop(row, None)
        self._notes |= {start + row: note for row, note in part._notes.items()}

    def part(self, start: int, stop: int) -> Ledger:
        """A copy of the rows start .. stop - 1."""
        part = Ledger(stop - start)
        for name in _NUMBERS:
            part._numbers[name][:] = self._numbers[name][start:stop]
        part._mtime_ns[:], part._digests[:] = self._mtime_ns[start:stop], self._digests[start:stop]
        part._status[:], part._statuses = self._status[start:stop], list(self._statuses)
        part._notes = {row - start: self._notes[row] for row in range(start, stop) if row in self._notes}
        return part

    def __getitem__(self, row: int) -> FileRecord:
        """The record of a row, 0 .. n - 1."""
        return next(self._records(slice(row, row + 1), [row]))

    def at(self, rows: Sequence[int]) -> list[FileRecord]:
        """The records of some rows, in their order, in about a tenth of the time that single rows take."""
        return list(self._records(np.array(rows, np.intp), rows))

    def __iter__(self) -> Iterator[FileRecord]:
        for start in range(0, len(self), RECORDS_AT_ONCE):
            stop = min(len(self), start + RECORDS_AT_ONCE)
            yield from self._records(slice(start, stop), range(start, stop))

    def _records(self, index: _Index, rows: Sequence[int]) -> Iterator[FileRecord]:
        """The records of some rows. index, rows : the same rows, as numpy takes them and as numbers."""
        for row, facts in zip(rows, zip(*self._facts(index, rows), strict=True), strict=True):
            note = self._notes.get(row, _PLAIN)
            n_bytes, mtime_ns, width, height, digest, status, reason = facts
            yield FileRecord(
                n_bytes, mtime_ns, width, height, digest, status, reason, note.needed_bytes, note.tried_seconds
            )

    def facts(self, start: int, stop: int) -> Facts:
        """What images.csv says of the rows start .. stop - 1."""
        return self._facts(slice(start, stop), range(start, stop))

    def _facts(self, index: _Index, rows: Sequence[int]) -> Facts:
        """As `facts`; index, rows : as for `_records`."""
        n_bytes, width, height = (self._known(name, index) for name in ("n_bytes", "width", "height"))
        content = self._digests[index]
        hexed, digits = content.tobytes().hex(), 2 * _DIGEST_BYTES
        digests = [hexed[at : at + digits] for at in range(0, len(hexed), digits)]
        if not content.any(axis=1).all():
            digests = ["" if digest == "0" * digits else digest for digest in digests]
        statuses = [self._statuses[code] for code in self._status[index].tolist()]
        reasons = [""] * len(rows)
        if self._notes:
            reasons = [self._notes.get(row, _PLAIN).reason for row in rows]
        return Facts(n_bytes, self._times(index), width, height, digests, statuses, reasons)

    def identities(self) -> Iterator[tuple[bool, int | None, int | None, int]]:
        """Yield for every row whether it holds a picture, size in bytes, time in nanoseconds, and the first 64 bits of
        the digest as a number."""
        digests = self.digest_numbers()
        for start in range(0, len(self), RECORDS_AT_ONCE):
            rows = slice(start, start + RECORDS_AT_ONCE)
            ok = (self._status[rows] == 0).tolist()
            yield from zip(ok, self._known("n_bytes", rows), self._times(rows), digests[rows].tolist(), strict=True)

    def _known(self, name: str, index: _Index) -> list[int | None]:
        """The numbers of a column in some rows; None for a number that is not known."""
        numbers = self._numbers[name][index]
        values: list[int | None] = numbers.tolist()
        return [None if value == _NONE else value for value in values] if (numbers == _NONE).any() else values

    def _times(self, index: _Index) -> list[int | None]:
        """The times of some rows in nanoseconds."""
        seconds, ns = self._numbers["mtime_s"][index], self._mtime_ns[index]
        if ((seconds > -_SECONDS_IN_64_BITS) & (seconds < _SECONDS_IN_64_BITS)).all():
            times: list[int | None] = (seconds * _NS + ns).tolist()
            return times
        each = zip(seconds.tolist(), ns.tolist(), strict=True)
        return [None if second == _NONE else second * _NS + of_second for second, of_second in each]

    def contents(self) -> bytes:
        """Bytes that are equal exactly where the digests of all files, and their statuses, are equal."""
        used = sorted(self.counts())  # codes are given in the order in which statuses come
        codes = np.array([used.index(status) if status in used else _NOT_SET for status in self._statuses], np.uint8)
        return "\n".join(used).encode() + b"\0" + codes[self._status].tobytes() + self._digests.tobytes()

    def to_columns(self) -> Columns:
        """The columns of the ledger; see `from_columns`."""
        noted = sorted(self._notes)
        notes = [self._notes[row] for row in noted]
        reason_ends, reasons = StringArray(note.reason for note in notes).to_columns()
        statuses = "\n".join(self._statuses).encode()
        return {
            **self._numbers,
            "mtime_ns": self._mtime_ns,
            "digests": self._digests.reshape(-1),
            "status": self._status,
            "statuses": np.frombuffer(statuses, np.uint8),
            "noted": np.array(noted, np.uint32),
            "reason_ends": reason_ends,
            "reasons": reasons,
            "needed": np.array([_NONE if n.needed_bytes is None else n.needed_bytes for n in notes], np.int64),
            "tried": np.array([np.nan if n.tried_seconds is None else n.tried_seconds for n in notes], np.float64),
        }

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[Any]]) -> Ledger:
        """The ledger of columns that `to_columns` made. Columns of other names are ignored.

        Raises ValueError for columns of another form: anybody may have written them.
        """
        if not columns.keys() >= _REQUIRED:
            raise ValueError("columns of the records are missing")
        n_rows = len(columns["status"])
        for name, kind, n_values in (
            *((name, np.int64, n_rows) for name in _NUMBERS),
            ("mtime_ns", np.uint32, n_rows),
            ("digests", np.uint8, n_rows * _DIGEST_BYTES),
            ("status", np.uint8, n_rows),
        ):  # before anything of that many rows is made: one column alone may say any number
            if columns[name].shape != (n_values,) or columns[name].dtype != kind:
                raise ValueError("a column has another length or type")
        ledger = cls(n_rows)
        for name in _NUMBERS:
            ledger._numbers[name][:] = columns[name]
        ledger._mtime_ns[:], ledger._status[:] = columns["mtime_ns"], columns["status"]
        ledger._digests.reshape(-1)[:] = columns["digests"]
        ledger._statuses = columns["statuses"].tobytes().decode().split("\n")
        noted, needed, tried = (columns[name] for name in ("noted", "needed", "tried"))
        reasons = StringArray.from_columns(columns["reason_ends"], columns["reasons"])
        _check(ledger, noted)
        if not len(noted) == len(needed) == len(tried) == len(reasons):
            raise ValueError("the notes have other lengths")
        if needed.dtype != np.int64 or tried.dtype != np.float64:
            raise ValueError("the notes have other types")
        for row, reason, n_bytes, seconds in zip(noted.tolist(), reasons, needed.tolist(), tried.tolist(), strict=True):
            reason.encode()  # a text that no table can hold raises UnicodeEncodeError, a ValueError
            ledger._notes[row] = _Note(
                reason, None if n_bytes == _NONE else n_bytes, None if seconds != seconds else seconds
            )
        return ledger


def _check(ledger: Ledger, noted: NDArray[Any]) -> None:
    """Raise ValueError where a ledger has values that `set` never stores. noted : the rows that have notes."""
    statuses, n_rows = ledger._statuses, len(ledger)
    if statuses[0] != OK or len(set(statuses)) != len(statuses) or len(statuses) > _NOT_SET:
        raise ValueError("its statuses do not begin with ok, or one comes twice")
    if not all(0 < len(status) <= _STATUS_CHARACTERS and status.isprintable() for status in statuses):
        raise ValueError("its statuses have other names")
    if n_rows and ledger._status.max() >= len(statuses):
        raise ValueError("it has a status without a name")
    if n_rows and int(ledger._mtime_ns.max()) >= _NS:
        raise ValueError("a time has more than a second in nanoseconds")
    ok = ledger.ok
    if any((numbers[ok] == _NONE).any() for numbers in ledger._numbers.values()):
        raise ValueError("a record of a picture lacks a number")
    if not ledger._digests[ok].any(axis=1).all():
        raise ValueError("a record of a picture lacks the digest")
    rows = noted.astype(np.int64)
    if noted.dtype != np.uint32 or (len(rows) and (rows.max() >= n_rows or (np.diff(rows) <= 0).any())):
        raise ValueError("its notes are not of its rows")

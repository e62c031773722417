"""This module decodes many listed files at once, by a pool of threads.

Files whose headers cannot be trusted are decoded in child processes. While several threads decode, nobody can tell
which file caused a message on fd 2. So a file during whose decode a message spoke of damage is decoded a second time,
alone. A codec that crashes or hangs ends the whole process: the supervisor starts another one and names the rows that
were being decoded, whose files are then decoded in a child.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord, Listing
from bigcluster.kernels.decode import DecodeSpec, may_mean_damage, prepare_codecs
from bigcluster.runtime.events import Progress
from bigcluster.stages.loading.captured_stderr import ROOM_BYTES, CapturedStderr
from bigcluster.stages.loading.files import announce, load_alone, load_picture, same_content
from bigcluster.stages.loading.isolation import IsolatedDecoders
from bigcluster.stages.loading.row_features import RowFeatures
from bigcluster.store.row_source import spans


class SharedLock:
    """A lock that any number of threads share, or that one thread has alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_sharing = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Share the lock with other threads; wait while one thread has it alone."""
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._n_sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_sharing -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the lock alone: other threads wait from now on, and those that share it are waited for."""
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._alone = True
            while self._n_sharing:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


FILES_PER_TASK = 8
"""Number of files that a decode thread takes at a time: enough to make handing over cheap, few enough to balance.
Chosen, not measured."""
FILES_AHEAD = 8 * FILES_PER_TASK
"""Number of files by which read-ahead requests precede the decodes, so that the disk always has a request."""
_MOST_STDERR_BYTES = ROOM_BYTES // 8
"""Bytes of harmless warnings after which the captured text is discarded: an eighth of the room for it, because other
threads may write warnings meanwhile."""


@dataclass(frozen=True)
class _Targets:
    """The arrays that a call of `load` fills, and the listed row of their first rows."""

    pixels: NDArray[np.uint8]
    features: NDArray[Any] | None
    first: int


class Loader:
    """Reads and decodes rows of a listing while it is open. Several threads may call it at once."""

    def __init__(
        self,
        listing: Listing,
        spec: DecodeSpec,
        *,
        threads: int,
        timeout_seconds: float,
        progress: Progress,
        isolate_rows: Iterable[Sequence[int]] = (),
        children: int = 1,
        row_features: RowFeatures | None = None,
        in_children: bool = False,
    ) -> None:
        """isolate_rows : pairs (start, stop) of rows whose files may crash or hang the codec; a child decodes them.

        children : how many children may run at once, for files whose headers cannot be trusted; 0 where there is no
        memory for one.
        row_features : what gives each picture its features, where `load` is to fill them too.
        in_children : decode every file in a child: this process then survives whatever a file does, and its stderr is
        not captured. Each thread has its own child.
        """
        self._listing, self._spec, self._threads = listing, spec, threads
        self._progress = progress
        self._isolated_rows = [range(start, stop) for start, stop in isolate_rows]
        self._stderr = CapturedStderr()
        self._lock = SharedLock()
        self._in_children = in_children
        self._isolated = IsolatedDecoders(
            max(children, threads) if in_children else children, spec, timeout_seconds, spec.max_bytes
        )
        self._row_features = row_features
        self._scratch = threading.local()

    def __enter__(self) -> Loader:
        with ExitStack() as stack:
            if not self._in_children:
                prepare_codecs()
                stack.enter_context(self._stderr)
            stack.enter_context(self._isolated)
            self._decoders = stack.enter_context(ThreadPoolExecutor(self._threads))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def load(
        self,
        rows: Sequence[int],
        pixels: NDArray[np.uint8],
        first: int,
        known: Mapping[int, FileRecord] | None = None,
        features: NDArray[Any] | None = None,
    ) -> list[FileRecord]:
        """Fill pixels[row - first], (d,) uint8, for every listed row of `rows`, and return the records in that order.

        rows : ascending. A row is zero where its file failed.
        known : for rows that need a decode only where the content has changed, the record of what they hold.
        features : (n, n_row_values), filled as the pixels are; needed where there are `row_features`.
        """
        if not rows:
            return []
        targets = _Targets(pixels, features, first)
        if self._in_children:
            return self._load_in_children(rows, targets, known or {})
        with self._progress.decoding(rows[0], rows[-1] + 1):
            if any(row in span for span in self._isolated_rows for row in rows):
                return self._load_isolated(rows, targets)
            return self._load_together(rows, targets, known or {})

    def skip(self, n_rows: int) -> None:
        """Count rows as done that need no file."""
        self._progress.advance(n_rows)

    def compare(self, known: Mapping[int, FileRecord]) -> dict[int, FileRecord] | None:
        """Return the records with the present times of the files, or None where the content of one has changed."""

        def compare_one(item: tuple[int, FileRecord]) -> FileRecord | None:
            row, record = item
            return same_content(self._listing.path(row), self._listing.confined_to, self._spec.max_bytes, record)

        now = dict(zip(known, self._decoders.map(compare_one, known.items()), strict=True))
        same = {row: record for row, record in now.items() if record is not None}
        return same if len(same) == len(now) else None

    def _load_together(
        self, rows: Sequence[int], targets: _Targets, known: Mapping[int, FileRecord]
    ) -> list[FileRecord]:
        listing, confined_to = self._listing, self._listing.confined_to

        def load_some(part: tuple[int, int]) -> list[tuple[FileRecord, bool]]:
            for row in rows[part[0] + FILES_AHEAD : part[1] + FILES_AHEAD]:
                announce(listing.path(row), confined_to)
            return [load_one(row) for row in rows[slice(*part)]]

        def load_one(row: int) -> tuple[FileRecord, bool]:
            """Return the record, and whether a message spoke of damage meanwhile, from this decode or another one."""
            into = self._into(row, targets)
            with self._lock.shared():
                before = self._stderr.n_bytes()
                record = load_picture(
                    listing.path(row), confined_to, self._spec, into, self._isolated.load, known.get(row)
                )
                said_more = self._stderr.n_bytes() > before
                suspect = said_more and (self._stderr.are_lost() or may_mean_damage(self._stderr.since(before)))
            if said_more and self._stderr.n_bytes() > _MOST_STDERR_BYTES:
                with self._lock.alone():
                    self._stderr.take()
            if not (suspect and record.ok):  # else it is decoded a second time
                record = self._fill_features(row, targets, into, record, known.get(row))
            self._progress.advance()
            return record, suspect

        parts = self._decoders.map(load_some, spans(len(rows), FILES_PER_TASK))
        loaded = [one for part in parts for one in part]
        return [
            self._look_again(row, targets) if suspect and record.ok else record
            for row, (record, suspect) in zip(rows, loaded, strict=True)
        ]

    def _load_in_children(
        self, rows: Sequence[int], targets: _Targets, known: Mapping[int, FileRecord]
    ) -> list[FileRecord]:
        listing, confined_to = self._listing, self._listing.confined_to

        def load_some(part: tuple[int, int]) -> list[FileRecord]:
            for row in rows[part[0] + FILES_AHEAD : part[1] + FILES_AHEAD]:
                announce(listing.path(row), confined_to)
            return [load_one(row) for row in rows[slice(*part)]]

        def load_one(row: int) -> FileRecord:
            path, into, before = listing.path(row), self._into(row, targets), known.get(row)
            record = None if before is None else same_content(path, confined_to, self._spec.max_bytes, before)
            if record is None:
                record, before = self._isolated.load(path, confined_to, into), None
            record = self._fill_features(row, targets, into, record, before)
            self._progress.advance()
            return record

        parts = self._decoders.map(load_some, spans(len(rows), FILES_PER_TASK))
        return [record for part in parts for record in part]

    def _look_again(self, row: int, targets: _Targets) -> FileRecord:
        path, confined_to, into = self._listing.path(row), self._listing.confined_to, self._into(row, targets)
        with self._lock.alone():
            record = load_alone(path, confined_to, self._spec, into, self._stderr)
        record = self._fill_features(row, targets, into, record)
        self._progress.advance(0)  # a sign of life
        return record

    def _load_isolated(self, rows: Sequence[int], targets: _Targets) -> list[FileRecord]:
        """Decode one by one in a child, while no thread decodes: the child may use the memory of the other decodes."""
        records = []
        with self._lock.alone(), self._isolated.one() as child:
            for row in rows:
                into = self._into(row, targets)
                record = child.load(self._listing.path(row), self._listing.confined_to, into)
                records.append(self._fill_features(row, targets, into, record))
                self._progress.advance()
        return records

    def _into(self, row: int, targets: _Targets) -> NDArray[np.uint8]:
        """Return where a row is decoded to: its pixels or, where features are made of it, memory of this thread."""
        if self._row_features is None:
            pixels: NDArray[np.uint8] = targets.pixels[row - targets.first]
            return pixels
        if not hasattr(self._scratch, "values"):
            self._scratch.values = np.empty(self._spec.n_decoded_values, np.uint8)
        values: NDArray[np.uint8] = self._scratch.values
        return values

    def _fill_features(
        self,
        row: int,
        targets: _Targets,
        decoded: NDArray[np.uint8],
        record: FileRecord,
        known: FileRecord | None = None,
    ) -> FileRecord:
        """Fill pixels and features of a row with what was decoded; return its record, which may fail for its features.

        known : the record of what the row already holds.
        """
        if self._row_features is None:
            return record
        if known is not None and record == replace(known, mtime_ns=record.mtime_ns):
            return record  # its content was compared, and nothing was decoded
        assert targets.features is not None
        pixels, features = targets.pixels[row - targets.first], targets.features[row - targets.first]
        reason = ""
        if record.ok:
            spec, view = self._spec, None
            if spec.view is not None:
                view = decoded[spec.n_values :].reshape(spec.view.height, spec.view.width, spec.n_channels)
            reason = self._row_features.fill(row, view, features)
            if not reason:
                pixels[:] = decoded[: spec.n_values]
                return record
            record = replace(record, status="no_features", reason=reason)
        pixels[:] = 0
        features[:] = 0
        return record

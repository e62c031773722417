"""The files that a run writes beside its store, and the list of them: the digest of every file, and whether the run
came to its end.

A run takes its summary off the list when it starts and puts it back when everything is written. So a file that is on
the list and missing is damage, and one that is not on it is merely not made yet. A file goes on the list before it is
put in place, and what stands there without being on the list is somebody else's: it goes to OUT/kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bigcluster.config import Settings, read_toml, to_toml
from bigcluster.errors import (
    ConfigError,
    ImageSizeError,
    InvalidDataError,
    NoImagesError,
    TooFewSamplesError,
    VarianceNotReachedError,
)
from bigcluster.files.bounded import SETTINGS_BYTES, read_bounded
from bigcluster.files.durable import Unfinished, digest_of_file, is_regular, open_folder, text_of, unfinished, write_all
from bigcluster.files.kept import set_aside
from bigcluster.outdir.claim import HEADING, RUN_TOML, absolute
from bigcluster.store import Mark, Marks

MARK = "outputs"
SUMMARY = "summary.json"
OF_A_RUN = ("labels.csv", "images.csv", "classes.csv", "variance.csv", "memory.csv", SUMMARY, RUN_TOML)
OF_A_SWEEP = ("sweep.csv", "sweep.png")
RESOLUTIONS = "resolutions.csv"
_SETTINGS_DO_NOT_FIT = (
    *(ImageSizeError, InvalidDataError, NoImagesError),
    *(TooFewSamplesError, VarianceNotReachedError),
)


class ResultFiles:
    """Writes the files of OUT, and the list of them: see the module."""

    def __init__(self, out: Path, tell: Callable[[str], None] = lambda _: None) -> None:
        """tell : is called with one line of text for every file of somebody else that goes to OUT/kept."""
        self._marks, self._out, self._tell = Marks(out), out, tell
        mark = self._marks.read(MARK)
        payload: dict[str, Any] = {} if mark is None else mark.payload
        self._files: dict[str, str] = payload.get("files", {})
        """By file: the digest of what was written last."""
        self._before: dict[str, list[str]] = payload.get("before", {})
        """By file: the digests that it may have, since a run has begun to write it anew."""
        self._settings: str = payload.get(RUN_TOML, "")

    @contextmanager
    def writing(self, names: Collection[str]) -> Iterator[None]:
        """Take these files off the list while the block writes them.

        Where the block ends without an error, the files that were written go back on the list.
        """
        for name in names:
            if name in self._files:
                self._before.setdefault(name, []).append(self._files.pop(name))
        self._settings = ""
        self._save()
        yield
        for name in names:
            written = self._before.pop(name, [])
            if written and is_regular(self._out / name) and digest_of_file(self._out / name) == written[-1]:
                self._files[name] = written[-1]
        self._settings = read_bounded(self._out / RUN_TOML, SETTINGS_BYTES).decode()
        self._save()

    @contextmanager
    def text(self, name: str) -> Iterator[IO[str]]:
        """Open a file of UTF-8 text, which is put in place where the block ends without an error."""
        with open_folder(self._out) as folder, unfinished(folder, name) as new:
            with text_of(new) as file:
                yield file
            self._place(name, new, folder)

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, which is on disk when this returns."""
        with open_folder(self._out) as folder, unfinished(folder, name) as new:
            write_all(new.file, memoryview(data))
            self._place(name, new, folder)

    def remove(self, name: str) -> None:
        """Remove the file of an earlier run, as this run makes none of that name. A file of somebody else stays."""
        path = self._out / name
        if os.path.lexists(path) and self._is_ours(name):
            path.unlink()

    def _place(self, name: str, new: Unfinished, folder: int) -> None:
        os.fsync(new.file.fileno())
        digest = new.digest()
        if os.path.lexists(self._out / name) and not self._is_ours(name):
            moved = set_aside(self._out / name, self._out)
            self._tell(f"{self._out / name} is not what bigcluster wrote there; it was moved to {moved}")
        known = self._before.setdefault(name, [])
        if digest in known:
            known.remove(digest)
        known.append(digest)
        self._save()
        new.place(name)
        os.fsync(folder)

    def _is_ours(self, name: str) -> bool:
        path, known = self._out / name, {*self._before.get(name, ()), self._files.get(name, "")}
        try:
            return is_regular(path) and digest_of_file(path) in known
        except PermissionError:  # closed to us: it is not as we left it
            return False

    def _save(self) -> None:
        payload = {"files": self._files, "before": self._before, RUN_TOML: self._settings}
        self._marks.write(MARK, Mark("", payload=payload))

    @contextmanager
    def settings(self, settings: Settings) -> Iterator[None]:
        """Write OUT/run.toml: `bigcluster run --config OUT/run.toml` repeats the run.

        A file that says the same stays as it is, with what somebody wrote into it. Settings that turn out not to fit
        the images are not kept: the file is put back as it was.
        """
        values = absolute(settings)
        path = self._out / RUN_TOML
        before = read_bounded(path, SETTINGS_BYTES) if is_regular(path) else None
        if before is None or _values_in(path) != values:
            self.write(RUN_TOML, (HEADING + to_toml(values)).encode())
        try:
            yield
        except _SETTINGS_DO_NOT_FIT:
            if before is None:
                self.remove(RUN_TOML)
            elif before != read_bounded(path, SETTINGS_BYTES):
                self.write(RUN_TOML, before)
            raise

    def put_settings_back(self) -> None:
        """Write OUT/run.toml as the last finished run had it, in place of one that cannot be read."""
        if self._settings:
            self.write(RUN_TOML, self._settings.encode())


def _values_in(path: Path) -> dict[str, Any] | None:
    try:
        return read_toml(path)
    except ConfigError:
        return None


def listed_files(marks: Marks) -> dict[str, str]:
    """By file, the digest of what the last finished run wrote; empty where no run came to its end."""
    mark = marks.read(MARK)
    files: dict[str, str] = {} if mark is None else mark.payload.get("files", {})
    return files


def is_finished(marks: Marks) -> bool:
    """Whether the last run came to its end."""
    return SUMMARY in listed_files(marks)


def listed_settings(marks: Marks) -> str:
    """The text of run.toml at the end of the last finished run; empty where it did not come to its end."""
    mark = marks.read(MARK)
    text: str = "" if mark is None else mark.payload.get(RUN_TOML, "")
    return text

"""A person who puts things into OUT, IMAGES and beside them, and looks whether they are still there.

What a person puts there keeps its bytes, its mode and its name. It keeps its place too, unless it stands exactly where
a file of ours has to stand: then it is in OUT/kept.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigcluster.files.kept import KEPT

Known = dict[str, tuple[Any, ...]]


def described(path: Path) -> tuple[Any, ...]:
    """What must not change of an entry of a person: kind, mode, and content or target."""
    found = path.lstat()
    kind, mode = stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return kind, str(path.readlink())
    if stat.S_ISREG(found.st_mode):
        return kind, mode, path.read_bytes()
    return kind, mode, found.st_rdev


@dataclass
class Person:
    """Puts things into folders, and looks whether they are still there."""

    root: Path
    put: Known = field(default_factory=dict)
    """Path below the root -> what was put there."""

    def file(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        if self._may_put(path):
            path.write_bytes(data)
            path.chmod(mode)
            self._note(path)

    def folder(self, path: Path, mode: int = 0o700) -> None:
        if self._may_put(path):
            path.mkdir()
            path.chmod(mode)
            self._note(path)

    def link(self, path: Path, target: str) -> None:
        if self._may_put(path):
            path.symlink_to(target)
            self._note(path)

    def fifo(self, path: Path) -> None:
        if self._may_put(path):
            os.mkfifo(path, 0o640)
            self._note(path)

    def replace(self, path: Path, data: bytes) -> None:
        """A file of ours becomes theirs: what it held is of no interest any more."""
        if path.is_file() and not path.is_symlink():
            path.unlink()
            self.file(path, data)

    def rename(self, folder: Path, to: Path) -> None:
        """A folder of ours becomes theirs, with all that is in it."""
        if not folder.is_dir() or folder.is_symlink() or os.path.lexists(to):
            return
        folder.rename(to)
        before = folder.relative_to(self.root).as_posix()
        self.put = {name: put for name, put in self.put.items() if name != before and not name.startswith(f"{before}/")}
        for path in (to, *to.rglob("*")):
            self._note(path)

    def _may_put(self, path: Path) -> bool:
        """Where nothing is yet, in a folder that is reached without links: a person makes what is above it too."""
        above = next(folder for folder in path.parents if os.path.lexists(folder))
        if os.path.lexists(path) or above.is_symlink() or not above.is_dir() or above.resolve() != above:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        return True

    def _note(self, path: Path) -> None:
        self.put[path.relative_to(self.root).as_posix()] = described(path)

    def check(self, out: Path) -> None:
        """Every entry is in its place, or in OUT/kept under the same path, numbered where that was taken."""
        lost = {name: wanted for name, wanted in self.put.items() if not self._is_there(self.root / name, wanted)}
        kept = [described(path) for path in (out / KEPT).rglob("*")]
        for name, wanted in lost.items():
            assert wanted[0] in (stat.S_IFREG, stat.S_IFDIR), f"{name} is gone: a link or a FIFO"
            assert wanted in kept, f"{name} is gone"
            kept.remove(wanted)

    @staticmethod
    def _is_there(path: Path, wanted: tuple[Any, ...]) -> bool:
        with suppress(OSError):
            return described(path) == wanted
        return False


def there(root: Path, contents: list[bytes]) -> list[bytes]:
    """Which of these are the content of a file below the root."""
    found = {path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    return [data for data in contents if data in found]

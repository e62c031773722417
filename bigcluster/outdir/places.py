"""The names that are ours inside OUT, and the refusal of a link at any of them.

Whatever stands at one of these names may have been put there by somebody. A link would lead what we write, tidy or
remove to another place, and a device or a folder would take a file's place: each is refused in one line, before
anything is written. OUT itself may be a link.
"""

from __future__ import annotations

import stat
from pathlib import Path

from bigcluster.errors import OutError
from bigcluster.files.durable import entries_below
from bigcluster.files.kept import KEPT
from bigcluster.files.layout import STORES

FILES = (
    *(".lock", ".holder", "run.toml", "labels.csv", "images.csv", "summary.json", "variance.csv", "memory.csv"),
    *("classes.csv", "sweep.csv", "sweep.png", "resolutions.csv", "manifest.csv"),
)
FOLDERS = (*STORES, "clusters", "report", "profile", KEPT)
_WALKED = (*STORES, "report", "profile")
"""Folders below which every entry is checked. In clusters/ links are usual, so that only its folders are checked."""


def check_places(out: Path) -> None:
    """Raise OutError where a link, a device, or a folder instead of a file stands at one of our names in OUT."""
    for name in FILES:
        _check(out / name, _mode(out / name), stat.S_ISREG, "a file")
    for name in FOLDERS:
        _check(out / name, _mode(out / name), stat.S_ISDIR, "a folder")
    for name in _WALKED:
        for entry in entries_below(out / name):
            mode = entry.stat(follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode):
                _check(Path(entry.path), mode, stat.S_ISREG, "a file or a folder")
    for entry in entries_below(out / "clusters", into=lambda _: False):
        if entry.name.isdecimal():
            _check(Path(entry.path), entry.stat(follow_symlinks=False).st_mode, stat.S_ISDIR, "a folder")


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _check(path: Path, mode: int | None, is_right: object, expected: str) -> None:
    assert callable(is_right)
    if mode is None or is_right(mode):
        return
    raise OutError(f"{path} is {_kind(mode)}, where bigcluster keeps {expected} of its own; move it away")


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) else "a device, a socket or a FIFO"

"""Files that another host wrote to a shared disk, such as NFS, and that this host does not see yet.

An NFS client keeps for up to 30 seconds (acdirmax) that a file was not there. So a file that must be there is looked
for again before it counts as lost, where other hosts write to OUT. On one host, a file that is not there is lost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

NFS_SECONDS = 35.0
"""Seconds for which a file of another host is looked for: those of the NFS client, and five more for the server."""
_LOOK_SECONDS = 0.25
"""Seconds between two looks. Chosen, not measured."""
_patience_seconds = 0.0


def expect_other_hosts(patience_seconds: float = NFS_SECONDS) -> None:
    """Be patient in this process from now on: other hosts write to OUT too. 0 for no patience."""
    global _patience_seconds
    _patience_seconds = patience_seconds


def comes_to_light(path: Path, patience_seconds: float | None = None) -> bool:
    """Return whether a file that must be there is there. It is looked for again where other hosts write files.

    patience_seconds : seconds for which it is looked for; by default those of `expect_other_hosts`.
    """
    until = time.monotonic() + (_patience_seconds if patience_seconds is None else patience_seconds)
    while not os.path.lexists(path):
        if time.monotonic() >= until:
            return False
        _list(path.parent)
        time.sleep(_LOOK_SECONDS)
    return True


def come_to_light(paths: Iterable[Path]) -> set[Path]:
    """Return those of some files that are there. They are looked for together, for as long as one of them would be."""
    until = time.monotonic() + _patience_seconds
    return {path for path in paths if comes_to_light(path, max(0.0, until - time.monotonic()))}


def _list(folder: Path) -> None:
    """List a folder: an NFS client then asks the server whether the folder has changed, and forgets what it lacks."""
    try:
        os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        _list(folder.parent)

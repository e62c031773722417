"""Which files a network may name: those in its own folder, wherever links lead, and no others."""

from __future__ import annotations

import os
from pathlib import Path


def path_beside(network: Path, name: str) -> Path | None:
    """Return the file that a network, or the table beside it, calls by a name; None where it is not in its folder.

    The path has no links and no parts such as `.`: one file has one path, however it is spelled.
    """
    if not name or "\0" in name or os.path.isabs(name):
        return None
    folder = os.path.realpath(network.parent)
    target = Path(os.path.realpath(os.path.join(folder, name)))
    return target if target.is_relative_to(folder) else None

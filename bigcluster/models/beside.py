"""This module decides which files a network may name: those in its own folder, after links are resolved."""

from __future__ import annotations

import os
from pathlib import Path

from bigcluster.errors import ModelError
from bigcluster.units import quoted


def path_beside(network: Path, name: str) -> Path | None:
    """Return the path of a file that a network or its table names; None where it is not in the folder of the network.

    The path has no links and no parts such as `.`, so that one file has one path.
    """
    if not name or "\0" in name or os.path.isabs(name):
        return None
    folder = os.path.realpath(network.parent)
    target = Path(os.path.realpath(os.path.join(folder, name)))
    return target if target.is_relative_to(folder) else None


def is_there(path: Path, named_by: str = "features") -> bool:
    """Return whether a path that the user gave exists. named_by : the setting that names it, for the message.

    Raises ModelError where the system cannot say, for example because the name is too long.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ModelError(f"{named_by}: {quoted(str(path))} cannot be read: {error.strerror}") from error
    return True

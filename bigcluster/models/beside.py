"""Which files a network may name: those in its own folder, wherever links lead, and no others; and what is there."""

from __future__ import annotations

import os
from pathlib import Path

from bigcluster.errors import ModelError
from bigcluster.units import quoted


def path_beside(network: Path, name: str) -> Path | None:
    """Return the file that a network, or the table beside it, calls by a name; None where it is not in its folder.

    The path has no links and no parts such as `.`: one file has one path, however it is spelled.
    """
    if not name or "\0" in name or os.path.isabs(name):
        return None
    folder = os.path.realpath(network.parent)
    target = Path(os.path.realpath(os.path.join(folder, name)))
    return target if target.is_relative_to(folder) else None


def is_there(path: Path, named_by: str = "features") -> bool:
    """Return whether there is anything at a path of the user. named_by : what names it, for the message.

    Raises ModelError where the system does not tell, as of a name that is too long.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ModelError(f"{named_by}: {quoted(str(path))} cannot be read: {error.strerror}") from error
    return True

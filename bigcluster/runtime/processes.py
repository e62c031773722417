"""How bigcluster starts Python processes: in one place, so that none of them runs what lies in the current folder.

The current folder is often a folder of pictures, and pictures come from strangers. Python puts it on its path by itself
(`python -m`), by an empty or relative entry of PYTHONPATH, and through relative names in other variables; matplotlib
and numba read settings from it. So our processes start with `-P`, with absolute entries of PYTHONPATH alone, and in
the root folder, where only the system's administrator can put files. Paths that they are given must be absolute.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigcluster.errors import UsageError

PACKAGE_PARENT = str(Path(__file__).parents[2])


def start_python(
    module: str, *arguments: str, variables: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Start `python -m MODULE ARGUMENTS`, which imports the same bigcluster, and nothing from the current folder.

    variables : beyond our own environment; options : of subprocess.Popen.
    """
    flags = ["-P", *["-s"] * sys.flags.no_user_site]
    command = [sys.executable, *flags, "-m", module, *arguments]
    return subprocess.Popen(command, env=_environment() | dict(variables or {}), cwd=os.sep, **options)


def absolute(path: str | os.PathLike[str]) -> str:
    """The path as it holds in every folder. Nothing else about it changes: `a/../b` is not `b` where `a` is a link.

    Raises UsageError where the path is relative and the current folder is gone.
    """
    if os.path.isabs(path):
        return os.fspath(path)
    try:
        return os.path.join(Path.cwd(), path)
    except OSError as error:
        raise UsageError(f"the current folder cannot be found ({error.strerror}): give {path} from the root") from error


def leave_current_folder() -> None:
    """Take from this process's own path what relative entries of PYTHONPATH put there: for programs, not for libraries.

    What Python imports before it comes to us is not protected by this.
    """
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep) if "PYTHONPATH" in os.environ else []
    relative = {os.path.abspath(entry) for entry in entries if not os.path.isabs(entry)}
    sys.path[:] = [entry for entry in sys.path if entry not in relative - set(_absolute_entries())]


_OURS: set[str] = set()
"""Names of variables that are set for this process alone."""


def set_for_us(name: str, value: str) -> None:
    """Set an environment variable for the libraries of this process, and not for the processes that it starts."""
    if name not in os.environ:
        _OURS.add(name)
        os.environ[name] = value


def _environment() -> dict[str, str]:
    """Our environment, with a path for modules that names no folder relative to the current one."""
    path = _absolute_entries()
    if PACKAGE_PARENT not in path and PACKAGE_PARENT not in _site_folders():
        path.insert(0, PACKAGE_PARENT)
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", *_OURS)}
    # PYTHONSAFEPATH is for processes that libraries start from ours.
    return inherited | {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": os.pathsep.join(path)} if path else {})


def _absolute_entries() -> list[str]:
    """Of PYTHONPATH: an empty entry means the current folder, as `.` does. Python itself may have been told (-E, -I)
    to ignore that variable."""
    search_path = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    return [entry for entry in search_path.split(os.pathsep) if os.path.isabs(entry)]


def _site_folders() -> list[str]:
    """Where installed packages lie: they are on every path already, behind Python's own modules."""
    return [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]

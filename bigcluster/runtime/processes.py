"""This module starts all Python processes of bigcluster, so that none of them runs code from the current folder.

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
    """Start `python -m MODULE ARGUMENTS`. It imports the same bigcluster and nothing from the current folder.

    variables : environment variables in addition to those of this process. options : arguments of subprocess.Popen.
    """
    flags = ["-P", *["-s"] * sys.flags.no_user_site]
    command = [sys.executable, *flags, "-m", module, *arguments]
    return subprocess.Popen(command, env=_environment() | dict(variables or {}), cwd=os.sep, **options)


def absolute(path: str | os.PathLike[str]) -> str:
    """Return the path from the root. Nothing else about it changes: `a/../b` is not `b` where `a` is a link.

    Raises UsageError where the path is relative and the current folder is gone.
    """
    if os.path.isabs(path):
        return os.fspath(path)
    try:
        return os.path.join(Path.cwd(), path)
    except OSError as error:
        raise UsageError(f"the current folder cannot be found ({error.strerror}): give {path} from the root") from error


def leave_current_folder() -> None:
    """Remove the folders of relative entries of PYTHONPATH from sys.path. Programs call it, libraries must not.

    It does not protect what Python imports before this call.
    """
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep) if "PYTHONPATH" in os.environ else []
    relative = {os.path.abspath(entry) for entry in entries if not os.path.isabs(entry)}
    sys.path[:] = [entry for entry in sys.path if entry not in relative - set(_absolute_entries())]


_OURS: set[str] = set()
"""Names of environment variables that are set for this process alone."""


def set_for_us(name: str, value: str) -> None:
    """Set an environment variable for the libraries of this process, and not for the processes that it starts."""
    if name not in os.environ:
        _OURS.add(name)
        os.environ[name] = value


def _environment() -> dict[str, str]:
    """Return the environment of this process with only absolute folders in PYTHONPATH."""
    path = _absolute_entries()
    if PACKAGE_PARENT not in path and PACKAGE_PARENT not in _site_folders():
        path.insert(0, PACKAGE_PARENT)
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", *_OURS)}
    # PYTHONSAFEPATH is for processes that libraries start from ours.
    return inherited | {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": os.pathsep.join(path)} if path else {})


def _absolute_entries() -> list[str]:
    """Return the absolute entries of PYTHONPATH, without an empty entry, which means the current folder.

    The options -E and -I of Python make it ignore that variable; then there are none.
    """
    search_path = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    return [entry for entry in search_path.split(os.pathsep) if os.path.isabs(entry)]


def _site_folders() -> list[str]:
    """Return the folders of installed packages. They are on every path already, behind the modules of Python."""
    return [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]

"""What the figures about the files of a person share: how a folder looks, commands as processes and as functions."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.stress.work import BUDGET, Job, labels
from bigcluster.errors import BigclusterError
from bigcluster.pipeline.report import report
from bigcluster.pipeline.sweep import sweep
from bigcluster.profiling.publish import publish
from bigcluster.runtime.events import silent

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300
Entry = tuple[int, str]
"""Kind and permissions, and a digest of the content or the text of a link."""


def described(root: Path, *, without: Iterable[str] = ()) -> dict[str, Entry]:
    """Every entry below a folder, and the folder itself, links not followed. without : paths that are left out."""
    found: dict[str, Entry] = {}
    left_out = set(without)
    for path in [root, *root.rglob("*")]:
        name = path.relative_to(root).as_posix()
        if name not in left_out:
            found[name] = entry_of(path)
    return found


def entry_of(path: Path) -> Entry:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return mode, str(path.readlink())
    return mode, digest(path) if stat.S_ISREG(mode) else ""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(*folders: Path) -> Counter[str]:
    """Digests of all regular files below, and how often each is there. Links are not followed."""
    return Counter(
        digest(path) for folder in folders for path in folder.rglob("*") if stat.S_ISREG(path.lstat().st_mode)
    )


def differences(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> list[str]:
    """Paths that were added, lost or changed."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def command(
    *arguments: object, cwd: Path | None = None, variables: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`bigcluster ARGUMENTS` as a process; its exit code, stdout and stderr."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-m", "bigcluster", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path} | dict(variables or {}),
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=PATIENCE_SECONDS,
        check=False,
        **options,
    )


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The errors that a command told on stderr, each in a line of its own; a traceback counts as many."""
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("bigcluster: ")]


def tasks(job: Job, other: Job, out: Path, beside: Path) -> dict[str, Callable[[], Any]]:
    """Every command that reads or writes OUT, as a function. beside : a folder of ours for what goes elsewhere."""
    made = beside / "profiled"
    if not made.exists():
        made.mkdir()
        for name in ("timeline.csv", "timeline.png", "mprofile.dat"):
            (made / name).write_text(f"ours: {name}")
    return {
        "run": lambda: job.run(out),
        "run with another k": lambda: other.run(out),
        "sweep": lambda: sweep(job.settings(out), BUDGET, ks=(2, 3)),
        "predict": lambda: job.predict(out, beside / "predicted.csv"),
        "verify": lambda: job.verify(out),
        "report": lambda: report(job.settings(out), BUDGET),
        "profile": lambda: publish(made, out, silent),
    }


def labels_alone(out: Path) -> list[list[str]]:
    """Of labels.csv, all but the names of entries: where one is taken by somebody else, it has another."""
    return [line.split(",")[:6] for line in labels(out).decode().splitlines()]


def refusal(task: Callable[[], Any]) -> str:
    """The one line with which a task refuses; "" where it does not. Any other error is a fault."""
    try:
        task()
    except BigclusterError as error:
        if not str(error) or "\n" in str(error) or error.exit_code not in (1, 2):
            raise AssertionError(f"not one line, or not exit code 1 or 2: {error!r}") from error
        return str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    return ""


def replace_by_copy(out: Path, original: Path) -> None:
    """OUT as it was, hard links to the images among it (a hard link of a hard link is one too)."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(original, out, symlinks=True, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    if "/clusters/" in source and os.stat(source).st_nlink > 1:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def make_deep(folder: Path, depth: int = 1200, name: str = "d") -> None:
    """Folders in folders, deeper than Python's own recursion goes."""
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


def remove_deep(folder: Path) -> None:
    """Deeper than Python's own removal goes."""
    subprocess.run(["rm", "-rf", "--", str(folder)], check=True)

"""The OUT folder: whose it is, what it kept, and which images it belongs to."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bigcluster.catalog.roots import root_of
from bigcluster.config import Settings, flatten, read_toml, to_toml
from bigcluster.durable import write_text
from bigcluster.errors import (
    ConfigError,
    ImageSizeError,
    InvalidDataError,
    NoImagesError,
    OutError,
    StoreError,
    TooFewSamplesError,
    VarianceNotReachedError,
)
from bigcluster.measure import has_ended

RUN_TOML = "run.toml"
STORE = "store.zarr"
LOCK = ".lock"
MANIFEST = "manifest.csv"
"""The images of a run that was given a list of them in Python."""
_OURS = (RUN_TOML, STORE, LOCK)
"""A folder that holds one of these is the OUT of an earlier run."""
_LEAVING_SECONDS = 1.0
"""A run whose terminal was killed is gone in a moment: its worker leaves when it notices."""
_DYING_SECONDS = 60.0
"""A killed process keeps its locks until its last thread is through with the disk."""
_SETTINGS_DO_NOT_FIT = (
    *(ImageSizeError, InvalidDataError, NoImagesError),
    *(TooFewSamplesError, VarianceNotReachedError),
)


def kept_values(out: str) -> dict[str, Any] | None:
    """The settings that OUT/run.toml kept from the last run, without `out`, or None."""
    path = Path(out) / RUN_TOML
    if not path.is_file():
        return None
    kept = read_toml(path)
    folder = kept.pop("out", None)
    if folder is not None and kept.get("images") == os.path.join(folder, MANIFEST):
        kept["images"] = os.path.join(out, MANIFEST)  # it moves with OUT
    return kept


def absolute(settings: Settings) -> dict[str, Any]:
    """The flat settings as run.toml keeps them: `images` and `out` absolute, so that they hold from any folder."""
    values = flatten(settings)
    for name in ("images", "out"):
        values[name] = str(Path(values[name]).absolute())
        if not values[name].isprintable() or any("\ud800" <= c <= "\udfff" for c in values[name]):
            raise ConfigError(f"{name} has a name that run.toml cannot hold: {values[name]!r}; rename the folder")
    return values


def claim(out: Path, images: str) -> None:
    """Check that OUT may be used for these images and make the folder.

    Raises OutError for a folder of other files or of another IMAGES root, StoreError where it cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise OutError(f"OUT is a file: {out}; give a folder")
    try:
        inside = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
        if inside and not any(name in inside for name in _OURS):
            raise OutError(
                f"OUT holds files that are not ours ({inside[0]}, {len(inside)} in all): {out}; give another"
            )
        kept = kept_values(str(out)) or {}
        if "images" in kept:
            _check_root(out, kept["images"], root_of(images))
        out.mkdir(parents=True, exist_ok=True)
        (out / LOCK).touch()
    except OSError as error:
        if isinstance(error, OutError):
            raise
        raise StoreError(f"OUT cannot be written: {out}: {error.strerror}; give a folder of your own") from error


def _check_root(out: Path, kept_images: str, root: Path) -> None:
    """Refuse another root. One that was renamed is no other: the stored paths are relative to it."""
    kept_root = root_of(kept_images)
    if kept_root == root:
        return
    if kept_root.exists():
        raise OutError(f"OUT belongs to the images in {kept_root}, not {root}: {out}; give another")
    raise OutError(
        f"OUT belongs to the images in {kept_root}, which is gone, not {root}: {out}; where it was renamed, set images "
        f"in {out / RUN_TOML} to its new name, and all is reused; otherwise give another OUT"
    )


@contextmanager
def keeping(settings: Settings) -> Iterator[None]:
    """Write OUT/run.toml: `bigcluster run --config OUT/run.toml` repeats the run.

    Settings that turn out not to fit the images are not kept: the file is put back as it was.
    """
    values = absolute(settings)
    path = Path(values["out"]) / RUN_TOML
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    write_text(path, "# The settings of the last run.\n" + to_toml(values))
    try:
        yield
    except _SETTINGS_DO_NOT_FIT:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            write_text(path, before)
        raise


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold OUT for this process. Raises StoreError where another one has it; the lock of a dead one is none.

    Advisory, by flock; on systems without it nothing is locked.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
        yield
        return
    with (out / LOCK).open("a+", encoding="utf-8") as file:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                file.seek(0)
                holder = file.read().strip()
                if time.monotonic() - began > (_DYING_SECONDS if _is_dying(holder) else _LEAVING_SECONDS):
                    raise StoreError(f"OUT is in use by {holder or 'another run'}: {out}; wait for it") from error
            time.sleep(0.05)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _is_dying(holder: str) -> bool:
    """Whether the process that a lock names has ended on this host, all but for threads that the disk keeps waiting."""
    match = re.fullmatch(r"process (\d+) on (.+)", holder)
    return match is not None and match[2] == socket.gethostname() and has_ended(int(match[1]))

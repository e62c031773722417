"""Files that survive a power cut: data and folder are on disk before anything vouches for them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

DIGEST_DIGITS = 32
"""Hex digits kept of a SHA-256: 128 bits."""
PARTIAL = ".partial"
"""Ends the name of a file that is being written."""


def digest_of(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]


def digest_of_file(path: Path) -> str:
    """The digest of a file of any size, which is not held."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_DIGITS]


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(files: Iterable[Path]) -> None:
    """fsync files, then every folder that holds one of them."""
    folders = set()
    for file in files:
        sync(file)
        folders.add(file.parent)
    for folder in sorted(folders):
        sync(folder)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Write text to a file beside `path` and put it in place when the block ends well; nothing changes otherwise."""
    with _placing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Replace a file whole, on disk when this returns."""
    with _placing(path) as beside, beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _placing(path: Path) -> Iterator[Path]:
    beside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield beside
        beside.replace(path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def sweep_partial(folder: Path) -> None:
    """Remove what interrupted writes left directly in a folder. Nobody else may be writing there."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink()

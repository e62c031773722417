"""This module finds the file of a network in the folder of the user or in the cache, or downloads it.

A file that is on this machine is used without any connection. A download is written to a temporary file, which gets its
final name only when its digest is right. A download that breaks off is started again, and after some attempts the next
address is tried.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigcluster.errors import FetchError, ModelError
from bigcluster.files.bounded import open_regular
from bigcluster.files.paths import cache_folder
from bigcluster.models.beside import is_there
from bigcluster.models.registry import Entry, KnownFile
from bigcluster.runtime.events import Listener, Progress, silent

FOLDER_VARIABLE = "BIGCLUSTER_MODELS"
"""The environment variable with the folder in which a user keeps networks. Nothing is written there."""
_PATIENCE_SECONDS = 30.0
"""Seconds that a server may be silent before the next address is tried. Chosen, not measured."""
_ATTEMPTS = 3
"""Attempts at one address where downloads break off: a bad connection may break twice. Chosen, not measured."""
_PIECE_BYTES = 1 << 16
"""Bytes that are read from a server at once. Chosen, not measured."""
_START_BYTES = 512
"""Bytes at the start of a wrong file by which it is recognized: web pages and pointers of Git LFS begin in them."""


@dataclass(frozen=True)
class StoredFile:
    """The file of a network on this machine."""

    path: Path
    known: KnownFile
    """The file of the registry that it is, by its digest, or by its name where the registry has no digest."""
    note: str = ""
    """What the user should know about the file."""


def models_folder() -> Path:
    """Return the folder of the cache in which networks are stored."""
    return cache_folder() / "models"


def folders() -> list[Path]:
    """Return the folders in which networks are looked for, in this order."""
    folder_of_user = os.environ.get(FOLDER_VARIABLE, "")
    return [*([Path(folder_of_user)] if folder_of_user else []), models_folder()]


def find_stored(entry: Entry) -> StoredFile | None:
    """Return the file of a network where it is on this machine, and None otherwise.

    Raises ModelError for a file in BIGCLUSTER_MODELS that has the right name and another content.
    """
    for folder in folders():
        for known in entry.files:
            path = folder / known.file
            if not is_there(path, "the folder of networks") or not path.is_file():
                continue
            digest = digest_of_model(path)
            if known.sha256 is None:
                return StoredFile(
                    path, known, f"{path} has the SHA-256 {digest}; the registry has none to compare it with"
                )
            by_digest = next((file for file in entry.files if file.sha256 == digest), None)
            if by_digest is not None:
                return StoredFile(path, by_digest)
            if folder != models_folder():
                raise ModelError(
                    f"{path} is not the {entry.name} of the registry: its SHA-256 is {digest}, and should be "
                    f"{known.sha256}; copy it again, or give its path to use it as it is"
                )
    return None


def digest_of_model(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits. Raises ModelError where it cannot be read."""
    try:
        with open_regular(path, follow=True) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def get(
    entry: Entry, *, offline: bool = False, listener: Listener = silent, patience: float | None = None
) -> StoredFile:
    """Return the file of a network, downloaded into the cache where it is not on this machine.

    offline : whether downloads are forbidden. patience : seconds that a server may be silent.
    Raises FetchError where no address sent the file, or downloads are forbidden; ModelError as `find_stored` does.
    """
    stored = find_stored(entry)
    if stored is not None:
        return stored
    known = entry.files[0]
    if not known.addresses or known.sha256 is None or known.n_bytes is None:
        raise FetchError(
            f"{entry.name} is not on this machine, and the registry has no address and digest for it ({known.note}): "
            f"put {known.file} into the folder that {FOLDER_VARIABLE} names, or give the path of the file"
        )
    if offline:
        raise FetchError(f"{entry.name} is not on this machine, and models.offline is true; {_by_hand(known)}")
    faults = []
    for address in known.addresses:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                fault = _download(entry, known, address, listener, patience or _PATIENCE_SECONDS)
            except _BrokeOffError:
                fault = f"broke off {attempt} times"
                continue
            break
        if fault is None:
            return StoredFile(models_folder() / known.file, known)
        faults.append(f"{address} {fault}")
    raise FetchError(f"{entry.name} could not be downloaded: {'; '.join(faults)}; {_by_hand(known)}")


def _by_hand(known: KnownFile) -> str:
    return (
        f"by hand: fetch {known.addresses[0]} ({known.n_bytes:,} bytes, SHA-256 {known.sha256}) and put it at "
        f"{models_folder() / known.file}, or into the folder that {FOLDER_VARIABLE} names"
    )


class _BrokeOffError(Exception):
    """A server ended the connection before the end of the file."""


class _TooLongError(Exception):
    """A server sends more bytes than the registry says that the file has."""


class _Bar:
    """The progress bar that pooch calls for every piece of a download. It ends a download that is too long."""

    def __init__(self, n_bytes: int, progress: Progress) -> None:
        self._n_bytes, self._progress, self._done, self._has_ended = n_bytes, progress, 0, False
        self.total = n_bytes
        """pooch sets it to the number of bytes that the server announces. It is not used: the registry has it."""

    def update(self, n_bytes: int) -> None:
        if self._has_ended:
            return
        self._done += n_bytes
        if self._done >= self._n_bytes + _PIECE_BYTES:  # pooch counts the last piece as a whole one
            raise _TooLongError
        self._progress.at(min(self._done, self._n_bytes))

    def reset(self) -> None:
        """Ignore later updates: pooch calls it at the end, and then reports all bytes a second time."""
        self._has_ended = True

    def close(self) -> None:
        """Do nothing. pooch calls it at the end."""


def _download(entry: Entry, known: KnownFile, address: str, listener: Listener, patience: float) -> str | None:
    """Download a file into the cache. Return what went wrong with this address, or None where nothing did.

    Raises _BrokeOffError where another attempt may succeed, and FetchError where the cache cannot be written to, so
    that no other address would help.
    """
    import pooch  # it imports requests, which takes 0.1 s, so it is imported only where something is downloaded
    import requests

    pooch.get_logger().setLevel("ERROR")
    n_bytes = known.n_bytes
    assert n_bytes is not None
    progress = Progress(listener)
    start = b""

    def download(url: str, path: str, pooch_object: Any) -> None:
        nonlocal start
        bar = _Bar(n_bytes, progress)
        pooch.HTTPDownloader(progressbar=bar, chunk_size=_PIECE_BYTES, timeout=patience)(url, path, pooch_object)
        with open(path, "rb") as file:
            start = file.read(_START_BYTES)

    try:
        with progress.stage(f"download {entry.name}", n_bytes, "bytes"):
            pooch.retrieve(address, f"sha256:{known.sha256}", known.file, models_folder(), downloader=download)
    except _TooLongError:
        return f"sends more than the {n_bytes:,} bytes of the file"
    except requests.exceptions.Timeout:
        return f"was silent for {patience:g} seconds"
    except requests.exceptions.HTTPError as error:
        return f"answers {error.response.status_code}"
    except requests.exceptions.ChunkedEncodingError as error:  # requests raises it for too few bytes, too
        raise _BrokeOffError from error
    except requests.exceptions.RequestException as error:
        return f"cannot be reached ({type(error).__name__})"
    except ValueError:  # pooch raises it where the digest is wrong
        return _kind_of_wrong_file(start)
    except OSError as error:
        raise FetchError(
            f"{models_folder()} cannot be written to ({error.strerror or error}); set XDG_CACHE_HOME to another "
            f"folder, or {_by_hand(known)}"
        ) from error
    return None


def _kind_of_wrong_file(start: bytes) -> str:
    """Say what a server sends instead of the file. start : the first bytes of it."""
    if not start:
        return "sends an empty file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "sends a web page instead of the file"
    if start.startswith(b"version https://git-lfs"):
        return "sends a pointer of Git LFS instead of the file"
    return "sends a file with another SHA-256"

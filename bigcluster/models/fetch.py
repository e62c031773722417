"""Finds the file of a network: where the user keeps such files, in the cache, or by a download that is checked.

A file that is there is used without a single call of the network. A download goes to another name first, and gets its
own only when its digest is right: one that was cut is begun anew, from the next address where there are several.
"""

from __future__ import annotations

import contextlib
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
"""Seconds that a server may be silent: then the next address is tried."""
_ATTEMPTS = 3
"""How often a download that breaks off is begun at one address. Chosen, not measured: a bad connection breaks twice."""
_PIECE_BYTES = 1 << 16
"""Bytes that are taken from a server at once."""


@dataclass(frozen=True)
class Found:
    """The file of a network, on this machine."""

    path: Path
    known: KnownFile | None
    """What the registry says of it; None for a file that it does not know."""
    note: str = ""
    """What the user should know about the file."""


def models_folder() -> Path:
    """Return the folder of the cache for networks."""
    return cache_folder() / "models"


def folders() -> list[Path]:
    """Return the folders in which networks are looked for, in this order."""
    own = os.environ.get(FOLDER_VARIABLE, "")
    return [*([Path(own)] if own else []), models_folder()]


def find_stored(entry: Entry) -> Found | None:
    """Return the file of a network that is on this machine; None where there is none.

    Raises ModelError for a file in BIGCLUSTER_MODELS that has the right name and another content.
    """
    for folder in folders():
        for known in entry.files:
            path = folder / known.file
            if not is_there(path, "the folder of networks") or not path.is_file():
                continue
            digest = digest_of_model(path)
            if known.sha256 is None:
                return Found(path, known, f"{path} has the SHA-256 {digest}; the registry has none to compare it with")
            by_digest = next((file for file in entry.files if file.sha256 == digest), None)
            if by_digest is not None:
                return Found(path, by_digest)
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


def get(entry: Entry, *, offline: bool = False, listener: Listener = silent, patience: float | None = None) -> Found:
    """Return the file of a network, downloaded into the cache where it is not on this machine.

    offline : nothing is downloaded. patience : seconds that a server may be silent.
    Raises FetchError where no address gave the file, or none may be asked; ModelError as `find_stored`.
    """
    found = find_stored(entry)
    if found is not None:
        return found
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
            return Found(models_folder() / known.file, known)
        faults.append(f"{address} {fault}")
    raise FetchError(f"{entry.name} could not be downloaded: {'; '.join(faults)}; {_by_hand(known)}")


def _by_hand(known: KnownFile) -> str:
    return (
        f"by hand: fetch {known.addresses[0]} ({known.n_bytes:,} bytes, SHA-256 {known.sha256}) and put it at "
        f"{models_folder() / known.file}, or into the folder that {FOLDER_VARIABLE} names"
    )


class _BrokeOffError(Exception):
    """A server began to send, and ended before the file did."""


class _TooLongError(Exception):
    """A server sends more bytes than the file has."""


class _Bar:
    """What pooch takes for a progress bar: it hears of every piece, and ends a download that is too long."""

    def __init__(self, n_bytes: int, progress: Progress) -> None:
        self._n_bytes, self._progress, self._done, self._has_ended = n_bytes, progress, 0, False
        self.total = n_bytes
        """Set by pooch to what the server says; nothing reads it, because the registry knows."""

    def update(self, n_bytes: int) -> None:
        if self._has_ended:
            return
        self._done += n_bytes
        if self._done >= self._n_bytes + _PIECE_BYTES:  # pooch counts the last piece as a whole one
            raise _TooLongError
        self._progress.at(min(self._done, self._n_bytes))

    def reset(self) -> None:
        """Called by pooch at the end, before it tells all bytes that the server announced once more."""
        self._has_ended = True

    def close(self) -> None:
        """Called by pooch at the end."""


def _download(entry: Entry, known: KnownFile, address: str, listener: Listener, patience: float) -> str | None:
    """Download a file into the cache; return what went wrong with this address, or None.

    Raises _BrokeOffError where it is worth while to begin anew, and FetchError where the cache cannot be written to,
    so that no other address would help.
    """
    import pooch  # with it comes requests, 0.1 s: only where something is downloaded
    import requests

    pooch.get_logger().setLevel("ERROR")
    assert known.n_bytes is not None
    progress = Progress(listener)
    start = b""

    def remember(path: str) -> None:
        nonlocal start
        with contextlib.suppress(OSError), open(path, "rb") as file:
            start = file.read(512)

    def fetch(url: str, output_file: Any, mover: Any) -> None:
        bar = _Bar(known.n_bytes or 0, progress)
        pooch.HTTPDownloader(progressbar=bar, chunk_size=_PIECE_BYTES, timeout=patience)(url, output_file, mover)
        remember(str(output_file))

    try:
        with progress.stage(f"download {entry.name}", known.n_bytes, "bytes"):
            pooch.retrieve(address, f"sha256:{known.sha256}", known.file, models_folder(), downloader=fetch)
    except _TooLongError:
        return f"sends more than the {known.n_bytes:,} bytes of the file"
    except requests.exceptions.Timeout:
        return f"was silent for {patience:g} seconds"
    except requests.exceptions.HTTPError as error:
        return f"answers {error.response.status_code}"
    except requests.exceptions.ChunkedEncodingError as error:  # what requests makes of too few bytes too
        raise _BrokeOffError from error
    except requests.exceptions.RequestException as error:
        return f"cannot be reached ({type(error).__name__})"
    except ValueError:  # pooch: the digest is another one
        return _what_came(start)
    except OSError as error:
        raise FetchError(
            f"{models_folder()} cannot be written to ({error.strerror or error}); set XDG_CACHE_HOME to another "
            f"folder, or {_by_hand(known)}"
        ) from error
    return None


def _what_came(start: bytes) -> str:
    if not start:
        return "sends an empty file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "sends a web page instead of the file"
    if start.startswith(b"version https://git-lfs"):
        return "sends a pointer of Git LFS instead of the file"
    return "sends a file with another SHA-256"

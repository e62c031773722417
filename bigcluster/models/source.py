"""This module finds and reads the file of a network: by a name of the registry, or by its path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bigcluster.errors import ModelError
from bigcluster.models import fetch, registry
from bigcluster.models.beside import is_there
from bigcluster.models.onnx_file import read_onnx
from bigcluster.models.onnx_graph import OnnxFile
from bigcluster.models.preprocess import Preprocessing, preprocessing_beside
from bigcluster.runtime.events import Listener, silent
from bigcluster.units import printable


@dataclass(frozen=True)
class Source:
    """A network file that was read, with its preprocessing."""

    name: str
    """The name in the registry, or that of the file."""
    licence: str
    path: Path
    file: OnnxFile
    preprocessing: Preprocessing
    described_in: str
    """The source of the preprocessing: a path, or the registry."""
    note: str
    is_known: bool
    """Whether the registry has the digest of the file."""


def find_source(
    name_or_path: str,
    *,
    named_by: str = "features",
    offline: bool = False,
    most_bytes: int | None = None,
    listener: Listener = silent,
) -> Source:
    """Find a network by a name of the registry or by the path of its file, and read it.

    named_by : the setting or argument that names it, for messages.
    offline : whether downloads are forbidden. most_bytes : bytes of memory that reading may take; None for no limit.
    listener : called with the events of a download.
    Raises ModelError for a network that cannot be used, FetchError where a download fails, MemoryBudgetError for a file
    that is too large for `most_bytes`.
    """
    if name_or_path in registry.registry():
        entry = registry.find(name_or_path)
        stored = fetch.get(entry, offline=offline, listener=listener)
        file = read_onnx(stored.path, most_bytes)
        if stored.known.sha256 not in (None, file.sha256):
            raise ModelError(f"{stored.path} was changed while it was read; give the command again")
        known = stored.known
        return _source(entry.name, entry.licence, stored.path, file, known.preprocessing, stored.note, known.sha256)
    path = Path(name_or_path)
    if not is_there(path, named_by):
        registry.find(name_or_path, named_by)  # raises ModelError, since the name is not in the registry
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the ONNX file in it")
    file = read_onnx(path, most_bytes)
    recognized = registry.recognize(file.sha256)
    if recognized is not None:
        entry, known = recognized
        return _source(entry.name, entry.licence, path, file, known.preprocessing, "", known.sha256)
    note = f"{path} has the SHA-256 {file.sha256}"
    return _source(printable(path.name), "unknown", path, file, None, note, None)


def digest_of_network(name_or_path: str, *, offline: bool) -> str:
    """Return the SHA-256 of the file of a network on this machine; one of the registry is downloaded if need be.

    Raises ModelError for a file that cannot be read, FetchError where a download fails or is forbidden.
    """
    if name_or_path in registry.registry():
        return fetch.digest_of_model(fetch.get(registry.find(name_or_path), offline=offline).path)
    return fetch.digest_of_model(Path(name_or_path))


def _source(
    name: str,
    licence: str,
    path: Path,
    file: OnnxFile,
    registered: Preprocessing | None,
    note: str,
    registered_digest: str | None,
) -> Source:
    preprocessing, where = preprocessing_beside(path, registered)
    return Source(name, licence, path, file, preprocessing, where, note, registered_digest is not None)

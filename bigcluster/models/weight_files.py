"""The bytes of a network's file, and of the files beside it that hold its weights: each is read once, and all together
are bounded. No file outside of the folder of the network is read."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from bigcluster.errors import MemoryBudgetError, ModelError
from bigcluster.files.bounded import UnfitFileError, open_regular
from bigcluster.models.beside import path_beside
from bigcluster.models.protobuf import WireError
from bigcluster.units import quoted, show_bytes

MOST_BYTES = 2**31 - 1
"""Bytes of a network with all of its weights, at most: what one protocol buffer can hold."""
_COPIES = 2
"""Copies of a file in memory while it is loaded, at least: its bytes, and those that ONNX Runtime is given."""


class WeightFiles:
    """The file of a network and the files of its weights, as they are read."""

    def __init__(self, path: Path, most_bytes: int | None) -> None:
        """Read the file of the network.

        most_bytes : memory that all files may take; None for any. Raises ModelError for a file that cannot be read, and
        MemoryBudgetError, before a byte is read, where `most_bytes` is too little for it.
        """
        self._path, self._most_bytes = path, most_bytes
        self._n_bytes = 0
        self._n_taken_bytes = 0
        self._beside: dict[str, memoryview] = {}
        """Path in the folder -> content of the files that hold weights. A file with many spellings is read once."""
        try:
            self.network = self._read(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not self.network:
            raise ModelError(f"{path} is empty; copy or download it again")

    @property
    def n_bytes(self) -> int:
        """The bytes of the network's file, and of all weights that were taken from other files."""
        return len(self.network) + self._n_taken_bytes

    def data(self, name: str, where: dict[str, str]) -> memoryview:
        """Return the data of a tensor from a file in the folder of the network.

        name : of the tensor. where : the entries of its external_data: location, offset and length.
        Raises ModelError for a file elsewhere, one that cannot be read or is cut, and weights that are too large;
        WireError where offset or length is no number; MemoryBudgetError where the file does not fit.
        """
        location = where.get("location", "")
        target = path_beside(self._path, location)
        if target is None:
            raise ModelError(
                f"{self._path} has the weights {quoted(name)} in the file {quoted(location)}, which is not in the "
                "folder of the network: not allowed"
            )
        content = self._content(target, location)
        try:
            start = int(where.get("offset", "0"))
            n_bytes = int(where.get("length", len(content) - start))
        except ValueError as error:
            raise WireError("the place of its weights in another file is no number") from error
        if start < 0 or n_bytes < 0 or start + n_bytes > len(content):
            raise ModelError(f"{target} ends before the weights {quoted(name)} of {self._path.name}: it is cut")
        self._n_taken_bytes += n_bytes
        if self.n_bytes > MOST_BYTES:
            raise ModelError(f"{self._path} and its weights have more than {show_bytes(MOST_BYTES)}")
        return content[start : start + n_bytes]

    def digest(self) -> str:
        """Return the SHA-256 of the network's file; where weights lie in other files, of the digests of all of them."""
        whole = hashlib.sha256(self.network).hexdigest()
        if not self._beside:
            return whole
        digests = [f"{name}:{hashlib.sha256(self._beside[name]).hexdigest()}" for name in sorted(self._beside)]
        return hashlib.sha256("\n".join([whole, *digests]).encode()).hexdigest()

    def _content(self, target: Path, location: str) -> memoryview:
        key = os.path.relpath(target, os.path.realpath(self._path.parent))
        if key not in self._beside:
            try:
                self._beside[key] = memoryview(self._read(target))
            except FileNotFoundError as error:
                raise ModelError(
                    f"{self._path} has its weights in the file {quoted(location)}, which is not there; put it beside"
                ) from error
            except OSError as error:
                raise _unreadable(target, error) from error
        return self._beside[key]

    def _read(self, path: Path) -> bytes:
        with open_regular(path, follow=True) as file:
            n_bytes, limit_bytes = os.fstat(file.fileno()).st_size, MOST_BYTES - self._n_bytes
            if n_bytes > limit_bytes:
                reason = f"it has {show_bytes(n_bytes)}, {show_bytes(limit_bytes)} are the most"
                raise UnfitFileError(errno.EFBIG, reason)
            n_needed = _COPIES * (self._n_bytes + n_bytes)
            if self._most_bytes is not None and n_needed > self._most_bytes:
                raise MemoryBudgetError(
                    f"loading {path} takes about {show_bytes(n_needed)}, the memory budget leaves "
                    f"{show_bytes(self._most_bytes)}; use a larger --memory or a smaller network"
                )
            data = file.read(n_bytes)
        self._n_bytes += len(data)
        return data


def _unreadable(path: Path, error: OSError) -> ModelError:
    if isinstance(error, FileNotFoundError):
        return ModelError(f"there is no network {path}")
    return ModelError(f"{path} cannot be read: {error.strerror or error}")

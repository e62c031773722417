"""Features that the user brings: one vector for each image, from a file of numpy or Parquet, or the manifest itself.

A vector belongs to the image with its path. Relative paths are those of the results: they begin in the folder of
IMAGES. Where no vector would have an image then, they begin in the folder of the file of vectors.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing
from bigcluster.catalog.keys import name_keys
from bigcluster.catalog.listing import joined
from bigcluster.catalog.manifest import Manifest
from bigcluster.catalog.manifest_rows import AUTO, PARQUET_SUFFIX, parquet_bytes
from bigcluster.catalog.string_array import StringArray
from bigcluster.catalog.walk import NameBudget
from bigcluster.config import COLUMN, Settings
from bigcluster.errors import ConfigError, InputChangedError, UsageError
from bigcluster.kernels.decode import View
from bigcluster.kernels.linalg.unit_length import to_unit_length
from bigcluster.runtime.events import Listener, Note
from bigcluster.stages.vector_files import SourceFile, VectorRows, check_lengths, open_npy, open_parquet
from bigcluster.store import fingerprint
from bigcluster.store.row_source import spans
from bigcluster.units import counted, printable

KIND_OF_VECTORS = "vectors"
VECTOR_COLUMN = "vector"
"""The column of a Parquet file of vectors that holds them."""
_NAMES_AT_ONCE = 1 << 16
"""Number of names of images that are compared at a time: their hashes take 2 MiB. Chosen, not measured."""
_SECONDS = 2e-5
"""Seconds of one thread for a row, which is read from the page cache and checked. Measured with 768 values."""
_NO_ROW = -1
"""Stands for the number of a vector where an image has none."""
_COPIES = 4
"""Sizes of a float32 vector that a thread needs at once: the vector, its quotient by its length in float64 (2), and the
result."""


class Vectors:
    """The vectors of the user as an embedding; see `stages.embedding.Embedding`."""

    kind = KIND_OF_VECTORS
    dtype = "float32"
    class_names: tuple[str, ...] = ()
    n_classes = 0
    view: View | None = None
    seconds = _SECONDS

    def __init__(
        self,
        settings: Settings,
        images: str | None,
        most_bytes: int,
        listener: Listener,
        *,
        store_rows: bool = True,
    ) -> None:
        """Open the vectors that the settings name, and check them.

        images : the images of the call; `column:NAME` is a column of this manifest. most_bytes : the bytes that reading
        may take. listener : gets a note about vectors without an image. store_rows : False for a plan, which reads no
        row.
        Raises ConfigError where IMAGES has no such column, UsageError for files that cannot be used.
        """
        self.unit_length = settings.embedding.normalize == "l2"
        self._listener = listener
        self._positions: NDArray[np.int64] = np.empty(0, np.int64)
        self._base = ""
        self._in_manifest = settings.features.startswith(COLUMN)
        self._most_bytes, limit_bytes = most_bytes, parquet_bytes(most_bytes)
        path, column = _place(settings.features, images)
        self._path, self._paths = path, path
        self.name = f"column {column} of {path.name}" if self._in_manifest else path.name
        self._source = SourceFile.read(path, "file of vectors")
        self._of_paths: SourceFile | None = None
        if path.suffix.lower() == PARQUET_SUFFIX:
            scratch = _scratch_folder(settings.out) if store_rows else None
            self._rows: VectorRows = open_parquet(self._source, column, limit_bytes, scratch)
        else:
            self._paths = path.with_suffix(".csv")
            self._of_paths = SourceFile.read(self._paths, "paths of the vectors")
            self._rows = open_npy(self._source)
        self._column = column
        self.n_features = self._rows.n_features

    @property
    def fingerprint(self) -> str:
        """It covers the content of the files, so that changed vectors are read anew."""
        return fingerprint(
            vectors=self._source.sha256,
            paths=None if self._of_paths is None else self._of_paths.sha256,
            column=self._column,
            base=self._base,
            unit_length=self.unit_length,
        )

    @property
    def facts(self) -> dict[str, str | int | bool]:
        facts: dict[str, str | int | bool] = {"sha256": self._source.sha256}
        if self._column:
            facts["column"] = printable(self._column)
        return facts | {"normalize": "l2" if self.unit_length else "none"}

    @property
    def shared_bytes(self) -> int:
        return self._positions.nbytes

    @property
    def thread_bytes(self) -> int:
        return self._rows.row_bytes + _COPIES * self.n_features * np.dtype(self.dtype).itemsize

    def release(self) -> None:
        self._rows.close()

    def listed(self, listing: Listing) -> None:
        """Find the vector of each listed image; see `Embedding.listed`.

        Raises UsageError where a path has two vectors, or no vector has an image; InputChangedError.
        """
        try:
            self._find(listing)
        except BaseException:
            self.release()
            raise

    def _find(self, listing: Listing) -> None:
        if self._in_manifest:
            if len(listing) != self._rows.n_rows:
                raise InputChangedError(f"the manifest {self._path} was changed while it was read; run again")
            self._positions = np.arange(len(listing))
            self._source.check()
            return
        budget = NameBudget(self._most_bytes)
        budget.take(len(listing))
        for base, folder in (("images", listing.root), ("file", self._path.resolve().parent)):
            names = self._read_paths(folder, budget)
            self._base, self._positions = base, _positions(names, listing, self._paths)
            if (self._positions != _NO_ROW).any():
                break
        else:
            raise UsageError(
                f"no vector of {self._path} is of a listed image: paths begin in {listing.root} or beside the file, "
                f"and the first one is {names[0]!r:.200}"
            )
        positions = self._positions
        n_other = self._rows.n_rows - np.unique(positions[positions != _NO_ROW]).size
        if n_other:
            number = counted(n_other, "vector", "is", "are")
            self._listener(Note(f"{number} in {self._path.name} of images that are not listed"))

    def _read_paths(self, folder: Path, budget: NameBudget) -> StringArray:
        """Return the absolute path of every vector. folder : where relative paths begin."""
        manifest = Manifest(self._paths, AUTO, parquet_bytes(self._most_bytes), leave_out_lists=True, folder=folder)
        names = StringArray(joined(folder, name) for name in budget.taken_by(manifest.paths()))
        (self._of_paths or self._source).check()
        check_lengths(self._rows, len(names), self._path, self._paths)
        return names

    def fill(self, row: int, view: NDArray[np.uint8] | None, out: NDArray[Any]) -> str:
        """Write the vector of a listed row to `out`; see `Embedding.fill`."""
        del view
        number = int(self._positions[row])
        vector = None if number == _NO_ROW else self._rows.row(number)
        if vector is None:
            return f"{self.name} has no vector for it"
        if not np.isfinite(vector).all():
            return f"its vector in {self.name} has NaN or infinity"
        out[:] = to_unit_length(vector) if self.unit_length else vector
        return ""


def _place(features: str, images: str | None) -> tuple[Path, str]:
    """Return the file of the vectors and their column. Raises ConfigError where IMAGES is no Parquet manifest."""
    if not features.startswith(COLUMN):
        return Path(features), VECTOR_COLUMN if features.lower().endswith(PARQUET_SUFFIX) else ""
    if images is None or Path(images).suffix.lower() != PARQUET_SUFFIX:
        raise ConfigError(f"features = {features} is a column of IMAGES, which must be a Parquet file then")
    return Path(images).resolve(), features.removeprefix(COLUMN)


def _scratch_folder(out: str | None) -> Path:
    """Return the folder for the unnamed file: OUT or the nearest folder above it, where the results have room."""
    if out is not None:
        folder = next(path for path in (Path(out), *Path(out).parents) if path.is_dir())
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return Path(tempfile.gettempdir())


def _positions(names: StringArray, listing: Listing, paths: Path) -> NDArray[np.int64]:
    """Return the number of the vector of each listed row, (n_listed,), or -1 where it has none.

    names : the absolute path of every vector. Raises UsageError where two are equal.
    """
    keys = name_keys(names)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    for at in np.flatnonzero(keys[1:] == keys[:-1]).tolist():
        first, second = (int(order[at + i]) for i in (0, 1))
        if names[first] == names[second]:
            raise UsageError(
                f"{paths} names {names[first]} twice, in its rows {first + 1} and {second + 1}; an image has one vector"
            )
    positions = np.full(len(listing), _NO_ROW, np.int64)
    for start, stop in spans(len(listing), _NAMES_AT_ONCE):
        listed = [joined(listing.root, listing.names[row]) for row in range(start, stop)]
        listed_keys = name_keys(listed)
        left = np.searchsorted(keys, listed_keys, "left")
        right = np.searchsorted(keys, listed_keys, "right")
        for i in np.flatnonzero(right > left).tolist():  # more than one only where two names have the same hash
            same = (int(order[at]) for at in range(left[i], right[i]) if names[int(order[at])] == listed[i])
            positions[start + i] = next(same, _NO_ROW)
    return positions

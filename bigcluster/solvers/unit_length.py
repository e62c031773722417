"""A row source that scales the rows of another one to the length 1, and references to rows of both kinds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.unit_length import to_unit_length
from bigcluster.runtime.cluster import Local, Worker
from bigcluster.store.refs import RowSourceRef, RowsRef
from bigcluster.store.row_source import RowSource

if TYPE_CHECKING:
    import dask.array as da


class UnitLengthRows:
    """The float32 rows of another source, each scaled to the length 1. Every read reads whole rows."""

    def __init__(self, rows: RowSource) -> None:
        if rows.dtype != np.float32:
            raise ValueError(f"rows of {rows.dtype} cannot have the length 1; float32 rows can")
        self._rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        return self._rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._rows.dtype

    def read(
        self, start: int, stop: int, columns: slice = slice(None), *, spent: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return rows start .. stop - 1, as `RowSource.read` does."""
        del spent  # it has the size of the result, which can be smaller than the whole rows that are read
        return np.ascontiguousarray(to_unit_length(self._rows.read(start, stop))[:, columns])

    @property
    def rows(self) -> RowSource:
        """The rows before they are scaled."""
        return self._rows

    def dask(self) -> da.Array:
        """Return the same matrix as a dask array, whose blocks have whole rows."""
        rows = self._rows.dask()
        return rows.rechunk({1: -1}).map_blocks(to_unit_length, dtype=np.float32)


@dataclass(frozen=True)
class UnitLengthRef:
    """A reference to such rows."""

    rows: RowsRef
    _here: Local[RowSource] = field(default_factory=Local, compare=False, repr=False)

    def open(self, worker: Worker) -> RowSource:
        """Return the rows in this process."""
        return self._here.value or UnitLengthRows(self.rows.open(worker))


def ref_of(rows: RowSource) -> RowSourceRef:
    """Return the reference to rows, scaled or not."""
    return UnitLengthRef(RowsRef.of(rows.rows), Local(rows)) if isinstance(rows, UnitLengthRows) else RowsRef.of(rows)

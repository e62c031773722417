"""More columns in the tables of the row blocks: some values for every listed file, which an earlier version lacked.

A block whose table lacks the column gets it when it is first asked for, from the stored pixels or from the images. So a
later version reads a store of an earlier one without a new format. An earlier version does not look at the column; it
keeps it while the contents of the files stay the same, and drops it with the block where they do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.stages.ingest import tables
from bigcluster.stages.pixel_blocks import Block, replace_table
from bigcluster.store import Columns, Store


@dataclass(frozen=True)
class RowColumn:
    """A column with the same number of values for every row. They depend on the content of the row's file alone, and
    on how its picture is decoded."""

    name: str
    """Values that are made in another way belong into a column of another name."""
    dtype: str
    n_values: int = 1
    """The number of values of a row."""

    def of(self, columns: Columns, n_rows: int) -> NDArray[Any] | None:
        """Return the values in a table of so many rows, (n_rows, n_values); None where it does not hold them."""
        values = columns.get(self.name)
        if values is None or values.dtype != np.dtype(self.dtype) or len(values) != n_rows * self.n_values:
            return None
        return values.reshape(n_rows, self.n_values)


def require(store: Store, column: RowColumn, make: Callable[[Block], NDArray[Any]]) -> NDArray[Any]:
    """Return a column of all listed files, (n_listed, n_values). Tables that lack it get it.

    make : returns the values of a block, (n_rows, n_values). It is called for blocks whose tables lack them. The others
    are as they were found: any value of the type may come. Killed at any point, the next call makes what is missing.
    Raises StoreError where the mark or the table of a block is missing or damaged, or a table would become too large,
    and ValueError where `make` returns another shape.
    """
    rows = np.empty((store.array("pixels").shape[0], column.n_values), column.dtype)
    for block, mark, table in tables(store):
        n_rows = len(block.rows)
        values = column.of(table.columns, n_rows)
        if values is None:
            values = np.ascontiguousarray(make(block), column.dtype)
            if values.shape != (n_rows, column.n_values):
                raise ValueError(f"{column.name}: {values.shape} values for {n_rows} rows of {column.n_values}")
            replace_table(store, block, mark, {**table.columns, column.name: values.reshape(-1)})
        rows[block.start : block.stop] = values
    return rows

"""How matrices are cut into chunks: integer functions of width and item size alone, never of the budget.

Pixels are cut both ways, so that a later stage can stream either side of the matrix:

              d values
        +--------+--------+---     one chunk = one file of 4 to 16 MiB
    row | 0/0    | 0/1    |
    blk +--------+--------+---     one ingest task decodes one row of chunks and writes it whole
        | 1/0    | 1/1    |
"""

from __future__ import annotations

from bigcluster.units import MIB

CHUNK_BYTES = 8 * MIB
ROW_BLOCK_BYTES = 64 * MIB
"""A row block of pixels as decoded: at most this much, unless one image alone is larger."""


def chunk_shape(n_columns: int, itemsize: int) -> tuple[int, int]:
    """(rows, columns) of a chunk: by width and item size alone, so that every budget reads what any other wrote.

    Whole rows where 512 of them fit into a chunk; else up to 512 rows, cut along the columns.
    >>> chunk_shape(4096, 1), chunk_shape(129_000, 1), chunk_shape(24_000_000, 1)
    ((2048, 4096), (512, 16128), (2, 4000000))
    """
    row_bytes = n_columns * itemsize
    whole_rows = _power_of_two_up_to(CHUNK_BYTES // row_bytes)
    cut_rows = min(512, _power_of_two_up_to(ROW_BLOCK_BYTES // row_bytes))
    rows = min(65536, max(whole_rows, cut_rows))
    cuts = max(1, round(rows * row_bytes / CHUNK_BYTES))
    columns = -(-n_columns // cuts)
    return rows, min(n_columns, -(-columns // 64) * 64)


def _power_of_two_up_to(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)

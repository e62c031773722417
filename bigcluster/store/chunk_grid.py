"""How matrices are cut into chunks: integer functions of width and item size alone, never of the budget.

Pixels are cut both ways, so that a later stage can stream either side of the matrix; scores are cut into whole rows.

              d values
        +--------+--------+---     one chunk = one file of about 4 MiB
    row | 0/0    | 0/1    |
    blk +--------+--------+---     one ingest task decodes one row of chunks and writes it whole
        | 1/0    | 1/1    |
"""

from __future__ import annotations

from bigcluster.units import MIB

CHUNK_BYTES = 4 * MIB
"""Bytes of a chunk, and so of its file. Chosen, not measured: large enough that a disk streams it, small enough that
a row block of 64 MiB has several along each side."""
ROW_BLOCK_BYTES = 64 * MIB
"""Bytes of a decoded row block of pixels, which one ingest task holds: at most this, unless one image is larger."""
MOST_BLOCK_ROWS = 4096
"""Rows (images) of a row block of pixels: what an interrupted ingest decodes again at most. Chosen, not measured."""
MOST_ROWS = 65536
"""Rows of any chunk, at most: columns.LIMIT_BYTES has room for the paths and records of so many rows."""
MOST_COLUMNS = 131_072
"""Columns (values) of a chunk of pixels whose row block holds few rows. Matrix products read whole chunks, 8,192
columns at a time."""


def pixel_chunks(n_values: int) -> tuple[int, int]:
    """(rows, columns) of a chunk of uint8 pixels, as `matrix_chunks` says.

    >>> pixel_chunks(4096), pixel_chunks(129_000), pixel_chunks(24_000_000)
    ((4096, 1024), (512, 8192), (2, 131072))
    """
    return matrix_chunks(n_values, 1)


def matrix_chunks(n_columns: int, itemsize: int) -> tuple[int, int]:
    """(rows, columns) of a chunk of a matrix that is read along both sides: row blocks of up to 64 MiB, cut along the
    columns.

    The Gram product reads 1,024 rows x 8,192 pixels at a time, the covariance 8,192 rows x 512 pixels: both in whole
    chunks or nearly so.
    >>> matrix_chunks(4096, 1), matrix_chunks(512, 4), matrix_chunks(129_000, 4)
    ((4096, 1024), (4096, 256), (128, 8192))
    """
    if n_columns * itemsize * MOST_BLOCK_ROWS <= CHUNK_BYTES:
        return row_chunks(n_columns, itemsize)
    rows = min(MOST_BLOCK_ROWS, _power_of_two_up_to(ROW_BLOCK_BYTES // (n_columns * itemsize)))
    return rows, min(n_columns, CHUNK_BYTES // (rows * itemsize), MOST_COLUMNS)


def row_chunks(n_columns: int, itemsize: int) -> tuple[int, int]:
    """(rows, columns) of a chunk of whole rows; where one row is larger than a chunk, a part of it.

    >>> row_chunks(800, 4), row_chunks(64, 4), row_chunks(3_000_000, 4)
    ((1024, 800), (16384, 64), (1, 1048576))
    """
    rows = min(MOST_ROWS, _power_of_two_up_to(CHUNK_BYTES // (n_columns * itemsize)))
    return rows, min(n_columns, CHUNK_BYTES // itemsize)


def column_chunks(n_rows: int) -> tuple[int]:
    """(rows,) of a chunk of a column: an array with one value for each row, such as the labels.

    Its rows are those of whole canonical blocks of k-means, whose number is a power of two too.
    >>> column_chunks(8190), column_chunks(1_000_000), column_chunks(0)
    ((8190,), (65536,), (1,))
    """
    return (max(1, min(n_rows, MOST_ROWS)),)


def block_chunks(rows: int, n_columns: int, itemsize: int) -> tuple[int, int]:
    """(rows, columns) of a chunk of an array whose row blocks have a given number of rows, those of the pixels.

    >>> block_chunks(4096, 1280, 4), block_chunks(4096, 10, 4)
    ((4096, 256), (4096, 10))
    """
    return rows, min(n_columns, max(1, CHUNK_BYTES // (rows * itemsize)))


def stored_bytes(shape: tuple[int, int], chunks: tuple[int, int], itemsize: int) -> int:
    """Bytes that an array takes on disk: its chunks at the far edges are written whole.

    >>> stored_bytes((300, 4096), pixel_chunks(4096), 1)
    16777216
    """
    rows, columns = (-(-n // size) * size for n, size in zip(shape, chunks, strict=True))
    return rows * columns * itemsize


def _power_of_two_up_to(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)

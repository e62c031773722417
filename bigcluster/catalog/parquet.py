"""The child that reads a Parquet manifest: `python -m bigcluster.catalog.parquet FILE ENCODING BYTES` writes it as CSV.

A Parquet file of some KB may unfold to GB, and neither its size nor its metadata say so beforehand. Therefore the
system limits the memory of this process. Cells that share a value (dictionaries) are unfolded row by row.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from typing import Any

from bigcluster.catalog.manifest_rows import AUTO, NO_PYARROW, TOO_LARGE
from bigcluster.runtime.memory_limit import limit_memory

_BATCH_ROWS = 1024
"""Rows that are decoded and written at a time; a batch is in memory whole. Chosen, not measured."""


def main() -> int:
    """Write the rows to stdout. An error is one line on stderr and exit status 1."""
    path, encoding, limit_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # others reserve memory ahead
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return _say(NO_PYARROW)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    limit_memory(limit_bytes)
    try:
        with open(1, "w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            csv.writer(out).writerows(_rows(pq, path, encoding))
    except BrokenPipeError:  # the reader needs no more rows
        return 0
    except MemoryError:
        return _say(TOO_LARGE)
    except UnicodeError as error:
        return _say(f"it holds text that is not {getattr(error, 'encoding', 'UTF-8')}")
    except (OSError, ValueError, pa.ArrowException) as error:
        message = " ".join(str(error).split())[:500]
        return _say(TOO_LARGE if "malloc" in message or "bad_alloc" in message else message or type(error).__name__)
    return 0


def _rows(pq: Any, path: str, encoding: str) -> Iterator[list[str]]:
    """Yield the header, then the rows, as texts."""
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as plain:
        names = list(plain.schema_arrow.names)
    yield names
    with pq.ParquetFile(path, read_dictionary=names, pre_buffer=False, buffer_size=1 << 16) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            columns = batch.columns
            for row in range(batch.num_rows):
                yield [_text(column[row].as_py(), encoding) for column in columns]


def _text(value: Any, encoding: str) -> str:
    if isinstance(value, bytes):  # a binary column: names of files may be bytes here too
        return os.fsdecode(value) if encoding == AUTO else value.decode(encoding)
    return "" if value is None else str(value)


def _say(line: str) -> int:
    sys.stderr.write(line + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

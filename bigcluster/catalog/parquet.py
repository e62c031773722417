"""The child that reads a Parquet manifest: `python -m bigcluster.catalog.parquet FILE ENCODING BYTES` writes it as CSV.
With a fourth argument, `lists-left-out`, it leaves out the columns of lists.

A Parquet file of some KB may unfold to GB, and neither its size nor its metadata say so beforehand. Therefore the
system limits the memory of this process. Cells that share a value (dictionaries) are unfolded row by row.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from bigcluster.catalog.manifest_rows import AUTO, LISTS_LEFT_OUT, NO_PYARROW, TOO_LARGE
from bigcluster.runtime.memory_limit import limit_memory

_BATCH_ROWS = 1024
"""Rows that are decoded and written at a time; a batch is in memory whole. Chosen, not measured."""
OPENED = {"pre_buffer": False, "buffer_size": 1 << 16}
"""How pyarrow opens files: it reads 64 KiB at a time, and nothing ahead, because memory is limited."""


def main() -> int:
    """Write the rows to stdout. An error is one line on stderr and exit status 1."""
    path, encoding, limit_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    leave_out_lists = sys.argv[4:] == [LISTS_LEFT_OUT]

    def write() -> None:
        with open(1, "w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            csv.writer(out).writerows(_rows(path, encoding, leave_out_lists=leave_out_lists))

    return with_limited_memory(limit_bytes, write)


def with_limited_memory(limit_bytes: int, write: Callable[[], None]) -> int:
    """Call a function that reads with pyarrow and writes to stdout.

    limit_bytes : the memory in bytes that it may use beyond what Python and pyarrow take.
    Returns the exit status of this process: 1 after an error, of which one line is on stderr.
    """
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # others reserve memory ahead
    try:
        import pyarrow as pa
        import pyarrow.parquet  # before memory is limited
    except ImportError:
        return _say(NO_PYARROW)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    limit_memory(limit_bytes)
    try:
        write()
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


def _rows(path: str, encoding: str, *, leave_out_lists: bool) -> Iterator[list[str]]:
    """Yield the header, then the rows, as texts."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, **OPENED) as plain:
        names = [field.name for field in plain.schema_arrow if not (leave_out_lists and is_list(field.type))]
    yield names
    with pq.ParquetFile(path, read_dictionary=names, **OPENED) as file:
        selected = names if leave_out_lists else None
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=selected, use_threads=False):
            columns = batch.columns
            for row in range(batch.num_rows):
                yield [_text(column[row].as_py(), encoding) for column in columns]


def is_list(of_type: Any) -> bool:
    """Return whether an Arrow type is a type of lists, of variable or of fixed size."""
    import pyarrow as pa

    return bool(pa.types.is_list(of_type) or pa.types.is_large_list(of_type) or pa.types.is_fixed_size_list(of_type))


def _text(value: Any, encoding: str) -> str:
    if isinstance(value, bytes):  # a binary column: names of files may be bytes here too
        return os.fsdecode(value) if encoding == AUTO else value.decode(encoding)
    return "" if value is None else str(value)


def _say(line: str) -> int:
    sys.stderr.write(line + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

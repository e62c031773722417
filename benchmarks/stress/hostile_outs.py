"""What a stranger may have put into an OUT: stores that unfold, marks that never end, files without an end.

Each maker changes a copy of the OUT of a finished run.
"""

from __future__ import annotations

import json
import os
import string
import zlib
from collections.abc import Callable
from itertools import islice, product
from pathlib import Path
from typing import Any

import google_crc32c

from benchmarks.stress.hostile_files import sparse
from bigcluster.store import DONE, Mark, Marks, Store, metadata
from bigcluster.store.marks import sealed
from bigcluster.units import MIB

Maker = Callable[[Path], None]


def _declare(out: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the metadata of an array, and register it in a mark; where a mark cannot hold it, unregister it."""
    marks, file = Marks(out), metadata.file_of(out, name)
    attributes = json.loads(file.read_text(encoding="utf-8"))
    change(attributes)
    file.write_text(json.dumps(attributes), encoding="utf-8")
    try:
        metadata.register(marks, name)
    except ValueError:
        metadata.unregister(marks, name)


def codec(out: Path) -> None:
    """The centers are a chunk of some KB that gzip unfolds to 4 GB."""

    def change(told: dict[str, Any]) -> None:
        told["codecs"] = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "gzip", "configuration": {"level": 9}},
        ]

    _declare(out, "centers", change)
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join([*(packer.compress(bytes(1 << 24)) for _ in range(64)), packer.flush()])
    (out / "store.zarr/centers/c/0/0").write_bytes(packed)


def shape(out: Path) -> None:
    """The centers are 4 GB, as is said of them, in one chunk."""

    def change(told: dict[str, Any]) -> None:
        told["shape"][0] = told["chunk_grid"]["configuration"]["chunk_shape"][0] = (4 << 30) // (8 * told["shape"][1])

    _declare(out, "centers", change)


def holes(out: Path) -> None:
    """As `shape`, and the chunk is there: a file of holes."""
    shape(out)
    sparse(out / "store.zarr/centers/c/0/0", n_bytes=(4 << 30) + 4)


def many_chunks(out: Path) -> None:
    """A thousand million labels in chunks of one."""

    def change(told: dict[str, Any]) -> None:
        told["shape"], told["chunk_grid"]["configuration"]["chunk_shape"] = [1_000_000_000], [1]

    _declare(out, "labels", change)


def deep_metadata(out: Path) -> None:
    (out / "store.zarr/centers/zarr.json").write_text("[" * 1_000_000, encoding="utf-8")


def large_chunk(out: Path) -> None:
    """A chunk of the pixels has 2 GB, of holes."""
    sparse(next((out / "store.zarr/pixels/c").rglob("0")) / "0")


def mark_fifo(out: Path) -> None:
    path = Marks(out).path("ingest")
    path.unlink()
    os.mkfifo(path)


def forge(marks: Marks, stage: str, mark: Mark, block: str = DONE) -> None:
    """Write a mark with a right seal, whatever it says, as anybody can."""
    path = marks.path(stage, block)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sealed(mark))


def mark_zero(out: Path) -> None:
    path = Marks(out).path("cluster")
    path.unlink()
    path.symlink_to("/dev/zero")


def mark_lists(out: Path) -> None:
    """A sealed mark of nearly 8 MB of empty lists."""
    marks = Marks(out)
    found = marks.read("ingest")
    assert found is not None
    forge(marks, "ingest", Mark(found.fingerprint, found.digests, {**found.payload, "more": [[]] * 1_900_000}))


def many_marks(out: Path) -> None:
    """2,000 sealed marks, each of which vouches for 2,000 files that are not there."""
    marks = Marks(out)
    for i in range(2000):
        forge(
            marks,
            "ingest",
            Mark("", {f"store.zarr/pixels/c/{i}/{j}{'x' * 80}": "0" * 32 for j in range(2000)}),
            f"{i + 1:06d}",
        )


def mark_names(out: Path) -> None:
    """The sealed mark of the clusters is nearly 8 MiB with 170,000 names in it."""
    marks = Marks(out)
    found = marks.read("cluster")
    assert found is not None
    names = [f"{i:07d}{'x' * 34}" for i in range(170_000)]
    forge(marks, "cluster", Mark(found.fingerprint, found.digests, {**found.payload, "names": names}))


def large_arrays(out: Path) -> None:
    """Ten arrays of 100 MiB each, as is said of them; their files are holes, and have a right checksum."""
    n_bytes = 100 * MIB
    checksum = google_crc32c.value(bytes(n_bytes)).to_bytes(4, "little")
    for name in _WHOLE:
        itemsize = Store(out).array(name).dtype.itemsize

        def change(told: dict[str, Any], length: int = n_bytes // itemsize) -> None:
            told["shape"], told["chunk_grid"]["configuration"]["chunk_shape"] = [length], [length]

        _declare(out, name, change)
        file = out / "store.zarr" / name / "c" / "0"
        sparse(file, n_bytes=n_bytes)
        with file.open("ab") as end:
            end.write(checksum)


_WHOLE = (
    *("ok", "row_keys", "column_sums", "mean", "explained_variance"),
    *("labels", "label_keys", "distance", "runner_up", "runner_up_distance"),
)
"""Arrays of one dimension that are read whole."""


def summary_keys(out: Path) -> None:
    """summary.json is 16 MiB with 1.8 million keys."""
    letters = string.ascii_letters + string.digits
    keys = (f'"{a}{b}{c}{d}":0' for a, b, c, d in islice(product(letters, repeat=4), 1_800_000))
    (out / "summary.json").write_text("{" + ",".join(keys) + "}", encoding="ascii")


def summary_numbers(out: Path) -> None:
    """summary.json is 14 MiB, with 1.9 million numbers that take 28 bytes each in memory."""
    _add_to_summary(out, list(range(1_000_000, 2_900_000)))


def summary_wide(out: Path) -> None:
    """summary.json has a text of 15 MiB, of which one character makes four bytes of each."""
    _add_to_summary(out, "a" * (15 * MIB) + "\U0001f600")


def _add_to_summary(out: Path, value: Any) -> None:
    file = out / "summary.json"
    summary = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**summary, "more": value}, separators=(",", ":")), encoding="ascii")


def summary_sparse(out: Path) -> None:
    sparse(out / "summary.json", b"{")


def labels_sparse(out: Path) -> None:
    sparse(out / "labels.csv", b"path,label,distance,runner_up,margin,status,file\r\n")


def labels_columns(out: Path) -> None:
    (out / "labels.csv").write_text("path" + ",c" * 5_000_000 + "\r\n", encoding="utf-8")


def settings_sparse(out: Path) -> None:
    sparse(out / "run.toml", b"k = 3\n")


def settings_fifo(out: Path) -> None:
    (out / "run.toml").unlink()
    os.mkfifo(out / "run.toml")


OUTS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        *(codec, shape, holes, many_chunks, deep_metadata, large_chunk, mark_fifo, mark_zero, mark_lists, many_marks),
        *(mark_names, large_arrays, summary_keys, summary_numbers, summary_wide),
        *(summary_sparse, labels_sparse, labels_columns, settings_sparse, settings_fifo),
    )
}

"""What a stranger may have put into an OUT: stores that unfold, marks that never end, files without an end.

Each maker changes a copy of the OUT of a finished run.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.stress.hostile_files import sparse
from bigcluster.store import Mark, Marks, metadata

Maker = Callable[[Path], None]


def _declare(out: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what zarr is told of an array, and vouch for it."""
    root = out / "store.zarr"
    file = root / name / "zarr.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    change(told)
    file.write_text(json.dumps(told), encoding="utf-8")
    metadata.vouch(Marks(root), root, name)


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
    path = Marks(out / "store.zarr").path("ingest")
    path.unlink()
    os.mkfifo(path)


def mark_zero(out: Path) -> None:
    path = Marks(out / "store.zarr").path("cluster")
    path.unlink()
    path.symlink_to("/dev/zero")


def mark_lists(out: Path) -> None:
    """A sealed mark of 40 MB of empty lists."""
    marks = Marks(out / "store.zarr")
    found = marks.read("ingest")
    assert found is not None
    marks.write("ingest", Mark(found.fingerprint, found.digests, {**found.payload, "more": [[]] * 10_000_000}))


def many_marks(out: Path) -> None:
    """2,000 sealed marks, each of which vouches for 2,000 files that are not there."""
    marks = Marks(out / "store.zarr")
    for i in range(2000):
        marks.write("ingest", Mark("", {f"pixels/c/{i}/{j}{'x' * 80}": "0" * 32 for j in range(2000)}), f"{i + 1:06d}")


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
        *(summary_sparse, labels_sparse, labels_columns, settings_sparse, settings_fifo),
    )
}

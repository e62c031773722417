"""Files that crash, hang or flood their decoder, on the workers of a cluster: each costs its row, and no worker.

dask ends a run over a task that killed four workers, so that one such file could end it. The files ask a faulty codec
to crash or to hang (possessed.py); others unfold to a gigabyte, or say that they have four billion pixels.
"""

from __future__ import annotations

import csv
import struct
import subprocess
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.dask_processes import Dask, dask_processes, python_of, variables
from benchmarks.stress.hostile_files import tiff_tile
from benchmarks.stress.possessed import POSSESSED, asking
from benchmarks.stress.work import Job, catalog, labels, scratch

WISHES = ("segfault", "hang", "abort", "exit", "memory")
TIMEOUT_SECONDS = 3
"""`image.timeout` of these runs: seconds after which a file that hangs is given up."""
N_WORKERS = 2


def main(full: bool) -> dict[str, Any]:
    """20 files in 2,000; where not full, 7 in 60."""
    n_images, each = (2000, 3) if full else (60, 1)
    with scratch() as folder:
        n_bombs, poison = (4 if full else 1), folder / "poison"
        n_bad = len(WISHES) * each + 1 + n_bombs
        images = catalog(folder / "images", n_images - n_bad)
        poison.mkdir()
        (poison / "sitecustomize.py").write_text(POSSESSED)
        extra = {"PYTHONPATH": str(poison)}
        values = {"k": 12, "size": 64, "components": 40, "image.timeout": TIMEOUT_SECONDS, "report.write": False}
        job = Job(images, values)
        with dask_processes(folder, N_WORKERS, extra=extra) as dask:
            before = dask.pids()
            clean_seconds, _ = _run(dask, job, folder / "clean", extra, 0)
            _write(images / "zz-poison", next(images.rglob("*.jpg")).read_bytes(), each, n_bombs)
            seconds, told = _run(dask, job, folder / "many", extra, 3)
            died = before.items() ^ dask.pids().items()
        _run(None, job, folder / "one", extra, 3)
        same = labels(folder / "many") == labels(folder / "one")
        with (folder / "many" / "images.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["status"] != "ok"]
    assert not died, f"workers died: {died}; {told}"
    assert len(rows) == n_bad, [(row["path"], row["status"]) for row in rows]
    assert all(row["path"].startswith("zz-poison/") and row["reason"] for row in rows), rows
    assert same, "the labels are not those of one process"
    hanging = sum("hang" in row["path"] for row in rows)
    limit = clean_seconds + hanging * TIMEOUT_SECONDS / N_WORKERS + 2 * n_bad
    statuses = dict(Counter(row["status"] for row in rows))
    return {
        "rows": rows,
        "clean_seconds": clean_seconds,
        "poison_seconds": seconds,
        "limit_seconds": limit,
        "says": f"{n_bad} poison files in {n_images} on {N_WORKERS} workers: no worker died, {len(rows)} rows with a "
        f"reason ({statuses}), the labels of one process; {seconds:.1f} s, without these files {clean_seconds:.1f} s "
        f"(limit {limit:.1f} s)",
    }


def _write(folder: Path, sound: bytes, each: int, n_bombs: int) -> None:
    """Write the files. sound : a picture. each : the number of files for each wish."""
    folder.mkdir()
    for wish in WISHES:
        for number in range(each):
            (folder / f"{wish}-{number}.jpg").write_bytes(asking(sound, wish))
    tiff_tile(folder)
    for number in range(n_bombs):
        (folder / f"bomb-{number}.png").write_bytes(_bomb(number))


def _run(dask: Dask | None, job: Job, out: Path, extra: dict[str, str], code: int) -> tuple[float, str]:
    """Run the job on a cluster, or in one process, and return its seconds and what it told."""
    arguments = job.arguments(out)
    if dask is not None:
        at = arguments.index("--threads")
        arguments[at : at + 2] = ["--scheduler", str(dask.file), "--set", f"cluster.min_workers={N_WORKERS}"]
    begin = time.perf_counter()
    done = subprocess.run(
        [*python_of("bigcluster"), *arguments], env=variables(extra), capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return time.perf_counter() - begin, done.stderr


def _bomb(number: int) -> bytes:
    """A PNG whose header says 65,000 x 65,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 65_000, 65_000 - number, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, data)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

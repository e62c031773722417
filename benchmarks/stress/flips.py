"""Single flipped bytes anywhere in the store: `verify` finds and names every one, and the next run makes it good."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

from benchmarks.stress.work import Job, catalog, labels, scratch
from bigcluster.files.layout import STORES
from bigcluster.store.inventory import files_below


def main(full: bool) -> dict[str, Any]:
    """500 flips (12 where not full): half drawn over all bytes, half over all files."""
    wanted = 500 if full else 12
    rng = random.Random(0)
    with scratch() as folder:
        # All that a store may hold: a sweep, and the components that predict asks for.
        job = Job(catalog(folder / "images", 60), {"k": "3:5", "size": "32x32", "components": 6})
        sound, out = folder / "sound", folder / "out"
        job.run(sound)
        job.predict(sound, folder / "predicted.csv")
        expected = labels(sound)
        flipped: dict[str, int] = {}
        for number in range(wanted):
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(sound, out, symlinks=True)
            file = flip(out, rng, by_bytes=number % 2 == 0)
            found = job.verify(out)
            named = [damage["file"] for damage in found["damaged"]]
            assert file in named, f"flip {number} in {file} was not named: {found}"
            job.run(out)
            assert labels(out) == expected, f"flip {number} in {file}: other labels after the run"
            again = job.verify(out)
            assert again["ok"], f"flip {number} in {file} is still there after the run: {again}"
            kind = "mark" if "/marks/" in file else "metadata" if file.endswith("zarr.json") else "chunk"
            flipped[kind] = flipped.get(kind, 0) + 1
    return {
        "flips": wanted,
        "found": sum(flipped.values()),
        "by_kind": flipped,
        "says": f"{sum(flipped.values())} of {wanted} flipped bytes found, named and made good by the next run",
    }


def flip(out: Path, rng: random.Random, *, by_bytes: bool) -> str:
    """Change one byte of one file; returns its name as `verify` says it."""
    files = [path for store in STORES for path in files_below(out / store) if path.stat().st_size]
    sizes = [path.stat().st_size if by_bytes else 1 for path in files]
    (path,) = rng.choices(files, sizes)
    flip_file(path, rng)
    return path.relative_to(out).as_posix()


def flip_file(path: Path, rng: random.Random) -> None:
    """Change one byte; the file keeps its time, as where a disk errs."""
    found, data = path.stat(), bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

"""Pictures of every kind with flipped bits, cut off, with segments swapped or blanked: each costs its own row alone."""

from __future__ import annotations

import io
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import bigcluster as bc
from bigcluster.catalog import from_csv_path
from bigcluster.demo import generate
from bigcluster.kernels.decode import decode, prepare_codecs
from bigcluster.runtime.events import Event, Note
from bigcluster.stages.ingest import stored_recipe
from bigcluster.store import Store

TIMEOUT_SECONDS = 10
"""The promise: no file takes longer."""
VISIBLE = 8
"""Grey levels by which a picture differs from what it was, somewhere, for a person to see it."""

_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {"quality": 85}),
    "progressive.jpg": ("JPEG", {"quality": 85, "progressive": True}),
    "png": ("PNG", {}),
    "lossy.webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "raw.tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "deflate.tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "jpeg.tif": ("TIFF", {"compression": "jpeg"}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
}


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _swap(data: bytearray, rng: random.Random) -> None:
    a, b, c, d = sorted(rng.randrange(len(data)) for _ in range(4))
    data[a:d] = data[c:d] + data[b:c] + data[a:b]


def _blank(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((16, 256, 4096)))
    data[start:stop] = bytes(stop - start)


_MUTATIONS: dict[str, Callable[[bytearray, random.Random], None]] = {
    "flip": _flip,
    "cut": _cut,
    "swap": _swap,
    "blank": _blank,
}


def main(full: bool) -> dict[str, Any]:
    """1,000 mutated files (120 where not full), a good one beside every fourth."""
    n_files = 1000 if full else 120
    folder = Path(tempfile.mkdtemp(prefix="bigcluster-stress-"))
    try:
        return _try(folder, n_files)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _try(folder: Path, n_files: int) -> dict[str, Any]:
    good, mixed = folder / "good", folder / "mixed"
    generate(good, n_files // 4)
    shutil.copytree(good, mixed)
    originals = _write_mutated(good, mixed, n_files)
    notes: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note) and event.level == "warning":
            notes.append(event.text)

    run = _run(mixed, folder / "out", listen)
    counts = run.summary["counts"]
    assert counts["listed"] == n_files + n_files // 4 == counts["ok"] + counts["failed"], counts
    died = [note for note in notes if "one by one" in note]
    assert not died, died
    by_status = counts["failed_by_status"]
    assert not by_status.keys() & {"crashed", "timeout"}, by_status

    rows, alone = _pixel_rows(run), _pixel_rows(_run(good, folder / "alone", listen))
    worse = [name for name, row in alone.items() if not np.array_equal(rows[name], row)]
    assert not worse, f"other pixels beside bad files: {worse}"
    ends = _ends(run, rows, originals)
    ok, changed = sum(e["ok"] for e in ends.values()), sum(e["changed"] for e in ends.values())
    says = (
        f"{n_files} mutated files, no crash and no hang: {n_files - ok} are named, {ok - changed} look as before, "
        f"{changed} look otherwise and no codec could tell; {len(alone)} good neighbours the same to the bit"
    )
    return {
        "files": n_files,
        "failed_by_status": by_status,
        "by_kind": ends,
        "good_neighbours": len(alone),
        "ingest_seconds": run.summary["stages"]["ingest"]["seconds"],
        "says": says,
    }


def _write_mutated(good: Path, to: Path, n_files: int) -> dict[str, bytes]:
    """Mutants of good pictures, each listed right after the picture that it was. Name -> what the file was before."""
    rng = random.Random(0)
    pictures = sorted(good.rglob("*.jpg"))
    originals = {}
    for i in range(n_files):
        kind = list(_KINDS)[i % len(_KINDS)]
        mutation = list(_MUTATIONS)[i // len(_KINDS) % len(_MUTATIONS)]
        codec, options = _KINDS[kind]
        buffer = io.BytesIO()
        picture = pictures[i % len(pictures)]
        Image.open(picture).convert("RGB").save(buffer, codec, **options)
        data = bytearray(buffer.getvalue())
        _MUTATIONS[mutation](data, rng)
        name = f"{picture.relative_to(good).with_suffix('')}-{i}-{mutation}.{kind}"
        (to / name).write_bytes(data)
        originals[name] = buffer.getvalue()
    return originals


def _run(images: Path, out: Path, listener: Callable[[Event], None]) -> bc.Run:
    settings = {"reduce": "none", "link": "none", "image.timeout": TIMEOUT_SECONDS, "kmeans.n_init": 1}
    return bc.run(images, out, n_clusters=2, memory="1GiB", size="64x64", set=settings, listener=listener)


def _pixel_rows(run: bc.Run) -> dict[str, NDArray[np.uint8]]:
    """Name -> its row of pixels."""
    pixels = Store(run.out, create=False).load("pixels")
    return dict(zip(map(from_csv_path, run.images["path"]), pixels, strict=True))


def _ends(run: bc.Run, rows: dict[str, NDArray[np.uint8]], originals: dict[str, bytes]) -> dict[str, dict[str, int]]:
    """Per kind of file: how many are ok, and how many of these do not look as they did."""
    prepare_codecs()
    spec = stored_recipe(Store(run.out, create=False))
    status = dict(zip(map(from_csv_path, run.images["path"]), run.images["status"], strict=True))
    ends: dict[str, Counter[str]] = {kind: Counter(files=0, ok=0, changed=0) for kind in _KINDS}
    for name, data in originals.items():
        end = ends[Path(name).name.partition(".")[2]]
        end["files"] += 1
        if status[name] == "ok":
            before = decode(data, spec).pixels
            assert before is not None
            end["ok"] += 1
            end["changed"] += int(np.abs(rows[name].astype(int) - before).max()) > VISIBLE
    return {kind: dict(end) for kind, end in ends.items()}

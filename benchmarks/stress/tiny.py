"""Very many very small files: what listing them and keeping their ledger costs, beside the run itself."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bigcluster as bc
from bigcluster.catalog import Listing, list_images
from bigcluster.catalog.ledger import Ledger
from bigcluster.files.durable import sync_all
from bigcluster.outputs.tables import write_images
from bigcluster.stages.fill import Freshness
from bigcluster.stages.ingest import load_ledger, stored_recipe
from bigcluster.stages.pixel_blocks import Block, write_block
from bigcluster.store import Store
from bigcluster.store.row_source import spans

MOST_SHARE = 0.05
FILES_PER_FOLDER = 1000


def main(full: bool) -> dict[str, Any]:
    """50,000 files (2,000 where not full) of about 100 bytes; the share is judged where full, on a quiet machine."""
    n_files = 50_000 if full else 2_000
    folder = Path(tempfile.mkdtemp(prefix="bigcluster-stress-"))
    try:
        _write_tiny(folder / "images", n_files)
        found = _measure(folder / "images", folder / "out")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    share = found["listing_and_ledger_seconds"] / found["wall_seconds"]
    assert not full or share < MOST_SHARE, f"listing and ledger take {share:.1%} of the run: {found}"
    says = f"{n_files} tiny files: listing and ledger are {share:.1%} of a run of {found['wall_seconds']} s"
    return {"files": n_files, "share": round(share, 4), **found, "says": says}


def _write_tiny(images: Path, n_files: int) -> None:
    """PGM pictures of 8 x 8 pixels: a codec has as little as possible to do."""
    for i in range(n_files):
        file = images / f"{i // FILES_PER_FOLDER:03d}" / f"tiny-{i}.pgm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"P5 8 8 255\n" + bytes((i * (j + 1)) % 251 for j in range(64)))


def _measure(images: Path, out: Path) -> dict[str, Any]:
    """A whole run by the clock; then the same listing, ledger and images.csv once more, one by one."""
    began = time.monotonic()
    run = bc.run(images, out, n_clusters=10, memory="1GiB", size="8x8")
    wall_seconds = time.monotonic() - began
    store = Store(out, create=False)
    listing, listing_seconds = _timed(lambda: list_images(str(images), out))
    freshness = Freshness(listing, stored_recipe(store), timeout_seconds=30.0)
    ledger, reading_seconds = _timed(lambda: load_ledger(store))
    held, stat_seconds = _timed(lambda: [freshness.holds(row, record) for row, record in enumerate(ledger)])
    _, table_seconds = _timed(lambda: write_images(out / "images.csv", listing, ledger))
    _, writing_seconds = _timed(lambda: _write_tables_again(store, listing, ledger))
    assert all(held)
    assert len(ledger) == len(listing) == run.summary["counts"]["ok"]
    parts = {
        "listing_seconds": listing_seconds,
        "ledger_writing_seconds": writing_seconds,
        "ledger_reading_seconds": reading_seconds,
        "images_csv_seconds": table_seconds,
    }
    return {
        "wall_seconds": round(wall_seconds, 2),
        "listing_and_ledger_seconds": round(sum(parts.values()), 3),
        **{name: round(value, 3) for name, value in parts.items()},
        "looking_for_changes_seconds": round(stat_seconds, 3),  # what a second run pays
        "stages": {name: stage["seconds"] for name, stage in run.summary["stages"].items()},
    }


def _write_tables_again(store: Store, listing: Listing, ledger: Ledger) -> None:
    for index, (start, stop) in enumerate(spans(len(ledger), store.array("pixels").chunks[0])):
        digests, _ = write_block(store, Block(index, start, stop), listing, ledger.part(start, stop), 0)
        sync_all(store.out / file for file in digests)


def _timed(task: Callable[[], Any]) -> tuple[Any, float]:
    began = time.monotonic()
    result = task()
    return result, time.monotonic() - began

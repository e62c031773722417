"""How the report scales: an OUT of synthetic clusters made through the store, `bigcluster report` on it, its weight.

python -m benchmarks.report_scale --images 1000000 --clusters 1000 --memory 1GiB
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster import outdir
from bigcluster.catalog import FileRecord, Listing, StringArray
from bigcluster.catalog.ledger import Ledger
from bigcluster.config import flatten, resolve, to_toml
from bigcluster.outputs.folders import cluster_folder
from bigcluster.outputs.summary import summary_text, versions
from bigcluster.outputs.tables import LABEL_COLUMNS, write_csv
from bigcluster.stages.pixel_blocks import Block, fingerprint_of, write_block
from bigcluster.store import Mark, Store, fingerprint
from bigcluster.store.chunk_grid import pixel_chunks
from bigcluster.store.row_source import spans
from bigcluster.units import GIB, MIB, show_bytes

SIDE = 64
N_COMPONENTS = 32
_BLOCK_ROWS = 4096

RECIPE = {"width": SIDE, "height": SIDE, "color": False, "fit": "stretch", "normalize": "none", "max_pixels": 10**8}
"""How the pictures of the store are said to be decoded."""


def make_out(out: Path, n_images: int, n_clusters: int, seed: int = 0) -> None:
    """An OUT as a run leaves it, as far as the report reads it: noisy prototypes, and scores that place them."""
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True)
    store = Store(out)
    labels = np.sort(rng.integers(0, n_clusters, n_images)).astype(np.int32)
    labels = _largest_first(labels, n_clusters)[rng.permutation(n_images)]
    centers = rng.normal(0, 900, (n_clusters, N_COMPONENTS))
    components = np.linalg.qr(rng.normal(size=(SIDE * SIDE, N_COMPONENTS)))[0].T.astype(np.float32)
    distance = rng.gamma(9, 40, n_images)
    runner_up = (labels + 1 + rng.integers(0, max(1, n_clusters - 1), n_images)) % n_clusters
    sums = _write_pixels(store, labels, n_clusters, rng)
    _write_scores(store, centers, labels, rng)
    for name, values in {
        "ok": np.ones(n_images, bool),
        "row_keys": rng.integers(0, 2**63, n_images).astype(np.uint64),
        "column_sums": sums,
        "mean": sums / n_images,
        "explained_variance": 900.0**2 / np.arange(1, 65),
        "components": components,
        "centers": centers,
        "labels": labels,
        "distance": distance,
        "runner_up": runner_up.astype(np.int32),
        "runner_up_distance": distance + rng.gamma(2, 20, n_images),
    }.items():
        store.save(name, values)
    _write_marks(store, n_images, n_clusters)
    _write_tables(out, labels, distance, runner_up)
    _write_settings(out, labels, n_clusters)


def _largest_first(labels: NDArray[np.int32], n_clusters: int) -> NDArray[np.int32]:
    order = np.argsort(-np.bincount(labels, minlength=n_clusters), kind="stable")
    number = np.empty(n_clusters, np.int32)
    number[order] = np.arange(n_clusters)
    return number[labels]


def _write_pixels(
    store: Store, labels: NDArray[np.int32], n_clusters: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Returns the exact column sums."""
    coarse = rng.integers(20, 230, (n_clusters, 8, 8)).astype(np.uint8)
    prototypes = coarse.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2).reshape(n_clusters, -1)
    noise = rng.integers(0, 26, (_BLOCK_ROWS + 4096, SIDE * SIDE), dtype=np.uint8)
    chunks = pixel_chunks(SIDE * SIDE)
    store.create("pixels", (len(labels), SIDE * SIDE), np.uint8, chunks)
    sums = np.zeros(SIDE * SIDE, np.int64)
    for start, stop in spans(len(labels), chunks[0]):
        shift = int(rng.integers(0, 4096))
        block = prototypes[labels[start:stop]] + noise[shift : shift + stop - start]
        store.write_rows("pixels", start, block)
        sums += block.sum(axis=0, dtype=np.int64)
    return sums


def _write_scores(
    store: Store, centers: NDArray[np.float64], labels: NDArray[np.int32], rng: np.random.Generator
) -> None:
    scores = np.empty((len(labels), N_COMPONENTS), np.float32)
    for start, stop in spans(len(labels), _BLOCK_ROWS):
        scores[start:stop] = centers[labels[start:stop]] + rng.normal(0, 60, (stop - start, N_COMPONENTS))
    store.save("scores", scores, (_BLOCK_ROWS, N_COMPONENTS))


def _write_marks(store: Store, n_images: int, n_clusters: int) -> None:
    fit = {
        "images": "i",
        "features": "i",
        "components": "stored",
        "total_variance": 900.0**2 * 8,
        "n_components": N_COMPONENTS,
    }
    fit |= {"solver": "gram", "passes": 1, "bytes_read": 0, "rank": 64, "score_step": 0.0}
    clustered = {
        "images": "i",
        "features": "i",
        "reduction": "pca",
        "rows": "r",
        "n_clusters": n_clusters,
        "n_columns": N_COMPONENTS,
    }
    clustered |= {"inertia": 1e9, "nearest_previous": None, "facts": {}}
    marks: dict[str, dict[str, Any]] = {
        "recipe": RECIPE,
        "ingest": {"square_sum": 0, "n_blocks": -(-n_images // pixel_chunks(SIDE * SIDE)[0])},
        "reduce": fit,
        "cluster": clustered,
    }
    for stage, payload in marks.items():
        print_ = fingerprint(stage="ingest", **RECIPE) if stage == "recipe" else "i"
        store.marks.write(stage, Mark(print_, payload=payload))


def _write_tables(out: Path, labels: NDArray[Any], distance: NDArray[Any], runner_up: NDArray[Any]) -> None:
    n_clusters = int(labels.max()) + 1

    names = [f"shop-{row % 997:03d}/item-{row:07d}.jpg" for row in range(len(labels))]
    rows = zip(names, labels.tolist(), distance.tolist(), runner_up.tolist(), strict=True)
    write_csv(
        out / "labels.csv",
        LABEL_COLUMNS,
        (
            (path, label, f"{far:.6g}", other, "1", "ok", f"{cluster_folder(label, n_clusters)}/{path[9:]}")
            for path, label, far, other in rows
        ),
    )
    store, listing = Store(out), Listing(Path("/photos"), StringArray(names))
    picture = FileRecord(9000, 1, 430, 300, "ab" * 16, "ok", "")
    for index, (start, stop) in enumerate(spans(len(labels), store.array("pixels").chunks[0])):
        block, ledger = Block(index, start, stop), Ledger.of([picture] * (stop - start))
        digests, payload = write_block(store, block, listing, ledger, 0)
        print_ = fingerprint_of(block, listing, fingerprint(stage="ingest", **RECIPE))
        store.commit("ingest", print_, digests, payload, block.name)


def _write_settings(out: Path, labels: NDArray[np.int32], n_clusters: int) -> None:
    values = {"images": "/photos", "out": str(out), "k": n_clusters, "components": N_COMPONENTS}
    settings = resolve(flags=values, sets=(), config=None, kept=None)
    (out / outdir.RUN_TOML).write_text(to_toml(outdir.absolute(settings)), encoding="utf-8")
    stage = {"seconds": 1.0, "projected_peak_bytes": GIB, "measured_peak_bytes": 300 * MIB}
    n_images = len(labels)
    counts = {"listed": n_images, "ok": n_images, "failed": 0, "failed_by_status": {}}
    text = summary_text(
        {
            "counts": {**counts, "ignored": 0, "ignored_by_suffix": {}},
            "n_clusters": n_clusters,
            "cluster_sizes": np.bincount(labels).tolist(),
            "advice": [],
            "nearest_previous": None,
            "inertia": 1e9,
            "n_components": N_COMPONENTS,
            "explained_variance_ratio": 0.8,
            "sweep": None,
            "memory": {"budget_bytes": GIB, "measured_peak_bytes": 300 * MIB, "metric": "pss"},
            "stages": dict.fromkeys(("ingest", "reduce", "cluster", "output"), stage),
            "settings": {name: value for name, value in flatten(settings).items() if value is not None},
            "versions": versions(),
        }
    )
    (out / "summary.json").write_text(text, encoding="utf-8")


def weigh(report: Path) -> dict[str, int]:
    """Bytes of the index, of the largest page or piece, and of everything; number of files."""
    sizes = {path.relative_to(report).as_posix(): path.stat().st_size for path in report.rglob("*") if path.is_file()}
    return {
        "index_bytes": sizes["index.html"],
        "largest_page_bytes": max(size for name, size in sizes.items() if name.endswith(".html")),
        "largest_piece_bytes": max(size for name, size in sizes.items() if name.endswith(".js")),
        "largest_picture_bytes": max(size for name, size in sizes.items() if name.endswith((".webp", ".svg"))),
        "all_bytes": sum(sizes.values()),
        "files": len(sizes),
    }


def main(argv: list[str] | None = None) -> int:
    """Make the OUT where it is not there yet, write the report in a process of its own, print what it took."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.report_scale", description=__doc__)
    arguments.add_argument("--images", type=int, default=1_000_000)
    arguments.add_argument("--clusters", type=int, default=1000)
    arguments.add_argument("--memory", default="1GiB")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "work" / "report-scale")
    args = arguments.parse_args(argv)
    if not (args.out / "summary.json").is_file():
        began = time.monotonic()
        make_out(args.out, args.images, args.clusters)
        print(f"made {args.out} in {time.monotonic() - began:.0f} s", file=sys.stderr)
    command = [sys.executable, "-m", "bigcluster", "report", str(args.out), "--memory", args.memory, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    stage = json.loads(done.stdout)["stages"]["report"]
    found = {"images": args.images, "clusters": args.clusters, **stage, **weigh(args.out / "report")}
    for name, value in found.items():
        print(f"{name:24} {show_bytes(value) if name.endswith('bytes') else value}")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""PCA, t-SNE and UMAP before k-means: how well the groups fit the true classes, and what each costs.

    python -m benchmarks.reductions ../shared/images/clothing --features ../shared/models/mobilenetv2.onnx

PICTURES has one folder for each class, and k is their number. Every reduction runs with five seeds, in one OUT, so that
the features are made once. Seconds and memory are those of the stage `manifold`, of the first seed alone: its process
has compiled nothing before. The last row of each method fits half of the images and places the others among them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import SEEDS, classes_of, judge
from bigcluster.units import MIB

HEADS = ("reduce", "images fitted", "ARI", "NMI", "NMI from", "to", "seconds", "memory, MiB", "projected, MiB")


def row_of(pictures: Path, out: Path, k: int, features: str, sets: dict[str, Any]) -> str:
    """Run every seed, and return the row of the table."""
    import pandas as pd

    import bigcluster

    scores, first = [], None
    for seed in SEEDS:
        run = bigcluster.run(
            pictures,
            out,
            n_clusters=k,
            features=features,
            seed=seed,
            link="none",
            set={"report.write": False, **sets},
        )
        first = first or run.summary["stages"].get("manifold")
        table = pd.read_csv(run.out / "labels.csv")
        table = table[table["status"] == "ok"]
        scores.append(judge([path.split("/")[0] for path in table["path"]], table["label"].to_numpy()))
    ari, nmi = np.mean(scores, axis=0)
    low, high = (bound(nmi for _, nmi in scores) for bound in (min, max))
    cells = [sets["reduce"], "-" if first is None else f"{first['n_fitted']:,}"]
    cells += [f"{value:.3f}" for value in (ari, nmi, low, high)]
    cells += ["-"] * 3 if first is None else [f"{first['seconds']:.1f}"]
    if first is not None:
        cells += [f"{first[name] / MIB:.0f}" for name in ("measured_peak_bytes", "projected_peak_bytes")]
    return f"| {' | '.join(cells)} |"


def main(argv: list[str] | None = None) -> int:
    """Print one row for each reduction. Exit code 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reductions", description=__doc__)
    parser.add_argument("pictures", type=Path, help="a folder with one folder for each class")
    parser.add_argument("--features", default="gray", help="as of `bigcluster run`")
    args = parser.parse_args(argv)
    k = len(classes_of(args.pictures))
    n_images = sum(len(list(folder.iterdir())) for folder in args.pictures.iterdir() if folder.is_dir())
    out = Path(tempfile.mkdtemp(prefix="bigcluster-reductions-"))
    print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
    try:
        print(row_of(args.pictures, out, k, args.features, {"reduce": "pca"}), flush=True)
        for method in ("tsne", "umap"):
            for sample in (10_000, n_images // 2):
                sets = {"reduce": method, "manifold.sample": sample}
                print(row_of(args.pictures, out, k, args.features, sets), flush=True)
    finally:
        shutil.rmtree(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

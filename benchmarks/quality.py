"""How well the groups of a run fit the true classes, beside what a plain script finds with the same network.

    python -m benchmarks.quality ../shared/images/clothing --network ../shared/models/mobilenetv2.onnx

PICTURES has one folder for each class. Beside all of them, fixed subsets are judged: half of the classes, drawn by a
seed. Each figure is the mean of five seeds of the clustering. The peer is what most people write: every picture is
squashed to the input of the network, its features get the length 1, and scikit-learn's KMeans has ten starts.

The last columns are of runs without k: the communities of the graph of nearest neighbors.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEEDS = range(5)
"""Seeds of the clustering. Two seeds differ by .01 ARI on average, so the mean of five is shown."""
SUBSETS = range(4)
"""Seeds that draw the classes of a subset. Chosen, not measured."""
INPUT = 224
"""Pixels of each side of the input of the shared networks; see --input for others."""
BATCH = 8
"""Pictures in one call of the plain script. Chosen, not measured."""


def script_features(files: Sequence[Path], network: Path, side: int) -> NDArray[np.float32]:
    """The features of every picture by OpenCV and ONNX Runtime alone, (n, d) float32 of length 1."""
    import cv2
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = []
    for start in range(0, len(files), BATCH):
        pictures = [cv2.imread(str(file)) for file in files[start : start + BATCH]]
        squashed = [cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in pictures]
        batch = np.stack([picture[..., ::-1].transpose(2, 0, 1) for picture in squashed])
        parts.append(session.run(["features"], {name: (batch / np.float32(127.5) - 1).astype(np.float32)})[0])
    features = np.concatenate(parts)
    unit: NDArray[np.float32] = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit


def judge(truth: Sequence[str], labels: NDArray[Any]) -> tuple[float, float]:
    """(adjusted Rand index, normalized mutual information)."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return float(adjusted_rand_score(truth, labels)), float(normalized_mutual_info_score(truth, labels))


def ours(folder: Path, out: Path, network: Path, k: int, sets: dict[str, Any]) -> list[tuple[float, float]]:
    """ARI and NMI of `bigcluster run` for each seed. The features are made once, and reused for the other seeds."""
    import pandas as pd

    import bigcluster

    scores = []
    for seed in SEEDS:
        run = bigcluster.run(
            folder, out, n_clusters=k, features=str(network), seed=seed, set={"report.write": False, **sets}
        )
        table = pd.read_csv(run.out / "labels.csv")
        truth = [path.split("/")[0] for path in table["path"]]
        scores.append(judge(truth, table["label"].to_numpy()))
    return scores


def without_k(folder: Path, out: Path, network: Path, sets: dict[str, Any]) -> list[tuple[float, float, int]]:
    """ARI, NMI and the number of groups of `bigcluster run` without k, for each seed."""
    import pandas as pd

    import bigcluster

    scores = []
    for seed in SEEDS:
        run = bigcluster.run(
            folder, out, n_clusters="auto", features=str(network), seed=seed, set={"report.write": False, **sets}
        )
        table = pd.read_csv(run.out / "labels.csv")
        truth = [path.split("/")[0] for path in table["path"]]
        scores.append((*judge(truth, table["label"].to_numpy()), int(run.summary["n_clusters"])))
    return scores


def script(features: NDArray[np.float32], truth: Sequence[str], k: int) -> list[tuple[float, float]]:
    """ARI and NMI of scikit-learn's KMeans for each seed."""
    from sklearn.cluster import KMeans

    fits = (KMeans(k, n_init=10, random_state=seed).fit(features) for seed in SEEDS)
    return [judge(truth, fit.labels_) for fit in fits]


def classes_of(pictures: Path) -> list[str]:
    """The names of the classes, ascending: those of the folders."""
    return sorted(path.name for path in pictures.iterdir() if path.is_dir())


def subset(pictures: Path, classes: Sequence[str], folder: Path) -> Path:
    """A folder with links to the folders of some classes, whose names are the classes."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for file in sorted((pictures / name).iterdir()):
            (folder / name / file.name).symlink_to(file.resolve())
    return folder


def main(argv: list[str] | None = None) -> int:
    """Print one row for each set of pictures, and the mean gain over the script. Exit code 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("pictures", type=Path, help="a folder with one folder for each class")
    parser.add_argument("--network", type=Path, required=True, help="an ONNX file with an output called `features`")
    parser.add_argument("--input", type=int, default=INPUT, help="pixels of each side of its input")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of ours")
    args = parser.parse_args(argv)
    sets = dict(text.split("=", 1) for text in args.set)
    everything = classes_of(args.pictures)
    files = [(name, file) for name in everything for file in sorted((args.pictures / name).iterdir())]
    begin = time.perf_counter()
    features = script_features([file for _, file in files], args.network, args.input)
    print(f"the script's features: {len(files) / (time.perf_counter() - begin):.0f} images/s", file=sys.stderr)
    truth = np.array([name for name, _ in files])
    chosen = [("all", everything)]
    for seed in SUBSETS:
        names = np.random.default_rng(seed).choice(everything, len(everything) // 2, replace=False)
        chosen.append((f"subset {seed}", sorted(names.tolist())))
    heads = ["pictures", "images", "k", "ours ARI", "ours NMI", "script ARI", "script NMI"]
    heads += ["without k ARI", "without k NMI", "groups"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    gains = []
    scratch = Path(tempfile.mkdtemp(prefix="bigcluster-quality-"))
    try:
        for number, (title, classes) in enumerate(chosen):
            inside = np.isin(truth, classes)
            folder = subset(args.pictures, classes, scratch / f"pictures-{number}")
            mine = np.mean(ours(folder, scratch / f"out-{number}", args.network, len(classes), sets), axis=0)
            theirs = np.mean(script(features[inside], truth[inside].tolist(), len(classes)), axis=0)
            *found, count = np.mean(without_k(folder, scratch / f"out-{number}", args.network, sets), axis=0)
            row = " | ".join(f"{value:.3f}" for value in (*mine, *theirs, *found))
            print(f"| {title} | {inside.sum()} | {len(classes)} | {row} | {count:.1f} |", flush=True)
            gains.append(mine - theirs)
    finally:
        shutil.rmtree(scratch)
    ari, nmi = np.mean(gains, axis=0)
    print(f"\nmean gain over the script: {ari:+.3f} ARI, {nmi:+.3f} NMI")
    return 0


if __name__ == "__main__":
    sys.exit(main())

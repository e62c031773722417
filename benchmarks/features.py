"""How fast `bigcluster run` makes the features of a network, beside its parts alone and beside a plain script.

    python -m benchmarks.features ../shared/images/clothing --network ../shared/models/mobilenetv2.onnx

The parts are measured alone, on as many threads: decoding with both resizes, and the network on resized pictures
(called Run, as in ONNX Runtime). A run without any other cost would take the sum of both. The script is what most
people write: OpenCV and ONNX Runtime, eight pictures in a batch. All take turns, and medians are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import plain_environment

ROUNDS = 3
"""How often each of them is measured. The median is shown."""


def seconds_of(task: Callable[[Any], Any], items: Iterable[Any], threads: int) -> float:
    """Seconds of a task for all items, on some threads."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(task, items):
            pass
    return time.perf_counter() - begin


def run_seconds(pictures: Path, network: Path, threads: int) -> float:
    """Seconds of the ingest of `bigcluster run`: reading, decoding, features, checks and writing to the disk."""
    out = Path(tempfile.mkdtemp(prefix="bigcluster-features-"))
    command = [sys.executable, "-m", "bigcluster", "run", str(pictures), "--out", str(out / "out"), "-k", "10"]
    command += ["--features", str(network), "--threads", str(threads), "--quiet", "--json"]
    try:
        answer = subprocess.run(
            [*command, "--set", "report.write=false"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=plain_environment(),
        )
        seconds: float = json.loads(answer.stdout)["stages"]["ingest"]["seconds"]
        return seconds
    finally:
        shutil.rmtree(out)


def measure(pictures: Path, network: Path, threads: int) -> dict[str, list[float]]:
    """Seconds for all pictures, by what was measured, of every round."""
    from benchmarks.quality import script_features
    from bigcluster.kernels.decode import DecodeSpec, View, decode, prepare_codecs
    from bigcluster.models import open_network

    prepare_codecs()
    files = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    opened = open_network(str(network))
    spec = DecodeSpec(64, 64, color=True, view=View(opened.width, opened.height, opened.resize))

    def view_of(file: Path) -> Any:
        pixels = decode(file.read_bytes(), spec).pixels
        assert pixels is not None
        return pixels[spec.n_values :].reshape(opened.height, opened.width, 3)

    views = [view_of(file) for file in files[:: max(1, len(files) // 256)]]
    ready = [views[i % len(views)] for i in range(len(files))]
    measured: dict[str, list[float]] = {"decode and resize": [], "Run": [], "bigcluster run": [], "script": []}
    for _ in range(ROUNDS):
        measured["decode and resize"].append(seconds_of(view_of, files, threads))
        measured["Run"].append(seconds_of(opened.features, ready, threads))
        measured["bigcluster run"].append(run_seconds(pictures, network, threads))
        begin = time.perf_counter()
        script_features(files, network, opened.width)
        measured["script"].append(time.perf_counter() - begin)
    return {name: [value / len(files) for value in values] for name, values in measured.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Print images per second of each, and the two ratios. Exit code 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--network", type=Path, required=True, help="an ONNX file with an output called `features`")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    each = measure(args.pictures, args.network, args.threads)
    medians = {name: statistics.median(values) for name, values in each.items()}
    for name, values in each.items():
        rounds = ", ".join(f"{1 / value:.0f}" for value in values)
        print(f"{name}: {1 / medians[name]:.0f} images/s ({rounds})")
    parts = medians["decode and resize"] + medians["Run"]
    print(f"share of 1 / (decode and resize + Run): {parts / medians['bigcluster run']:.3f}")
    print(f"share of Run alone: {medians['Run'] / medians['bigcluster run']:.3f}")
    print(f"times the script: {medians['script'] / medians['bigcluster run']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

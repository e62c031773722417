"""How the tables and folders of a run scale: a million names of small pictures, run twice, and what each stage held.

    python -m benchmarks.output_scale --images 1000000 --clusters 1000 --memory 1GiB

The second run has one cluster fewer and replaces the folders of the first, so that the lists of both count. Names are
hard links to some thousand pictures of 8 x 8 pixels: what is measured depends on names and rows. The exit status is 1
where a stage was above its projection, or, from a hundred thousand names on, the output stage below half of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import RESULTS
from benchmarks.memory_matrix import TIGHT
from bigcluster.units import show_bytes

SIDE = 8
NAMES_EACH = 50
"""Hard links to one picture: far from the 65,000 that a file system may allow, the entries of two runs included."""
NAMES_PER_FOLDER = 1000
TIGHT_FROM = 100_000
"""Names; fewer leave little but the libraries, whose pages other processes share."""


def make_images(images: Path, number: int) -> None:
    """`number` names in folders of a thousand: every picture under NAMES_EACH of them."""
    import cv2

    rng = np.random.default_rng(0)
    picture = Path()
    for row in range(number):
        path = images / f"shelf-{row // NAMES_PER_FOLDER:04d}" / f"item-{row:07d}.png"
        if row % NAMES_PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        if row % NAMES_EACH == 0:
            picture = path
            _, data = cv2.imencode(".png", rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8))
            path.write_bytes(data.tobytes())
        else:
            os.link(picture, path)


def run(images: Path, out: Path, n_clusters: int, memory: str) -> dict[str, Any]:
    """summary.json of one run without a report; a few iterations, since labels do not matter here."""
    command = [sys.executable, "-m", "bigcluster", "run", str(images), "--out", str(out), "-k", str(n_clusters)]
    command += ["--size", str(SIDE), "--components", str(SIDE), "--memory", memory, "--json", "--quiet"]
    for setting in ("report.write=false", "kmeans.n_init=1", "kmeans.max_iter=5"):
        command += ["--set", setting]
    summary: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return summary


def failures(summary: dict[str, Any], n_images: int) -> list[str]:
    """The laws that a run broke."""
    found = []
    for name, facts in summary["stages"].items():
        measured, projected = facts["measured_peak_bytes"], facts["projected_peak_bytes"]
        if not facts.get("reused") and measured > projected:
            found.append(f"{name} over its projection")
        if n_images >= TIGHT_FROM and name == "output" and measured < TIGHT * projected:
            found.append(f"{name}: projection padded")
    return found


def main(argv: list[str] | None = None) -> int:
    """Make the names where they are not there yet, run twice, print what the stages held."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.output_scale", description=__doc__)
    arguments.add_argument("--images", type=int, default=1_000_000)
    arguments.add_argument("--clusters", type=int, default=1000)
    arguments.add_argument("--memory", default="1GiB")
    arguments.add_argument("--work", type=Path, default=RESULTS / "output-scale", help="takes the names and the OUT")
    args = arguments.parse_args(argv)
    images, unfinished = args.work / f"names-{args.images}", args.work / "names.partial"
    if not images.is_dir():
        shutil.rmtree(unfinished, ignore_errors=True)
        make_images(unfinished, args.images)
        unfinished.rename(images)
    shutil.rmtree(args.work / "out", ignore_errors=True)
    broken: list[str] = []
    print("| k | stage | projected | measured | measured / projected | s |\n|---:|---|---:|---:|---:|---:|")
    for k in (args.clusters, args.clusters - 1):
        summary = run(images, args.work / "out", k, args.memory)
        broken += [f"k = {k}: {failure}" for failure in failures(summary, args.images)]
        for name, facts in summary["stages"].items():
            measured, projected = facts["measured_peak_bytes"], facts["projected_peak_bytes"]
            print(
                f"| {k:,} | {name}{', reused' if facts.get('reused') else ''} | {show_bytes(projected)} | "
                f"{show_bytes(measured)} | {measured / projected:.2f} | {facts['seconds']:.0f} |",
                flush=True,
            )
    print("; ".join(broken) or "kept")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())

"""Is the memory promise kept? Runs of many shapes under many budgets, each in a fresh process, watched from outside.

    python -m benchmarks.memory_matrix --small              # a few minutes
    python -m benchmarks.memory_matrix                      # 8,190 images at most
    python -m benchmarks.memory_matrix --numbers 50000 --sizes 64 native

Every cell must have measured <= budget and measured <= projected; and, so that a projection is no mere excuse, at least
half of what was projected must have been measured. The runs of one (number, size, budget) share an OUT: the second k
reuses pixels and scores, and its peak is that of clustering. Cells that were measured before stay in the JSON, so that
a matrix can be filled part by part; one that is measured again replaces what was there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import DATA, RESULTS, catalog, image_files
from benchmarks.machine import describe_machine, now, versions
from benchmarks.measure import ROOT, OutsideSampler
from bigcluster.runtime.sampler import Caller
from bigcluster.units import MIB, parse_bytes

NUMBERS = (1_000, 8_190)
SIZES = ("64", "photos", "native")
"""`photos`: size 64, with 24-megapixel JPEG and PNG files among the cuts."""
BUDGETS = ("400MiB", "512MiB", "1GiB", "4GiB")
CLUSTERS = (10, 1_000)
COMPONENTS = 100
FILE = "memory-matrix.json"
TIGHT = 0.5
TIGHT_FROM = 1_000
"""Images, below which the libraries weigh most, and PSS splits those with every other Python on the machine."""
PHOTO = (6000, 4000)
N_PHOTOS = 32
"""One after the other in listing order, so that all threads decode photos at once."""


@dataclass(frozen=True)
class Cell:
    """One run. `failures`: the laws that it broke; `reason`: why there is no figure."""

    number: int
    size: str
    budget: str
    k: int
    reason: str = ""
    projected_bytes: int = 0
    measured_bytes: int = 0
    """The larger of what the run says and what was seen from outside."""
    seconds: float = 0.0
    failed_images: int = 0
    stages: dict[str, Any] = field(default_factory=dict)
    labels_digest: str = ""
    measured_on: str = field(default_factory=now)

    @property
    def key(self) -> tuple[int, int, int, int]:
        """What it is a run of, in the order of the table."""
        return self.number, SIZES.index(self.size), parse_bytes(self.budget), self.k

    @property
    def failures(self) -> list[str]:
        if self.reason:
            return []
        found = []
        if self.measured_bytes > parse_bytes(self.budget):
            found.append("over the budget")
        if self.measured_bytes > self.projected_bytes:
            found.append("over the projection")
        if self.number >= TIGHT_FROM and self.measured_bytes < TIGHT * self.projected_bytes:
            found.append("projection padded")
        found += [
            f"{name} over its projection"
            for name, facts in self.stages.items()
            if facts["projected"] and facts["measured"] > facts["projected"]
        ]
        return found


def main(argv: list[str] | None = None) -> int:
    """The table goes to stdout, JSON to benchmarks/results; exit status 1 where a promise was broken."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.memory_matrix", description=__doc__)
    arguments.add_argument("--small", action="store_true", help="300 and 1,000 images, two budgets")
    arguments.add_argument("--numbers", type=int, nargs="+", default=list(NUMBERS))
    arguments.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    arguments.add_argument("--budgets", nargs="+", default=list(BUDGETS))
    arguments.add_argument("--clusters", type=int, nargs="+", default=list(CLUSTERS))
    arguments.add_argument("--images", type=Path, help="a catalog of `bigcluster demo`; cells take the first of it")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="takes the JSON and the OUT of the runs")
    args = arguments.parse_args(argv)
    if args.small:
        args.numbers, args.budgets, args.clusters = [300, 1000], ["400MiB", "1GiB"], [10, 100]
    place = {"machine": describe_machine(), "versions": versions(), "components": COMPONENTS}
    cells = {cell.key: cell for cell in _measured_before(args.results, place)}
    for cell in run_matrix(args):
        cells[cell.key] = cell
        print(_line(cell), file=sys.stderr, flush=True)
        _write(args.results, place, [cells[key] for key in sorted(cells)])  # after every cell: the whole takes hours
    print(render([cells[key] for key in sorted(cells)]))
    return int(any(cell.failures for cell in cells.values()))


def _measured_before(results: Path, place: dict[str, Any]) -> list[Cell]:
    """The cells that an earlier call left. Raises ValueError where they are of another machine or other versions."""
    file = results / FILE
    if not file.is_file():
        return []
    found = json.loads(file.read_text())
    other = [name for name, value in place.items() if found[name] != value]
    if other:
        raise ValueError(f"{file} is of other {' and '.join(other)}: remove it, or name another --results")
    return [Cell(**{name: value for name, value in cell.items() if name != "failures"}) for cell in found["cells"]]


def _write(results: Path, place: dict[str, Any], cells: list[Cell]) -> None:
    found = {**place, "cells": [asdict(cell) | {"failures": cell.failures} for cell in cells]}
    results.mkdir(parents=True, exist_ok=True)
    (results / FILE).write_text(json.dumps(found, indent=2) + "\n")


def run_matrix(args: argparse.Namespace) -> Iterator[Cell]:
    """Cell by cell. The data of one number of images is made, used and removed before the next."""
    work = args.results / "memory"
    shutil.rmtree(work, ignore_errors=True)
    for number in args.numbers:
        for size in args.sizes:
            images = _images(args.images, number, work / "images", photos=size == "photos")
            for budget in args.budgets:
                for k in (k for k in args.clusters if k <= number):
                    yield run_cell(images, Cell(number, size, budget, k), work / "out")
                shutil.rmtree(work / "out", ignore_errors=True)
            shutil.rmtree(work / "images")
    shutil.rmtree(work, ignore_errors=True)


def _images(source: Path | None, number: int, into: Path, *, photos: bool) -> Path:
    """A folder of hard links to the first `number` cuts, with photos beside them where asked."""
    source = source or catalog(max(number, NUMBERS[-1]), None, print, DATA)
    files = image_files(source)[:number]
    if len(files) < number:
        raise ValueError(f"{source} holds {len(files)} images, {number} are wanted")
    for file in files:
        target = into / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)
    if photos:
        _draw_photos(files[0], sorted(into.iterdir())[0])
    return into


def _draw_photos(like: Path, folder: Path) -> None:
    """24-megapixel pictures with grain, half of them JPEG and half PNG, of one cut blown up."""
    import cv2

    cut = cv2.resize(cv2.imread(str(like)), PHOTO, interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).integers(0, 24, (PHOTO[1], PHOTO[0], 1), dtype=np.uint8)
    picture = cv2.subtract(cut, np.repeat(grain, 3, axis=2))
    drawn = [folder / "photo-0.jpg", folder / "photo-1.png"]
    cv2.imwrite(str(drawn[0]), picture)
    cv2.imwrite(str(drawn[1]), picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    for i in range(2, N_PHOTOS):
        os.link(drawn[i % 2], folder / f"photo-{i}{drawn[i % 2].suffix}")


def run_cell(images: Path, cell: Cell, out: Path) -> Cell:
    """One `bigcluster run`; what it reports, and the peak of its tree as seen from outside."""
    size = "64" if cell.size == "photos" else cell.size
    command = [sys.executable, "-m", "bigcluster", "run", str(images), "--out", str(out), "--json", "--quiet"]
    command += ["-k", str(cell.k), "--size", size, "--memory", cell.budget, "--components", str(COMPONENTS)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with (
        subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        OutsideSampler(Caller(process.pid)) as sampler,
    ):
        said, complained = process.communicate()
    if process.returncode not in (0, 3):
        return Cell(cell.number, cell.size, cell.budget, cell.k, reason=complained.strip().splitlines()[-1])
    return _judged(cell, json.loads(said), sampler.peak_bytes, out)


def _judged(cell: Cell, summary: dict[str, Any], outside_bytes: int, out: Path) -> Cell:
    import hashlib

    ran = {name: facts for name, facts in summary["stages"].items() if not facts.get("reused")}
    stages = {
        name: {"projected": facts["projected_peak_bytes"], "measured": facts["measured_peak_bytes"]}
        for name, facts in ran.items()
    }
    return Cell(
        cell.number,
        cell.size,
        cell.budget,
        cell.k,
        projected_bytes=max(facts["projected"] or 0 for facts in stages.values()),
        measured_bytes=max(outside_bytes, summary["memory"]["measured_peak_bytes"]),
        seconds=round(sum(facts["seconds"] for facts in ran.values()), 1),
        failed_images=summary["counts"]["failed"],
        stages=stages,
        labels_digest=hashlib.sha256((out / "labels.csv").read_bytes()).hexdigest(),
    )


def _line(cell: Cell) -> str:
    where = f"{cell.number} x {cell.size}, {cell.budget}, k={cell.k}"
    if cell.reason:
        return f"{where}: {cell.reason}"
    stages = "  ".join(
        f"{name} {facts['measured'] / MIB:.0f}/{(facts['projected'] or 0) / MIB:.0f}"
        for name, facts in cell.stages.items()
    )
    return (
        f"{where}: {cell.measured_bytes / MIB:.0f} of {cell.projected_bytes / MIB:.0f} MiB, {cell.seconds:.0f} s "
        f"({stages}) {'; '.join(cell.failures)}"
    )


def render(cells: list[Cell]) -> str:
    """The cells as a Markdown table."""
    lines = [
        "| images | size | budget | k | projected, MiB | measured, MiB | measured / projected | not decoded | s | |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for cell in cells:
        start = f"| {cell.number:,} | {cell.size} | {cell.budget} | {cell.k:,} |"
        if cell.reason:
            lines.append(f"{start} - | - | - | - | - | {cell.reason} |")
            continue
        lines.append(
            f"{start} {cell.projected_bytes / MIB:.0f} | {cell.measured_bytes / MIB:.0f} | "
            f"{cell.measured_bytes / cell.projected_bytes:.2f} | {cell.failed_images} | {cell.seconds:.0f} | "
            f"{'; '.join(cell.failures) or 'kept'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

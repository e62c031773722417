"""Is the memory promise kept by every worker? Runs on workers of this machine, each process watched from outside.

    python -m benchmarks.workers_matrix --small      # six cells, a minute or two
    python -m benchmarks.workers_matrix              # 1, 2 and 4 workers, two budgets, three jobs

The budget `least` is the one that `plan` names for a budget that is too small. In every cell all processes together
must have measured no more than the budget and than was projected, and every worker, with its decoding children, no more
than its part of the budget and than was projected for one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.data import DATA, RESULTS, catalog
from benchmarks.machine import describe_machine, versions
from benchmarks.measure import ROOT
from bigcluster.runtime.sampler import memory_metric
from bigcluster.units import MIB, parse_bytes

JOBS = {
    "gram, k-means": ("--components", "100", "-k", "10"),
    "covariance, sweep": ("--size", "24", "--components", "50", "-k", "2:12"),
    "subspace, k-means": ("--set", "pca.solver=subspace", "--components", "50", "-k", "300"),
}
"""The options of each job: the solver of its reduction, and how it clusters."""
WORKERS = (1, 2, 4)
LEAST = "least"
BUDGETS = (LEAST, "2GiB")
N_IMAGES = 3000
SMALL_IMAGES = 400
SAMPLE_SECONDS = 0.05
"""Seconds between two samples. Chosen: a stage of a small job takes a few tenths of a second."""
FILE = "workers-matrix.json"


@dataclass(frozen=True)
class Cell:
    """One run, in bytes. `worker` is the largest worker; `budget` that of all processes, `part` that of a worker."""

    workers: int
    budget: str
    job: str
    budget_bytes: int = 0
    projected_bytes: int = 0
    measured_bytes: int = 0
    part_bytes: int = 0
    worker_projected_bytes: int = 0
    worker_measured_bytes: int = 0
    """The larger of what the run says and what was seen from outside, as in `measured_bytes`."""
    seconds: float = 0.0
    reason: str = ""
    """Why there is no figure."""

    @property
    def failures(self) -> list[str]:
        """The laws that it broke."""
        if self.reason:
            return [self.reason]
        pairs = {
            "all above the budget": (self.measured_bytes, self.budget_bytes),
            "all above the projection": (self.measured_bytes, self.projected_bytes),
            "a worker above its part": (self.worker_measured_bytes, self.part_bytes),
            "a worker above its projection": (self.worker_measured_bytes, self.worker_projected_bytes),
        }
        return [name for name, (measured, most) in pairs.items() if measured > most]


def main(argv: Sequence[str] | None = None) -> int:
    """The table goes to stdout, JSON to benchmarks/results; exit status 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers_matrix", description=__doc__)
    parser.add_argument("--small", action="store_true", help="400 images, 1 and 2 workers, the least budget")
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS))
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--images", type=Path, help="a folder of images; by default a catalog is drawn")
    parser.add_argument("--results", type=Path, default=RESULTS, help="takes the JSON")
    args = parser.parse_args(argv)
    if args.small:
        args.workers, args.budgets = [1, 2], [LEAST]
    images = args.images or catalog(SMALL_IMAGES if args.small else N_IMAGES, None, print, DATA)
    cells = []
    for job in args.jobs:
        for workers in args.workers:
            for budget in args.budgets:
                cells.append(run_cell(images.resolve(), Cell(workers, budget, job)))
                print(_row(cells[-1]), file=sys.stderr, flush=True)
    args.results.mkdir(parents=True, exist_ok=True)
    found = {"machine": describe_machine(), "versions": versions(), "cells": [asdict(cell) for cell in cells]}
    (args.results / FILE).write_text(json.dumps(found, indent=2) + "\n")
    print(render(cells))
    return int(any(cell.failures for cell in cells))


def command(images: Path, out: Path, cell: Cell, budget: str) -> list[str]:
    """The command line of one run."""
    run = [sys.executable, "-m", "bigcluster", "run", str(images), "--out", str(out), "--json", "--quiet"]
    return [*run, "--workers", str(cell.workers), "--threads", "1", "--memory", budget, *JOBS[cell.job]]


def least_budget(images: Path, out: Path, cell: Cell) -> str:
    """The budget that a refusal names."""
    run = command(images, out, cell, f"{100 * (cell.workers + 1)}MiB")  # too small for every job
    said = subprocess.run(run, env=_environment(), capture_output=True, text=True, check=False).stderr
    found = re.search(r"use --memory (\w+)", said)
    assert found is not None, said
    return found[1]


def run_cell(images: Path, cell: Cell) -> Cell:
    """One `bigcluster run`: what it reports, and the peaks of its tree and of each worker as seen from outside."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        budget = least_budget(images, out, cell) if cell.budget == LEAST else cell.budget
        began = time.monotonic()
        with (
            tempfile.TemporaryFile("w+") as said,
            subprocess.Popen(
                command(images, out, cell, budget), env=_environment(), stdout=said, stderr=subprocess.PIPE, text=True
            ) as process,
        ):
            tree_bytes, worker_bytes = watched(process)
            assert process.stderr is not None
            complained = process.stderr.read()
            said.seek(0)
            answer = said.read()
        seconds = time.monotonic() - began
    if process.returncode not in (0, 3):
        return Cell(cell.workers, budget, cell.job, reason=complained.strip().splitlines()[-1])
    memory: dict[str, Any] = json.loads(answer)["memory"]
    workers = memory["workers"]
    return Cell(
        cell.workers,
        budget,
        cell.job,
        budget_bytes=parse_bytes(budget),
        projected_bytes=memory["projected_peak_bytes"],
        measured_bytes=max(tree_bytes, memory["measured_peak_bytes"]),
        part_bytes=workers["budget_bytes"],
        worker_projected_bytes=workers["projected_peak_bytes"],
        worker_measured_bytes=max(worker_bytes, workers["measured_peak_bytes"]),
        seconds=round(seconds, 1),
    )


def watched(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Sample a run until it ends; return the peak of its tree, and the largest peak of a worker with its children."""
    metric = memory_metric()
    tree_peak = worker_peak = 0
    while process.poll() is None:
        held: dict[int, tuple[int, int, bool]] = {}
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(process.pid)
            for one in [root, *root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    is_worker = "spawn_main" in " ".join(one.cmdline())
                    held[one.pid] = getattr(one.memory_full_info(), metric), one.ppid(), is_worker
        tree_peak = max(tree_peak, sum(n_bytes for n_bytes, _, _ in held.values()))
        for pid, (n_bytes, _, is_worker) in held.items():
            if is_worker:
                children = sum(other for other, parent, _ in held.values() if parent == pid)
                worker_peak = max(worker_peak, n_bytes + children)
        time.sleep(SAMPLE_SECONDS)
    return tree_peak, worker_peak


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}


def _row(cell: Cell) -> str:
    start = f"| {cell.job} | {cell.workers} | {cell.budget} |"
    if cell.reason:
        return f"{start} - | - | - | {cell.reason} |"
    return (
        f"{start} {cell.measured_bytes / MIB:.0f} of {cell.projected_bytes / MIB:.0f} | "
        f"{cell.worker_measured_bytes / MIB:.0f} of {cell.worker_projected_bytes / MIB:.0f}, "
        f"{cell.part_bytes / MIB:.0f} allowed | {cell.seconds:.0f} | {'; '.join(cell.failures) or 'kept'} |"
    )


def render(cells: Sequence[Cell]) -> str:
    """The cells as a Markdown table."""
    lines = [
        "| job | workers | budget | all processes, MiB measured of projected | the largest worker | s | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    return "\n".join([*lines, *map(_row, cells)])


if __name__ == "__main__":
    sys.exit(main())

"""A worker of a cluster is killed, frozen or leaves in each stage of a run: the same labels and scores, to the byte.

The cluster is one of dask, with three workers of one thread: those that are left have enough for two cores. A worker is
hit while it has a task of the job of that stage.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.dask_processes import Dask, dask_processes, end, python_of, variables
from benchmarks.stress.work import Job, catalog, labels, scratch
from bigcluster.solvers.kmeans.spread_jobs import LloydPass
from bigcluster.solvers.kmeans.spread_labels import LabelBlocks
from bigcluster.solvers.pca.product_parts import SumProducts
from bigcluster.stages.ingest_jobs import Fill
from bigcluster.stages.reduce_jobs import FitPCA, ProjectRows
from bigcluster.store import Store

N_WORKERS = 3
STAGES = {
    "ingest": Fill,
    "Gram": SumProducts,
    "finish of PCA": FitPCA,
    "projection": ProjectRows,
    "passes of k-means": LloydPass,
    "final labels": LabelBlocks,
}
"""The job of each stage."""
LIMITS = {"killed": 10.0, "frozen": 10.0, "leaves": 3.0}
"""Seconds that each fault may add to an undisturbed run. They are not asserted: other work of this machine adds too."""
PATIENCE_SECONDS = 600.0
"""Seconds after which a run counts as hanging."""
SMALL = "from bigcluster.stages import cluster_jobs; cluster_jobs.SPREAD_FROM = 0"
"""Put in front of a small run: its workers share the passes of k-means, which would otherwise run whole on one."""


def main(full: bool) -> dict[str, Any]:
    """18 faults in runs over 8,190 images; where not full, one in a run over 300."""
    stages, faults = (list(STAGES), list(LIMITS)) if full else (["passes of k-means"], ["leaves"])
    # The covariance of 2,304 values, whose projection is a pass of its own, and passes of 10^10 multiply-adds.
    values: dict[str, Any] = {"k": 800, "size": 48, "components": 400, "pca.solver": "covariance"}
    if not full:
        values |= {"k": 12, "size": 32, "components": 40}
    values |= {"kmeans.algorithm": "lloyd", "report.write": False, "link": "none"}
    with scratch() as folder:
        job = Job(catalog(folder / "images", 8190 if full else 300), values)
        (folder / "seam").mkdir()
        (folder / "seam" / "sitecustomize.py").write_text("" if full else SMALL)
        alone = folder / "alone"
        subprocess.run(_command(job, alone), env=variables(), check=True)
        expected = labels(alone), _scores(alone)
        rows, undisturbed = [], []
        for stage in stages:
            # Beside each other in time, since other programs may use the machine too.
            name = STAGES[stage].__name__
            usual = _run(folder, job, expected, name, "nothing")
            undisturbed.append(usual)
            for fault in faults:
                row = _run(folder, job, expected, name, fault)
                added = round(row["rest_seconds"] - usual["rest_seconds"], 1)
                rows.append({"stage": stage, "fault": fault, "added_seconds": added, **row})
                print(f"worker_faults: {rows[-1]}", file=sys.stderr, flush=True)
    most = {fault: max(row["added_seconds"] for row in rows if row["fault"] == fault) for fault in faults}
    same = sum(row["same"] for row in rows)
    assert same == len(rows), [row for row in rows if not row["same"]]
    shown = ", ".join(f"{fault} {seconds:+.1f} s" for fault, seconds in most.items())
    usual_seconds = statistics.median(row["seconds"] for row in undisturbed)
    return {
        "rows": rows,
        "undisturbed": undisturbed,
        "limits": LIMITS,
        "says": f"{same} of {len(rows)} runs with a worker that was killed, frozen or left had the same labels and "
        f"scores; undisturbed {usual_seconds:.1f} s, the most that was added: {shown}",
    }


def _command(job: Job, out: Path) -> list[str]:
    return [*python_of("bigcluster"), *job.arguments(out)]


def _scores(out: Path) -> bytes:
    return Store(out).load("scores").tobytes()


def _run(folder: Path, job: Job, expected: tuple[bytes, bytes], name: str, fault: str) -> dict[str, Any]:
    """Run the job on a fresh cluster, do the fault to a worker that has a task of the job `name`, and compare.

    rest_seconds : from that moment to the end of the run.
    """
    out = folder / f"out-{fault}-{name}-{os.urandom(2).hex()}"
    place = folder / f"cluster-{os.urandom(4).hex()}"
    place.mkdir()
    with dask_processes(place, N_WORKERS) as dask:
        arguments = job.arguments(out)
        at = arguments.index("--threads")
        arguments[at : at + 2] = ["--scheduler", str(dask.file), "--set", f"cluster.min_workers={N_WORKERS}"]
        pids = dask.pids()
        hit: float | None = None
        begin = time.perf_counter()
        process = subprocess.Popen(
            [*python_of("bigcluster"), *arguments],
            env=variables({"PYTHONPATH": str(folder / "seam")}),
            stderr=subprocess.PIPE,
        )
        try:
            while hit is None:
                assert process.poll() is None, f"the run ended before {name}: {_told(process)}"
                for address in dask.working_on(name):
                    hit = time.perf_counter() - begin
                    _do(dask, address, pids[address], fault)
                    break
                time.sleep(0.005)
            said = process.communicate(timeout=PATIENCE_SECONDS)[1].decode()
        finally:
            end(process)
        seconds = time.perf_counter() - begin
        assert process.returncode == 0, said
    same = (labels(out), _scores(out)) == expected
    told = [line for line in said.splitlines() if "again" in line or "sign of life" in line]
    rest = round(seconds - hit, 1)
    return {"seconds": round(seconds, 1), "rest_seconds": rest, "same": same, "told": told}


def _told(process: subprocess.Popen[bytes]) -> str:
    return process.communicate()[1].decode()


def _do(dask: Dask, address: str, pid: int, fault: str) -> None:
    does: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "killed": lambda: os.kill(pid, signal.SIGKILL),
        "frozen": lambda: os.kill(pid, signal.SIGSTOP),
        "leaves": lambda: dask.client.retire_workers([address], close_workers=True),
    }
    does[fault]()

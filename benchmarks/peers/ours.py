"""`bigcluster run`, from a folder to labels.csv. Arguments that it does not know itself go to bigcluster.

This process becomes the command itself, so that nothing but bigcluster is in the measured tree.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.data import image_files
from benchmarks.peers import common

SOME_UNREAD = 3


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    run_out = args.out / "run"
    shutil.rmtree(run_out, ignore_errors=True)  # a fresh run, never a reused one
    from bigcluster.cli import main

    sys.argv = ["bigcluster", "run", str(args.images), "--out", str(run_out), "--quiet"]
    sys.argv += ["-k", str(args.clusters), "--components", str(args.components), "--seed", str(args.seed), *args.rest]
    try:
        main()
    except SystemExit as leaving:
        if leaving.code not in (0, None, SOME_UNREAD):
            raise RuntimeError(f"exit status {leaving.code}") from None
    done = clock.stop()
    report = _report(run_out, done)
    labels, scores = _labels(run_out, args.images), _scores(run_out)
    common.save(args.out, labels=labels, scores=scores)
    report["labels_digest"] = hashlib.sha256((run_out / "labels.csv").read_bytes()).hexdigest()
    report["scores_digest"] = None if scores is None else hashlib.sha256(scores.tobytes()).hexdigest()
    shutil.rmtree(run_out)
    return report


def _report(run_out: Path, done: float) -> dict[str, Any]:
    summary = json.loads((run_out / "summary.json").read_text(encoding="utf-8"))
    stages = summary["stages"]
    # The pictures to look at come after the labels, and no peer draws any.
    done -= stages["report"]["seconds"] if "report" in stages else 0.0
    later = sum(stages[name]["seconds"] for name in ("cluster", "output"))
    return {
        # Start-up, listing and planning count towards the scores: nobody gets scores without them.
        "scores_seconds": round(done - later, 4),
        "labels_seconds": round(done, 4),
        "reported_variance": summary["explained_variance_ratio"],
        "reported_inertia": summary["inertia"],
        "n_components": summary["n_components"],
        "budget_bytes": summary["memory"]["budget_bytes"],
        "projected_peak_bytes": summary["memory"]["projected_peak_bytes"],
        "own_peak_bytes": summary["memory"]["measured_peak_bytes"],
        "passes": _total(stages, "passes"),
        "bytes_read": _total(stages, "bytes_read"),
        "dask_tasks": _total(stages, "dask_tasks"),
        "stages": stages,
    }


def _total(stages: dict[str, dict[str, Any]], fact: str) -> int | None:
    """Sum over the stages that state the fact; None where none does."""
    values = [facts[fact] for facts in stages.values() if isinstance(facts.get(fact), int)]
    return sum(values) if values else None


def _labels(run_out: Path, images: Path) -> Any:
    import numpy as np

    with open(run_out / "labels.csv", newline="", encoding="utf-8") as file:
        label_of = {row["path"]: int(row["label"]) for row in csv.DictReader(file)}
    return np.array([label_of[file.relative_to(images).as_posix()] for file in image_files(images)], np.int32)


def _scores(run_out: Path) -> Any:
    import numpy as np

    from bigcluster.api import Run

    try:
        return np.ascontiguousarray(Run(run_out).scores.compute())
    except Exception as error:  # the layout of a store may change; labels and times stand without it
        print(f"no scores to judge: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    common.run(common.image_parser(__doc__), job)

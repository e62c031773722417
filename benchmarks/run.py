"""Runs the cases of a family in turns and puts what they did, and how well, into one plain dictionary."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data, evaluate
from benchmarks.cases import OURS, Case, Family, Graph, Images, RowCase, Work
from benchmarks.machine import describe_machine, now, versions
from benchmarks.measure import Outcome, measure

Row = dict[str, Any]
MEDIANS = ("wall_seconds", "peak_bytes", "highest_rss_bytes")
REPORT_MEDIANS = ("load_seconds", "scores_seconds", "fit_seconds", "labels_seconds", "graph_seconds")


@dataclass(frozen=True)
class Options:
    """What the command line settles."""

    scale: str
    repeats: int = 1
    images: Path | None = None
    timeout_seconds: float = 3600
    results: Path = data.RESULTS


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass
class _Job:
    """One family under way. `outcomes` by case, in the order of the repeats."""

    family: Family
    cases: tuple[Case, ...]
    options: Options
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    @property
    def work(self) -> Work:
        return self.family.work[self.options.scale]

    @property
    def folder(self) -> Path:
        return self.options.results / "work" / f"{self.options.scale}-{self.family.name}"

    def out(self, case: Case) -> Path:
        return self.folder / case.name


def run_family(family: Family, cases: tuple[Case, ...], options: Options) -> dict[str, Any]:
    """Do the work with every case; returns the results, which also lie under results/ as JSON."""
    job = _Job(family, cases, options)
    shutil.rmtree(job.folder, ignore_errors=True)
    work = job.work
    source: Path
    if isinstance(work, Images):
        source = options.images or data.catalog(work.n_images, work.shrink, say, options.results / "data")
    else:
        source = data.rows(work.n_rows, work.n_columns, say, options.results / "data")
    _take_turns(job, source)
    rows = [_row(case, job.outcomes[case.name]) for case in cases]
    limits: dict[str, Any] | None = None
    if isinstance(work, Images):
        _judge_images(job, source, rows)
        limits = _limit(job, source, work, rows)
    elif isinstance(work, Graph):
        _judge_graphs(job, rows)
    else:
        _judge_rows(job, source, rows)
    found = {
        "family": family.name,
        "title": family.title,
        "scale": options.scale,
        "partial": len(cases) < len(family.cases.get(options.scale, ())),
        "work": asdict(work) | ({"n_images": len(data.image_files(source))} if isinstance(work, Images) else {}),
        "repeats": options.repeats,
        "date": now(),
        "machine": describe_machine(),
        "versions": versions(),
        "rows": rows,
        "limit": limits,
    }
    _write(found, options)
    shutil.rmtree(job.folder)
    return found


def _take_turns(job: _Job, source: Path) -> None:
    """Every case once, then every case again: a machine that slows down slows all of them.

    There and back: who comes after a heavy one the first time comes before it the next.
    """
    for repeat in range(job.options.repeats):
        for case in job.cases if repeat % 2 == 0 else reversed(job.cases):
            if repeat and (case.slow or job.outcomes[case.name][0].reason):
                continue  # what failed once fails again
            out = job.out(case) if repeat == 0 else job.folder / "again"
            log = job.options.results / "logs" / f"{job.options.scale}-{job.family.name}-{case.name}-{repeat}.log"
            say(f"{job.family.name}: {case.name}" + (f", repeat {repeat + 1}" if repeat else ""))
            outcome = measure(
                f"benchmarks.peers.{case.peer}", _arguments(job, case, source, out), log, job.options.timeout_seconds
            )
            job.outcomes.setdefault(case.name, []).append(outcome)
            say(f"  {outcome.reason or f'{outcome.wall_seconds:.1f} s, {outcome.peak_bytes / 2**20:.0f} MiB'}")


def _arguments(job: _Job, case: Case, source: Path, out: Path) -> list[str]:
    work = job.work
    if case.on_scores:
        assert isinstance(work, Images)
        scores = job.folder / OURS / "scores.npy"
        given = ["--rows", str(scores), "--n-clusters", str(work.clusters)]
    elif isinstance(work, Images):
        given = ["--images", str(source), "--components", str(work.components), "--clusters", str(work.clusters)]
        if case.peer == "ours":
            given += ["--size", work.size]
    elif isinstance(work, Graph):
        if case.peer == "neighbors_ours":
            data.rows_store(source)
        given = ["--rows", str(source), "--neighbors", str(work.neighbors)]
    else:
        assert isinstance(case, RowCase)
        if case.peer == "kmeans_ours":
            data.rows_store(source)  # written here, so that the peer only reads it
        given = ["--rows", str(source), "--init", str(data.first_centers(source, case.k))]
        given += ["--iterations", str(work.iterations)]
    return [*given, "--out", str(out), *case.options]


def _row(case: Case, outcomes: list[Outcome]) -> Row:
    """A case's line: medians over its repeats, or the reason why there are none."""
    row: Row = {"case": case.name, "peer": case.peer, "what": case.what, "k": getattr(case, "k", None)}
    row["on_scores"] = case.on_scores
    good = [outcome for outcome in outcomes if not outcome.reason]
    row["ok"] = bool(good)
    row["reason"] = outcomes[0].reason
    row["runs"] = [asdict(outcome) for outcome in outcomes]
    row["metric"] = outcomes[0].metric
    row["samples"] = min(outcome.samples for outcome in good or outcomes)
    measured = good or outcomes
    row |= {name: statistics.median(getattr(outcome, name) for outcome in measured) for name in MEDIANS}
    for name in REPORT_MEDIANS:
        values = [outcome.report[name] for outcome in good if name in outcome.report]
        if values:
            row[name] = statistics.median(values)
    if good:
        row |= {name: value for name, value in good[0].report.items() if name not in REPORT_MEDIANS}
        for name in ("labels_digest", "scores_digest", "graph_digest"):
            if name in good[0].report:
                row[f"same_{name}_every_repeat"] = len({outcome.report[name] for outcome in good}) == 1
    return row


def _judge_images(job: _Job, source: Path, rows: list[Row]) -> None:
    """Explained variance, inertia and agreement, all from the files' own pixels."""
    work = job.work
    assert isinstance(work, Images)
    labels = {row["case"]: evaluate.load(job.folder / row["case"], "labels") for row in rows if row["ok"]}
    known = {name: values for name, values in labels.items() if values is not None}
    styles = data.styles(source)
    for row in rows:
        if row["case"] in known:
            found = known[row["case"]]
            # a set that leaves images out, or finds other clusters than asked for, has an inertia of its own kind
            row["clusters_found"] = len(np.unique(found[found >= 0]))
            row["left_out"] = int((found < 0).sum())
            if OURS in known:
                row["ari_ours"] = evaluate.agreement(known[row["case"]], known[OURS])
            if styles is not None:
                row["ari_truth"] = evaluate.agreement(known[row["case"]], styles)
    if work.size != "native" or not known:
        return
    say(f"{job.family.name}: judging {len(known)} sets of labels")
    files = [str(job.folder / name / "labels.npy") for name in known]
    log = job.options.results / "logs" / f"{job.options.scale}-{job.family.name}-reference.log"
    given = ["--images", str(source), "--labels", *files]
    judged = measure("benchmarks.reference", given, log, job.options.timeout_seconds)
    if judged.reason:
        say(f"  no inertia and no explained variance: {judged.reason}")
        return
    inertia = dict(zip(known, judged.report["inertia"], strict=True))
    for row in rows:
        row["inertia_pixels"] = inertia.get(row["case"])
        scores = evaluate.load(job.folder / (OURS if row["on_scores"] else row["case"]), "scores")
        if scores is not None and row["ok"]:
            if not row["on_scores"]:
                row["explained_variance"] = evaluate.explained_variance(scores, judged.report["total_variance"])
            row["inertia_scores"] = evaluate.label_inertia(scores, known[row["case"]])


def _judge_rows(job: _Job, source: Path, rows: list[Row]) -> None:
    """Inertia from the centers that a peer returned, agreement with ours of the same k."""
    x = np.load(source, mmap_mode="r")
    ours = {row["k"]: evaluate.load(job.folder / f"{OURS}-{row['k']}", "labels") for row in rows}
    for row in rows:
        centers = evaluate.load(job.folder / row["case"], "centers")
        labels = evaluate.load(job.folder / row["case"], "labels")
        if not row["ok"] or centers is None:
            continue
        row["inertia"] = evaluate.center_inertia(x, centers)
        same_k = ours[row["k"]]
        if labels is not None:
            row["clusters_found"] = len(np.unique(labels))
        if labels is not None and same_k is not None:
            row["ari_ours"] = evaluate.agreement(labels, same_k)


def _judge_graphs(job: _Job, rows: list[Row]) -> None:
    """Add the share of each peer's neighbors that ours found too; float32 alone may choose others that are as near."""
    ours = evaluate.load(job.folder / OURS, "ids")
    for row in rows:
        ids = evaluate.load(job.folder / row["case"], "ids")
        if row["ok"] and ids is not None and ours is not None:
            row["neighbors_ours"] = evaluate.shared_neighbors(ids, ours)


def _limit(job: _Job, source: Path, work: Images, rows: list[Row]) -> dict[str, Any] | None:
    """T* of this work on this machine, now; iterations of k-means are those that ours took."""
    row = next((row for row in rows if row["case"] == OURS and row["ok"]), None)
    if row is None:
        return None
    facts = row["stages"]["cluster"]
    say(f"{job.family.name}: measuring the limit")
    # several starts share a pass: the operations of one are those of all that are alive
    given = ["--images", str(source), "--components", str(row["n_components"]), "--clusters", str(work.clusters)]
    given += ["--passes", str(facts.get("passes") or facts.get("n_iter") or 20)]
    given += ["--starts", str(max(1, len(facts.get("inertias", ()))))]
    if work.size != "native":
        given += ["--side", work.size]
    log = job.options.results / "logs" / f"{job.options.scale}-{job.family.name}-limit.log"
    outcome = measure("benchmarks.limit", given, log, job.options.timeout_seconds)
    if outcome.reason:
        say(f"  no limit: {outcome.reason}")
        return {"reason": outcome.reason}
    found = outcome.report
    found["labels_seconds"] = row["labels_seconds"]
    found["distance"] = round(row["labels_seconds"] / found["limit_seconds"], 2)
    return found


def _write(found: dict[str, Any], options: Options) -> None:
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / f"{result_name(found)}.json"
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    say(f"{found['family']}: written to {file}")


def result_name(found: dict[str, Any]) -> str:
    """A run of some cases never replaces a run of all: times of different runs must not stand in one table."""
    return f"{found['scale']}-{found['family']}" + ("-partial" if found["partial"] else "")

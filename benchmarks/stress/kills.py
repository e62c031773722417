"""SIGKILL at random moments of a run, then the same command again: it ends with the same labels, and redoes no more
than the block or the pass that was in work.

What was done before the kill is read from the marks that it left; what the next run redid, from what it reports.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.stress import seam
from benchmarks.stress.work import Job, catalog, labels, scratch
from bigcluster.runtime.events import Event, StageAdvanced
from bigcluster.store import Marks
from bigcluster.store.inventory import STATE

SEAM = Path(seam.__path__[0])
ROOT = Path(__file__).parents[2]
STAGES = ("ingest", "reduce", "cluster")
PREPARED: dict[str, Callable[[Path], bool]] = {
    "start": lambda out: True,
    "ingest": lambda out: (out / "run.toml").exists(),
    "a block": lambda out: any((out / ".bigcluster" / "marks" / "ingest").glob("0*.json")),
    "reduce": lambda out: (out / ".bigcluster" / "marks" / "ingest" / "done.json").exists(),
    "cluster": lambda out: (out / ".bigcluster" / "marks" / "reduce" / "done.json").exists(),
    "iterations": lambda out: (out / ".bigcluster" / "marks" / "state" / "cluster.json").exists(),
    "output": lambda out: (out / ".bigcluster" / "marks" / "cluster" / "done.json").exists(),
    "report": lambda out: (out / "summary.json").exists(),
}
"""What shows that a run has come so far. The kill follows after a random part of what that stage takes."""
PATIENCE_SECONDS = 30
"""A worker leaves when its supervisor is gone; on a busy machine that takes its time."""
TRIES = 8
"""A run that ended before it was killed says nothing: another one is killed sooner."""


def main(full: bool) -> dict[str, Any]:
    """100 kills of a run over 2,000 images, spread over its whole length; where not full, one per stage, 60 images."""
    n_kills, n_images = (100, 2000) if full else (len(PREPARED), 60)
    rng = random.Random(0)
    with scratch() as folder:
        # Four row blocks, and pixels enough that the reduction takes its time.
        job = Job(catalog(folder / "images", n_images), {"k": 12, "size": "224x320", "components": 40})
        undisturbed, out = folder / "undisturbed", folder / "out"
        assert run(job, undisturbed).wait() == 0, "the undisturbed run failed"
        expected = labels(undisturbed)
        seconds = {stage: facts["seconds"] for stage, facts in summary(undisturbed)["stages"].items()}
        moments: Counter[str] = Counter()
        redone: list[dict[str, int]] = []
        for number in range(n_kills):
            stage = list(PREPARED)[number % len(PREPARED)]
            redone.append(kill_and_repeat(job, out, stage, seconds.get(stage, 1.0), rng, expected, moments))
            if number % 10 == 9:
                print(f"kills: {number + 1} of {n_kills}, {dict(moments)}", file=sys.stderr, flush=True)
        assert job.verify(out)["ok"]
    worst = {name: max(one[name] for one in redone) for name in redone[0]}
    assert not any(worst.values()), f"what had been done was done again: {worst}"
    return {
        "kills": n_kills,
        "same_labels": len(redone),
        "killed_in": dict(moments),
        "undisturbed_seconds": seconds,
        "most_redone": worst,
        "says": f"{len(redone)} of {n_kills} killed runs of {n_images} images end with the same labels; at most "
        f"{worst['blocks']} finished blocks, {worst['stages']} finished stages and {worst['iterations']} saved "
        f"iterations were redone; killed in {dict(moments)}",
    }


def kill_and_repeat(
    job: Job,
    out: Path,
    stage: str,
    most_seconds: float,
    rng: random.Random,
    expected: bytes,
    moments: Counter[str],
) -> dict[str, int]:
    """Kill a run at a random moment, run it again, check its labels, and return what was redone.

    The run is killed at most `most_seconds` after `stage` was reached. expected : the labels.csv of an undisturbed run.
    moments : counts the stages in which runs were killed.
    """
    whom = rng.choice(("supervisor", "worker", "both"))
    assert any(kill_one(job, out, stage, rng.uniform(0, most_seconds) / 2**tried, whom) for tried in range(TRIES)), (
        f"no run was alive in {stage}"
    )
    before = done(out)
    moments[before["in_work"]] += 1
    events: list[Event] = []
    stages = job.run(out, events.append)["stages"]
    assert labels(out) == expected, f"other labels after a kill in {before['in_work']}"
    return count_redone(before, stages, events)


def kill_one(job: Job, out: Path, stage: str, after: float, whom: str) -> bool:
    """Begin anew and kill once `stage` is reached; whether the run was alive then."""
    shutil.rmtree(out, ignore_errors=True)
    return kill(run(job, out), partial(PREPARED[stage], out), after, whom)


def run(job: Job, out: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(SEAM), str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "bigcluster", *job.arguments(out)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return found


def kill(process: subprocess.Popen[bytes], prepared: Callable[[], bool], after: float, whom: str) -> bool:
    """SIGKILL so many seconds after `prepared`, without notice; returns once nobody of the run is left.

    False where it had ended before.
    """
    while process.poll() is None and not prepared():
        time.sleep(0.002)
    try:
        process.wait(after)
        return False
    except subprocess.TimeoutExpired:
        kill_now(process, whom)
        return True


def kill_now(process: subprocess.Popen[Any], whom: str) -> None:
    """SIGKILL the supervisor, its workers or both, and return once nobody of the run is left."""
    supervisor = psutil.Process(process.pid)
    stop(supervisor)  # it starts no other worker once they are listed
    workers = supervisor.children(recursive=True)
    for victim in [*workers * (whom != "supervisor"), *[supervisor] * (whom != "worker")]:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:  # it has left meanwhile
            continue
    supervisor.resume()
    process.wait()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(map(runs, workers)):
        assert time.monotonic() < deadline, "a worker outlived its supervisor"
        time.sleep(0.01)


def stop(process: psutil.Process) -> None:
    """SIGSTOP, and wait until it is heeded: a process that is just starting another one first does so."""
    process.suspend()
    while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
        time.sleep(0.001)


def runs(process: psutil.Process) -> bool:
    """A zombie does not, once its last thread is out of the kernel: it waits for whoever inherited it."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def done(out: Path) -> dict[str, Any]:
    """What the marks say is done: blocks, stages, iterations of the stage in work; and which that is."""
    marks = Marks(out)
    blocks = sum(stage == "ingest" and block != "done" for stage, block in marks.names())
    stages = [stage for stage in STAGES if marks.read(stage) is not None]
    state = marks.read(STATE, "cluster")
    iterations = 0 if state is None else state.payload["facts"]["iterations"]
    ends = [*stages, *(["output"] if (out / "summary.json").exists() else [])]
    ends += ["report"] if marks.read("report") is not None else []
    in_work = next((stage for stage in (*STAGES, "output", "report") if stage not in ends), "the end")
    if not (out / "run.toml").exists():
        in_work = "start"
    return {"blocks": blocks, "stages": stages, "iterations": iterations, "in_work": in_work}


def count_redone(before: dict[str, Any], stages: dict[str, Any], events: list[Event]) -> dict[str, int]:
    """Of the blocks, stages and saved iterations that were done before, how many were done again.

    A resumed fit tells at once what it has behind it; one that began anew tells of its first iteration.
    """
    first = next((e.done for e in events if isinstance(e, StageAdvanced) and e.stage == "cluster"), None)
    return {
        "blocks": max(0, before["blocks"] - stages["ingest"]["blocks_reused"]),
        "stages": sum(not stages[stage]["reused"] for stage in before["stages"]),
        "iterations": 0 if first is None else max(0, before["iterations"] - first),
    }

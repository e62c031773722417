"""SIGKILL while neighbors are searched, then the same command again: the same labels, and no saved row again.

The images are small and have vectors of many values, so that the search takes longer than everything else.
"""

from __future__ import annotations

import csv
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.stress.kills import kill, run, summary
from benchmarks.stress.work import Job, labels, scratch
from bigcluster.runtime.events import Event, StageAdvanced
from bigcluster.store import Marks
from bigcluster.store.inventory import STATE

VALUES = 1024
"""Values of each vector."""
GROUPS = 12
"""Groups of vectors that are drawn around a center each."""
TRIES = 8
"""A run whose search had ended before it was killed says nothing: another one is killed sooner."""


def main(full: bool) -> dict[str, Any]:
    """20 kills in the middle of the graph of 6,000 images; where not full, 2 kills of 2,000."""
    n_kills, n_images = (20, 6000) if full else (2, 2000)
    rng = random.Random(0)
    with scratch() as folder:
        images, vectors = draw(folder, n_images)
        values = {"size": 8, "features": str(vectors), "reduce": "none", "link": "none", "report.write": False}
        job, undisturbed, out = Job(images, values), folder / "undisturbed", folder / "out"
        assert run(job, undisturbed).wait() == 0, "the undisturbed run failed"
        expected, seconds = labels(undisturbed), summary(undisturbed)["stages"]["neighbors"]["seconds"]
        saved = [kill_and_repeat(job, out, seconds, rng, expected) for _ in range(n_kills)]
        assert job.verify(out)["ok"]
        n_groups = summary(out)["n_clusters"]
    return {
        "kills": n_kills,
        "saved_rows": saved,
        "undisturbed_seconds": seconds,
        "says": f"{n_kills} of {n_kills} runs of {n_images} images, killed while their neighbors were searched, end "
        f"with the same labels in {n_groups} groups; none of up to {max(saved)} saved rows was searched again",
    }


def draw(folder: Path, n_images: int) -> tuple[Path, Path]:
    """Write pictures of 8 x 8 pixels and their vectors; return the folder and the file."""
    images, generator = folder / "images", np.random.default_rng(0)
    images.mkdir()
    names = [f"{number:05d}.png" for number in range(n_images)]
    for name in names:
        encoded = cv2.imencode(".png", generator.integers(0, 256, (8, 8), np.uint8))[1]
        (images / name).write_bytes(encoded.tobytes())
    centers = generator.standard_normal((GROUPS, VALUES)).astype(np.float32)
    rows = centers[generator.integers(0, GROUPS, n_images)]
    rows += 2 * generator.standard_normal(rows.shape, np.float32)
    np.save(folder / "vectors.npy", rows)
    with (folder / "vectors.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([name] for name in names)])
    return images, folder / "vectors.npy"


def kill_and_repeat(job: Job, out: Path, seconds: float, rng: random.Random, expected: bytes) -> int:
    """Kill a run in the middle of its search, run it again and check its labels. Returns the rows that were saved."""
    assert any(kill_one(job, out, rng.uniform(0, seconds) / 2**tried, rng) for tried in range(TRIES)), (
        "no run was alive in the search"
    )
    state = Marks(out).read(STATE, "neighbors")
    n_saved = 0 if state is None else int(state.payload["facts"]["ends"][-1])
    events: list[Event] = []
    job.run(out, events.append)
    assert labels(out) == expected, "other labels after a kill in the search"
    first = next(event.done for event in events if isinstance(event, StageAdvanced) and event.stage == "neighbors")
    assert first >= n_saved, f"{n_saved} rows were saved, and the search began again at {first}"
    return n_saved


def kill_one(job: Job, out: Path, after: float, rng: random.Random) -> bool:
    """Begin anew and kill once the features are there; whether the search had not ended then."""
    shutil.rmtree(out, ignore_errors=True)
    marks = out / ".bigcluster" / "marks"
    reached = partial((marks / "features" / "done.json").exists)
    whom = rng.choice(("supervisor", "worker", "both"))
    return kill(run(job, out), reached, after, whom) and not (marks / "neighbors" / "done.json").exists()

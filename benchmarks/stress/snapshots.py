"""What a command reads changes while it works: OUT under a long `predict`, a manifest under a run. Every result is of
one state, or the command refuses in one line and leaves no result.
"""

from __future__ import annotations

import csv
import random
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.stress.harness import command, refusal, replace_by_copy
from benchmarks.stress.work import BUDGET, Job, catalog, labels, scratch
from bigcluster.config import resolve
from bigcluster.pipeline.predict import predict
from bigcluster.pipeline.run import run
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.prediction import plan_predict
from bigcluster.runtime.events import DecodingStarted, Event, Listener, StageStarted

N_IMAGES = 96
BLOCK_ROWS = 16
"""Of a predict: a real one takes thousands at once. Between two blocks it has used a part of the model."""
PREDICT = sys.modules[predict.__module__]


def main(full: bool) -> dict[str, Any]:
    """Every change at four moments of a predict, and at three of a run over a manifest; some where not full."""
    ended: Counter[str] = Counter()
    with scratch() as folder:
        images = catalog(folder / "images", N_IMAGES)
        job = Job(images, {"k": 3, "size": "224x320", "components": 8, "report.write": False})
        original, out = folder / "original", folder / "out"
        job.run(original)
        job.predict(original, folder / "first.csv")  # it makes what a predict needs, once
        before = (folder / "first.csv").read_bytes()
        for name, change in _changes(job).items() if full else list(_changes(job).items())[::5]:
            for moment in (0, N_IMAGES // 3, N_IMAGES // 2, N_IMAGES - BLOCK_ROWS) if full else (N_IMAGES // 2,):
                ended[_predict(job, original, out, change, name, moment, before)] += 1
                print(f"snapshots: predict, {name} at {moment}, {dict(ended)}", file=sys.stderr, flush=True)
        n_predicts = ended.total()
        for name, tamper in MANIFESTS.items() if full else list(MANIFESTS.items())[:2]:
            for stage in ("ingest", "cluster", "output") if full else ("ingest",):
                ended[_run_on_manifest(folder, name, tamper, stage)] += 1
    return {
        "predicts": n_predicts,
        "runs": ended.total() - n_predicts,
        "ended": dict(ended),
        "says": f"{n_predicts} predictions while OUT changed, {ended.total() - n_predicts} runs while their manifest "
        f"did: every table is of one model and one manifest, or the command refused in one line ({_show(ended)})",
    }


def _show(ended: Counter[str]) -> str:
    return ", ".join(f"{number} {how}" for how, number in sorted(ended.items()))


def _changes(job: Job) -> dict[str, Callable[[Path], None]]:
    """What somebody does to OUT; by the command line, as another process."""

    def another(**values: Any) -> Callable[[Path], None]:
        other = Job(job.images, {**job.values, **values})

        def change(out: Path) -> None:
            done = command(*other.arguments(out), "--replace")
            assert done.returncode == 0 or "in use" in done.stderr, done.stderr

        return change

    def exchange(out: Path) -> None:
        """Another OUT in its place."""
        out.rename(out.with_name("aside"))
        Job(job.images, {**job.values, "k": 5}).run(out)
        shutil.rmtree(out.with_name("aside"))

    return {
        "another k": another(k=5),
        "other components": another(components=3),
        "another size": another(size="112x160"),
        "no reduction": another(reduce="none"),
        "another OUT": exchange,
        "OUT deleted": lambda out: shutil.rmtree(out),
    }


def _when(reached: Callable[[Event], bool], change: Callable[[], None]) -> Listener:
    """Does something once, at the first event that shows how far a command is; the others wait meanwhile."""
    lock, left = threading.Lock(), [change]

    def listen(event: Event) -> None:
        with lock:
            if left and reached(event):
                left.pop()()

    return listen


def _predict(
    job: Job, original: Path, out: Path, change: Callable[[Path], None], name: str, moment: int, before: bytes
) -> str:
    replace_by_copy(out, original)
    to = out.with_name("predicted.csv")
    to.unlink(missing_ok=True)
    changed = False

    def change_now() -> None:
        nonlocal changed
        change(out)
        changed = True

    listener = _when(lambda event: isinstance(event, DecodingStarted) and event.start >= moment, change_now)
    settings = job.settings(out)
    with mock.patch.object(PREDICT, "plan_predict", _in_small_blocks):
        text = refusal(lambda: predict(settings, BUDGET, images=str(job.images), to=str(to), listener=listener))
    what = f"predict, {name} at {moment}"
    assert changed, f"{what}: nothing was changed meanwhile"
    if text:
        assert not to.exists(), f"{what}: it refused and left a table: {text}"
        return "predictions refused"
    assert to.is_file(), f"{what}: no table"
    if to.read_bytes() == before:
        return "predictions by the model before"
    assert out.is_dir(), f"{what}: a table of no model"
    again = out.with_name("again.csv")
    job.predict(out, again)
    assert to.read_bytes() == again.read_bytes(), f"{what}: the table is of neither model"
    return "predictions by the model after"


def _in_small_blocks(*arguments: Any, **others: Any) -> StagePlan:
    plan = plan_predict(*arguments, **others)
    return replace(plan, block_shape=(BLOCK_ROWS, plan.block_shape[1]))


def _rows(manifest: Path) -> list[list[str]]:
    with manifest.open(newline="") as file:
        return list(csv.reader(file))


def _write(manifest: Path, rows: list[list[str]]) -> None:
    """Beside, and in its place: as editors save."""
    new = manifest.with_suffix(".new")
    with new.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    new.replace(manifest)


def _sort_again(manifest: Path) -> None:
    header, *rows = _rows(manifest)
    _write(manifest, [header, *reversed(rows)])


def _sort_in_place(manifest: Path) -> None:
    header, *rows = _rows(manifest)
    text = "".join(",".join(row) + "\r\n" for row in [header, *reversed(rows)])
    with manifest.open("r+", newline="") as file:
        file.write(text)


def _shuffle_values(manifest: Path) -> None:
    """The paths stay in their order, the other columns do not."""
    header, *rows = _rows(manifest)
    values = [row[1:] for row in rows]
    random.Random(0).shuffle(values)
    _write(manifest, [header, *([row[0], *value] for row, value in zip(rows, values, strict=True))])


def _shorten(manifest: Path) -> None:
    _write(manifest, _rows(manifest)[:-7])


def _remove(manifest: Path) -> None:
    manifest.unlink()


MANIFESTS: dict[str, Callable[[Path], None]] = {
    "sorted again": _sort_again,
    "sorted in place": _sort_in_place,
    "values exchanged": _shuffle_values,
    "shortened": _shorten,
    "removed": _remove,
}


def _run_on_manifest(folder: Path, name: str, tamper: Callable[[Path], None], stage: str) -> str:
    """Every row of labels.csv has the column of its own image, or there is none."""
    images, out, manifest = folder / "images", folder / "listed", folder / "manifest.csv"
    shutil.rmtree(out, ignore_errors=True)
    pictures = [path.relative_to(folder).as_posix() for path in sorted(images.rglob("*.jpg"))][:24]
    _write(manifest, [["path", "said"], *([picture, f"of {picture}"] for picture in pictures)])
    given = {"images": str(manifest), "out": str(out), "k": 2, "size": "16x16", "components": 2}
    settings = resolve(flags=given, sets=(), config=None, kept=None)
    listener = _when(lambda event: isinstance(event, StageStarted) and event.stage == stage, lambda: tamper(manifest))
    text = refusal(lambda: run(settings, BUDGET, listener=listener))
    if text:
        assert not (out / "labels.csv").exists(), f"manifest {name}: it refused and left a table: {text}"
        return "runs refused"
    header, *rows = list(csv.reader(labels(out).decode().splitlines()))
    wrong = [row for row in rows if row[header.index("said")] != f"of {row[0]}"]
    assert not wrong, (
        f"manifest {name} in {stage}: {len(wrong)} of {len(rows)} rows have the column of another: {wrong[0]}"
    )
    return "runs as the manifest was"

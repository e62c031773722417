"""Commands that read a finished OUT say the same whatever workers read it: predict and verify."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import Sent
from conftest import write_pictures

from benchmarks.stress.work import Job
from bigcluster.pipeline import predict as predict_module
from bigcluster.pipeline import predict_jobs
from bigcluster.pipeline import verify as verify_module
from bigcluster.pipeline.job import open_job
from bigcluster.pipeline.predict import predict
from bigcluster.pipeline.run import run
from bigcluster.pipeline.verify import verify
from bigcluster.planning import prediction, stages
from bigcluster.runtime.resources import Resources
from bigcluster.stages import novelty, novelty_jobs
from bigcluster.store import Store
from bigcluster.units import GIB

BUDGET = Resources(GIB, 2)
N = 40


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "images", N)
    (tmp_path / "images" / "p007 bad.png").write_bytes(b"no picture")
    return tmp_path / "images"


def on(monkeypatch: pytest.MonkeyPatch, module: Any, cluster: Sent) -> None:
    """Have the jobs of a command done by these workers."""
    monkeypatch.setattr(module, "open_job", lambda *given: replace(open_job(*given), cluster=cluster))


def vectors(folder: Path, seed: int) -> str:
    """Vectors of the images in a folder, in a file beside it."""
    names = sorted(path.name for path in folder.iterdir())
    file = folder.with_suffix(".npy")
    np.save(file, np.random.default_rng(seed).normal(size=(len(names), 6)).astype(np.float32))
    file.with_suffix(".csv").write_text("path\n" + "".join(f"{name}\n" for name in names))
    return str(file)


@pytest.mark.parametrize("kind", ["pca", "none", "vectors"])
def test_predictions_are_the_same_bytes_on_any_cluster(
    kind: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, new, to = tmp_path / "out", tmp_path / "new", tmp_path / "labels.csv"
    write_pictures(new, 33)
    (new / "broken.png").write_bytes(b"")
    given: dict[str, Any] = {"k": 3, "size": "24x18", "components": 4, "report.write": False, "link": "none"}
    if kind == "vectors":
        given["features"] = vectors(images, 1)
    if kind == "none":
        given["reduce"] = "none"
    settings = Job(images, given).settings(out)
    run(settings, BUDGET)

    def predicted() -> tuple[bytes, dict[str, Any]]:
        features = vectors(new, 2) if kind == "vectors" else None
        found = predict(settings, BUDGET, images=str(new), to=str(to), features=features)
        return to.read_bytes(), {**found, "stages": None}

    shutil.copytree(out, tmp_path / "unmeasured")
    here = predicted()
    assert here[1]["counts"]["ok"] == 33
    monkeypatch.setattr(prediction, "pixel_chunks", lambda n_values: (5, n_values))
    monkeypatch.setattr(predict_jobs, "ROWS_PER_PART", 8)
    assert predicted() == here, "blocks and parts change nothing"
    workers = Sent(3)
    on(monkeypatch, predict_module, workers)
    assert predicted() == here
    assert set(workers.jobs) == {"PredictRows"}
    assert len(workers.jobs) > 3
    monkeypatch.setattr(novelty, "SCORE_ROWS", 7)
    monkeypatch.setattr(novelty_jobs, "SCORE_ROWS", 7)
    measured = {}
    for place in ("one", "several"):
        settings = replace(settings, out=str(shutil.copytree(tmp_path / "unmeasured", tmp_path / place)))
        workers = Sent(4)
        if place == "one":
            monkeypatch.setattr(predict_module, "open_job", open_job)
        else:
            on(monkeypatch, predict_module, workers)
        predicted()
        measured[place] = to.read_bytes(), Store(tmp_path / place).load("usual").tobytes()
    assert measured["one"] == measured["several"]
    assert "NormsOfRows" in workers.jobs
    assert {"SquaresOfScores", "LeverageOfScores"} <= set(workers.jobs) or kind == "none"
    assert not list((out / ".bigcluster" / "ledger").glob("names-*"))


def test_verify_says_the_same_on_any_cluster(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "pixel_chunks", lambda n_values: (4, n_values))
    out = tmp_path / "out"
    settings = Job(images, {"k": 3, "size": "24x18", "components": 4, "link": "none"}).settings(out)
    run(settings, BUDGET)
    workers = Sent(4)

    def verified(out: Path, cluster: Sent | None, *, quick: bool = False) -> dict[str, Any]:
        with monkeypatch.context() as patch:
            if cluster is not None:
                on(patch, verify_module, cluster)
            found = verify(replace(settings, out=str(out)), BUDGET, quick=quick)
        return {**found, "stages": None, **({"bytes_read": 0} if quick else {})}  # a sample is drawn anew each time

    for quick in (False, True):
        here = verified(out, None, quick=quick)
        assert here["ok"]
        assert verified(out, workers, quick=quick) == here
    assert set(workers.jobs) == {"CheckFiles"}
    chunk = out / "store.zarr" / "pixels" / "c" / "3" / "0"
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    chunk.write_bytes(bytes(data))
    (out / "store.zarr" / "scores" / "c" / "0" / "0").unlink()
    shutil.copytree(out, tmp_path / "copy", symlinks=True)
    here = verified(out, None)
    assert {damage["stage"] for damage in here["damaged"]} == {"ingest", "reduce"}
    assert verified(tmp_path / "copy", workers) == here

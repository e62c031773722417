"""`bigcluster verify`: whatever is not as it was left is named, the next run makes it good, and nothing else."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, write_pictures

import bigcluster as bc
from benchmarks.stress.flips import flip
from benchmarks.stress.work import BUDGET, Job
from bigcluster.errors import OutError, StoreError
from bigcluster.files.layout import STORES
from bigcluster.pipeline.predict import predict
from bigcluster.runtime.events import DecodingStarted, Event
from bigcluster.store import Mark, Marks, Store, take_inventory

VALUES = {"k": 3, "components": 5, "size": "16x16"}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("verify") / "images"
    write_pictures(folder, 30)
    (folder / "empty.png").write_bytes(b"")
    return Job(folder, dict(VALUES))


@pytest.fixture(scope="module")
def finished(job: Job) -> Path:
    out = job.images.parent / "finished"
    job.run(out)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out", symlinks=True))


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def damage(found: dict[str, Any]) -> dict[str, str]:
    """File -> stage that makes it."""
    return {one["file"]: one["stage"] for one in found["damaged"]}


def test_a_finished_run_is_sound_and_verify_changes_nothing(out: Path, job: Job, cli: Cli) -> None:
    before = snapshot(out)
    ran = cli("verify", out)
    assert (ran.code, "all as they were written" in ran.out) == (0, True), ran
    for quick in (False, True):
        found = bc.open(out).verify(quick=quick)
        assert (found["ok"], found["damaged"], found["redo"], found["notes"]) == (True, [], [], [])
        assert found["sampled"] is quick
    assert snapshot(out) == before
    assert not take_inventory(out).leftovers, "something vouches for every file"


def test_any_flipped_byte_of_the_store_is_found_and_made_good(out: Path, finished: Path, job: Job) -> None:
    rng = random.Random(os.fspath(out))
    for _ in range(6):
        file = flip(out, rng, by_bytes=False)
        found = job.verify(out)
        assert file in damage(found), file
        job.run(out)
        assert job.verify(out)["ok"], file
        assert (out / "labels.csv").read_bytes() == (finished / "labels.csv").read_bytes()


def test_a_flipped_byte_is_found_in_every_file_of_the_store(out: Path, finished: Path, job: Job) -> None:
    for path in [path for store in STORES for path in sorted((out / store).rglob("*")) if path.is_file()]:
        content, file = bytearray(path.read_bytes()), path.relative_to(out).as_posix()
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
        assert file in damage(job.verify(out)), file
        for store in STORES:  # with the marks of what was damaged
            shutil.rmtree(out / store)
            shutil.copytree(finished / store, out / store)
    assert job.verify(out)["ok"]


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("store.zarr/zarr.json", "metadata"),
        ("store.zarr/scores/zarr.json", "metadata"),
        (".bigcluster/marks/metadata/scores.json", "metadata"),
        ("store.zarr/pixels/c/0/0", "ingest"),
        ("store.zarr/ok/c/0", "ingest"),
        (".bigcluster/marks/ingest/000000.json", "ingest"),
        ("store.zarr/scores/c/0/0", "reduce"),
        (".bigcluster/marks/reduce/done.json", "reduce"),
        ("store.zarr/labels/c/0", "cluster"),
        (".bigcluster/marks/cluster/done.json", "cluster"),
        (".bigcluster/marks/entries/done.json", "output"),
        (".bigcluster/marks/outputs/done.json", "output"),
    ],
)
def test_only_what_depends_on_the_damage_is_redone(out: Path, finished: Path, job: Job, file: str, stage: str) -> None:
    path = out / file
    array_of_marks = file == "store.zarr/ok/c/0"  # what it says stands in the marks of the blocks
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    found = job.verify(out)
    assert damage(found) == {file: stage}
    stages = job.run(out)["stages"]
    redone = {name for name, facts in stages.items() if not facts.get("reused", True)}
    assert redone == {stage} & {"ingest", "reduce", "cluster"} - ({"ingest"} if array_of_marks else set())
    assert job.verify(out)["ok"]
    assert (out / "labels.csv").read_bytes() == (finished / "labels.csv").read_bytes()
    inside = [path for path in (out / "clusters").rglob("*") if path.is_file()]
    assert len(inside) == 30, "no link became somebody else's"


@pytest.mark.parametrize("stage", ["ingest", "reduce", "cluster"])
def test_a_lost_mark_is_damage(out: Path, job: Job, stage: str) -> None:
    (out / ".bigcluster" / "marks" / stage / "done.json").unlink()
    assert job.verify(out)["redo"] == [stage]
    job.run(out)
    assert job.verify(out)["ok"]


def test_damaged_components_of_predict_are_made_again_when_asked_for(out: Path, job: Job, tmp_path: Path) -> None:
    job.predict(out, tmp_path / "before.csv")
    chunk = out / "store.zarr" / "components" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[7] ^= 1
    chunk.write_bytes(data)
    assert damage(job.verify(out)) == {"store.zarr/components/c/0/0": "components"}
    job.predict(out, tmp_path / "after.csv")
    assert (tmp_path / "after.csv").read_bytes() == (tmp_path / "before.csv").read_bytes()
    assert job.verify(out)["ok"]


def test_damage_is_named_on_the_command_line_and_repaired(out: Path, cli: Cli) -> None:
    chunk = out / "store.zarr" / "centers" / "c" / "0" / "0"
    chunk.unlink()
    ran = cli("verify", out, "--quick")
    assert ran.code == 1, ran
    assert "damaged: store.zarr/centers/c/0/0 is gone (stage cluster)" in ran.out
    assert f"`bigcluster run --out {out}` makes it anew; it redoes cluster" in ran.out
    assert cli("run", "--out", out).code == 3
    assert cli("verify", out).code == 0


# -- what stands beside the store


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("labels.csv", "p003.png,", "p004.png,"),
        ("labels.csv", ",ok,", ",OK,"),
        ("labels.csv", "path,label", "name,label"),
        ("images.csv", ",empty,", ",ok,"),
        ("variance.csv", "\r\n1,0.", "\r\n1,1."),
        ("summary.json", '"ok": 30', '"ok": 29'),
        ("summary.json", "{", ""),
    ],
)
def test_outputs_that_do_not_agree_are_named(out: Path, job: Job, file: str, old: str, new: str) -> None:
    path = out / file
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    assert damage(job.verify(out)) == {file: "output"}
    job.run(out)
    assert job.verify(out)["ok"]


def test_a_row_too_few_and_a_file_that_is_gone(out: Path, job: Job) -> None:
    lines = (out / "labels.csv").read_bytes().splitlines(keepends=True)
    (out / "labels.csv").write_bytes(b"".join(lines[:-1]))
    (out / "summary.json").unlink()
    found = job.verify(out)
    assert damage(found) == {"labels.csv": "output", "summary.json": "output"}
    assert "fewer rows" in json.dumps(found)


def test_settings_that_cannot_be_read_are_put_back(out: Path, job: Job, cli: Cli) -> None:
    before = (out / "run.toml").read_bytes()
    (out / "run.toml").write_bytes(b"k = [")
    assert damage(job.verify(out)) == {"run.toml": "settings"}
    assert (out / "run.toml").read_bytes() == before
    assert cli("run", "--out", out).code == 3


def entries(out: Path) -> list[Path]:
    return [path for path in sorted((out / "clusters").rglob("*")) if not path.is_dir()]


@pytest.mark.parametrize("link", ["hardlink", "symlink", "copy"])
def test_folders_agree_with_labels(job: Job, tmp_path: Path, link: str) -> None:
    images = Path(shutil.copytree(job.images, tmp_path / "images"))
    mine, out = Job(images, {**VALUES, "link": link}), tmp_path / "out"
    mine.run(out)
    assert mine.verify(out)["ok"]
    first, second, third = entries(out)[:3]
    names = [f"clusters/{path.relative_to(out / 'clusters').as_posix()}" for path in (first, second, third)]
    first.unlink()
    second.unlink()
    if link == "symlink":
        second.symlink_to(os.path.relpath(images / "empty.png", second.parent))
    else:
        second.write_bytes(b"mine")
    third.rename(third.with_name("elsewhere.png"))
    assert damage(mine.verify(out)) == dict.fromkeys(names, "output")
    mine.run(out)
    assert mine.verify(out)["ok"]


@pytest.mark.parametrize("link", ["hardlink", "symlink", "copy"])
def test_what_became_of_the_images_is_a_note(job: Job, tmp_path: Path, link: str) -> None:
    images = Path(shutil.copytree(job.images, tmp_path / "images"))
    mine, out = Job(images, {**VALUES, "link": link}), tmp_path / "out"
    mine.run(out)
    (images / "p000.png").unlink()
    replaced = (images / "p001.png").read_bytes()
    (images / "p001.png").unlink()
    (images / "other.tmp").write_bytes(replaced)
    (images / "other.tmp").rename(images / "p001.png")
    (images / "p002.png").write_bytes(b"edited")
    found = mine.verify(out)
    assert found["ok"], found
    assert any("1 image gone" in note and "p000.png" in note for note in found["notes"])
    if link != "symlink":  # whose target is the name: the image under that name is the image
        assert any("replaced" in note or "edited" in note for note in found["notes"])
    shutil.rmtree(images)
    found = mine.verify(out)
    assert found["ok"], found
    assert any("30 images gone" in note for note in found["notes"])


def test_files_of_others_in_the_folders_are_no_damage(out: Path, job: Job) -> None:
    (out / "clusters" / "00" / "notes.txt").write_text("mine")
    assert job.verify(out)["ok"]


# -- what belongs together


def spoil_labels(values: np.ndarray[Any, Any]) -> None:
    values[values == 2] = 1


def spoil_numbers(values: np.ndarray[Any, Any]) -> None:
    values[0] = np.nan


@pytest.mark.parametrize(
    ("array", "spoil", "stage"),
    [
        ("labels", spoil_labels, "cluster"),
        ("centers", spoil_numbers, "cluster"),
        ("mean", spoil_numbers, "reduce"),
        ("scores", spoil_numbers, "reduce"),
        ("explained_variance", spoil_numbers, "reduce"),
    ],
)
def test_numbers_that_cannot_be_are_found_though_their_digests_fit(
    out: Path, job: Job, array: str, spoil: Callable[[Any], None], stage: str
) -> None:
    store = Store(out)
    values = store.load(array).copy()
    spoil(values)
    mark = store.mark(stage)
    assert mark is not None
    others = {file: digest for file, digest in mark.digests.items() if not file.startswith(f"store.zarr/{array}/")}
    store.commit(stage, mark.fingerprint, others | store.save(array, values), mark.payload)
    assert f"store.zarr/{array}" in damage(job.verify(out))


# -- when there is nothing to verify, or it may not be changed


def test_an_interrupted_run_is_a_note(out: Path, job: Job) -> None:
    for name in ("cluster", "outputs"):
        (out / ".bigcluster" / "marks" / name / "done.json").unlink()
    (out / "store.zarr" / "pixels" / "c" / "0" / ".0123456789abcdef-7.partial").write_bytes(b"half")
    (out / ".lock").write_text("process 1 on elsewhere\nunfinished 0123456789abcdef\n")
    found = job.verify(out)
    assert found["ok"]
    assert any("did not come to its end" in note for note in found["notes"])
    assert any("leftover" in note for note in found["notes"])
    job.run(out)
    assert job.verify(out)["notes"] == []


def test_rows_that_a_killed_run_was_moving_are_no_damage(out: Path, finished: Path, job: Job) -> None:
    """Their files have moved, one mark of two holds: nothing is lost, and the next run goes on from there."""
    marks = Marks(out)
    marks.remove("outputs")
    old = marks.read("ingest", "000000")
    assert old is not None
    moved = {file.replace("/pixels/", "/retired/", 1): digest for file, digest in old.digests.items()}
    marks.write("retired", Mark(old.fingerprint, moved, old.payload), "000000")
    found = job.verify(out)
    assert (found["ok"], found["redo"]) == (True, []), found
    assert marks.read("retired", "000000") is not None
    job.run(out)
    assert job.verify(out)["ok"]
    assert (out / "labels.csv").read_bytes() == (finished / "labels.csv").read_bytes()


def test_no_store_another_format_and_an_out_in_use(out: Path, tmp_path: Path, job: Job, cli: Cli) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        job.verify(tmp_path / "nowhere")
    metadata = out / "store.zarr" / "zarr.json"
    (out / ".bigcluster" / "marks" / "metadata" / "store.json").unlink()
    metadata.write_text(metadata.read_text().replace('"bigcluster_format": 3', '"bigcluster_format": 99'))
    before = snapshot(out)
    with pytest.raises(OutError, match="format 99"):
        job.verify(out)
    ran = cli("verify", out)
    assert (ran.code, len(ran.error_lines)) == (2, 1), ran
    assert snapshot(out) == before


def test_a_read_only_out_can_be_verified(out: Path, cli: Cli, permissions: None) -> None:
    (out / "store.zarr" / "scores" / "c" / "0" / "0").write_bytes(b"x")
    for path in [out, *out.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        ran = cli("verify", out, unprivileged=True)
        assert ran.code == 1, ran
        assert "scores/c/0/0" in ran.out
        assert "cannot be written" in ran.out
    finally:
        for path in [out, *out.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)


@pytest.mark.parametrize("change", [{"k": 4}, {"components": 3, "k": 3}])
def test_predict_has_one_model_or_says_that_it_changed(
    out: Path, job: Job, tmp_path: Path, change: dict[str, Any]
) -> None:
    """A run that clusters anew while images are labelled: not a row is written, and no mark of that run is dropped."""
    other, runs = Job(job.images, VALUES | change), list[int]()

    def cluster_anew(event: Event) -> None:
        if isinstance(event, DecodingStarted) and not runs:
            runs.append(1)
            other.run(out)

    with pytest.raises(StoreError, match="clustered anew while its model was in use"):
        predict(job.settings(out), BUDGET, images=str(job.images), to=str(tmp_path / "p.csv"), listener=cluster_anew)
    assert list(tmp_path.glob("*.csv")) == []
    assert job.verify(out)["ok"]
    job.predict(out, tmp_path / "p.csv")
    assert labels_in(tmp_path / "p.csv") == labels_in(out / "labels.csv")


def labels_in(path: Path) -> dict[str, str]:
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return {row["path"]: row["label"] for row in rows}

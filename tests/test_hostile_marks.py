"""Marks with a right seal whose payload is not what the program writes, and arrays that are not as large as said."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_cli, write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.stress import hostile_outs
from benchmarks.stress.harness import described, refusal
from benchmarks.stress.hostile_outs import forge
from bigcluster.config import Settings, resolve
from bigcluster.errors import MemoryBudgetError, StoreError
from bigcluster.files.bounded import limit_parsing
from bigcluster.models import preprocess
from bigcluster.outputs.summary import read_summary
from bigcluster.pipeline.predict import predict
from bigcluster.pipeline.report import report
from bigcluster.pipeline.run import run
from bigcluster.pipeline.sweep import sweep
from bigcluster.pipeline.verify import verify
from bigcluster.runtime.resources import Resources
from bigcluster.store import Mark, Marks, StageCheckpoints, Store, payloads, tidy
from bigcluster.store.extents import KINDS
from bigcluster.store.fingerprints import fingerprint
from bigcluster.store.marks import LIMIT_BYTES, LIMIT_VALUES
from bigcluster.store.payloads import has_form

BUDGET = Resources(1 << 30, 2)
COMMANDS = ("run", "verify", "report", "predict", "sweep")


class Job:
    """A finished run that was swept and asked for a prediction, and what may be done with copies of its OUT."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images, self.sound = folder, folder / "images", folder / "sound"
        write_pictures(self.images, 24)  # of fewer, nothing is unusual
        self.commands(self.sound)["run"]()
        self.commands(self.sound)["sweep"]()
        self.commands(self.sound)["predict"]()
        self.labels = (self.sound / "labels.csv").read_bytes()
        marks = Marks(self.sound)
        self.marks = {(stage, block): mark for stage, block, mark in marks.all()}

    def settings(self, out: Path) -> Settings:
        values = {"images": str(self.images), "out": str(out), "k": 2, "size": 8, "components": 2, "link": "copy"}
        return resolve(flags=values, sets=(), config=None, kept=None)

    def commands(self, out: Path) -> dict[str, Callable[[], Any]]:
        given = self.settings(out)
        to = str(self.folder / "new.csv")
        return {
            "run": lambda: run(given, BUDGET),
            "verify": lambda: verify(given, BUDGET),
            "report": lambda: report(given, BUDGET),
            "predict": lambda: predict(given, BUDGET, images=str(self.images), to=to),
            "sweep": lambda: sweep(given, BUDGET, ks=(2, 3)),
        }

    def changed(self, change: Callable[[Marks], None]) -> Path:
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.sound, out, symlinks=True)
        change(Marks(out))
        return out

    def check(self, change: Callable[[Marks], None], commands: tuple[str, ...]) -> None:
        """Every command ends, with one line where it refuses; and a run after it ends as a fresh one."""
        out = self.changed(change)
        for name in commands:
            refusal(self.commands(out)[name])
        assert refusal(self.commands(out)["run"]) == ""
        assert (out / "labels.csv").read_bytes() == self.labels


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("hostile").resolve())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PAYLOADS = st.dictionaries(st.text(max_size=5), JSON, max_size=3)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*path, key)
        yield from places(inner, (*path, key))


@st.composite
def of_another_kind(draw: st.DrawFn, payload: dict[str, Any]) -> dict[str, Any]:
    """The payload with one value of another type, or without it."""
    found = copy.deepcopy(payload)
    here = list(places(found))
    if not here:
        return draw(PAYLOADS)
    *way, last = draw(st.sampled_from(here))
    holder: Any = found
    for key in way:
        holder = holder[key]
    before = holder[last]
    if draw(st.booleans()):
        del holder[last]
    else:
        kind = (int, float) if type(before) in (int, float) else (str,) if before is None else (type(before),)
        holder[last] = draw(JSON.filter(lambda value: not isinstance(value, kind) or isinstance(value, bool)))
    return found


NAMES = st.sampled_from(
    [
        *(("ingest", "done"), ("ingest", "000000"), ("ingest", "000007"), ("ingest", "x"), ("retired", "000000")),
        *((name, "done") for name in ("recipe", "reduce", "cluster", "sweep", "novelty", "norms", "components")),
        *((name, "done") for name in ("outputs", "entries", "report", "report-pages", "profile-files", "manifest")),
        *(("metadata", name) for name in ("store", "pixels", "labels", "mine", "ok")),
        *(("state", name) for name in ("cluster", "reduce", "sweep")),
        ("other", "done"),
    ]
)


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("BIGCLUSTER_HOSTILE_MARKS", "12")))
@given(st.data(), NAMES, st.sampled_from(COMMANDS))
def test_whatever_a_sealed_mark_holds_ends_in_one_line_and_is_computed_anew(
    job: Job, data: st.DataObject, name: tuple[str, str], command: str
) -> None:
    stage, block = name
    old = job.marks.get(name, Mark(""))
    payload = data.draw(of_another_kind(old.payload) | PAYLOADS)
    job.check(lambda marks: forge(marks, stage, Mark(old.fingerprint, old.digests, payload), block), (command,))


@pytest.mark.slow
def test_without_the_mark_of_one_stage_every_command_ends_in_one_line(job: Job) -> None:
    for stage, block in job.marks:
        if block == "done":
            out = job.changed(lambda marks, stage=stage: marks.remove(stage))
            for name in COMMANDS[1:]:  # the run makes the mark again, so that it comes last
                refusal(job.commands(out)[name])
            assert refusal(job.commands(out)["run"]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("payload", [{}, {"names": [1], "records": [[]], "text": "{}", "files": 3, "facts": {}}])
def test_marks_that_all_lack_what_is_written_are_all_made_anew(job: Job, payload: dict[str, Any]) -> None:
    def change(marks: Marks) -> None:
        for (stage, block), mark in job.marks.items():
            forge(marks, stage, Mark(mark.fingerprint, mark.digests, payload), block)

    job.check(change, COMMANDS)


@pytest.mark.parametrize(
    "changes",
    [
        {"ingest": {"n_blocks": 10**9}, "reduce": {"total_variance": -1}, "cluster": {"inertia": 0.5}},
        {"ingest": {"square_sum": 1}, "reduce": {"n_components": 7}, "outputs": {"run.toml": "images = 3"}},
        {"recipe": {"width": 4}, "cluster": {"n_clusters": 1}, "sweep": {"suggested_k": 9}},
        {"reduce": {"components": "elsewhere"}, "outputs": {"files": {"../images/p000.png": "0" * 32}}},
        {"reduce": {"seconds": "x"}, "novelty": {"limit": float("nan")}},
    ],
)
def test_marks_that_contradict_what_is_stored_do_not_hold(job: Job, changes: dict[str, dict[str, Any]]) -> None:
    def change(marks: Marks) -> None:
        for stage, changed in changes.items():
            mark = job.marks[stage, "done"]
            forge(marks, stage, Mark(mark.fingerprint, mark.digests, mark.payload | changed))

    job.check(change, ("predict",) if "novelty" in changes else ("verify",))


@pytest.mark.parametrize("facts", [{}, {"starts": [{}]}, {"starts": 3, "iterations": 1, "passes": "x"}])
def test_a_saved_state_of_another_form_is_begun_anew(job: Job, facts: dict[str, Any]) -> None:
    def change(marks: Marks) -> None:
        print_ = job.marks["cluster", "done"].fingerprint
        StageCheckpoints(Store(job.folder / "out"), "cluster", print_).save(facts, [])
        marks.remove("cluster")

    job.check(change, ())


def test_a_million_rows_that_are_not_there_are_not_looked_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create("pixels", (1 << 50, 4), np.uint8, (1 << 20, 4))
    store.create("pixels", (4, 4), np.uint8, (1 << 20, 4))
    assert store.array("pixels").shape == (4, 4)


def test_arrays_that_are_in_use_count_together(tmp_path: Path) -> None:
    store = Store(tmp_path, most_bytes=100)
    for name in ("labels", "distance"):
        store.save(name, np.arange(8.0))
    for name in ("labels", "distance"):
        assert store.load(name).sum() == 28
    labels = store.load("labels")
    with pytest.raises(MemoryBudgetError, match="beside the 64 B of others"):
        store.load("distance")
    np.testing.assert_array_equal(labels, np.arange(8.0))


def test_every_array_that_a_run_makes_is_known(job: Job) -> None:
    made = {path.parent.name for path in (job.sound / "store.zarr").glob("*/zarr.json")}
    assert made <= KINDS.keys()
    assert {"pixels", "labels", "usual", "norms", "sweep_centers", "components"} <= made


def test_a_mark_of_metadata_gives_no_folder_of_a_person_away(job: Job) -> None:
    """Its chunks look as ours do, checksum and all: they are a copy of ours."""

    def change(marks: Marks) -> None:
        root = job.folder / "out" / "store.zarr"
        shutil.copytree(root / "labels", root / "mine")
        forge(marks, "metadata", Mark("", {}, job.marks["metadata", "labels"].payload), "mine")

    out = job.changed(change)
    mine = described(out / "store.zarr" / "mine")
    tidy(out)
    assert refusal(job.commands(out)["run"]) == ""
    assert described(out / "store.zarr" / "mine") == mine


@pytest.mark.usefixtures("permissions")
@pytest.mark.parametrize("name", ["theirs", "cluster", "."])
def test_a_closed_folder_of_marks_is_told_in_one_line_and_nothing_changes(job: Job, name: str) -> None:
    out = job.changed(lambda marks: None)
    closed = out / ".bigcluster" / "marks" / name
    closed.mkdir(exist_ok=True)
    before = described(out)
    closed.chmod(0)
    try:
        for line in (("run", job.images, "--out", out, "-k", 3), ("verify", out), ("report", out)):
            ran = run_cli(*line, "--quiet", unprivileged=True)
            assert (ran.code, len(ran.error_lines)) == (2, 1), ran
            assert str(closed) in ran.err
    finally:
        closed.chmod(0o755)
    assert described(out) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mark_names", "summary_keys"])
def test_what_is_parsed_keeps_to_the_budget(job: Job, name: str) -> None:
    out = job.changed(lambda marks: None)
    hostile_outs.OUTS[name](out)
    limit_parsing(64 << 20)
    try:
        if name == "mark_names":
            with pytest.raises(MemoryBudgetError, match=r"the memory budget leaves 64 MiB; use a larger --memory, or"):
                Marks(out).read("cluster")
        else:
            with pytest.raises(StoreError, match="not those of a summary"):
                read_summary(out / "summary.json", 1_000_000)
    finally:
        limit_parsing(None)


@pytest.mark.parametrize(
    "change",
    [
        {"embedding": {"kind": "pixels"}},
        {"embedding": {"kind": "vectors"}},
        {"view": [2**40, 2**40, "crop"]},
        {"view": [30_000, 30_000, "crop"]},
        {"view": [16, 16, "foo"]},
        {"view": None},
        {"fit": "foo"},
        {"normalize": "foo"},
        {"embedding": None},
    ],
)
def test_a_recipe_that_no_run_writes_is_no_recipe(change: dict[str, Any]) -> None:
    embedding = {"kind": "network", "name": "n", "fingerprint": "f", "n_features": 4, "n_classes": 0, "n_names": 0}
    embedding |= {"names": "", "dtype": "float32", "unit_length": True, "facts": {}}
    recipe: dict[str, Any] = {"width": 8, "height": 8, "fit": "crop", "view": [16, 16, "crop"], "embedding": embedding}
    assert has_form("recipe", "done", fingerprint(stage="ingest", **recipe), recipe)
    for name, value in change.items():
        if value is None:
            del recipe[name]
        else:
            recipe[name] = recipe[name] | value if isinstance(value, dict) else value
    assert not has_form("recipe", "done", fingerprint(stage="ingest", **recipe), recipe)


def test_the_limits_of_a_second_picture_are_those_of_networks() -> None:
    assert (payloads.MOST_VIEW_PIXELS, payloads.RESIZE_RULES) == (preprocess.MOST_PIXELS, preprocess.RESIZE_RULES)


def test_a_recipe_of_other_pixels_counts_as_none(job: Job) -> None:
    """It is well formed and sealed, and the arrays have its sizes; the blocks were decoded by another one."""
    recipe = job.marks["recipe", "done"].payload | {"fit": "crop", "normalize": "image"}

    def change(marks: Marks) -> None:
        marks.write("recipe", Mark(fingerprint(stage="ingest", **recipe), {}, recipe))

    out = job.changed(change)
    for name in ("predict", "report", "sweep"):
        assert "not that of its pixels" in refusal(job.commands(out)[name])
    assert [damage["file"] for damage in job.commands(out)["verify"]()["damaged"]] == [".bigcluster/marks/recipe"]
    job.check(change, ("verify",))
    job.check(change, ("run",))


def test_verify_wants_the_recipe_of_a_finished_run(job: Job) -> None:
    out = job.changed(lambda marks: marks.remove("recipe"))
    assert [damage["file"] for damage in job.commands(out)["verify"]()["damaged"]] == [".bigcluster/marks/recipe"]
    job.check(lambda marks: marks.remove("recipe"), ("verify",))


@pytest.mark.parametrize("payload", [{"n": [0] * LIMIT_VALUES}, {"n": "x" * LIMIT_BYTES}])
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, payload: dict[str, Any]) -> None:
    marks = Marks(tmp_path)
    with pytest.raises(StoreError, match="are the most"):
        marks.write("stage", Mark("x", {}, payload))
    with pytest.raises(StoreError, match="longer or larger"):
        marks.write("ingest", Mark("x", {}, {"square_sum": 1, "n_blocks": 0}))
    assert list(marks.names()) == []

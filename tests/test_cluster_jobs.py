"""Jobs and parts: every unit once and in order; what travels holds no lock; references lead to the same rows."""

from __future__ import annotations

import pickle
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from clusters import Sent, sent_away
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcluster.errors import StoreError
from bigcluster.runtime.cluster import Cluster, Part, Worker, cut
from bigcluster.runtime.embedded import Embedded
from bigcluster.runtime.events import Event, Progress, StageFinished
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.unit_length import UnitLengthRows, ref_of
from bigcluster.store import Store, StoredRows
from bigcluster.store.refs import RowsRef, StoreRef
from bigcluster.store.row_source import ArrayRows, FirstColumns, RowSource


@dataclass(frozen=True)
class Units:
    """A job that returns what it was given."""

    factor: int

    def __call__(self, worker: Worker, part: Part) -> list[int]:
        return list(worker.runtime.map(lambda unit: self.factor * unit, part.units))


@dataclass(frozen=True)
class Fails:
    at: int

    def __call__(self, worker: Worker, part: Part) -> int:
        if self.at in part.units:
            raise StoreError(f"unit {self.at}")
        return part.start


def joined(one: list[int], other: list[int]) -> list[int]:
    return sorted(one + other)


def total(worker: Worker, found: list[int], factor: list[int]) -> int:
    return sum(found) * factor[0]


def clusters(seed: int = 0) -> list[Cluster]:
    return [Embedded(Worker(EmbeddedRuntime(2), 1 << 20)), Sent(seed), Sent(seed + 1, n_workers=1, threads=2)]


@given(st.integers(0, 400), st.integers(1, 30))
def test_parts_hold_every_unit_once_and_in_order(n_units: int, n_parts: int) -> None:
    parts = cut(n_units, n_parts)
    assert [unit for part in parts for unit in part.units] == list(range(n_units))
    assert [part.index for part in parts] == list(range(len(parts)))
    assert len(parts) == min(n_units, n_parts)
    sizes = {len(part.units) for part in parts}
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@settings(max_examples=15)
@given(st.integers(1, 60), st.integers(0, 9))
def test_every_cluster_gives_results_in_order_and_merges_all(n_units: int, seed: int) -> None:
    for cluster in clusters(seed):
        parts = cluster.parts(n_units)
        found = [unit for units in cluster.spread(Units(3), parts) for unit in units]
        assert found == [3 * unit for unit in range(n_units)]
        merged = cluster.merged(Units(3), parts, joined)
        one = cluster.merged(Units(1), parts[:1], joined)
        more = cluster.merged(Units(1), cluster.parts(2), joined)
        assert one.take()[0] == 0
        assert cluster.once(total, merged, more) == 0
        assert cluster.merged(Units(3), parts, joined).take() == found


def test_the_error_of_a_part_comes_in_its_place() -> None:
    for cluster in clusters():
        results = cluster.spread(Fails(5), [Part(0, 0, 5), Part(1, 5, 6), Part(2, 6, 9)])
        assert next(results) == 0
        with pytest.raises(StoreError, match="unit 5"):
            next(results)
        with pytest.raises(StoreError, match="unit 5"):
            cluster.merged(Fails(5), cluster.parts(9), max).take()
        with pytest.raises(ValueError, match="no parts"):
            cluster.merged(Fails(5), cluster.parts(0), max)


def test_embedded_is_one_part_and_holds_no_result_that_was_taken() -> None:
    cluster = clusters()[0]
    assert cluster.n_workers == 1
    assert cluster.parts(0) == []
    assert cluster.parts(100) == [Part(0, 0, 100)]
    handle = cluster.merged(Units(1), cluster.parts(3), joined)
    assert handle.take() == [0, 1, 2]
    with pytest.raises(IndexError):
        handle.take()


def test_a_worker_keeps_one_object_of_each_name_until_its_version_changes() -> None:
    worker = Worker(EmbeddedRuntime(1), 1 << 20)
    made: list[str] = []

    def make(text: str) -> str:
        made.append(text)
        return text

    assert [worker.cached("a", version, lambda v=version: make(f"a{v}")) for version in (1, 1, 2, 1)] == [
        "a1", "a1", "a2", "a1"
    ]  # fmt: skip
    assert made == ["a1", "a2", "a1"]
    # One object may need another one that is cached too.
    assert worker.cached("b", 0, lambda: worker.cached("c", 0, lambda: "c") + "b") == "cb"
    worker.forget()
    worker.cached("a", 1, lambda: make("again"))
    assert made[-1] == "again"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "out")
    store.save("ok", np.array([True, False, True, True, False, True]))
    store.save("rows", np.arange(24, dtype=np.float32).reshape(6, 4), (2, 4))
    return store


def sources(store: Store) -> list[RowSource]:
    ok = store.load("ok")
    return [
        StoredRows(store.array("rows")),
        StoredRows(store.array("rows"), ok, mask="ok"),
        FirstColumns(StoredRows(store.array("rows"), ok, mask="ok"), 3),
    ]


def sum_of_rows(worker: Worker, ref: RowsRef, part: Part) -> list[float]:
    rows = ref.open(worker)
    found: list[float] = rows.read(part.start, part.stop).sum(axis=1).tolist()
    return found


@dataclass(frozen=True)
class SumsOfRows:
    rows: RowsRef

    def __call__(self, worker: Worker, part: Part) -> list[float]:
        return sum_of_rows(worker, self.rows, part)


def test_references_lead_to_the_same_rows_in_every_process(store: Store) -> None:
    for rows in sources(store):
        here = rows.read(0, rows.shape[0]).sum(axis=1).tolist()
        for cluster in clusters():
            parts = cluster.parts(rows.shape[0])
            found = [one for some in cluster.spread(SumsOfRows(RowsRef.of(rows)), parts) for one in some]
            assert found == here
    ref = RowsRef.of(sources(store)[0])
    assert ref.open(Worker(EmbeddedRuntime(1), 1)) is ref.open(Worker(EmbeddedRuntime(1), 1))


def test_a_reference_in_bytes_holds_the_path_of_out_and_no_lock(store: Store) -> None:
    for ref in (StoreRef.of(store), *map(RowsRef.of, sources(store))):
        sent = pickle.dumps(ref)
        # The parts of the path of OUT come once each, and no other text with a slash.
        assert [sent.count(name.encode()) for name in store.out.parts[2:]] == [1] * len(store.out.parts[2:])
        assert sent.count(b"/") == 1
        assert b"lock" not in sent.lower()
        assert len(sent) < 1000
        assert sent_away(ref) == ref
        assert sent_away(ref)._here is None
    with pytest.raises(TypeError):
        pickle.dumps(threading.Lock())  # so a lock cannot hide in one


def test_rows_of_length_1_are_the_same_in_every_process(store: Store) -> None:
    rows = UnitLengthRows(sources(store)[2])
    sent = sent_away(ref_of(rows)).open(Worker(EmbeddedRuntime(1), 1 << 20))
    assert sent.read(0, 4).tobytes() == rows.read(0, 4).tobytes()
    assert ref_of(rows).open(Worker(EmbeddedRuntime(1), 1)) is rows


def test_rows_that_are_not_stored_do_not_leave_their_process(store: Store) -> None:
    holes = StoredRows(store.array("rows"), store.load("ok"))
    for rows in (ArrayRows(np.zeros((3, 2))), holes, FirstColumns(holes, 2)):
        ref = RowsRef.of(rows)
        assert ref.open(Worker(EmbeddedRuntime(1), 1)) is rows
        with pytest.raises(TypeError, match="not stored"):
            pickle.dumps(ref)


def test_a_worker_sees_an_array_that_was_made_anew(store: Store) -> None:
    worker = Worker(EmbeddedRuntime(1), 1 << 20)
    before = sent_away(RowsRef.of(sources(store)[0]))
    assert before.open(worker).shape == (6, 4)
    store.create("rows", (4, 4), np.float32, (2, 4))
    after = sent_away(RowsRef.of(sources(store)[0]))
    assert after.open(worker).shape == (4, 4)
    # Another mask of the same length is another set of rows.
    store.save("ok", np.array([True, True, False, False]))
    again = sent_away(RowsRef.of(StoredRows(store.array("rows"), store.load("ok"), mask="ok")))
    np.testing.assert_array_equal(again.open(worker).read(0, 2), [[0, 1, 2, 3], [4, 5, 6, 7]])
    with pytest.raises(StoreError, match="good rows"):
        before.open(worker)


def test_what_is_done_twice_is_told_once() -> None:
    told: list[Event] = []
    progress = Progress(told.append)
    with progress.stage("pass", 5, "blocks"):
        for _ in range(7):
            progress.advance()
    with progress.stage("names", 0, "files"):  # their number is not known
        progress.advance(3)
    assert [event.done for event in told if isinstance(event, StageFinished)] == [5, 3]

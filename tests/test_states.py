"""States of unfinished stages: a solver killed after any save goes on from it, and ends with the same bits."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CHECKOUT, Background, Cli, MemoryTiles, write_pictures

from bigcluster.errors import DamagedError
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.kmeans import fit, fit_minibatch, fit_two_level, sweep
from bigcluster.solvers.pca import Components, ExactSums, fit_pca, krylov, operator
from bigcluster.store import StageCheckpoints, Store, checkpoints, take_inventory
from bigcluster.store.row_source import ArrayRows
from bigcluster.units import MIB


class Killed(BaseException):
    """Nobody catches it."""


class DyingState(StageCheckpoints):
    """Saves at every chance; the process ends right after the save number `last`."""

    def __init__(self, store: Store, last: int) -> None:
        super().__init__(store, "stage", "print")
        self.last, self.saves = last, 0

    def should_save(self, n_bytes: int) -> bool:
        return True

    def save(self, facts: dict[str, Any], arrays: Iterable[Any], keep: Collection[str] = ()) -> None:
        super().save(facts, arrays, keep)
        self.saves += 1
        if self.saves == self.last:
            raise Killed


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.blocks: list[Any] = []

    def write(self, start: int, block: Any) -> None:
        self.blocks.append((start, block.copy()))


class CountedRows(ArrayRows):
    """Counts the values that are read."""

    values_read = 0

    def read(self, start: int, stop: int, columns: slice = slice(None), *, spent: Any = None) -> Any:
        block = super().read(start, stop, columns, spent=spent)
        type(self).values_read += block.size
        return block


def pixels(n_rows: int, n_columns: int) -> Any:
    """Low rank and noise: rows of a few styles."""
    rng = np.random.default_rng(1)
    styles = rng.normal(size=(n_rows, 12)) @ rng.normal(size=(12, n_columns)) * 20
    return np.clip(128 + styles + rng.normal(scale=9, size=(n_rows, n_columns)), 0, 255).astype(np.uint8)


def light_and_dark(n_rows: int, n_columns: int) -> Any:
    """One variance that dwarfs all others: blocks of a Krylov basis lose columns, and are filled up."""
    sides_of = np.where(np.arange(n_rows)[:, None] % 2, 228, 28)
    noise = np.random.default_rng(1).normal(scale=2, size=(n_rows, n_columns))
    return np.clip(np.rint(sides_of + noise), 0, 255).astype(np.uint8)


def pca(
    solver: str, shape: tuple[int, int], workspace_bytes: int, data: Callable[[int, int], Any] = pixels
) -> Callable[[CheckpointStore], list[Any]]:
    x = data(*shape)
    moments = ExactSums(x.sum(axis=0, dtype=np.int64), int((x.astype(np.int64) ** 2).sum()))

    def job(states: CheckpointStore) -> list[Any]:
        found = fit_pca(
            solver, CountedRows(x), target=Components(6), runtime=EmbeddedRuntime(2), workspace_bytes=workspace_bytes,
            tiles=MemoryTiles(), gemm=Gemm("auto"), seed=3, moments=moments, checkpoints=states,
        )  # fmt: skip
        scores, components = Kept(), Kept()
        found.write_scores(scores)
        found.write_components(components)
        return [found.eigenvalues, *(block for _, block in (*scores.blocks, *components.blocks))]

    return job


def kmeans(solver: Callable[..., Any], k: int, **options: Any) -> Callable[[CheckpointStore], list[Any]]:
    rng = np.random.default_rng(2)
    # As scores are: multiples of a power of two, so that sums are exact in any order.
    x = np.round(rng.normal(size=(3000, 5)) * 8 + rng.integers(0, 9, (3000, 1)) * 4).astype(np.float32) / 4

    def job(states: CheckpointStore) -> list[Any]:
        found = solver(CountedRows(x), k, seed=1, runtime=EmbeddedRuntime(2), checkpoints=states, **options)
        return [found.centers, found.inertia, found.n_iter, found.rows.labels, found.rows.distance, found.inertia_path]

    return job


def swept() -> Callable[[CheckpointStore], list[Any]]:
    x = np.round(np.random.default_rng(2).normal(size=(800, 4)) * 8).astype(np.float32) / 4

    def job(states: CheckpointStore) -> list[Any]:
        found = sweep(ArrayRows(x), (2, 3, 70), seed=1, n_init=4, runtime=EmbeddedRuntime(2), checkpoints=states)
        return [value for row in found.rows for value in (row.inertia, row.stability, row.silhouette_sq, row.centers)]

    return job


def incremental() -> Callable[[CheckpointStore], list[Any]]:
    x = pixels(400, 60)
    moments = ExactSums(x.sum(axis=0, dtype=np.int64), int((x.astype(np.int64) ** 2).sum()))

    def job(states: CheckpointStore) -> list[Any]:
        from bigcluster.solvers.pca.incremental import fit_incremental  # imports dask-ml

        found = fit_incremental(
            CountedRows(x), target=Components(6), rank=6, batch_rows=50, iterated_power=2, moments=moments,
            runtime=EmbeddedRuntime(2), seed=3, checkpoints=states,
        )  # fmt: skip
        scores = Kept()
        found.write_scores(scores)
        return [found.eigenvalues, *(block for _, block in scores.blocks)]

    return job


JOBS = {
    "gram": pca("gram", (1100, 9000), 256 * MIB),
    "gram in panels": pca("gram", (2100, 2500), 1 * MIB),
    "covariance": pca("covariance", (9000, 300), 256 * MIB),
    "subspace": pca("subspace", (1500, 2100), 64 * MIB),
    "subspace by column": pca("subspace", (2100, 1500), 64 * MIB),
    "subspace of filled blocks": pca("subspace", (900, 1100), 64 * MIB, light_and_dark),
    "incremental": incremental(),
    "lloyd": kmeans(fit, 7, n_init=2, tol=0.0),
    "lloyd with bounds": kmeans(fit, 80, n_init=1, max_iter=6),
    "minibatch": kmeans(fit_minibatch, 9),
    "two-level": kmeans(fit_two_level, 30),
    "sweep": swept(),
}


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The streamed solver's vectors in more tiles than one."""
    monkeypatch.setattr(operator, "TILE_ROWS", 800)


def values_read(job: Callable[[], Any]) -> int:
    CountedRows.values_read = 0
    job()
    return CountedRows.values_read


@pytest.mark.parametrize("name", JOBS)
def test_killed_after_any_save_a_solver_ends_with_the_same_bits(store: Store, name: str) -> None:
    job = JOBS[name]
    undisturbed = job(NO_CHECKPOINTS)
    counted = DyingState(store, 0)
    job(counted)
    for last in sorted({1, 2, 5, 6, counted.saves // 2, counted.saves} & set(range(1, counted.saves + 1))):
        state = DyingState(store, last)
        state.clear()
        with pytest.raises(Killed):
            job(state)
        assert not take_inventory(store.out).leftovers
        resumed = job(StageCheckpoints(store, "stage", "print"))
        for mine, theirs in zip(resumed, undisturbed, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert counted.saves, "it never saved"


def test_a_state_of_another_layout_counts_as_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    job = JOBS["subspace"]
    monkeypatch.setattr(krylov, "_LAYOUT", -1)
    with pytest.raises(Killed):
        job(DyingState(store, 2))
    monkeypatch.undo()
    state = StageCheckpoints(store, "stage", "print")
    assert state.load() is not None
    assert values_read(lambda: job(state)) == values_read(lambda: job(NO_CHECKPOINTS))


@pytest.mark.parametrize("name", JOBS)
def test_killed_again_and_again_a_solver_ends_with_the_same_bits(store: Store, name: str) -> None:
    """Each attempt gets a save or two further than the one before: some save once more what they found."""
    job = JOBS[name]
    undisturbed, resumed = job(NO_CHECKPOINTS), None
    for _ in range(100):
        try:
            resumed = job(DyingState(store, 2))
            break
        except Killed:
            assert not take_inventory(store.out).leftovers
    assert resumed is not None, "it never got to its end"
    for mine, theirs in zip(resumed, undisturbed, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", ["gram", "covariance", "subspace", "lloyd"])
def test_a_resumed_solver_does_not_read_again_what_it_has_summed(store: Store, name: str) -> None:
    job = JOBS[name]
    saves = DyingState(store, 0)
    whole = values_read(lambda: job(saves))
    state = DyingState(store, saves.saves)
    state.clear()
    with pytest.raises(Killed):
        job(state)
    assert values_read(lambda: job(StageCheckpoints(store, "stage", "print"))) < 0.75 * whole


@pytest.mark.parametrize("solver", [fit, fit_two_level])
def test_a_resumed_fit_tells_what_it_has_behind_it(store: Store, solver: Callable[..., Any]) -> None:
    """Also where every start had converged, and nothing but the final pass is left."""
    counted = DyingState(store, 0)
    kmeans(solver, 7)(counted)
    for last in range(1, counted.saves + 1):
        state = DyingState(store, last)
        state.clear()
        with pytest.raises(Killed):
            kmeans(solver, 7)(state)
        saved, told = state.load(), list[int]()
        assert saved is not None
        kmeans(solver, 7, on_progress=lambda fit, told=told: told.append(fit.done))(
            StageCheckpoints(store, "stage", "print")
        )
        done = saved.facts["iterations"]
        assert told[0] == (done or 1)
        assert told == sorted(set(told))


def test_a_state_of_other_settings_is_none_and_is_replaced(store: Store) -> None:
    StageCheckpoints(store, "stage", "one").save({"n": 1}, [("x", np.arange(3))])
    assert StageCheckpoints(store, "stage", "other").load() is None
    StageCheckpoints(store, "stage", "other").save({"n": 2}, [("y", np.arange(4))])
    assert StageCheckpoints(store, "stage", "one").load() is None
    found = StageCheckpoints(store, "stage", "other").load()
    assert found is not None
    assert (found.facts, found.get("y").tolist()) == ({"n": 2}, [0, 1, 2, 3])
    assert not take_inventory(store.out).leftovers


def test_a_state_whose_files_are_lost_counts_as_none(store: Store) -> None:
    """A worker that was frozen may replace the mark of a state by an older one."""
    checkpoints = StageCheckpoints(store, "stage", "one")
    checkpoints.save({}, [("a", np.ones(3))])
    assert checkpoints.load() is not None
    for file in (store.out / ".bigcluster/state/stage").iterdir():
        file.unlink()
    assert checkpoints.load() is None


def test_kept_arrays_are_not_written_again(store: Store) -> None:
    state = StageCheckpoints(store, "stage", "print")
    state.save({}, [("old", np.arange(3)), ("gone", np.arange(2))])
    (before,) = (store.out / ".bigcluster" / "state" / "stage").iterdir()
    stamp = before.stat().st_mtime_ns
    state.save({}, [("new", np.arange(5)), ("large", np.zeros(2**18))], keep={"old"})
    assert before.stat().st_mtime_ns == stamp
    state.save({}, [("newer", np.arange(5))], keep={"old"})
    found = StageCheckpoints(store, "stage", "print").load()
    assert found is not None
    assert found.get("old").tolist() == [0, 1, 2]
    assert len(list((store.out / ".bigcluster" / "state" / "stage").iterdir())) == 2


def test_a_damaged_state_is_named_and_dropped(store: Store) -> None:
    state = StageCheckpoints(store, "stage", "print")
    state.save({}, [("x", np.arange(300))])
    (file,) = (store.out / ".bigcluster" / "state" / "stage").iterdir()
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    found = state.load()
    assert found is not None
    with pytest.raises(DamagedError, match="saved state"):
        found.get("x")
    assert store.drop_damaged() == [file.relative_to(store.out).as_posix()]
    assert state.load() is None


def test_states_are_saved_rarely_and_never_late(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    state = StageCheckpoints(store, "stage", "print")
    now = 0.9
    assert not state.should_save(1000), "a stage of a second is simply done again"
    now = 1.1
    assert state.should_save(1000)
    assert not state.should_save(1000 * MIB), "which would take seconds"
    now = 60.0
    assert state.should_save(1000 * MIB), "but a minute is never lost"


def test_an_interrupted_run_goes_on_from_its_state(
    tmp_path: Path, background: Callable[..., Background], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of the iterations: exit 130, the state is there, and the next run takes it up."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT / "benchmarks" / "stress" / "seam"))
    write_pictures(tmp_path / "images", 400)
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    line = ("--size", 8, "--components", 6, "-k", 60, "--set", "kmeans.tol=0", "--set", "kmeans.n_init=40")
    run = background("run", tmp_path / "images", "--out", out, *line)
    state = out / ".bigcluster" / "marks" / "state" / "cluster.json"
    run.wait_until(lambda: state.is_file())
    run.process.send_signal(signal.SIGINT)
    ran = run.end()
    assert ran.code == 130, ran
    assert "interrupted" in ran.err.splitlines()[-1], ran
    assert state.is_file()
    ran = cli("run", "--out", out)
    assert ran.code == 0, ran.err
    assert not state.exists()
    assert cli("run", tmp_path / "images", "--out", undisturbed, *line).code == 0
    assert (out / "labels.csv").read_bytes() == (undisturbed / "labels.csv").read_bytes()


def test_a_finished_stage_leaves_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.stress.work import Job

    write_pictures(tmp_path / "images", 20)
    monkeypatch.setattr(checkpoints, "COST_FACTOR", 0)
    out = tmp_path / "out"
    Job(tmp_path / "images", {"k": 2, "size": "8x8", "components": 3}).run(out)
    assert not [path for path in (out / ".bigcluster").rglob("*") if "state" in path.parts[-3:] and path.is_file()]

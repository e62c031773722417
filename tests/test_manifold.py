"""t-SNE and UMAP before the clusters: the same bytes again, rows placed among fitted ones, and runs in real processes.

Both libraries are extras: where one is missing, its tests are skipped.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import KINDS, Background, Cli, Ran, command, encoded, environment, picture, write_kinds, write_pictures
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, homogeneity_score

import bigcluster as bc
from bigcluster.errors import BigclusterError, DamagedError, TooFewSamplesError
from bigcluster.runtime.cluster import Worker
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.manifold import PLACED_ROWS, Placer, effective_neighbors, fit_manifold
from bigcluster.solvers.manifold.fit import LEAST_ROWS, NEIGHBORS_OF
from bigcluster.stages import manifold, manifold_jobs
from bigcluster.store import Store
from bigcluster.store.row_source import ArrayRows

METHODS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"{library} is an extra"),
            *([pytest.mark.slow] if name == "umap" else []),  # numba compiles in every process
        ],
    )
    for name, library in (("tsne", "openTSNE"), ("umap", "umap"))
]


def blobs(number: int, n_columns: int = 8, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows in well separated groups, and the group of each."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, KINDS, number)
    centers = np.eye(KINDS, n_columns) * 40
    return (centers[truth] + rng.standard_normal((number, n_columns))).astype(np.float32), truth


def places_of(method: str, x: NDArray[np.float32], *, threads: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return fit_manifold(
        method, x, neighbors=15, seed=seed, runtime=EmbeddedRuntime(threads), on_progress=lambda share: None
    )


# -- the solver


@pytest.mark.parametrize("method", METHODS)
def test_the_same_rows_and_seed_give_the_same_bytes(method: str) -> None:
    x, truth = blobs(300)
    places = places_of(method, x)
    assert np.array_equal(places, places_of(method, x, threads=2))
    assert np.isfinite(places).all()
    assert places.dtype == np.float32
    # Groups stay together: the nearest other place is one of the same group.
    squares = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squares, np.inf)
    assert (truth[squares.argmin(axis=1)] == truth).mean() > 0.99


@pytest.mark.parametrize("method", METHODS)
def test_a_row_is_placed_alone_and_a_fitted_row_keeps_its_place(method: str) -> None:
    x, truth = blobs(260)
    fitted, new = x[:200], x[200:]
    places = places_of(method, fitted)
    placer = Placer(method, fitted, places, EmbeddedRuntime(2))
    together = placer.place(new)
    assert np.array_equal(together, np.concatenate([placer.place(new[i : i + 1]) for i in range(len(new))]))
    assert np.array_equal(placer.place(fitted), places)
    assert np.array_equal(placer.place(fitted * np.float32(1 + 1e-6)), places), "rounding makes no other image"
    squares = ((together[:, None] - places[None]) ** 2).sum(axis=2)
    assert (truth[:200][squares.argmin(axis=1)] == truth[200:]).mean() > 0.95
    assert placer.place(new[:0]).shape == (0, places.shape[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [LEAST_ROWS, 7])
def test_few_rows_equal_rows_and_one_column(method: str, number: int) -> None:
    few = blobs(number)[0]
    equal = np.repeat(few[:1], number, axis=0)
    pairs = np.concatenate([equal, equal + 1])
    for x in (few, equal, pairs, np.ascontiguousarray(few[:, :1])):
        places = places_of(method, x)
        assert len(places) == len(x)
        assert np.isfinite(places).all()
        placer = Placer(method, x, places, EmbeddedRuntime(1))
        assert np.isfinite(placer.place(x + np.float32(0.5))).all()


@given(st.sampled_from(["tsne", "umap"]), st.integers(0, 500), st.integers(2, 1000))
def test_neighbors_are_at_most_what_the_rows_allow(method: str, n_rows: int, neighbors: int) -> None:
    if n_rows < LEAST_ROWS:
        with pytest.raises(TooFewSamplesError, match=f"at least {LEAST_ROWS} good images"):
            effective_neighbors(method, n_rows, neighbors)
        return
    used = effective_neighbors(method, n_rows, neighbors)
    assert 1 <= used <= neighbors
    assert used * NEIGHBORS_OF[method] <= n_rows - 1
    assert used == neighbors or (used + 1) * NEIGHBORS_OF[method] > n_rows - 1


# -- the stage


def test_rows_of_a_hostile_store_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    scores = ArrayRows(blobs(20)[0])
    for wrong in ([0, 20], [-1, 3], [3, 3], [4, 2], []):
        store.save("embedding_rows", np.array(wrong, np.int64))
        with pytest.raises(DamagedError, match="names rows that there are not"):
            manifold.load_placer(store, None, scores, EmbeddedRuntime(1))  # type: ignore[arg-type]


class Interrupted(BaseException):
    """What ends a fit in these tests, as a kill does."""


class MemoryState:
    """Checkpoints in memory that are always due. It interrupts after some saves."""

    def __init__(self, saves: int | None) -> None:
        self.left, self.facts, self.arrays = saves, None, dict[str, NDArray[Any]]()

    def load(self) -> Any:
        return None if self.facts is None else self

    def get(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def should_save(self, n_bytes: int) -> bool:
        assert n_bytes > 0
        return True

    def save(self, facts: dict[str, Any], arrays: Any, keep: Any = ()) -> None:
        self.facts, self.arrays = facts, {name: self.arrays[name] for name in keep} | {n: a.copy() for n, a in arrays}
        if self.left is not None:
            self.left -= 1
            if not self.left:
                self.left = None
                raise Interrupted


@pytest.mark.skipif(importlib.util.find_spec("openTSNE") is None, reason="openTSNE is an extra")
@pytest.mark.parametrize("saves", [1, 2, 3])
def test_a_killed_embedding_goes_on_with_the_same_bytes(saves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifold_jobs, "PLACED_ROWS", 40)
    fits = []
    real = manifold_jobs.fit_manifold
    monkeypatch.setattr(
        manifold_jobs, "fit_manifold", lambda *args, **options: fits.append(1) or real(*args, **options)
    )
    rows = ArrayRows(blobs(160)[0])

    def make(state: MemoryState) -> NDArray[np.float32]:
        unused: Any = None
        job = manifold_jobs.EmbedRows(unused, unused, "tsne", np.arange(0, 160, 3), 10, 0, unused)
        worker = Worker(EmbeddedRuntime(1), 1 << 30)
        return manifold_jobs._Embedding(job, rows, worker, state).make()  # type: ignore[arg-type]

    undisturbed = make(MemoryState(None))
    state = MemoryState(saves)
    with pytest.raises(Interrupted):
        make(state)
    assert np.array_equal(make(state), undisturbed)
    assert len(fits) == 2, "the fit was saved"


# -- runs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifold") / "images"
    write_kinds(folder, 15)
    return folder


def labels(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row["label"] for row in csv.DictReader(file)]


def run(cli: Cli, images: Path, out: Path, method: str, *more: object) -> dict[str, Any]:
    options = ("-k", KINDS, "--size", 16, "--set", f"reduce={method}", "--set", "manifold.neighbors=8", "--json", *more)
    ran = cli("run", images, "--out", out, *options)
    assert ran.code == 0, ran.err
    summary: dict[str, Any] = json.loads(ran.out)
    return summary


def digests(out: Path, name: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((out / "store.zarr" / name).rglob("*")) if file.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_from_scores_to_labels_of_new_images(method: str, images: Path, tmp_path: Path, cli: Cli) -> None:
    sample = ("--set", "manifold.sample=40")
    out = tmp_path / "out"
    summary = run(cli, images, out, method, *sample, "--set", "report.write=false")
    truth = [re.sub("-.*", "", name) for name in sorted(os.listdir(images))]
    assert adjusted_rand_score(truth, labels(out / "labels.csv")) == 1
    stage = summary["stages"]["manifold"]
    assert (stage["n_fitted"], stage["neighbors"]) == (40, 8)
    assert summary["n_dimensions"] == stage["n_dimensions"]
    assert stage["measured_peak_bytes"] <= stage["projected_peak_bytes"]

    found = bc.open(out)
    assert found.embedding.shape == (60, stage["n_dimensions"])
    assert found.centers.shape == (KINDS, stage["n_dimensions"])
    assert found.scores.shape == (60, summary["n_components"])

    again = run(cli, images, out, method, *sample, "--set", "report.write=false")
    assert all(again["stages"][name]["reused"] for name in ("reduce", "manifold", "cluster"))
    grouped = run(
        cli, images, out, method, *sample, "--set", "report.write=false", "-k", "auto", "--set", "algorithm=leiden"
    )
    assert grouped["stages"]["manifold"]["reused"]
    assert homogeneity_score(truth, labels(out / "labels.csv")) > 0.99, "communities of the places"
    assert cli("predict", out, images, "--to", tmp_path / "voted.csv").code == 0
    assert labels(tmp_path / "voted.csv") == labels(out / "labels.csv")
    assert cli("verify", out).code == 0
    run(cli, images, out, method, *sample, "--set", "report.write=false", "--set", "algorithm=kmeans")
    other = tmp_path / "other"
    run(cli, images, other, method, *sample, "--threads", 1, "--set", "report.write=false")
    assert digests(out, "embedding") == digests(other, "embedding")
    assert (out / "labels.csv").read_bytes() == (other / "labels.csv").read_bytes()

    ran = cli("predict", out, images, "--to", tmp_path / "own.csv")
    assert ran.code == 0, ran.err
    assert labels(tmp_path / "own.csv") == labels(out / "labels.csv"), "its own images get their own labels"
    assert cli("verify", out).code == 0
    write_kinds(tmp_path / "new", 3, seed=1)
    assert cli("predict", out, tmp_path / "new", "--to", tmp_path / "new.csv").code == 0
    new_truth = [re.sub("-.*", "", name) for name in sorted(os.listdir(tmp_path / "new"))]
    assert adjusted_rand_score(new_truth, labels(tmp_path / "new.csv")) == 1

    if method == "umap":  # all that follows is the same for both, and numba compiles every time
        return
    assert cli("sweep", out, "-k", "2:6").code == 0
    assert cli("report", out, "--set", f"report.map={method}").code == 0
    page = (out / "report" / "index.html").read_text()
    assert f"places in {stage['n_dimensions']} dimensions, by {stage['solver']} of the scores" in page
    assert "the mean of its pictures" in page
    assert "Mean of its pictures" in (out / "report" / "clusters" / "00.html").read_text()
    assert cli("verify", out).code == 0


@pytest.fixture(scope="module")
def out(images: Path, cli: Cli) -> Path:
    pytest.importorskip("openTSNE")
    out = images.parent / "out"
    run(cli, images, out, "tsne", "--set", "report.write=false")
    return out


def test_a_damaged_embedding_is_named_and_made_anew(out: Path, images: Path, cli: Cli) -> None:
    before = labels(out / "labels.csv")
    chunk = next(file for file in (out / "store.zarr" / "embedding" / "c").rglob("*") if file.is_file())
    content = bytearray(chunk.read_bytes())
    content[9] ^= 1
    chunk.write_bytes(content)
    ran = cli("verify", out, "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["redo"] == ["manifold"]
    summary = run(cli, images, out, "tsne", "--set", "report.write=false")
    assert summary["stages"]["reduce"]["reused"]
    assert not summary["stages"]["manifold"]["reused"]
    assert labels(out / "labels.csv") == before
    assert cli("verify", out).code == 0


def test_another_reduction_and_back(out: Path, images: Path, cli: Cli) -> None:
    before = labels(out / "labels.csv")
    ran = cli("run", images, "--out", out, "-k", KINDS, "--size", 16, "--set", "reduce=pca")
    assert ran.code == 0, ran.err
    assert cli("verify", out).code == 0
    with pytest.raises(BigclusterError, match="there is no embedding"):
        bc.open(out).embedding  # noqa: B018
    summary = run(cli, images, out, "tsne", "--set", "report.write=false")
    assert summary["stages"]["manifold"]["reused"], "it was kept"
    assert labels(out / "labels.csv") == before


@pytest.mark.skipif(importlib.util.find_spec("openTSNE") is None, reason="openTSNE is an extra")
def test_a_run_that_is_killed_meanwhile_ends_with_the_same_labels(
    images: Path, tmp_path: Path, out: Path, cli: Cli, background: Any
) -> None:
    options = ("-k", KINDS, "--size", 16, "--set", "reduce=tsne", "--set", "manifold.neighbors=8")
    new = tmp_path / "killed"
    killed: Background = background("run", images, "--out", new, *options, "--set", "report.write=false")
    killed.wait_until((new / ".bigcluster" / "marks" / "reduce" / "done.json").is_file)
    killed.process.send_signal(signal.SIGKILL)
    assert killed.end().code == -signal.SIGKILL
    assert not (new / "summary.json").exists()
    run(cli, images, new, "tsne", "--set", "report.write=false")
    assert labels(new / "labels.csv") == labels(out / "labels.csv")
    assert digests(new, "embedding") == digests(out, "embedding")


# -- what is refused


def one_line(ran: Ran, code: int, *parts: str) -> None:
    assert ran.code == code, ran.err
    (line,) = [line for line in ran.error_lines if not line.startswith(("left out", "ingest", "reduce"))]
    assert all(part in line for part in parts), line


@pytest.fixture
def without(tmp_path: Path) -> Any:
    """`without("openTSNE", "run", ...)` runs a command where that library is not installed."""

    def start(library: str, *args: object) -> Ran:
        folder = tmp_path / f"without-{library}"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(
            "import importlib.util\nfind = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name, *rest: "
            f"None if name.split('.')[0] == {library!r} else find(name, *rest)\n"
        )
        path = os.pathsep.join([str(folder), environment()["PYTHONPATH"]])
        done = subprocess.run(command(*args), env=environment({"PYTHONPATH": path}), capture_output=True, check=False)
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return start


@pytest.mark.parametrize("setting", ["reduce", "report.map"])
@pytest.mark.parametrize(("method", "library"), [("tsne", "openTSNE"), ("umap", "umap")])
def test_a_missing_extra_is_one_line_before_anything_is_decoded(
    setting: str, method: str, library: str, images: Path, tmp_path: Path, without: Any
) -> None:
    new = tmp_path / "new"
    ran = without(library, "run", images, "--out", new, "-k", 2, "--set", f"{setting}={method}")
    remedy = f'pip install "bigcluster[{method}]", or use {setting} = pca'
    one_line(ran, 2, f"{setting} = {method} needs {library}", remedy)
    assert not new.exists()


def test_predict_by_tsne_wants_its_library(out: Path, images: Path, tmp_path: Path, without: Any) -> None:
    ran = without("openTSNE", "predict", out, images, "--to", tmp_path / "new.csv")
    one_line(ran, 2, "needs openTSNE", 'pip install "bigcluster[tsne]"')
    assert not (tmp_path / "new.csv").exists()


def test_a_sample_that_does_not_fit_is_refused_and_the_one_that_is_named_fits(cli: Cli) -> None:
    options = ("plan", "--images", "1M", "--size", 32, "-k", 10, "--components", 50, "--set", "reduce=tsne")
    options = (*options, "--memory", "1500MiB")
    ran = cli(*options, "--set", "manifold.sample=500000")
    assert ran.code == 2
    assert "the result may differ on other machines" in " ".join(ran.out.split())
    named = re.search(r"stage 'manifold' needs .* or --set manifold.sample=(\d+)", ran.err)
    assert named is not None, ran.err
    assert cli(*options, "--set", f"manifold.sample={named[1]}").code == 0
    assert cli(*options, "--set", f"manifold.sample={int(named[1]) + 200}").code == 2
    few = ("plan", "--images", 200, "--size", 32, "-k", 3, "--set", "reduce=umap", "--memory", "400MiB")
    one_line(cli(*few), 2, "below the floor: Python and the libraries alone hold 528 MiB")
    # The library stays loaded while the report is written.
    more = ("plan", "--images", 2060, "-k", 10, "--components", 50, "--memory", "600MiB", "--set")
    one_line(cli(*more, "reduce=umap"), 2, "stage 'report' needs", "or --set reduce=pca")
    assert cli(*more, "reduce=pca").code == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [1, 3])
def test_too_few_images_are_one_line(method: str, number: int, tmp_path: Path, cli: Cli) -> None:
    write_pictures(tmp_path / "in", number)
    ran = cli("run", tmp_path / "in", "--out", tmp_path / "out", "-k", 1, "--set", f"reduce={method}")
    one_line(ran, 1, "needs at least 4 good images", f"{number}; use --set reduce=pca")


def test_four_images_and_images_that_are_all_equal(tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("openTSNE")
    write_pictures(tmp_path / "four", 4)
    ran = cli("run", tmp_path / "four", "--out", tmp_path / "out", "-k", 2, "--set", "reduce=tsne", "--variance", 0.9)
    assert ran.code == 0, ran.err
    assert "manifold.neighbors = 30 is more than 4 images allow: 1 is used" in ran.err
    for i in range(6):
        (tmp_path / "same").mkdir(exist_ok=True)
        (tmp_path / "same" / f"{i}.png").write_bytes(encoded(picture(0)))
    ran = cli("run", tmp_path / "same", "--out", tmp_path / "equal", "-k", 2, "--set", "reduce=tsne")
    one_line(ran, 1, "all 6 good images are the same picture at this size")


def test_a_comparison_with_scripts_is_refused(images: Path, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("openTSNE")
    options = ("--out", tmp_path / "out", "-k", 2, "--set", "reduce=tsne", "--compare", "numpy")
    one_line(cli("profile", images, *options), 2, "--compare knows scripts with PCA and k-means")


def test_blocks_of_new_rows_change_no_place() -> None:
    pytest.importorskip("openTSNE")
    x, _ = blobs(60)
    placer = Placer("tsne", x, places_of("tsne", x), EmbeddedRuntime(1))
    new = blobs(PLACED_ROWS + 3, seed=1)[0]
    assert np.array_equal(placer.place(new)[-3:], placer.place(new[-3:]))

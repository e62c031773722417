"""Features are vectors that the user brings: a file of numpy or Parquet, or a column of the manifest."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, command, environment, write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import bigcluster as bc
from benchmarks.stress.work import BUDGET, Job
from bigcluster.config import resolve
from bigcluster.errors import ConfigError, InputChangedError, UsageError
from bigcluster.pipeline.plan import plan
from bigcluster.pipeline.run import run
from bigcluster.stages.vector_files import SourceFile, open_npy
from bigcluster.store import Store

pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
pq = pytest.importorskip("pyarrow.parquet")

N, D = 24, 6
NAMES = [f"p{i:03d}.png" for i in range(N)]
RUN = ("-k", 3, "--components", 4, "--size", 8, "--set", "report.write=false", "--link", "none")

VALUES: dict[str, Any] = {"k": 3, "size": "8x8", "components": 4, "report.write": False}


def vectors(n: int = N, d: int = D, seed: int = 0) -> NDArray[np.float32]:
    """Three groups, far apart."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) * 0.1 + 5 * np.eye(3, d)[np.arange(n) % 3]).astype(np.float32)


def write_paths(path: Path, names: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([name] for name in names)])


def as_npy(folder: Path, x: NDArray[Any], names: list[str] = NAMES) -> Path:
    np.save(folder / "v.npy", x)
    write_paths(folder / "v.csv", names)
    return folder / "v.npy"


def as_parquet(folder: Path, x: Any, names: list[str] = NAMES, column: str = "vector", **others: Any) -> Path:
    values = x if isinstance(x, pa.Array) else pa.array([None if row is None else list(row) for row in x])
    pq.write_table(pa.table({"path": names, column: values, **others}), folder / "v.parquet")
    return folder / "v.parquet"


def as_fixed(x: NDArray[np.float32]) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors") / "images"
    write_pictures(folder, N)
    return folder


def stored(out: Path, name: str = "features") -> NDArray[Any]:
    return np.asarray(Store(out, create=False).array(name)[...])


def unit(x: NDArray[Any]) -> NDArray[np.float32]:
    x = x.astype(np.float32)
    return (x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)


def manifest_with(folder: Path, x: Any, images: Path) -> tuple[Path, str]:
    """The manifest itself has the vectors."""
    path = as_parquet(folder, x, [str(images / name) for name in NAMES], "emb", title=[f"t{i}" for i in range(N)])
    return path, "column:emb"


KINDS: dict[str, Callable[[Path, NDArray[Any]], Path]] = {
    "float32": as_npy,
    "float16": lambda folder, x: as_npy(folder, x.astype(np.float16)),
    "float64": lambda folder, x: as_npy(folder, x.astype(">f8")),
    "lists": as_parquet,
    "fixed lists": lambda folder, x: as_parquet(folder, as_fixed(x)),
    "half lists": lambda folder, x: as_parquet(folder, as_fixed(x.astype(np.float16))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_vectors_of_the_files(kind: str, images: Path, tmp_path: Path) -> None:
    """The stored rows are the vectors, scores and labels are those of PCA by hand."""
    x = vectors()
    order = np.random.default_rng(1).permutation(N)
    (tmp_path / "in").mkdir()
    values = x.astype(np.float16).astype(np.float32) if "16" in kind or "half" in kind else x
    file = KINDS[kind](tmp_path / "in", x)
    done = bc.run(
        images, tmp_path / "out", n_clusters=3, components=4, size=8, features=file, set=["report.write=false"]
    )
    np.testing.assert_allclose(stored(done.out), unit(values), rtol=1e-6)
    centered = unit(values).astype(np.float64) - unit(values).mean(axis=0, dtype=np.float64)
    scores = np.asarray(done.scores.compute(scheduler="synchronous"))
    spread = np.linalg.svd(centered, compute_uv=False)[:4]
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), spread, rtol=1e-3, atol=1e-4)
    labels = done.labels["label"].to_numpy()
    assert len({tuple(labels[i::3]) for i in range(3)}) == 3
    assert all(len(set(labels[i::3])) == 1 for i in range(3))
    assert bc.open(tmp_path / "out").verify()["ok"]
    if kind == "float32":  # the order of rows in the file decides nothing
        shuffled = tmp_path / "shuffled"
        shuffled.mkdir()
        as_npy(shuffled, x[order], [NAMES[i] for i in order])
        bc.run(
            images,
            tmp_path / "again",
            n_clusters=3,
            components=4,
            size=8,
            features=shuffled / "v.npy",
            set=["report.write=false"],
        )
        assert (tmp_path / "again" / "labels.csv").read_bytes() == (tmp_path / "out" / "labels.csv").read_bytes()


def test_a_column_of_the_manifest_needs_no_second_file(images: Path, tmp_path: Path, cli: Cli) -> None:
    x = vectors()
    manifest, features = manifest_with(tmp_path, x, images)
    allow = ("--set", "manifest.allow_outside=true")
    ran = cli("run", manifest, "--out", tmp_path / "out", "--features", features, *RUN, *allow)
    assert ran.code == 0, ran.err
    np.testing.assert_allclose(stored(tmp_path / "out"), unit(x), rtol=1e-6)
    header = (tmp_path / "out" / "labels.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith("title")  # the vectors are no text of labels.csv
    to = tmp_path / "new.csv"
    ran = cli("predict", tmp_path / "out", manifest, "--to", to)
    assert ran.code == 0, ran.err
    labels = list(bc.open(tmp_path / "out").labels["label"])
    assert [int(line.split(",")[1]) for line in to.read_text(encoding="utf-8").splitlines()[1:]] == labels


def test_the_report_says_which_vectors_were_clustered(images: Path, tmp_path: Path, cli: Cli) -> None:
    file, out = as_npy(tmp_path, vectors()), tmp_path / "out"
    ran = cli("run", images, "--out", out, "--features", file, "-k", 3, "--components", 4, "--size", 8)
    assert ran.code == 0, ran.err
    index = (out / "report" / "index.html").read_text(encoding="utf-8")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for text in (f"{D} of each image, taken from v.npy", f"SHA-256 {digest[:12]}…<"):
        assert text in index
    for page in ("index.html", "map.html"):
        assert "of the vectors in v.npy, and not of the pixels" in (out / "report" / page).read_text(encoding="utf-8")


def test_paths_may_begin_in_the_folder_of_the_file(images: Path, tmp_path: Path, cli: Cli) -> None:
    file = as_npy(images.parent, vectors(), [f"./{images.name}/{name}" for name in NAMES])
    ran = cli("run", images, "--out", tmp_path / "out", "--features", file, *RUN)
    assert ran.code == 0, ran.err
    absolute = as_npy(tmp_path, vectors(), [str(images / name) for name in NAMES])
    assert cli("run", images / "*.png", "--out", tmp_path / "glob", "--features", absolute, *RUN).code == 0
    for name in ("v.npy", "v.csv"):
        (images.parent / name).unlink()


def test_rows_without_a_finite_vector_are_in_the_ledger(images: Path, tmp_path: Path, cli: Cli) -> None:
    x = vectors()
    x[3, 1], x[4, 0] = np.nan, np.inf
    names = ["other.png", *NAMES[1:]]
    for kind, rows in (("npy", x), ("parquet", [None if i == 7 else row for i, row in enumerate(x)])):
        folder = tmp_path / kind
        folder.mkdir()
        file = as_npy(folder, x, names) if kind == "npy" else as_parquet(folder, rows, names)
        ran = cli("run", images, "--out", folder / "out", "--features", file, *RUN)
        assert ran.code == 3, ran.err
        assert f"1 vector is in {file.name} of images that are not listed" in ran.err
        with (folder / "out" / "images.csv").open(newline="", encoding="utf-8") as table:
            reasons = {row["path"]: (row["status"], row["reason"]) for row in csv.DictReader(table)}
        none, not_finite = f"{file.name} has no vector for it", f"its vector in {file.name} has NaN or infinity"
        assert reasons["p000.png"] == ("no_features", none)
        assert "could not be read or described" in ran.out + ran.err
        assert reasons["p003.png"] == reasons["p004.png"] == ("no_features", not_finite)
        assert reasons["p007.png"] == (("ok", "") if kind == "npy" else ("no_features", none))
        assert bc.open(folder / "out").verify()["ok"]


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-5])
    return path


def hand_made_header(folder: Path) -> Path:
    path = as_npy(folder, vectors())
    path.write_bytes(b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little") + b"{" * 1000)
    return path


BAD: dict[str, tuple[Callable[[Path], Path | str], str]] = {
    "cut npy": (lambda f: cut(as_npy(f, vectors())), "it was cut"),
    "long npy": (lambda f: (p := as_npy(f, vectors())).write_bytes(p.read_bytes() + b"x") and p, "more is appended"),
    "cut parquet": (lambda f: cut(as_parquet(f, vectors())), "cannot take vectors from"),
    "no npy": (lambda f: (p := as_npy(f, vectors())).write_bytes(b"hello") and p, "no file of numpy"),
    "empty npy": (lambda f: (p := as_npy(f, vectors()), p.write_bytes(b""))[0], "no file of numpy"),
    "header": (hand_made_header, "no file of numpy"),
    "objects": (lambda f: as_npy(f, np.array([[{}]] * N, object)), "pickled objects"),
    "integers": (lambda f: as_npy(f, np.ones((N, D), np.int64)), "holds values of <i8"),
    "records": (lambda f: as_npy(f, np.zeros((N, D), [("a", "f4")])), "holds values of records"),
    "one axis": (lambda f: as_npy(f, np.ones(N, np.float32)), "a matrix with one row for each vector is needed"),
    "no rows": (lambda f: as_npy(f, vectors()[:0], []), "it holds no vectors"),
    "by columns": (lambda f: as_npy(f, np.asfortranarray(vectors())), "column by column"),
    "other length": (lambda f: as_npy(f, vectors(), NAMES[:-1]), "24 vectors and"),
    "twice": (lambda f: as_npy(f, vectors(), [*NAMES[:-1], "./p000.png"]), "p000.png twice, in its rows 1 and 24"),
    "no match": (lambda f: as_npy(f, vectors(), [f"x{name}" for name in NAMES]), "no vector of"),
    "no paths": (lambda f: (as_npy(f, vectors()), (f / "v.csv").unlink())[0], "cannot read the paths of"),
    "nothing": (lambda f: f / "v.npy", "cannot read the file of vectors"),
    "a folder": (lambda f: ((f / "v.npy").mkdir(), f / "v.npy")[1], "not a regular file"),
    "lengths": (
        lambda f: as_parquet(f, [*vectors()[:-1], [1.0]]),
        "row 24 has a vector of 1 value, and row 1 one of 6",
    ),
    "integers in lists": (lambda f: as_parquet(f, [[1, 2]] * N), "is of list<"),
    "texts in lists": (lambda f: as_parquet(f, [["1"]] * N), "lists of floats are needed"),
    "numbers": (lambda f: as_parquet(f, pa.array([1.0] * N)), "is of double"),
    "column": (lambda f: as_parquet(f, vectors(), column="vectors"), "no column 'vector'; near names: vectors"),
    "all empty": (lambda f: as_parquet(f, pa.array([None] * N, pa.list_(pa.float32()))), "no row has a vector"),
    "no rows of Parquet": (lambda f: as_parquet(f, pa.array([], pa.list_(pa.float32())), []), "it has no rows"),
    "twice in Parquet": (lambda f: as_parquet(f, vectors(), [*NAMES[:-1], "p000.png"]), "p000.png twice"),
    "no manifest": (lambda f: "column:emb", "must be a Parquet file then"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_used_is_one_line_and_leaves_nothing(kind: str, images: Path, tmp_path: Path) -> None:
    make, says = BAD[kind]
    chosen = Job(images, VALUES | {"features": str(make(tmp_path))})
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        run(chosen.settings(tmp_path / "out"), BUDGET)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=re.escape(says)):
        plan(chosen.settings(tmp_path / "out"), BUDGET)
    assert not (tmp_path / "out").exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith("tmp")]


@pytest.mark.parametrize("setting", ["layer=x", "pool=max", "size=32", "gray=true", "resize=pad", "classes=5"])
def test_settings_of_networks_are_refused_beside_vectors(setting: str) -> None:
    name, _, value = setting.partition("=")
    with pytest.raises(ConfigError, match=f"features.{name} = .* is for a network"):
        resolve(flags={"features": "v.npy"}, sets=[f"features.{name}={value}"], config=None, kept=None)
    left = resolve(flags={"features": "v.npy"}, sets=[], config=None, kept={f"features.{name}": value})
    assert left == resolve(flags={"features": "v.npy"}, sets=[], config=None, kept=None)


def test_an_unknown_column_of_the_manifest_names_the_nearest(images: Path, tmp_path: Path, cli: Cli) -> None:
    manifest, _ = manifest_with(tmp_path, vectors(), images)
    ran = cli("run", manifest, "--out", tmp_path / "out", "--features", "column:emd", *RUN)
    assert (ran.code, len(ran.error_lines)) == (2, 1), ran.err
    assert "no column 'emd'; near names: emb" in ran.err


def test_a_relative_path_holds_in_any_folder(images: Path, tmp_path: Path, cli: Cli) -> None:
    as_npy(tmp_path, vectors())
    assert cli("run", images, "--out", "out", "--features", "v.npy", *RUN, cwd=tmp_path).code == 0
    assert f'source = "{tmp_path}/v.npy"' in (tmp_path / "out" / "run.toml").read_text(encoding="utf-8")
    ran = cli("run", "--out", tmp_path / "out", "-k", 5, cwd=images)
    assert ran.code == 0, ran.err
    assert bc.open(tmp_path / "out").summary["stages"]["ingest"]["reused"]
    ran = cli("plan", images, "-k", 3, "--features", "v.npy", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert cli("plan", "--images", "1M", "-k", 3, "--features", "v.npy", cwd=tmp_path).code == 0


def test_a_changed_file_makes_features_anew_and_a_setting_asks_first(images: Path, tmp_path: Path, cli: Cli) -> None:
    file = as_npy(tmp_path, vectors())
    line = ("run", images, "--out", tmp_path / "out", "--features", file, *RUN)
    assert cli(*line).code == 0
    np.save(file, vectors(seed=1))
    assert cli(*line).code == 0
    np.testing.assert_allclose(stored(tmp_path / "out"), unit(vectors(seed=1)), rtol=1e-6)
    plain = (*line, "--set", "features.normalize=none")
    assert cli(*plain).code == 2
    assert cli(*plain, "--replace").code == 0
    np.testing.assert_array_equal(stored(tmp_path / "out"), vectors(seed=1))


def test_new_images_are_predicted_by_their_own_vectors(images: Path, tmp_path: Path, cli: Cli) -> None:
    out, to, new = tmp_path / "out", tmp_path / "new.csv", tmp_path / "new"
    new.mkdir()
    assert cli("run", images, "--out", out, "--features", as_npy(tmp_path, vectors()), *RUN).code == 0
    labels = list(bc.open(out).labels["label"])
    names = [path.name for path in write_pictures(new / "images", 6, first=50)]
    file = as_parquet(new, vectors(6, seed=3), names)
    ran = cli("predict", out, new / "images", "--to", to)
    assert (ran.code, len(ran.error_lines)) == (2, 1), ran.err
    assert "no vector of" in ran.err
    ran = cli("predict", out, "images", "--to", to, "--features", "v.parquet", cwd=new)
    assert ran.code == 0, ran.err
    assert [int(line.split(",")[1]) for line in to.read_text(encoding="utf-8").splitlines()[1:]] == labels[:6]
    to.unlink()
    short = as_npy(new, vectors(6, 3), names)
    ran = cli("predict", out, new / "images", "--to", to, "--features", short)
    assert (ran.code, len(ran.error_lines)) == (1, 1), ran.err
    assert "6 values each, and 3" in ran.err
    ran = cli("predict", out, new / "images", "--to", to, "--features", "gray")
    assert (ran.code, len(ran.error_lines)) == (2, 1), ran.err
    ran = cli("predict", out, new / "images", "--to", file, "--features", file)
    assert ran.code == 2, ran.err
    assert not to.exists()


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    file = as_npy(tmp_path, vectors())
    rows = open_npy(SourceFile.read(file, "file"))
    np.testing.assert_array_equal(rows.row(5), vectors()[5])
    time.sleep(0.02)  # the time of a file has steps
    np.save(file, vectors(seed=1))
    with pytest.raises(InputChangedError, match=r"v\.npy was changed"):
        rows.row(5)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputChangedError, match=r"v\.npy was changed"):
        rows.row(N - 1)
    rows.close()
    with pytest.raises(UsageError, match="cut"):
        open_npy(SourceFile.read(file, "file"))


@settings(max_examples=40)
@given(st.binary(max_size=300), st.integers(0, 127))
def test_no_header_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    file = tmp_path_factory.mktemp("header") / "v.npy"
    np.save(file, vectors())
    whole = file.read_bytes()
    file.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    said = ""
    try:
        open_npy(SourceFile.read(file, "file")).close()
    except UsageError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_run_that_is_killed_continues_and_leaves_no_file(kind: str, tmp_path: Path, cli: Cli) -> None:
    n, images = 1500, tmp_path / "images"
    x, names = vectors(n), [path.name for path in write_pictures(images, n)]
    folder = tmp_path / "in"
    folder.mkdir()
    file = as_npy(folder, x, names) if kind == "npy" else as_parquet(folder, x, names)
    above = tmp_path / "results"
    above.mkdir()
    line = ("run", images, "--features", file, *RUN, "--threads", 1)
    process = subprocess.Popen(
        command(*line, "--out", above / "out"), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    marks = above / "out" / ".bigcluster" / "marks" / "ingest"
    while process.poll() is None and not (marks.is_dir() and any(marks.iterdir())):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.listdir(above) == ["out"]
    assert cli(*line, "--out", above / "out").code == 0
    assert cli(*line, "--out", above / "fresh").code == 0
    for name in ("labels.csv", "images.csv"):
        assert (above / "out" / name).read_bytes() == (above / "fresh" / name).read_bytes()
    assert bc.open(above / "out").verify()["ok"]

"""Python calls: what they take, what they refuse in one line, and tables that keep text as text."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Cli, write_pictures
from hypothesis import given
from hypothesis import strategies as st

import bigcluster as bc
from bigcluster import api
from bigcluster.config import KEYS, flatten, parse_ks
from bigcluster.errors import BigclusterError, ConfigError, OutError, UsageError
from bigcluster.outputs.frames import NUMBERS_OF_IMAGES, NUMBERS_OF_LABELS, read_table
from bigcluster.outputs.tables import IMAGE_COLUMNS, LABEL_COLUMNS

FAST: dict[str, Any] = {"n_clusters": 2, "size": 8, "components": 2, "set": {"report.write": False}}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "images"
    write_pictures(folder, 8)
    return folder


# -- numbers are numbers

WHOLE = {"n_clusters": 3, "components": 2, "size": 32, "seed": 5, "kmeans.n_init": 2, "image.max_pixels": 10**6}
REAL = {"variance": 0.5, "kmeans.tol": 0.25, "image.timeout": 2.0}


def settings_of(images: Path, values: dict[str, Any]) -> dict[str, Any]:
    flags = {"k": 2} | {("k" if name == "n_clusters" else name): value for name, value in values.items()}
    return flatten(api.resolve_settings(images, "out", flags=flags))


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.int64, np.uint64, np.asarray])
def test_whole_numbers_of_numpy_are_numbers(images: Path, kind: Callable[[int], Any]) -> None:
    values = {name: value for name, value in WHOLE.items() if kind is not np.int8 or value < 128}
    values = {name: value for name, value in values.items() if kind is not np.uint16 or value < 65536}
    found = settings_of(images, {name: kind(value) for name, value in values.items()})
    assert found == settings_of(images, values)
    assert all(type(found[name]) in (int, str) for name in found if name in values or name == "k")
    assert api.resources("1GiB", kind(2)) == api.resources("1GiB", 2)
    assert type(api.resources("1GiB", kind(2)).threads) is int
    assert parse_ks("k", kind(3)) == (3,)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_real_numbers_and_truths_of_numpy_are_numbers_and_truths(images: Path, kind: Callable[[float], Any]) -> None:
    given = {name: kind(value) for name, value in REAL.items()} | {"report.write": np.bool_(False)}
    found = settings_of(images, given)
    assert found == settings_of(images, REAL | {"report.write": False})
    assert all(type(found[name]) is float for name in REAL)


def test_numpy_numbers_reach_the_run_and_the_estimators(images: Path, tmp_path: Path) -> None:
    run = bc.run(
        images, tmp_path / "out", n_clusters=np.int64(2), size=np.int32(8), components=np.uint8(2), seed=np.int64(1),
        threads=np.int64(1), rehash=np.bool_(True), set={"report.write": np.bool_(False), "kmeans.n_init": "auto"},
    )  # fmt: skip
    assert run.summary["settings"]["kmeans.n_init"] == KEYS["kmeans.n_init"].default
    assert list(run.sweep(np.int64(3))["k"]) == [3]
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    auto = bc.KMeans(n_clusters=np.int64(3), n_init="auto", random_state=0).fit(x)
    assert (auto.labels_ == bc.KMeans(n_clusters=3, random_state=0).fit(x).labels_).all()


# -- one line


ODD = st.one_of(
    st.none(), st.integers(-3, 3), st.floats(), st.text(max_size=3), st.binary(max_size=3), st.booleans(),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    st.sampled_from([object(), np.arange(3), np.zeros((2, 2)), {1, 2}, pd.DataFrame({"a": [1]}), pd.NA, pd.Series([1]),
                     Path("x"), 1j, range(3), np.array(["gray", "color"])]),
)  # fmt: skip


@given(st.data())
def test_no_argument_ends_in_a_raw_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """bc.plan reads every argument that bc.run does, and computes nothing."""
    folder = tmp_path_factory.mktemp("odd")
    write_pictures(folder / "in", 1)
    given: dict[str, Any] = {"images": folder / "in", "out": folder / "out", "n_clusters": 1, "memory": "1GiB"}
    name = data.draw(
        st.sampled_from(["images", "out", "n_clusters", "memory", "threads", "workers", "config", "set", *KEYS])
    )
    value = data.draw(ODD)
    if name in KEYS and name not in given and "." in name:
        given["set"] = {name: value}
    else:
        given["n_clusters" if name == "k" else name] = value
    with contextlib.suppress(BigclusterError):
        bc.plan(**given)


@pytest.mark.parametrize(
    "call",
    [
        lambda: bc.open(5),  # type: ignore[arg-type]
        lambda: bc.open(b"a\0b"),  # type: ignore[arg-type]
        lambda: bc.open("s3://bucket/out"),
        lambda: bc.run(5, "out", n_clusters=2),  # type: ignore[arg-type]
        lambda: bc.run("in", 5, n_clusters=2),  # type: ignore[arg-type]
        lambda: bc.run("in", "out", n_clusters=2, memory=5),  # type: ignore[arg-type]
        lambda: bc.run("in", "out", n_clusters=2, threads="two"),  # type: ignore[arg-type]
        lambda: bc.run("in", "out", n_clusters=2, config=5),  # type: ignore[arg-type]
        lambda: bc.run("in", "out", n_clusters=2, set="k=3"),  # type: ignore[arg-type]
        lambda: bc.run("in", "out", n_clusters=2, set={1: 2}),  # type: ignore[dict-item]
        lambda: bc.run("in", "out", n_clusters=2, set={"kmeans": {"n_init": 8}}),
        lambda: bc.run("in", "out", n_clusters=2, listener=5),  # type: ignore[arg-type]
        lambda: bc.run([5], "out", n_clusters=2),  # type: ignore[list-item]
        lambda: bc.run([], "out", n_clusters=2),
        lambda: bc.run({"path": ["a.png"]}, "out", n_clusters=2),
        lambda: bc.run(pd.DataFrame({"file": ["a.png"]}), "out", n_clusters=2),  # type: ignore[arg-type]
        lambda: bc.run(pd.DataFrame({"path": ["a.png", None]}), "out", n_clusters=2),  # type: ignore[arg-type]
        lambda: bc.profile(["a.png"], "out", n_clusters=2),
        lambda: bc.profile("in", "out", n_clusters=2, compare=5),  # type: ignore[arg-type]
        lambda: bc.profile("in", "out", n_clusters=2, limit=5),  # type: ignore[arg-type]
    ],
)
def test_calls_that_cannot_be_meant_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "in", 3)
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["in"]


# -- text is text

CELLS = st.text(st.sampled_from("0123.e-NAnul,\"\n é'"), max_size=5)


@given(st.lists(st.tuples(CELLS, st.integers(-1, 9), CELLS), min_size=1, max_size=5))
def test_tables_keep_text_as_text_and_numbers_as_numbers(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, str]]
) -> None:
    path = tmp_path_factory.mktemp("table") / "labels.csv"
    columns = [*LABEL_COLUMNS, "sku", "width"]
    text = pd.DataFrame([[name, n, n / 4, None, None, "ok", "", sku, sku] for name, n, sku in rows], columns=columns)
    text.to_csv(path, index=False, lineterminator="\r\n")
    found = read_table(path, NUMBERS_OF_LABELS)
    assert list(found["path"]) == [name for name, _, _ in rows]
    assert list(found["sku"]) == list(found["width"]) == [sku for _, _, sku in rows]
    assert list(found["label"]) == [n for _, n, _ in rows]
    assert found["label"].dtype == np.int64
    assert list(found["distance"]) == [n / 4 for _, n, _ in rows]
    assert found["margin"].isna().all()


def test_the_columns_of_numbers_are_columns() -> None:
    assert set(NUMBERS_OF_LABELS) < set(LABEL_COLUMNS)
    assert set(NUMBERS_OF_IMAGES) < set(IMAGE_COLUMNS)


# -- lists and DataFrames


def test_a_list_of_paths_is_a_manifest_that_out_keeps(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    out = tmp_path / "out"
    monkeypatch.chdir(images)
    other = write_pictures(tmp_path / "elsewhere", 1, first=50)[0]
    listed = ["p001.png", Path("p000.png"), b"p002.png", other, str(images / "p003.png"), "s3://bucket/a.png"]
    with pytest.raises(ConfigError, match="OUT is missing"):
        bc.run(listed, n_clusters=2)
    assert bc.plan(listed, out, **{**FAST, "n_clusters": 2}).to_json()["n_images"] == 6
    assert not out.exists()
    run = bc.run(listed, out, **FAST)
    expected = [*(str(images / f"p00{i}.png") for i in (1, 0, 2)), str(other), str(images / "p003.png")]
    assert list(run.labels["path"]) == [*expected, "s3://bucket/a.png"]
    assert list(run.images["status"]) == ["ok"] * 5 + ["missing"]
    monkeypatch.chdir(tmp_path)
    again = bc.run([images / "p001.png", *expected[1:], "s3://bucket/a.png"], out, **FAST)
    assert again.summary["stages"]["ingest"]["images_decoded"] == 0
    assert again.summary["stages"]["cluster"]["reused"]
    # The command line goes on with it, also where OUT was moved.
    moved = out.rename(tmp_path / "moved")
    ran = cli("run", "--out", moved, "-k", 2, "--json", cwd=Path("/"))
    assert ran.code == 3, ran.err
    assert '"images_decoded": 0' in ran.out
    assert bc.open(moved).verify()["ok"]
    # A longer list: what it adds is decoded.
    longer = bc.run([*expected, images / "p004.png"], moved, **FAST)
    assert longer.summary["stages"]["ingest"]["images_decoded"] == 1
    assert longer.summary["counts"]["failed"] == 0
    assert list(longer.predict([images / "p005.png", *expected], tmp_path / "p.csv")["path"])[1:] == expected


def test_verify_reads_the_list_that_out_keeps(images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    given = [images / "p000.png", images / "p001.png"]
    run = bc.run(given, out, **FAST)
    assert run.verify()["ok"]
    kept = out / "manifest.csv"
    whole = kept.read_bytes()
    kept.write_bytes(whole.replace(b"p001", b"p002"))
    found = run.verify()
    (damage,) = found["damaged"]
    assert (damage["file"], damage["stage"], found["redo"]) == ("manifest.csv", "manifest", [])
    assert "move it away" in damage["what"]
    kept.unlink()
    ran = cli("verify", out)
    assert ran.code == 1
    assert "damaged: manifest.csv is gone: give the list of images to bc.run again" in ran.out
    assert "anew" not in ran.out
    bc.run(given, out, **FAST)
    assert kept.read_bytes() == whole
    assert run.verify()["ok"]


def test_a_manifest_of_somebody_in_out_is_kept(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bc.run([images / "p000.png", images / "p001.png"], out, **FAST)
    kept = out / "manifest.csv"
    kept.write_text("mine")
    with pytest.raises(OutError, match="move it away"):
        bc.run([images / "p000.png", images / "p002.png"], out, **FAST)
    assert kept.read_text() == "mine"
    kept.rename(out / "mine.csv")
    kept.symlink_to("mine.csv")
    with pytest.raises(OutError, match="move it away"):
        bc.run([images / "p000.png", images / "p002.png"], out, **FAST)
    assert (out / "mine.csv").read_text() == "mine"
    kept.unlink()
    run = bc.run([images / "p000.png", images / "p002.png"], out, **FAST)
    assert list(run.labels["path"]) == [str(images / "p000.png"), str(images / "p002.png")]


def test_a_data_frame_is_a_manifest_and_its_columns_pass_through(images: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({
        "sku": ["00012", "007", None, "é\n"],
        "path": [str(images / f"p00{i}.png") for i in range(4)],
        "n": [1, 2, 3, 4],
        "label": ["a", "b", "", "d"],
        "part": [0.5, np.nan, 1.5, 2.0],
    })  # fmt: skip
    run = bc.run(frame, tmp_path / "out", **FAST)
    assert list(run.labels["path"]) == list(frame["path"])
    assert list(run.labels["sku"]) == ["00012", "007", "", "é\n"]
    assert list(run.labels["in_label"]) == ["a", "b", "", "d"]
    assert list(run.labels["n"]) == ["1", "2", "3", "4"]
    assert list(run.labels["part"]) == ["0.5", "", "1.5", "2.0"]
    assert bc.run(frame, tmp_path / "out", **FAST).summary["stages"]["ingest"]["images_decoded"] == 0
    odd = pd.Series(["a", "\udce9", "", ""], dtype=object)
    with pytest.raises(UsageError, match=r"line 3 of the manifest .* not UTF-8 in the column 'x'"):
        bc.run(pd.DataFrame({"path": frame["path"], "x": odd}), tmp_path / "other", **FAST)  # type: ignore[arg-type]


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    odd = (tmp_path / "p001.png").rename(tmp_path / os.fsdecode(b'caf\xe9, "x".png'))
    run = bc.run([tmp_path / "p000.png", odd], tmp_path / "out", **FAST)
    assert run.summary["counts"]["ok"] == 2
    assert run.labels["path"][1].endswith('caf\\xe9, "x".png')


def test_a_relative_out_survives_a_change_of_the_folder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def away(event: object) -> None:
        os.chdir("/")

    run = bc.run(images, "out", listener=away, **FAST)
    assert run.out == tmp_path / "out"
    assert len(run.labels) == 8
    monkeypatch.chdir(tmp_path)
    opened = bc.open("out")
    monkeypatch.chdir("/")
    assert opened.scores.compute().shape == (8, 2)
    assert opened.verify(quick=True)["ok"]

"""Limits hold from the first byte: whatever lies where a file is expected, a bounded number of its bytes is read."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import environment, picture, write_pictures
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import bigcluster as bc
from benchmarks.stress import hostile_files, hostile_outs
from bigcluster.catalog import Listing, StringArray, list_images
from bigcluster.catalog.manifest import Manifest
from bigcluster.config import KEYS, read_toml, resolve, shipped_configs, to_toml
from bigcluster.errors import ConfigError, DamagedError, MemoryBudgetError, StoreError, UsageError
from bigcluster.files.bounded import (
    SETTINGS_BYTES,
    UnfitFileError,
    count_values,
    json_bytes,
    parse_json,
    read_bounded,
    read_dicts,
)
from bigcluster.files.toml import parse_toml
from bigcluster.kernels.decode import DecodeSpec, decode, has_bounded_memory
from bigcluster.outputs.tables import passed_columns
from bigcluster.pipeline.run import run
from bigcluster.planning.footprint import NAME_BYTES
from bigcluster.planning.plan import Pictures
from bigcluster.planning.planner import make_plan
from bigcluster.runtime.events import Progress
from bigcluster.runtime.resources import Resources
from bigcluster.stages.loading.isolation import IsolatedDecoder
from bigcluster.stages.loading.loader import Loader
from bigcluster.stages.loading.sample import Headers
from bigcluster.store import Mark, Marks, Store, metadata
from bigcluster.store.payloads import has_form
from bigcluster.store.shapes import check_array
from bigcluster.units import MIB

SPARSE_BYTES = 2 << 30


def sparse(file: Path, start: bytes = b"", n_bytes: int = SPARSE_BYTES) -> Path:
    """A file that begins with `start`, and takes no room on the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        out.write(start)
        out.truncate(n_bytes)
    return file


def test_a_bounded_read_takes_regular_files_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert read_bounded(tmp_path / "file", 5) == b"12345"
    assert read_bounded(tmp_path / "link", 5, follow=True) == b"12345"
    sparse(tmp_path / "sparse")
    for name, follow, says in (
        *(("file", False, "larger than 4 B"), ("sparse", False, "larger")),
        *(("link", False, "a link"), ("fifo", False, "not a regular file")),
        *(("zero", True, "not a regular file"), (".", False, "not a regular file")),
    ):
        with pytest.raises(UnfitFileError, match=says):
            read_bounded(tmp_path / name, 4, follow=follow)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "gone", 4)


def test_json_of_many_values_or_of_great_depth_is_not_parsed() -> None:
    assert parse_json(b'{"a": [1, 2]}', 3) == {"a": [1, 2]}
    with pytest.raises(ValueError, match="values"):
        parse_json(b"[" + b"[]," * 1000 + b"[]]", 1000)
    with pytest.raises(ValueError, match="depth"):
        parse_json(b"[" * 100_000 + b"]" * 100_000, 1_000_000)


JSON: dict[str, Callable[[], Any]] = {
    "numbers": lambda: list(range(1_000_000, 1_200_000)),
    "fractions": lambda: [0.5] * 200_000,
    "lists": lambda: [[]] * 200_000,
    "texts": lambda: [f"{i:030d}" for i in range(50_000)],
    "keys": lambda: {f"{i:030d}": i for i in range(50_000)},
    "accents": lambda: ["é" * 300] * 1000,
    "one long text": lambda: "a" * 2_000_000,
    "one wide character in a long text": lambda: "a" * 1_000_000 + "\U0001f600" + "a" * 1_000_000,
    "wide characters in many texts": lambda: ["\U0001f600" + "a" * 100] * 20_000,
    "an escaped quote before a wide character": lambda: 'a"' * 500_000 + "\U0001f600" + "a" * 1_000_000,
}


@pytest.mark.parametrize("what", JSON)
def test_parsing_json_takes_no_more_than_is_expected(what: str) -> None:
    raw = json.dumps(JSON[what]()).encode()
    n_values = count_values(raw)
    tracemalloc.start()
    parse_json(raw, n_values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(raw) + peak <= json_bytes(len(raw), n_values) + 10_000


def test_json_with_characters_that_are_not_escaped_is_not_ours() -> None:
    """One of them would make four bytes of every character of the text."""
    with pytest.raises(ValueError, match="not escaped"):
        parse_json(json.dumps(["\U0001f600"], ensure_ascii=False), 10)


@pytest.mark.parametrize(
    "more",
    [list(range(1_000_000, 2_900_000)), [0.5] * 1_990_000, "a" * (15 << 20) + "\U0001f600", ["\U0001f600"] * 1_500_000],
    ids=["numbers", "fractions", "text", "texts"],
)
def test_a_summary_that_was_made_to_unfold_is_not_opened(tmp_path: Path, more: Any) -> None:
    """Of a run that is merely opened, no number of clusters is known that would allow for more."""
    (tmp_path / "summary.json").write_text(json.dumps({"more": more}, separators=(",", ":")))
    tracemalloc.start()
    with pytest.raises(StoreError, match="cannot be read"):
        _ = bc.open(tmp_path).summary
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * MIB


@pytest.mark.parametrize("what", ["fifo", "link", "sparse", "folder"])
def test_what_cannot_be_a_mark_counts_as_absent(tmp_path: Path, what: str) -> None:
    marks = Marks(tmp_path)
    marks.write("stage", Mark("print"))
    assert marks.read("stage") == Mark("print")
    path = marks.path("stage")
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    else:
        sparse(path, b'{"seal": "')
    assert marks.read("stage") is None


@pytest.mark.parametrize("what", ["fifo", "sparse"])
def test_what_cannot_be_a_config_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    file = tmp_path / "run.toml"
    if what == "fifo":
        os.mkfifo(file)
    else:
        sparse(file)
    with pytest.raises(ConfigError, match=r"larger|regular"):
        read_toml(file)


def test_links_make_no_more_paths_than_there_are_folders(tmp_path: Path) -> None:
    """29 folders in a row, three links to each next one: 3^29 ways lead to the last."""
    images = tmp_path / "images"
    for level in range(29):
        (images / f"{level:02d}").mkdir(parents=True)
    for level in range(28):
        for name in "abc":
            (images / f"{level:02d}" / name).symlink_to(f"../{level + 1:02d}", target_is_directory=True)
    (images / "28" / "x.png").write_bytes(b"x")
    for pattern in ("", "/**/*.png", "/*/*.png"):
        listing = list_images(f"{images}{pattern}", None)
        assert list(listing.names) == ["28/x.png"]
    assert list_images(str(images), None).ignored == {"(folder listed already)": 84}
    ways = "/".join(["*"] * 29)
    assert len(list_images(f"{images}/{ways}/*.png", None)) == 1


def test_a_way_without_links_is_preferred(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "z" / "inner").mkdir(parents=True)
    (images / "z" / "inner" / "x.png").write_bytes(b"x")
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (tmp_path / "outside" / "deep" / "y.png").write_bytes(b"y")
    (images / "a").symlink_to("z/inner", target_is_directory=True)
    (images / "b").symlink_to(tmp_path / "outside", target_is_directory=True)
    (images / "c").symlink_to(tmp_path / "outside" / "deep", target_is_directory=True)
    for source in (str(images), f"{images}/**/*.png"):
        assert list(list_images(source, None).names) == ["b/deep/y.png", "z/inner/x.png"]
    assert list(list_images(f"{images}/a/*.png", None).names) == ["x.png"]
    assert list(list_images(f"{images}/[ac]/*.png", None).names) == ["a/x.png", "c/y.png"]


def test_folders_in_each_other_beyond_the_recursion_limit_are_walked(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "x.png").write_bytes(b"x")
    here = os.open(images, os.O_RDONLY)
    try:
        for _ in range(1500):  # 3,000 bytes: a path that the system still takes
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        os.close(os.open("y.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        assert [name[-5:] for name in list_images(str(images), None).names] == ["y.png", "x.png"]
        assert len(list_images(f"{images}/**/*.png", None)) == 2
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", images], check=True)  # shutil.rmtree, and so pytest, would not get through


def test_files_that_are_no_images_take_no_memory(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "x.png").write_bytes(b"x")
    for i in range(3000):
        (images / f"f.s{i}").touch()
    ignored = list_images(str(images), None, most_bytes=4 * NAME_BYTES).ignored
    assert sum(ignored.values()) == 3000
    assert len(ignored) == 1001
    assert ignored["(other suffixes)"] == 2000


def test_a_listing_that_does_not_fit_is_given_up_early(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(20):
        (images / f"{i}.png").touch()
    (tmp_path / "list.csv").write_text("path\n" + "images/1.png\n" * 20)
    for source in (images, images / "*.png", tmp_path / "list.csv"):
        with pytest.raises(MemoryBudgetError, match=r"larger --memory"):
            list_images(str(source), None, most_bytes=10 * NAME_BYTES)
        list_images(str(source), None, most_bytes=30 * NAME_BYTES)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path" + ",c" * 5000 + "\n", "5001 columns"),
        ("path" + "," * 2_000_000 + "\n", "row of more"),
        ("path" + ",c" * 200 + "\n", "200 columns named 'c'"),
        ("path,c\n" + 'a.jpg,"' + "x\n" * 800_000, "row of more|cannot read"),
        (",".join(f"name{i}" for i in range(100)) + "\n", "'path'; it has name0, .*name7"),
    ],
    ids=["columns", "commas", "equal", "quote", "no path"],
)
def test_a_manifest_row_is_bounded(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UsageError, match=says):
        list_images(str(tmp_path / "list.csv"), None)


def test_a_sparse_manifest_is_refused_at_its_first_row(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="row of more"):
        list_images(str(sparse(tmp_path / "list.csv", b"path,label\n")), None)


def test_equal_column_names_get_names_of_their_own_in_linear_time(tmp_path: Path) -> None:
    columns = ["c"] * 100 + ["label"] * 50 + ["in_c"] * 3 + ["path"]
    (tmp_path / "list.csv").write_text(",".join(columns) + "\n")
    manifest = Manifest(tmp_path / "list.csv")
    names = passed_columns(Listing(tmp_path, StringArray([]), manifest=manifest))
    assert len(set(names)) == len(names) == 153
    assert names[:3] == ["c", "in_c", "in_in_c"]
    assert names[100] == "in_label"


def test_a_parquet_file_that_unfolds_is_refused(tmp_path: Path) -> None:
    """One cell of 4 MB that every row shares: 1 MB in the file, 40 GB as rows of text."""
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    import pyarrow.parquet as pq

    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), ["x" * 4_000_000])
    pq.write_table(pa.table({"path": ["a.jpg"] * 10_000, "text": shared}), tmp_path / "list.parquet")
    assert (tmp_path / "list.parquet").stat().st_size < 2 << 20
    with pytest.raises(UsageError, match=r"row of more|field larger|takes more than"):
        list_images(str(tmp_path / "list.parquet"), None)


def test_a_parquet_file_that_takes_more_memory_than_its_child_may_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    import pyarrow.parquet as pq

    cells = [bytes(1000) * 100] * 2000  # 200 MB in one page of a few KB
    pq.write_table(
        pa.table({"path": pa.array(cells, pa.binary())}),
        tmp_path / "list.parquet",
        compression="zstd", use_dictionary=False, data_page_size=1 << 30,
    )  # fmt: skip
    assert (tmp_path / "list.parquet").stat().st_size < 1 << 20
    with pytest.raises(UsageError, match=r"takes more than 64 MiB; write it with smaller row groups"):
        list_images(str(tmp_path / "list.parquet"), None)


# -- decodes in children of limited memory

MANY = DecodeSpec(16, 16, max_bytes=24 << 20)


def load_all(folder: Path, spec: DecodeSpec = MANY, children: int = 1, timeout_seconds: float = 20) -> dict[str, str]:
    """Name -> status of every picture of a folder, loaded as a run does."""
    listing = list_images(str(folder), None)
    pixels = np.zeros((len(listing), spec.n_values), np.uint8)
    options = {"threads": 2, "timeout_seconds": timeout_seconds, "progress": Progress(), "children": children}
    with Loader(listing, spec, **options) as loader:
        records = loader.load(range(len(listing)), pixels, 0)
    for row, record in enumerate(records):
        assert record.ok == bool(pixels[row].any())
    return {name: record.status for name, record in zip(listing.names, records, strict=True)}


KINDS = ("jpg", "png", "gif", "bmp", "ppm", "tif", "webp", "avif", "jp2")


def write_kinds(folder: Path) -> None:
    folder.mkdir()
    for kind in KINDS:
        Image.fromarray(picture(1, 64, 48)).convert("RGB").save(folder / f"sound.{kind}")


@pytest.mark.parametrize("children", [0, 1, 2])
def test_sound_pictures_of_every_kind_are_decoded_where_there_is_room_for_a_child(
    tmp_path: Path, children: int
) -> None:
    write_kinds(tmp_path / "images")
    statuses = load_all(tmp_path / "images", children=children)
    in_children = {f"sound.{kind}" for kind in ("tif", "webp", "avif", "jp2")}
    assert {name for name, status in statuses.items() if status == "ok"} == (
        statuses.keys() if children else statuses.keys() - in_children
    )
    assert all(statuses[name] in ("ok", "too_large") for name in statuses)


@pytest.mark.slow
def test_a_header_that_lies_costs_its_own_row(tmp_path: Path) -> None:
    write_kinds(tmp_path / "images")
    for maker in (hostile_files.tiff_tile, hostile_files.avif_small, hostile_files.webp_canvas):
        maker(tmp_path / "images")
    statuses = load_all(tmp_path / "images")
    assert {statuses.pop(name) for name in ("tile.tif", "small.avif", "canvas.webp")} <= {"too_large", "damaged"}
    assert set(statuses.values()) == {"ok"}


def test_the_pixels_of_a_child_are_those_of_this_process(tmp_path: Path) -> None:
    write_kinds(tmp_path / "images")
    for kind in KINDS:
        file = tmp_path / "images" / f"sound.{kind}"
        into = np.zeros(MANY.n_values, np.uint8)
        with IsolatedDecoder(MANY, 20, MANY.max_bytes) as child:
            record = child.load(str(file), None, into)
            assert child.size(str(file), None) == (64, 48)
        assert record.ok
        assert into.tobytes() == decode(file.read_bytes(), MANY).pixels.tobytes()  # type: ignore[union-attr]


def test_a_child_that_has_no_memory_left_is_started_anew_before_a_picture_is_given_up(tmp_path: Path) -> None:
    """What pictures before it left in the heap is not the next one's."""
    large = tmp_path / "large.tif"
    Image.fromarray(picture(1, 1000, 900)).save(large)  # 17 bytes a pixel: it fits alone
    hostile_files.tiff_tile(tmp_path)
    into = np.zeros(MANY.n_values, np.uint8)
    with IsolatedDecoder(MANY, 20, MANY.max_bytes) as child:
        for _ in range(3):
            assert child.load(str(tmp_path / "tile.tif"), None, into).status in ("too_large", "damaged")
            assert child.load(str(large), None, into).ok


@given(st.binary(max_size=64), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"GIF89a"]))
def test_every_start_of_a_file_is_plain_or_not(data: bytes, start: bytes) -> None:
    for whole in (False, True):
        assert has_bounded_memory(io.BytesIO(start + data), whole=whole) in (True, False)


@pytest.mark.parametrize(
    ("maker", "name"),
    [
        (hostile_files.png_text, "text.png"),
        (hostile_files.jpeg_scans, "scans.jpg"),
        (hostile_files.jpeg_exif, "exif.jpg"),
        (hostile_files.gif_comments, "comments.gif"),
    ],
)
def test_metadata_without_end_is_not_plain(tmp_path: Path, maker: Callable[[Path], None], name: str) -> None:
    maker(tmp_path)
    with (tmp_path / name).open("rb") as file:
        assert not has_bounded_memory(file, whole=True)


def test_headers_are_read_within_bounds(tmp_path: Path) -> None:
    write_kinds(tmp_path / "images")
    for name in ("webp_sparse", "avif_sparse", "tiff_tag", "ppm_sparse"):
        hostile_files.PICTURES[name](tmp_path / "images")
    os.mkfifo(tmp_path / "images" / "fifo.png")
    listing = list_images(str(tmp_path / "images"), None)
    with Headers(listing, timeout_seconds=20, limit_bytes=32 << 20) as headers:
        found = {name: headers.size(row) for row, name in enumerate(listing.names)}
    assert {name for name, size in found.items() if size == (64, 48)} == {f"sound.{kind}" for kind in KINDS}
    assert {found[name] for name in ("x.webp", "x.avif", "x.ppm", "fifo.png")} == {None}


def test_a_plan_reckons_with_its_children() -> None:
    settings = resolve(flags={"size": 32, "k": 2}, sets=(), config=None, kept=None)
    plain = Pictures(8, (1 << 20,), 1000, 1000, 0, 0)
    for budget_mib, threads in ((160, 1), (256, 2), (256, 4), (1024, 4), (8192, 16)):
        for pictures in (plain, replace(plain, isolated=True)):
            resources = Resources(budget_mib << 20, threads)
            stage = make_plan(settings, 100, (32, 32), resources, pictures).stage("ingest")
            children, decode_bytes = stage.choices["children"], stage.choices["decode_bytes"]
            assert children <= (threads if pictures.isolated else 1)
            assert pictures.isolated <= children
            least = stage.projected_bytes - threads * (1 << 20) + threads * decode_bytes
            assert decode_bytes == 1 << 20 or least <= resources.budget_bytes


# -- what lies in an OUT


@pytest.fixture(scope="module")
def sound_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    write_pictures(folder / "images", 6)
    settings = resolve(
        flags={"images": str(folder / "images"), "out": str(folder / "out"), "k": 2, "size": 8, "report.write": False},
        sets=(), config=None, kept=None,
    )  # fmt: skip
    run(settings, Resources(1 << 30, 2))
    return folder / "out"


def open_stores(out: Path) -> list[str]:
    """What every array and table of an OUT says when it is asked for: '' or the error."""
    said = []
    found = bc.open(out)
    for ask in (lambda: found.centers, lambda: found.scores[:1].compute(), lambda: found.labels, lambda: found.summary):
        try:
            ask()
            said.append("")
        except StoreError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize(
    ("name", "which", "says"),
    [
        ("codec", (0, 1), "zarr.json is damaged"),
        ("shape", (0, 1), "other arrays than summary.json says"),
        ("holes", (0, 1), "other arrays than summary.json says"),
        ("many_chunks", (0, 1), "zarr.json is damaged"),
        ("deep_metadata", (), ""),
        ("labels_sparse", (2,), "no table of ours"),
        ("labels_columns", (2,), "no table of ours"),
        ("summary_sparse", (0, 1, 2, 3), "larger than 8 MiB"),
    ],
)
def test_a_hostile_out_is_refused_before_it_takes_memory(
    tmp_path: Path, sound_out: Path, name: str, which: tuple[int, ...], says: str
) -> None:
    assert open_stores(sound_out) == [""] * 4
    out = tmp_path / "out"
    shutil.copytree(sound_out, out, symlinks=True)
    hostile_outs.OUTS[name](out)
    for number, said in enumerate(open_stores(out)):
        assert (says in said and said != "") == (number in which), (number, said)


@pytest.mark.parametrize(
    "change", [{"codecs": []}, {"shape": [-1]}, {"shape": [1 << 62]}, {"node_type": "group"}, {"x": 1}]
)
def test_metadata_that_none_of_our_arrays_has_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    store = Store(tmp_path)
    store.save("values", np.arange(6.0))
    check_array(store.root, "values")
    file = store.root / "values" / "zarr.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(told | change), encoding="utf-8")
    for look in (lambda: check_array(store.root, "values"), lambda: metadata.register(store.marks, "values")):
        with pytest.raises(ValueError):  # noqa: PT011
            look()
    metadata.unregister(store.marks, "values")
    store.commit("other", "", {"store.zarr/values/c/0": ""}, {})
    with pytest.raises(StoreError, match="damaged"):
        Store(store.out, create=False, most_bytes=1 << 20).load("values")


def test_a_chunk_of_another_size_is_not_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("values", np.arange(6.0))
    sparse(store.root / "values" / "c" / "0")
    with pytest.raises(DamagedError):
        Store(store.out, create=False).load("values")


# -- settings of strangers


HOSTILE_TOML = {
    "many keys": "".join(f"k{number}" + ".b" * 99 + "=1\n" for number in range(5000)),
    "long key": ".".join("a" * 100_000) + " = 1",
    "long table": "[" + " . ".join("a" * 100_000) + "]",
    "quoted parts": ".".join(['"a.b"'] * 50_000) + " = 1",
    "inline table": "a = {" + ".".join("b" * 50_000) + " = 1}",
    "many short keys": "".join(f"a{number}.b.c.d = 1\n" for number in range(50_000)),
    "many tables": "".join(f"[a{number}]\n" for number in range(50_000)),
    "deep lists": "a = " + "[" * 400_000,
    "deep tables": "a = " + "{b = " * 100_000,
    "string without an end": '"""' + '\\"""' * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE_TOML)
def test_toml_that_is_larger_or_deeper_than_settings_is_refused(tmp_path: Path, name: str) -> None:
    text = HOSTILE_TOML[name]
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    assert file.stat().st_size < SETTINGS_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError) as refused:
            read_toml(file)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300 + len(str(file))
    payload: dict[str, Any] = {"files": {}, "before": {}}
    assert has_form("outputs", "done", "", payload | {"run.toml": 'images = "a"\n'})
    assert not has_form("outputs", "done", "", payload | {"run.toml": text})


def test_a_hostile_config_ends_with_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(HOSTILE_TOML["long key"], encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "bigcluster", "run", str(tmp_path), "-o", str(tmp_path / "out"), "--config",
         str(tmp_path / "config.toml")],
        capture_output=True, text=True, env=environment(), timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "a key has more than 4 parts" in ended.stderr
    assert "Traceback" not in ended.stderr


@given(st.lists(st.text(min_size=1), max_size=8), st.text(st.characters(blacklist_categories=("Cs",))))
def test_what_the_program_writes_is_always_read(exclude: list[str], images: str) -> None:
    values = {key.name: key.default for key in KEYS.values()}
    values |= {"images": images, "exclude": tuple(exclude), "variance": 0.8, "components": 3}
    written = {name: value for name, value in values.items() if value is not None}
    read = parse_toml(to_toml(written))
    assert read["images"] == images
    assert read["exclude"] == exclude


def test_long_lists_and_shipped_configs_are_read() -> None:
    exclude = [f"a.b.c.d.e.[f]/{number}={{}}'#" for number in range(20_000)]
    assert parse_toml(to_toml({"exclude": tuple(exclude)}))["exclude"] == exclude
    for path in shipped_configs().values():
        assert parse_toml(path.read_text(encoding="utf-8"))


# -- pictures that a limit of memory stops


@pytest.mark.parametrize("name", ["large.webp", "large.avif", "large.jp2"])
def test_a_lack_of_memory_is_not_damage(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    Image.fromarray(picture(1, 900, 800)).convert("RGB").save(file)
    spec = DecodeSpec(16, 16, max_bytes=1 << 30)
    into = np.zeros(spec.n_values, np.uint8)
    for limit_mib in (1, 4, 7, 10):
        with IsolatedDecoder(spec, 20, limit_mib << 20) as child:
            assert child.load(str(file), None, into).status in ("too_large", "ok"), limit_mib
    with IsolatedDecoder(spec, 20, 64 << 20) as child:
        assert child.load(str(file), None, into).ok


@pytest.mark.parametrize("limit_mib", [None, 64])
def test_a_broken_webp_is_damaged_where_there_is_memory(tmp_path: Path, limit_mib: int | None) -> None:
    file = tmp_path / "broken.webp"
    Image.new("RGB", (300, 300), 7).save(file, lossless=True)
    data = file.read_bytes()
    file.write_bytes(data[:20] + b"\0" + data[21:])  # the signature of its only chunk
    spec = DecodeSpec(16, 16)
    into = np.zeros(spec.n_values, np.uint8)
    with IsolatedDecoder(spec, 20, None if limit_mib is None else limit_mib << 20) as child:
        assert child.load(str(file), None, into).status == "damaged"


@pytest.mark.slow
def test_a_webp_that_is_too_large_for_a_budget_is_tried_again_with_a_larger_one(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 6)
    Image.new("RGB", (3000, 3000), 7).save(tmp_path / "images" / "m.webp", lossless=True)
    settings = resolve(
        flags={"images": str(tmp_path / "images"), "out": str(tmp_path / "out"), "k": 2, "size": 16},
        sets=(), config=None, kept=None,
    )  # fmt: skip
    statuses = []
    for budget in (256 << 20, 1 << 30):
        run(settings, Resources(budget, 2))
        rows = {row["path"]: row for row in read_dicts(tmp_path / "out" / "images.csv")}
        statuses.append(rows["m.webp"]["status"])
    assert statuses == ["too_large", "ok"]

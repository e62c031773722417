"""Limits hold from the first byte: whatever lies where a file is expected, a bounded number of its bytes is read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bigcluster.bounded import UnfitFileError, parse_json, read_bounded
from bigcluster.catalog import Listing, Names, list_images
from bigcluster.catalog.manifest import Manifest
from bigcluster.config import read_toml
from bigcluster.errors import ConfigError, MemoryBudgetError, UsageError
from bigcluster.memory import NAME_BYTES
from bigcluster.outputs.tables import passed_columns
from bigcluster.store import Mark, Marks

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
    names = passed_columns(Listing(tmp_path, Names([]), manifest=manifest))
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

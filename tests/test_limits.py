"""Limits hold from the first byte: whatever lies where a file is expected, a bounded number of its bytes is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bigcluster.bounded import UnfitFileError, parse_json, read_bounded
from bigcluster.catalog import list_images
from bigcluster.config import read_toml
from bigcluster.errors import ConfigError, MemoryBudgetError
from bigcluster.memory import NAME_BYTES
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
    finally:
        os.close(here)
    assert [name[-5:] for name in list_images(str(images), None).names] == ["y.png", "x.png"]
    assert len(list_images(f"{images}/**/*.png", None)) == 2


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
        with pytest.raises(MemoryBudgetError, match="larger --memory"):
            list_images(str(source), None, most_bytes=10 * NAME_BYTES)
        list_images(str(source), None, most_bytes=30 * NAME_BYTES)

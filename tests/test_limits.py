"""Limits hold from the first byte: whatever lies where a file is expected, a bounded number of its bytes is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bigcluster.bounded import UnfitFileError, parse_json, read_bounded
from bigcluster.config import read_toml
from bigcluster.errors import ConfigError
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

"""OUT on a disk that other hosts write to: files that come to light late, and processes that write for another one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bigcluster.errors import DamagedError, StoreError
from bigcluster.files import durable
from bigcluster.files.durable import TOKEN, is_unfinished, unfinished_name, write_bytes, write_for
from bigcluster.files.shared_disk import comes_to_light, expect_other_hosts
from bigcluster.outdir import locked, sweep_unfinished
from bigcluster.outdir.holder import HOLDER, HeldBy
from bigcluster.store import Store

OTHER = "0123456789abcdef"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    expect_other_hosts(0)
    write_for(TOKEN)


def appears_after(path: Path, seconds: float) -> threading.Timer:
    """The file comes to light after some seconds, as on NFS, where a look at it was answered from memory."""
    hidden = path.with_name("hidden")
    path.rename(hidden)
    timer = threading.Timer(seconds, lambda: hidden.rename(path))
    timer.start()
    return timer


def test_a_file_that_is_not_there_is_lost_at_once_on_one_host(tmp_path: Path) -> None:
    assert not comes_to_light(tmp_path / "folder" / "file")


def test_a_file_of_another_host_is_looked_for_again(tmp_path: Path) -> None:
    expect_other_hosts(60)
    (tmp_path / "file").touch()
    timer = appears_after(tmp_path / "file", 0.6)
    assert comes_to_light(tmp_path / "file")
    timer.join()
    expect_other_hosts(0.3)
    assert not comes_to_light(tmp_path / "no folder" / "file")


def test_a_chunk_of_another_host_is_read_once_it_is_seen(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create("pixels", (4, 3), np.uint8, (4, 3))
    values = np.arange(12, dtype=np.uint8).reshape(4, 3)
    store.write_rows("pixels", 0, values)
    chunk = store.root / "pixels" / "c" / "0" / "0"
    expect_other_hosts(60)
    timer = appears_after(chunk, 0.6)
    assert np.array_equal(store.load("pixels"), values)
    timer.join()
    expect_other_hosts(0)
    chunk.unlink()
    with pytest.raises(DamagedError, match="is gone"):
        store.load("pixels")


def test_a_process_that_writes_for_another_leaves_files_that_the_other_knows(tmp_path: Path) -> None:
    write_for(OTHER)
    names = {unfinished_name() for _ in range(3)}
    assert len(names) == 3
    assert all(is_unfinished(name, OTHER) and TOKEN in name for name in names)
    left = tmp_path / "folder" / unfinished_name()
    left.parent.mkdir()
    left.touch()
    write_for(TOKEN)
    (tmp_path / ".lock").write_text(f"process 1 on elsewhere\nunfinished {OTHER}\n")
    with locked(tmp_path):
        sweep_unfinished(tmp_path)
    assert not left.exists()


def test_a_worker_of_an_earlier_run_ends(tmp_path: Path) -> None:
    guard = HeldBy(tmp_path, between_hosts=False)
    guard()  # nobody has it
    with locked(tmp_path):
        guard()
        assert durable.unfinished_name().startswith(f".{TOKEN}-")
        late = HeldBy(tmp_path, True, OTHER)
        with pytest.raises(StoreError, match="is not held by the run any more"):
            late()
    assert not os.path.lexists(tmp_path / HOLDER)


def test_files_that_are_written_for_another_are_put_in_place(tmp_path: Path) -> None:
    write_for(OTHER)
    write_bytes(tmp_path / "mark", b"content", tmp_path)
    assert (tmp_path / "mark").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["mark"]

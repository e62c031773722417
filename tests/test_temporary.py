"""Folders for temporary files: what a killed process leaves goes, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

from bigcluster.files.temporary import temporary_folder

WAITING = """
import sys
from bigcluster.files.temporary import temporary_folder
with temporary_folder(sys.argv[1]) as folder:
    (folder / "inside").mkdir()
    (folder / "inside" / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def begin(above: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that has a temporary folder as long as its stdin is open."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(above)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_folder_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    living, stays = begin(tmp_path)
    killed, goes = begin(tmp_path)
    with living, killed:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert goes.is_dir()
        with temporary_folder(tmp_path) as mine:
            assert sorted(tmp_path.iterdir()) == sorted([mine, stays])
            assert (stays / "inside" / "file").read_text() == "x"
        living.communicate("")
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    """Neither what has another name, nor a link, a file or a folder of another mode with such a name."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "target").mkdir()
    name = f"bigcluster-{ended.pid}-{0:016x}"
    (tmp_path / name).symlink_to("target")
    (tmp_path / f"bigcluster-{ended.pid}-{1:016x}").write_text("mine")
    (tmp_path / f"bigcluster-{ended.pid}-{2:016x}").mkdir(mode=0o755)
    own = f"bigcluster-{os.getpid()}-{3:016x}"
    for other in (f"bigcluster-{ended.pid}-notes", own, f"bigcluster-0-{4:016x}", "bigcluster-x"):
        (tmp_path / other).mkdir(mode=0o700)
    before = sorted(tmp_path.iterdir())
    with temporary_folder(tmp_path):
        pass
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_listed_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> list[str]:
        raise PermissionError

    monkeypatch.setattr(os, "listdir", refuse)
    with temporary_folder(tmp_path) as folder:
        assert folder.is_dir()

"""OUT/.holder: who holds OUT, where the locks of the system do not reach."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PATIENCE_SECONDS, Cli, environment, write_pictures

from bigcluster.errors import OutError, StoreError
from bigcluster.outdir import holder as module
from bigcluster.outdir import locked
from bigcluster.outdir.holder import HOLDER, Holder, read_holder

ELSEWHERE = replace(Holder.this(), token="0" * 16, kernel="0" * 8 + "-0000-4000-8000-" + "0" * 12, host="elsewhere")
HOLDS = """
import os, sys
from pathlib import Path
from bigcluster.outdir.holder import holding
out = Path(sys.argv[1])
with holding(os.open(out, os.O_RDONLY), out, print):
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def shared_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks do not reach other processes, and beats are short."""
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(module, "_is_local", lambda folder: False)


def held_by(out: Path, holder: Holder) -> Path:
    path = out / HOLDER
    path.write_text(holder.line())
    return path


@contextmanager
def process_that_holds(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds OUT by the file alone, as on a file system whose locks do not reach this one."""
    command = [sys.executable, "-c", HOLDS, str(out)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "holds\n"
            yield process
        finally:
            process.kill()


def test_the_file_is_there_while_out_is_locked(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert read_holder(tmp_path) == Holder.this()
    assert read_holder(tmp_path) is None
    assert os.listdir(tmp_path) == [".lock"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for holder in (Holder.this(), ELSEWHERE, replace(ELSEWHERE, kernel="", space="")):
        assert Holder.of_line(holder.line()) == holder


def test_a_process_of_this_host_that_ended_is_replaced_at_once(tmp_path: Path) -> None:
    with process_that_holds(tmp_path) as process:
        process.kill()
        process.wait(PATIENCE_SECONDS)
    said: list[str] = []
    assert (tmp_path / HOLDER).exists()
    with locked(tmp_path, said.append):
        assert read_holder(tmp_path) == Holder.this()
    assert said == []


def test_a_process_with_the_number_of_an_ended_one_is_another_one(tmp_path: Path) -> None:
    held_by(tmp_path, replace(Holder.this(), token="0" * 16, since=Holder.this().since - 1000))
    with locked(tmp_path):
        assert read_holder(tmp_path) == Holder.this()


def test_a_process_that_runs_is_named_and_keeps_out(tmp_path: Path) -> None:
    with process_that_holds(tmp_path) as process:
        with pytest.raises(StoreError, match=f"OUT is in use by process {process.pid} on .*; wait for it"):
            locked(tmp_path).__enter__()
        process.communicate("")
    with locked(tmp_path):
        pass


def test_on_a_local_disk_the_lock_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a process that runs may stand in a copy of its OUT."""
    monkeypatch.setattr(module, "_is_local", lambda folder: True)
    held_by(tmp_path, replace(Holder.this(), token="0" * 16, pid=os.getppid()))
    with locked(tmp_path):
        assert read_holder(tmp_path) == Holder.this()


def test_a_silent_process_of_another_host_is_replaced_after_three_beats(tmp_path: Path) -> None:
    held_by(tmp_path, ELSEWHERE)
    said: list[str] = []
    with locked(tmp_path, said.append):
        assert read_holder(tmp_path) == Holder.this()
    (line,) = said
    assert line.startswith(f"OUT was in use by process {ELSEWHERE.pid} on elsewhere: waiting up to 0.6 s")


def test_a_process_of_another_host_that_gives_signs_keeps_out(tmp_path: Path) -> None:
    path = held_by(tmp_path, ELSEWHERE)
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.05):
            os.utime(path)

    touching = threading.Thread(target=touch)
    touching.start()
    try:
        with pytest.raises(StoreError, match=f"in use by process {ELSEWHERE.pid} on elsewhere"):
            locked(tmp_path).__enter__()
    finally:
        ended.set()
        touching.join()
    assert read_holder(tmp_path) == ELSEWHERE


def test_another_container_of_this_host_is_known_by_the_lock_of_a_local_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Holder.this().space:
        pytest.skip("this system has no namespaces of process numbers")
    container = replace(Holder.this(), token="0" * 16, space="1", host="container")
    for is_local, lines in ((True, 0), (False, 1)):
        monkeypatch.setattr(module, "_is_local", lambda folder, is_local=is_local: is_local)
        held_by(tmp_path, container)
        said: list[str] = []
        with locked(tmp_path, said.append):
            assert len(said) == lines


def test_beats_touch_the_file(tmp_path: Path) -> None:
    with locked(tmp_path):
        path = tmp_path / HOLDER
        os.utime(path, (0, 0))
        ended = threading.Event()
        for _ in range(PATIENCE_SECONDS * 10):
            if path.stat().st_mtime:
                break
            ended.wait(0.1)
        assert path.stat().st_mtime, "no beat"


@pytest.mark.parametrize("text", ["", "notes of mine\n", "run 0\n", Holder.this().line() * 2])
def test_a_file_of_somebody_else_stays(cli: Cli, tmp_path: Path, text: str) -> None:
    write_pictures(tmp_path / "in", 3)
    out = tmp_path / "out"
    assert cli("run", tmp_path / "in", "--out", out, "-k", 2, "--size", 8).code == 0
    (out / HOLDER).write_text(text)
    ran = cli("run", tmp_path / "in", "--out", out, "-k", 2, "--size", 8)
    assert ran.code == OutError.exit_code
    assert ran.error_lines == [f"bigcluster: {out / HOLDER} is not a file of bigcluster; move it away"]
    assert (out / HOLDER).read_text() == text

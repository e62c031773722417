"""A full disk, another run, an OUT of another version, file permissions: what surrounds a run does it no harm."""

from __future__ import annotations

import ast
import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import CHECKOUT, Background, Cli, command, environment, write_pictures

from bigcluster import outdir
from bigcluster.config import Settings, resolve
from bigcluster.errors import DamagedError, OutError, StoreError
from bigcluster.pipeline.run import prepare, run
from bigcluster.planning.disk_space import check_room
from bigcluster.planning.plan import Plan
from bigcluster.runtime.resources import Resources
from bigcluster.store import Store
from bigcluster.units import GIB

FAST = ("--size", 8, "--set", "reduce=none", "--memory", "1GiB")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust") / "images"
    write_pictures(folder, 12)
    return folder


# -- nothing that is loaded can run code

SOURCES = sorted((CHECKOUT / "bigcluster").rglob("*.py"))
UNSAFE_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "xmlrpc"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "read_pickle", "to_pickle", "import_string", "system", "popen"}


def calls(tree: ast.AST) -> Iterator[tuple[int, str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield node.lineno, name, node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_nothing_that_is_loaded_can_run_code(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        assert not {name.partition(".")[0] for name in names} & UNSAFE_IMPORTS, f"{path.name}:{node.lineno}"  # type: ignore[attr-defined]
    for line, name, call in calls(tree):
        owner = getattr(getattr(call.func, "value", None), "id", "")
        assert name not in UNSAFE_CALLS or owner == "re", f"{path.name}:{line} calls {name}"
        if owner == "np" and name in ("load", "save"):
            allowed = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}.get("allow_pickle")
            assert allowed == "False", f"{path.name}:{line}: np.{name} without allow_pickle=False"
        shell = next((keyword for keyword in call.keywords if keyword.arg == "shell"), None)
        assert shell is None, f"{path.name}:{line} goes through a shell"


# -- permissions


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_permissions_follow_the_umask(images: Path, tmp_path: Path, mask: int) -> None:
    out = tmp_path / "out"
    line = ["/bin/sh", "-c", f'umask {mask:03o}; exec "$@"', "sh"]
    run = subprocess.run(
        [*line, *command("run", images, "--out", out, "-k", 2, "--components", 2, "--size", 8, "--set", "k=2:3")],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    for path in [out, *out.rglob("*")]:
        if "clusters" in path.parts and path.is_file():
            continue  # hard links: the images' own
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o777 if path.is_dir() else 0o666) & ~mask, f"{path} has {mode:o}"


# -- two runs, one OUT


def test_the_second_run_is_told_who_has_out_and_a_dead_one_has_nothing(
    images: Path, tmp_path: Path, cli: Cli, background: Callable[..., Background], subreaper: None
) -> None:
    out = tmp_path / "out"
    holder = background("run", images, "--out", out, "-k", 2, "--size", "1200x1200", "--set", "reduce=none")
    holder.wait_until(lambda: (out / ".lock").is_file() and (out / ".lock").read_text())
    said = (out / ".lock").read_text().splitlines()[0]
    os.kill(int(said.split()[1]), signal.SIGSTOP)
    try:
        for line in (("run", images, "--out", out, "-k", 2, *FAST), ("verify", out)):
            second = cli(*line)
            assert (second.code, len(second.error_lines)) == (1, 1), second
            assert f"in use by {said}" in second.err
            assert socket.gethostname() in second.err
    finally:
        os.kill(int(said.split()[1]), signal.SIGKILL)
        holder.process.kill()
    holder.end()
    assert (out / ".lock").read_text(), "a stale lock is left behind"
    assert cli("run", images, "--out", out, "-k", 2, *FAST, "--replace").code == 0


@pytest.mark.parametrize("alive", [True, False])
def test_a_killed_holder_is_waited_for_until_the_kernel_lets_go(tmp_path: Path, alive: bool) -> None:
    """As after SIGKILL during an fsync: the process is dead, and its lock is held for a while yet."""
    named = subprocess.Popen(["sleep", "60" if alive else "0"])
    if not alive:
        named.wait()
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(f"process {named.pid} on {socket.gethostname()}\n")
        held.flush()
        letting_go = threading.Timer(3, held.close)
        letting_go.start()
        with contextlib.ExitStack() as stack:
            if alive:
                stack.enter_context(pytest.raises(StoreError, match=f"in use by process {named.pid}"))
            stack.enter_context(outdir.locked(tmp_path))
        letting_go.join()
    named.kill()
    named.wait()


def test_a_second_interrupt_leaves_at_once(
    images: Path, tmp_path: Path, background: Callable[..., Background], subreaper: None
) -> None:
    run = background("run", images, "--out", tmp_path / "out", "-k", 2, "--size", "1200x1200")
    run.wait_until(lambda: psutil.Process(run.process.pid).children())
    run.wait_until(lambda: (tmp_path / "out" / "run.toml").exists())
    (worker,) = psutil.Process(run.process.pid).children()
    worker.suspend()  # it will not answer
    run.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(1)
    run.process.send_signal(signal.SIGINT)
    assert run.end().code == 130
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


# -- an OUT of another version


def test_every_command_refuses_another_format_and_touches_nothing(images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    assert cli("run", images, "--out", out, "-k", 2, *FAST).code == 0
    metadata = out / "store.zarr" / "zarr.json"
    values = json.loads(metadata.read_text())
    for version in (99, 1, "2", None):
        values["attributes"]["bigcluster_format"] = version
        metadata.write_text(json.dumps(values))
        (out / ".bigcluster" / "marks" / "metadata" / "store.json").unlink(missing_ok=True)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
        with pytest.raises(OutError, match=f"has the format {version}"):
            Store(out)
        if version == 99:
            for line in (("run", "--out", out), ("sweep", out, "-k", "2:3"), ("verify", out),
                         ("predict", out, images, "--to", tmp_path / "p.csv")):  # fmt: skip
                ran = cli(*line)
                assert (ran.code, len(ran.error_lines)) == (2, 1), ran
                assert "format 99" in ran.err
        assert {path: path.read_bytes() for path in before} == before


# -- the disk


def plan_of(images: Path, out: Path) -> Plan:
    return prepare(settings_of(images, out), Resources(GIB, 2))[1]


def settings_of(images: Path, out: Path) -> Settings:
    flags = {"images": str(images), "out": str(out), "k": 2, "size": 64, "components": 2}
    return resolve(flags=flags, sets=(), config=None, kept=None)


def test_a_disk_without_room_is_refused_before_anything_is_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "deeper" / "out"
    plan = plan_of(images, out)
    check_room(out, plan)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 2**20))  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match=r"OUT needs .* MiB on disk, 1 MiB are free in .*; free some, .* --size 32x32"):
        check_room(out, plan)
    with pytest.raises(StoreError, match="OUT needs"):
        run(settings_of(images, out), Resources(GIB, 2))
    assert not out.parent.exists()


def test_what_out_holds_already_needs_no_room(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    held = out / "store.zarr" / "pixels"
    held.mkdir(parents=True)
    plan = plan_of(images, out)
    (held / "x").write_bytes(bytes(plan.peak_disk_bytes + 20 * 2**20))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 2**10))  # type: ignore[attr-defined]
    check_room(out, plan)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB of our own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_it_resumes(
    images: Path, small_disk: Path, tmp_path: Path, cli: Cli
) -> None:
    # Room is looked at beforehand: here somebody else takes it while the run is on.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, bigcluster.pipeline.run; sys.modules['bigcluster.pipeline.run'].check_room = lambda *_: None"
    )
    blind = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"}
    out = small_disk / "out"
    line = ("run", images, "--out", out, "-k", 2, "--size", 64, "--components", 3)
    assert cli(*line).code == 0
    expected = (out / "labels.csv").read_bytes()
    shutil.rmtree(out)
    ballast = small_disk / "ballast"
    free = shutil.disk_usage(small_disk).free
    for room in (0, 20_000, 120_000, 300_000):
        with ballast.open("wb") as file:
            file.write(b"x" * (free - room))
        ran = subprocess.run(command(*line), env=environment(blind), capture_output=True, text=True, check=False)
        assert ran.returncode == 1, ran.stderr
        said = [text for text in ran.stderr.splitlines() if text.startswith("bigcluster: ")]
        assert len(said) == 1, ran.stderr
        assert os.strerror(errno.ENOSPC) in said[0], said
        ballast.unlink()
    assert cli(*line).code == 0
    assert (out / "labels.csv").read_bytes() == expected
    assert cli("verify", out).code == 0


def test_a_disk_that_vanishes_is_one_line(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two stages the store is gone, as behind a broken mount: nothing is read as zeros, nothing made of it."""
    out = tmp_path / "out"
    module = sys.modules["bigcluster.pipeline.compute"]
    real = module.reduce

    def vanish(*arguments: object, **options: object) -> object:
        shutil.rmtree(out / "store.zarr" / "pixels" / "c")
        return real(*arguments, **options)

    monkeypatch.setattr(module, "reduce", vanish)
    with pytest.raises(DamagedError, match=r"damaged files, such as store.zarr/pixels/c.*run again"):
        run(settings_of(images, out), Resources(GIB, 2))
    assert not (out / "labels.csv").exists()
    assert outdir.kept_values(str(out)) is not None


def test_another_folder_in_the_place_of_the_store_is_not_vouched_for(tmp_path: Path) -> None:
    """An unmounted disk leaves its mount point: what would be written there is no part of the store."""
    store = Store(tmp_path)
    first = store.save("x", np.arange(3))
    (tmp_path / "store.zarr").rename(tmp_path / "elsewhere")
    (tmp_path / "store.zarr").mkdir()
    with pytest.raises(StoreError, match=r"vanished .* run again"):
        store.commit("stage", "print", first, {})
    assert list((tmp_path / "store.zarr").iterdir()) == []

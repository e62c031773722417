"""A power cut after the n-th time that a run waits for the disk, for every n: what was not synced is lost.

A model of the disk in the worst cases that file systems permit. It knows the content of each inode and the names in
each folder that were synced last:

    nothing    names and contents that were not synced are as they were before
    names      every name is there, as journals write it, and contents that were not synced are empty

Then the same command again: it ends with the labels of an undisturbed run, sound by `verify`, every entry under its own
name. And the disk as it is after the run said that it was done is sound at once.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import bigcluster
from benchmarks.stress.work import Job, catalog, labels, scratch
from bigcluster.files import durable
from bigcluster.files.kept import KEPT
from bigcluster.outdir import lock

MODELS = ("nothing", "names")
BATCH = 40
"""Cuts that are taken from one run: each is a copy of OUT."""


def main(full: bool) -> dict[str, Any]:
    """Every sync of a first run that makes copies, and of one after hard links and another k; 5 where not full."""
    n_cuts = n_syncs = 0
    with scratch() as folder:
        images = catalog(folder / "images", 16)
        values = {"size": "16x16", "components": 3}
        copies = Job(images, {**values, "k": 3, "link": "copy"})
        before = Job(images, {**values, "k": 4, "link": "hardlink"})
        for earlier in (None, before) if full else (before,):
            syncs, cuts = _all_cuts(folder, earlier, copies, full)
            n_syncs, n_cuts = n_syncs + syncs, n_cuts + cuts
            print(f"power_cuts: {n_cuts} cuts", file=sys.stderr, flush=True)
    return {
        "syncs": n_syncs,
        "cuts": n_cuts,
        "says": f"{n_cuts} power cuts ({' or '.join(MODELS)} of what was not synced at {n_cuts // len(MODELS)} of "
        f"{n_syncs} syncs): the next run gave the same labels, sound by verify, no entry under a second name; after "
        "the last sync, everything is sound at once",
    }


def _all_cuts(folder: Path, before: Job | None, job: Job, full: bool) -> tuple[int, int]:
    out, expected = folder / "out", folder / "expected"
    for path in (out, expected):
        shutil.rmtree(path, ignore_errors=True)
    if before is not None:
        before.run(expected)
    job.run(expected)
    total = _run_with_cuts(folder, before, job, range(0))[0]
    wanted = range(1, total + 1) if full else range(total, 0, -(total // 4))
    cuts = 0
    for start in range(0, len(wanted), BATCH):
        made = _run_with_cuts(folder, before, job, wanted[start : start + BATCH])[1]
        for number, model, cut in made:
            _check(job, cut, out, labels(expected), f"cut {number} of {total}, {model}", is_last=number == total)
            cuts += 1
    return total, cuts


def _run_with_cuts(
    folder: Path, before: Job | None, job: Job, wanted: range
) -> tuple[int, list[tuple[int, str, Path]]]:
    """How often a run syncs, and what the disk held after each of the wanted ones."""
    out, cuts = folder / "out", folder / "cuts"
    for path in (out, cuts):
        shutil.rmtree(path, ignore_errors=True)
    cuts.mkdir()
    if before is not None:
        before.run(out)
    out.mkdir(exist_ok=True)
    disk, made, count = Disk(out, job.images), list[tuple[int, str, Path]](), 0

    def after_sync() -> None:
        nonlocal count
        count += 1
        if count in wanted:
            for model in MODELS:
                cut = cuts / f"{count}-{model}"
                disk.write(cut, names=model == "names")
                made.append((count, model, cut))

    with disk.watched(after_sync):
        job.run(out)
    return count, made


def _check(job: Job, cut: Path, out: Path, expected: bytes, what: str, *, is_last: bool) -> None:
    shutil.rmtree(out)
    cut.rename(out)
    if is_last:
        found = job.verify(out)
        assert found["ok"], f"{what}: not sound: {found['damaged'][:5]}"
    token = secrets.token_hex(8)  # of another process, as after a power cut
    with mock.patch.object(durable, "TOKEN", token), mock.patch.object(lock, "TOKEN", token):
        job.run(out)
    assert labels(out) == expected, f"{what}: other labels, or names of entries"
    found = job.verify(out)
    assert found["ok"], f"{what}: {found['damaged'][:5]}"
    unfinished = [path.name for path in out.rglob(f"*{durable.PARTIAL}")]
    assert not unfinished, f"{what}: left behind: {unfinished[:5]}"
    entries = sorted(path.name for path in (out / "clusters").rglob("*.jpg"))
    pictures = sorted(path.name for path in job.images.rglob("*.jpg"))
    strange = set(entries) - set(pictures)
    assert not strange, f"{what}: entries under other names: {sorted(strange)[:5]}"
    assert is_last is False or not (out / KEPT).exists(), f"{what}: {list((out / KEPT).rglob('*'))[:5]} kept"


class Disk:
    """What a disk holds of a folder: contents and names as they were synced last."""

    def __init__(self, root: Path, images: Path) -> None:
        self._root = root
        self._contents: dict[int, tuple[int, bytes]] = {}
        """By inode: its time when it was synced, and the bytes. A file of another time is a new one with that inode."""
        self._names: dict[int, dict[str, os.stat_result | str]] = {}
        self._images = {path.stat().st_ino: path for path in images.rglob("*") if path.is_file()}
        self._sync_all()

    @contextmanager
    def watched(self, after_sync: Callable[[], None]) -> Iterator[None]:
        """Within the block, what is synced is noted."""
        real_fsync, real_syncfs, real_mkdir = os.fsync, durable.sync_file_system, os.mkdir

        def mkdir(path: Any, *args: Any, **others: Any) -> None:
            real_mkdir(path, *args, **others)
            # It may have the inode of a removed folder, whose names are not in it.
            self._names.pop(os.stat(path, dir_fd=others.get("dir_fd")).st_ino, None)

        def fsync(descriptor: int) -> None:
            real_fsync(descriptor)
            self._sync(descriptor)
            after_sync()

        def sync_file_system(folder: Path) -> None:
            real_syncfs(folder)
            self._sync_all()
            after_sync()

        bound = [module for module in _modules() if getattr(module, "sync_file_system", None) is real_syncfs]
        os.fsync, os.mkdir = fsync, mkdir  # type: ignore[assignment]
        for module in bound:
            module.sync_file_system = sync_file_system
        try:
            yield
        finally:
            os.fsync, os.mkdir = real_fsync, real_mkdir
            for module in bound:
                module.sync_file_system = real_syncfs

    def _sync(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if stat.S_ISDIR(found.st_mode):
            self._names[found.st_ino] = _entries(path)
        else:
            self._contents[found.st_ino] = found.st_mtime_ns, path.read_bytes()

    def _sync_all(self) -> None:
        for folder in [self._root, *self._root.rglob("*")]:
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode):
                self._names[found.st_ino] = _entries(folder)
            elif stat.S_ISREG(found.st_mode):
                self._contents[found.st_ino] = found.st_mtime_ns, folder.read_bytes()

    def write(self, to: Path, *, names: bool) -> None:
        """Make the folder as it is found after a cut. names : those that were not synced are there too."""
        to.mkdir()
        self._write_folder(self._root.stat().st_ino, self._root, to, names)

    def _write_folder(self, inode: int, now: Path, to: Path, names: bool) -> None:
        entries = _entries(now) if names else self._names.get(inode, {})
        for name, found in entries.items():
            if isinstance(found, str):
                (to / name).symlink_to(found)
            elif stat.S_ISDIR(found.st_mode):
                (to / name).mkdir()
                self._write_folder(found.st_ino, now / name, to / name, names)
            elif found.st_ino in self._images:
                os.link(self._images[found.st_ino], to / name)
            else:
                time, data = self._contents.get(found.st_ino, (0, b""))
                (to / name).write_bytes(data if time == found.st_mtime_ns else b"")
                os.utime(to / name, ns=(found.st_atime_ns, found.st_mtime_ns))


def _entries(folder: Path) -> dict[str, os.stat_result | str]:
    """Name -> what it is; of a link, its text."""
    found: dict[str, os.stat_result | str] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            found[entry.name] = str(Path(entry.path).readlink()) if stat.S_ISLNK(status.st_mode) else status
    return found


def _modules() -> list[Any]:
    """All modules of the package, so that none is imported later with the real function."""
    for module in pkgutil.walk_packages(bigcluster.__path__, "bigcluster."):
        if not module.name.endswith(("__main__", ".naive", ".worker", ".build")):
            importlib.import_module(module.name)
    return [module for name, module in sys.modules.items() if name.startswith("bigcluster")]

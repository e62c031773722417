"""A fault at the n-th change that a run makes to the disk, for every n: it ends with one clear line, and the next run
puts everything right.

    full     from then on the disk is full: nothing new can be written, opened for writing, linked or renamed
    error    this one change fails (EIO), the others succeed
    short    from then on a file cannot grow beyond a few bytes: a write is cut in the middle
    kill     the process is killed before the change

The changes are seen where Python makes them, by an audit hook in a process of its own.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.stress.work import BUDGET, Job, catalog, labels, scratch
from bigcluster.config import flatten
from bigcluster.pipeline import worker
from bigcluster.runtime.blas import available_cores
from bigcluster.runtime.sampler import Caller
from bigcluster.store import checkpoints

KINDS = ("full", "error", "short", "kill")
SHORT_BYTES = 100
_SLOW_TO_IMPORT = ("matplotlib.figure", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg")
"""Every fork would import these anew, for longer than all the rest takes."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MAKES = {"os.rename", "os.link", "os.symlink", "os.mkdir", "os.truncate"}
_REMOVES = {"os.remove", "os.rmdir"}


def main(full: bool) -> dict[str, Any]:
    """Every change of a run over 24 images (one in sixty where not full)."""
    for module in _SLOW_TO_IMPORT:
        import_module(module)
    with scratch() as folder:
        job = Job(catalog(folder / "images", 24), {"k": 3, "size": "16x16", "components": 3})
        undisturbed = folder / "undisturbed"
        n_changes = trial(job, undisturbed, Fault("none", 0, undisturbed))["seen"]
        cases = [(kind, number) for kind in KINDS for number in range(0, n_changes, 1 if full else 60)]
        try_one = partial(_one_case, job, folder, labels(undisturbed), n_changes)
        ended: Counter[str] = Counter()
        with ProcessPoolExecutor(available_cores(), get_context("fork")) as pool:
            for end in pool.map(try_one, cases):
                ended[end] += 1
                if ended.total() % 100 == 0:
                    print(f"faults: {ended.total()} of {len(cases)}, {dict(ended)}", file=sys.stderr, flush=True)
    return {
        "changes": n_changes,
        "trials": len(cases),
        "ended": dict(ended),
        "says": f"{len(cases)} faults ({', '.join(KINDS)} at {len(cases) // len(KINDS)} of {n_changes} changes of the "
        "disk): each ended in one clear line or did no harm, and the next run gave the same labels, sound by verify",
    }


def _one_case(job: Job, folder: Path, expected: bytes, n_changes: int, case: tuple[str, int]) -> str:
    """A fault, the next run, and verify; says how the fault ended."""
    kind, number = case
    what = f"{kind} at change {number} of {n_changes}"
    out = folder / f"out-{os.getpid()}"
    shutil.rmtree(out, ignore_errors=True)
    failed = trial(job, out, Fault(kind, number, out))
    check_end(kind, failed, what)
    resumed = trial(job, out)
    assert resumed["exit"] == 0, f"{what}: the next run failed: {resumed}"
    assert labels(out) == expected, f"{what}: other labels"
    found = trial(job, out, task="verify")["result"]
    assert found["ok"], f"{what}: {found}"
    assert not found["notes"], f"{what}: {found}"
    return "done all the same" if failed["exit"] == 0 else "ended"


def check_end(kind: str, failed: dict[str, Any], what: str) -> None:
    """Killed as intended, or an error in one line that is no fault of ours."""
    assert failed["exit"] in (0, -signal.SIGKILL if kind == "kill" else 1), f"{what}: {failed}"
    if failed["exit"] == 1:
        assert failed["error"] in ("StoreError", "DamagedError"), f"{what}: {failed}"
        assert "\n" not in failed["text"], f"{what}: {failed}"


class Fault:
    """An audit hook: from the change `number` below `out` on, it does what `kind` says."""

    def __init__(self, kind: str, number: int, out: Path) -> None:
        self.kind, self.number, self.out, self.seen = kind, number, out, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_change(event, arguments):
            return
        self.seen += 1
        if self.seen <= self.number:
            return
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "short":
            resource.setrlimit(resource.RLIMIT_FSIZE, (SHORT_BYTES, resource.RLIM_INFINITY))
        elif self.kind == "error" and self.seen == self.number + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(arguments[0]))
        elif self.kind == "full" and event not in _REMOVES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    def _is_change(self, event: str, arguments: tuple[Any, ...]) -> bool:
        """Whether a file or a folder in OUT is made, opened for writing, put in place or removed."""
        if event == "open":
            path, mode, flags = arguments
            changes = bool(flags & _WRITES) if mode is None else any(letter in mode for letter in "wax+")
        else:
            changes = event in _MAKES | _REMOVES
            path = arguments[event in ("os.rename", "os.link")] if changes else None
        return changes and isinstance(path, str | os.PathLike) and Path(path).is_relative_to(self.out)


def trial(job: Job, out: Path, fault: Fault | None = None, *, task: str = "run") -> dict[str, Any]:
    """A task of the worker in a forked process: exit status, result or error, and the changes that were seen.

    This process itself runs none: a fork would take the locks of its threads along, but not the threads.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os._exit(_serve(job, out, writer, fault, task))
    os.close(writer)
    said: dict[str, Any] = {}
    with os.fdopen(reader) as answer:
        for line in answer:
            said |= json.loads(line)
    _, status = os.waitpid(child, 0)
    return {"exit": os.waitstatus_to_exitcode(status), **said}


def _serve(job: Job, out: Path, writer: int, fault: Fault | None, task: str) -> int:
    """What the working process does with a request."""
    checkpoints.COST_FACTOR = 0  # states are saved whenever they may be

    def say(message: dict[str, Any]) -> None:
        os.write(writer, json.dumps(message).encode() + b"\n")

    def send(message: dict[str, Any]) -> None:
        if "event" not in message:
            say(message)

    request = {
        "task": task,
        "arguments": {},
        "settings": flatten(job.settings(out)),
        "resources": vars(BUDGET),
        "caller": Caller(os.getpid()).to_json(),
    }
    if fault is not None:
        sys.addaudithook(fault)
    code = worker.serve(request, send)
    if fault is not None:
        say({"seen": fault.seen})
    return code

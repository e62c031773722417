"""One fresh process, timed and weighed from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.common import MEASURED
from bigcluster.runtime.sampler import Caller, MemorySampler, highest_rss_bytes

ROOT = Path(__file__).parents[1]
LIGHT = 20
"""A sample takes at most this fraction of the time between samples: looking must not slow down what is looked at."""


LOOK_SECONDS = 0.3

BENDING = ("OPENBLAS_", "MKL_", "BLIS_", "OMP_", "GOMP_", "NPY_", "ONEDNN_", "DNNL_", "PYTHONDONTWRITEBYTECODE")
"""How variables begin that hold a library to other kernels or fewer threads than it would take by itself, or make every
process compile its modules again: nobody who runs a peer has them set, so no case has."""


@dataclass(frozen=True)
class Outcome:
    """What one process did. `reason` says why it failed, else it is empty."""

    report: dict[str, Any]
    reason: str
    wall_seconds: float
    peak_bytes: int
    highest_rss_bytes: int
    """Largest VmHWM of one process: shows spikes between samples; counts shared and file pages, which PSS splits."""
    metric: str
    samples: int
    busy_before: float
    """Share of the CPUs that others used just before: what makes times longer than they need be."""


@dataclass
class OutsideSampler(MemorySampler):
    """Sums PSS over a tree that is not ours, at a pace that its size allows, until frozen."""

    highest_rss_bytes: int = 0
    frozen: threading.Event = field(default_factory=threading.Event)

    def _sample(self, tree: list[psutil.Process]) -> None:
        if not self.frozen.is_set():
            super()._sample(tree)

    def _counted_bytes(self, tree: list[psutil.Process]) -> int:
        began = time.monotonic()
        total = super()._counted_bytes(tree)
        if not self.frozen.is_set():
            self.highest_rss_bytes = max(self.highest_rss_bytes, *(highest_rss_bytes(one.pid) for one in tree), 0)
        self.interval_seconds = max(0.1, LIGHT * (time.monotonic() - began))
        return total

    def _add(self, total: int) -> None:
        if not self.frozen.is_set():  # else the clock stopped while this sample was taken: it belongs to nobody
            super()._add(total)


def measure(module: str, arguments: list[str], log: Path, timeout_seconds: float) -> Outcome:
    """Run `python -m module arguments` in a process group of its own; its stderr goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    busy_before = psutil.cpu_percent(LOOK_SECONDS) / 100
    began = time.monotonic()
    lines: list[str] = []
    late = threading.Event()
    with open(log, "w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, "--started", repr(began)],
            cwd=ROOT,
            env=plain_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        _die_first(process.pid)

        def stop() -> None:
            late.set()
            kill_tree(process.pid)

        timer = threading.Timer(timeout_seconds, stop)
        timer.start()
        sampler = OutsideSampler(Caller(process.pid))
        try:
            assert process.stdout is not None
            with sampler, process.stdout as stdout:
                for line in stdout:
                    if line.strip() == MEASURED:
                        sampler.frozen.set()
                    lines.append(line)
                process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()
    wall_seconds = round(time.monotonic() - began, 3)
    report = _last_report(lines)
    reason = f"took longer than {timeout_seconds:g} s" if late.is_set() else _reason(report, process.returncode, log)
    samples = sum(peak.samples for peak in sampler.peaks.values())
    return Outcome(
        report,
        reason,
        wall_seconds,
        sampler.peak_bytes,
        sampler.highest_rss_bytes,
        sampler.metric,
        samples,
        busy_before,
    )


def plain_environment() -> dict[str, str]:
    """Ours, without what bends libraries."""
    return {name: value for name, value in os.environ.items() if not name.startswith(BENDING)}


def _die_first(pid: int) -> None:
    """When memory runs out, the peer goes, not the harness."""
    with suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write("1000")


def kill_tree(pid: int) -> None:
    """The process and all that it started, groups and sessions of their own included."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), root]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _last_report(lines: list[str]) -> dict[str, Any]:
    """The last line that is a JSON object; libraries print what they like before it."""
    for line in reversed(lines):
        if line.startswith("{"):
            with suppress(json.JSONDecodeError):
                report: dict[str, Any] = json.loads(line)
                return report
    return {}


def _reason(report: dict[str, Any], code: int, log: Path) -> str:
    if code == 0 and report and "error" not in report:
        return ""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", probably for lack of memory" if name == "SIGKILL" else "")
    said = str(report.get("error", ""))
    if not said or "exit status" in said:  # a command line: its own words are on stderr
        last = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        own = [line for line in last if line.startswith("bigcluster: ")]
        words = (own or last or ["no word on stderr"])[-1]
        said = f"{said or f'exit status {code}'}: {words}"
    return said


def cpu_count() -> int:
    """Cores that a process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""A command with its process tree looked at from outside: the sum of PSS, as often as the system lets us."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAUSE_SECONDS = 0.01


@dataclass(frozen=True)
class Watched:
    """How a command ended, and what it held."""

    code: int | None
    """None where it was ended for taking too long."""
    peak_bytes: int
    seconds: float
    said: str


def watch(command: Sequence[str], *, environment: dict[str, str], most_seconds: float, cwd: Path) -> Watched:
    """Run a command to its end, or for so many seconds."""
    began, peak = time.monotonic(), 0
    with (cwd / "said.txt").open("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=said,
            stderr=said,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and time.monotonic() - began < most_seconds:
            peak = max(peak, sum(map(_pss_bytes, _tree(process.pid))))
            time.sleep(PAUSE_SECONDS)
        code = process.poll()
        if code is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        said.seek(0)
        return Watched(code, peak, time.monotonic() - began, said.read())


def _tree(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                waiting += map(int, Path(f"/proc/{one}/task/{task}/children").read_text(encoding="ascii").split())
        except OSError:  # it has ended
            continue
    return found


def _pss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)

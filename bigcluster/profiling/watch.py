"""One process and its children under memory-profiler."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import memory_profiler
import psutil

from bigcluster.runtime.processes import start_python
from bigcluster.runtime.sampler import memory_metric
from bigcluster.units import MIB

INTERVAL_SECONDS = 0.1
_BACKENDS = {"pss": "psutil_pss", "uss": "psutil_uss", "rss": "psutil"}


@dataclass(frozen=True)
class Span:
    """When a stage ran: Unix seconds."""

    name: str
    start: float
    stop: float


@dataclass(frozen=True)
class Sample:
    """What the tree held at a time, in Unix seconds."""

    time: float
    n_bytes: float


def watch(
    command: Sequence[str], dat: Path, interval_seconds: float, title: str, request: str = "", **streams: Any
) -> tuple[float, int]:
    """Run a module with arguments and write the memory of its processes to `dat` until it ends: seconds, exit code.

    request : what it reads from stdin. That pipe stays open as long as we are there: the module ends when it closes.
    The file is that of `mprof run --include-children`: a line `MEM MiB SECONDS` per sample after the command line.
    title : what stands for the command in pictures; streams : stdout and stderr for subprocess.Popen.
    """
    began = time.monotonic()
    with (
        dat.open("w", encoding="utf-8") as stream,
        # Ctrl-C reaches us alone, and is passed on as every other request to end is.
        start_python(*command, stdin=subprocess.PIPE, start_new_session=True, **streams) as process,
    ):
        stream.write(f"CMDLINE {title}\n")
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it ended at once: its exit code says so
            process.stdin.write(request.encode())
            process.stdin.flush()
        try:
            memory_profiler.memory_usage(
                process,
                interval=interval_seconds,
                include_children=True,
                stream=stream,
                backend=_BACKENDS[memory_metric()],
            )
        except psutil.NoSuchProcess:  # it ended while it was looked at: memory-profiler does not expect that
            pass
        except KeyboardInterrupt:
            _interrupt(process)
            raise
        code = process.wait()
    return time.monotonic() - began, code


def _interrupt(process: subprocess.Popen[Any]) -> None:
    """Pass an interrupt on: the process saves its state. A second one ends it at once."""
    process.terminate()
    try:
        process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def read_samples(dat: Path) -> list[Sample]:
    """The MEM lines of a .dat."""
    samples = []
    for line in dat.read_text(encoding="utf-8").splitlines():
        kind, _, values = line.partition(" ")
        if kind == "MEM":
            mebibytes, seconds = values.split(" ")
            samples.append(Sample(float(seconds), float(mebibytes) * MIB))
    return samples


def mark_stages(dat: Path, spans: Iterable[Span], samples: list[Sample]) -> None:
    """Add the stages as the functions of `@profile`: `mprof plot` draws them as brackets."""
    with dat.open("a", encoding="utf-8") as stream:
        for span in spans:
            first, last = (_held_at(samples, at) / MIB for at in (span.start, span.stop))
            stream.write(f"FUNC {span.name} {first:.4f} {span.start:.4f} {last:.4f} {span.stop:.4f} 0\n")


def _held_at(samples: list[Sample], at: float) -> float:
    """By the sample nearest in time."""
    return min(samples, key=lambda sample: abs(sample.time - at)).n_bytes

"""The memory of one process and its children over time, measured by memory-profiler."""

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

_BACKENDS = {"pss": "psutil_pss", "uss": "psutil_uss", "rss": "psutil"}


@dataclass(frozen=True)
class Span:
    """A stage with its start and end, in Unix seconds."""

    name: str
    start: float
    stop: float


@dataclass(frozen=True)
class Sample:
    """The memory of a process and its children at a time, in Unix seconds."""

    time: float
    n_bytes: float


def watch(
    command: Sequence[str], dat: Path, interval_seconds: float, title: str, request: str = "", **streams: Any
) -> tuple[float, int]:
    """Run a module with arguments, and write the memory of its processes to the file `dat` until it ends.

    The file has the format of `mprof run --include-children`: the command line, then `MEM MiB SECONDS` for each sample.

    command : the module and its arguments. title : the command line in the file, which mprof writes on its pictures.
    request : the text that the module reads from stdin. That pipe stays open as long as this process exists, and the
    module ends when it closes. streams : stdout and stderr for subprocess.Popen. Returns the seconds and the exit code.
    """
    began = time.monotonic()
    with (
        dat.open("w", encoding="utf-8") as stream,
        # Ctrl-C reaches only this process, which passes it on.
        start_python(*command, stdin=subprocess.PIPE, start_new_session=True, **streams) as process,
    ):
        stream.write(f"CMDLINE {title}\n")
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # the process ended at once; its exit code says so
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
        except psutil.NoSuchProcess:  # the process ended during a measurement, which memory-profiler does not expect
            pass
        except KeyboardInterrupt:
            _interrupt(process)
            raise
        code = process.wait()
    return time.monotonic() - began, code


def _interrupt(process: subprocess.Popen[Any]) -> None:
    """Pass an interrupt on; the process then saves its state and ends. A second interrupt ends it at once."""
    process.terminate()
    try:
        process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def read_samples(dat: Path) -> list[Sample]:
    """Return the samples of a .dat file, which are its lines MEM."""
    samples = []
    for line in dat.read_text(encoding="utf-8").splitlines():
        kind, _, values = line.partition(" ")
        if kind == "MEM":
            mebibytes, seconds = values.split(" ")
            samples.append(Sample(float(seconds), float(mebibytes) * MIB))
    return samples


def mark_stages(dat: Path, spans: Iterable[Span], samples: list[Sample]) -> None:
    """Add the stages to a .dat file as functions with `@profile` would be: `mprof plot` draws them as brackets."""
    with dat.open("a", encoding="utf-8") as stream:
        for span in spans:
            first, last = (_bytes_at(samples, at) / MIB for at in (span.start, span.stop))
            stream.write(f"FUNC {span.name} {first:.4f} {span.start:.4f} {last:.4f} {span.stop:.4f} 0\n")


def _bytes_at(samples: list[Sample], at: float) -> float:
    """Return the bytes of the sample that is nearest in time."""
    return min(samples, key=lambda sample: abs(sample.time - at)).n_bytes

"""The memory of one process and its children over time, measured by memory-profiler."""

from __future__ import annotations

import csv
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import memory_profiler
import psutil

from bigcluster.runtime.processes import start_python
from bigcluster.runtime.sampler import memory_metric
from bigcluster.runtime.workers_memory import ALL, COORDINATOR
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


def read_processes(memory: Path, summary: Mapping[str, Any]) -> dict[str, list[Sample]]:
    """Return the samples that a run with workers took of its processes, by a name for a picture.

    memory : the memory.csv of the run. summary : its summary.json, which says when its stages began.
    """
    with memory.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    began = {name: facts["began_at"] for name, facts in summary["stages"].items()}
    first = next(row for row in rows if row["stage"] in began)  # each stage begins with a sample
    start = began[first["stage"]] - float(first["seconds"])
    found: dict[str, list[Sample]] = {}
    for row in rows:
        if row["process"] != ALL:
            found.setdefault(row["process"], []).append(Sample(start + float(row["seconds"]), int(row["bytes"])))
    workers = {name: f"worker {number}" for number, name in enumerate((n for n in found if n != COORDINATOR), start=1)}
    return {workers.get(name, "coordinator and scheduler"): samples for name, samples in found.items()}


def mark_processes(dat: Path, processes: Mapping[str, Sequence[Sample]]) -> None:
    """Add the samples of single processes to a .dat file as those of child processes, which `mprof plot` draws."""
    with dat.open("a", encoding="utf-8") as stream:
        for number, samples in enumerate(processes.values()):
            for sample in samples:
                stream.write(f"CHLD {number} {sample.n_bytes / MIB:.6f} {sample.time:.4f}\n")


def _bytes_at(samples: list[Sample], at: float) -> float:
    """Return the bytes of the sample that is nearest in time."""
    return min(samples, key=lambda sample: abs(sample.time - at)).n_bytes

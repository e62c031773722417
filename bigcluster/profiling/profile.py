"""A run under memory-profiler, and on request the naive ways to do the same job."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from bigcluster import outdir
from bigcluster.catalog import list_images
from bigcluster.config import Settings, to_toml
from bigcluster.errors import EXIT_SOME_UNREAD, ConfigError, ProfiledRunError
from bigcluster.files.durable import remove_folder, unfinished_name, write_text
from bigcluster.files.layout import ARRAYS
from bigcluster.files.temporary import temporary_folder
from bigcluster.outputs.tables import write_csv
from bigcluster.profiling.publish import publish
from bigcluster.profiling.timeline import draw_timeline, write_timeline
from bigcluster.profiling.watch import Sample, Span, mark_processes, mark_stages, read_processes, read_samples, watch
from bigcluster.runtime.events import Listener, Note, silent
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import SAMPLE_SECONDS
from bigcluster.runtime.workers_memory import ALL
from bigcluster.units import MIB

COMPARISONS = ("numpy", "naive-dask")
"""Names of the naive ways."""

AVAILABLE_SHARE = 0.9
"""Share of the free memory that a naive way may allocate where no limit is given. Chosen, not measured."""


@dataclass(frozen=True)
class Way:
    """One way to do the job, with its measurements."""

    name: str
    peak_bytes: int
    """The most memory of its processes together, by memory-profiler."""
    seconds: float
    limit_bytes: int
    """The memory budget of the run; of a naive way, the most that it could allocate."""
    ended: str
    """The text "done", or the reason why the job was not done."""
    dat: str
    """Name of its .dat file in OUT/profile."""


@dataclass(frozen=True)
class Profile:
    """The result of a profile."""

    folder: Path
    """OUT/profile, which holds the files."""
    ways: tuple[Way, ...]
    """The run of bigcluster first."""
    summary: dict[str, Any]
    """summary.json of the run."""

    @property
    def peak_bytes(self) -> int:
        """Return the most memory of the run in bytes, by memory-profiler."""
        return self.ways[0].peak_bytes

    def to_json(self) -> dict[str, Any]:
        """Return the profile as JSON values."""
        return {"folder": str(self.folder), "ways": [asdict(way) for way in self.ways], "run": self.summary}


def profile(
    settings: Settings,
    resources: Resources,
    *,
    compare: Sequence[str] = (),
    limit_bytes: int | None = None,
    replace: bool = False,
    quiet: bool = False,
    interval_seconds: float = SAMPLE_SECONDS,
    listener: Listener = silent,
) -> Profile:
    """Do the job as `bigcluster run` in a process of its own and measure its memory; then do the naive ways.

    Where OUT already holds a run, that run is neither reused nor changed: the job is done in a temporary folder in OUT.
    OUT/profile gets mprofile.dat (for mprof), timeline.csv, timeline.png, and images.csv with the status of every file.
    Where the run starts workers, they have a line for each of them, and one for the processes that start and schedule.
    With `compare` it also gets a .dat file of each way, comparison.csv and comparison.json.

    compare : names from COMPARISONS. limit_bytes : the most that a naive way may allocate; by default AVAILABLE_SHARE
    of the free memory. replace, quiet : passed to the run. interval_seconds : the time between two samples.
    Raises ConfigError for an unknown way and for ways beside t-SNE and UMAP, and ProfiledRunError with the exit code of
    the run where the run fails.
    """
    unknown = [name for name in compare if name not in COMPARISONS]
    if unknown:
        raise ConfigError(f"--compare knows {' and '.join(COMPARISONS)}, not {unknown[0]!r}")
    if compare and settings.has_manifold:
        raise ConfigError(
            f"--compare knows scripts with PCA and k-means, and none with reduce = {settings.reduce}: leave --compare "
            "out, or use --set reduce=pca"
        )
    assert settings.out is not None
    with temporary_folder() as folder:
        with _job_folder(Path(settings.out), listener) as job_folder:
            job = dataclasses.replace(settings, out=str(job_folder))
            if str(job_folder) != settings.out:
                # The folder is removed afterwards. An entry in it could be the last name of a picture by then.
                job = dataclasses.replace(job, link="none")
            seconds, summary = _run(job, resources, folder, replace, quiet, interval_seconds)
            shutil.copyfile(job_folder / "images.csv", folder / "images.csv")
            processes = read_processes(job_folder / "memory.csv", summary) if resources.joined else {}
        samples = read_samples(folder / "mprofile.dat")
        spans = _stages(summary)
        mark_stages(folder / "mprofile.dat", spans, samples)
        mark_processes(folder / "mprofile.dat", processes)
        write_timeline(folder / "timeline.csv", {ALL: samples, **processes}, spans)
        ways = [_way("bigcluster", samples, seconds, resources.promised_bytes, "done", "mprofile.dat")]
        others: dict[str, list[Sample]] = {}
        for name in dict.fromkeys(compare):
            listener(Note(f"{name}: the same images, everything in memory"))
            way, others[name] = _naive(name, settings, summary, folder, limit_bytes, interval_seconds)
            ways.append(way)
        draw_timeline(folder / "timeline.png", samples, spans, resources.promised_bytes, others, processes)
        if compare:
            write_csv(folder / "comparison.csv", asdict(ways[0]), (asdict(way).values() for way in ways))
            write_text(folder / "comparison.json", json.dumps([asdict(way) for way in ways], indent=2) + "\n")
        return Profile(publish(folder, Path(settings.out), listener), tuple(ways), summary)


@contextmanager
def _job_folder(out: Path, listener: Listener) -> Iterator[Path]:
    """Yield the folder in which the job is done: OUT, or where OUT already holds a run, a temporary folder in it."""
    if not (out / ARRAYS).exists():
        yield out  # the run itself refuses a folder that is not a folder of results
        return
    outdir.check_is_out(out)
    with outdir.locked(out, lambda line: listener(Note(line))):
        folder = out / unfinished_name()  # where this process is killed, the next run removes the folder
        listener(
            Note(
                f"{out} holds a run, which stays as it is: the job is done anew in {folder}, without entries under "
                "clusters/, and that folder goes afterwards"
            )
        )
        try:
            yield folder
        finally:
            remove_folder(folder)


def _run(
    settings: Settings, resources: Resources, folder: Path, replace: bool, quiet: bool, interval_seconds: float
) -> tuple[float, dict[str, Any]]:
    """Do `bigcluster run` with these settings, and measure it. Its progress goes to the stderr of this process.

    folder : for its .dat file. Returns the seconds, and summary.json.
    """
    config = folder / "run.toml"
    write_text(config, to_toml(outdir.absolute(settings)))
    command = ["bigcluster.cli.watched", "run", "--config", str(config), "--json"]
    command += ["--memory", f"{resources.promised_bytes}B", "--threads", str(resources.threads)]
    command += ["--workers", str(resources.workers)] if resources.starts_workers else []
    command += ["--replace"] * replace + ["--quiet"] * quiet
    with (folder / "summary.json").open("w+", encoding="utf-8") as output:
        dat = folder / "mprofile.dat"
        title = f"bigcluster run {settings.images} --out {settings.out} --memory {resources.promised_bytes / MIB:g}MiB"
        seconds, code = watch(command, dat, interval_seconds, title, stdout=output)
        output.seek(0)
        document = output.read()
        if code not in (0, EXIT_SOME_UNREAD):
            raise ProfiledRunError(_error_of(document) or f"the profiled run {_exit_reason(code)}", code)
        summary: dict[str, Any] = json.loads(document)
    config.unlink()
    (folder / "summary.json").unlink()
    return seconds, summary


def _error_of(document: str) -> str:
    """Return the message of the error of a run. document : what the run printed on stdout; "" where it is no error."""
    try:
        message: str = json.loads(document)["error"]["message"]
        return message
    except (ValueError, KeyError):
        return ""


def _stages(summary: dict[str, Any]) -> list[Span]:
    stages = summary["stages"].items()
    return [Span(name, facts["began_at"], facts["began_at"] + facts["seconds"]) for name, facts in stages]


def _naive(
    name: str,
    settings: Settings,
    summary: dict[str, Any],
    folder: Path,
    limit_bytes: int | None,
    interval_seconds: float,
) -> tuple[Way, list[Sample]]:
    """Do a naive way in a process of its own. That it runs out of memory, or is killed for it, is a result."""
    limit = limit_bytes or int(psutil.virtual_memory().available * AVAILABLE_SHARE)
    dat = folder / f"mprofile-{name}.dat"
    with (
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+", errors="replace") as errors,
    ):
        request = _request(name, settings, summary, limit)
        command = ["bigcluster.profiling.naive"]
        seconds, code = watch(command, dat, interval_seconds, name, request, stdout=output, stderr=errors)
        result, last_error = _last_line(output), _last_line(errors)
    samples = read_samples(dat)
    ended = json.loads(result)["ended"] if result else f"{_exit_reason(code)} {last_error}".strip()
    return _way(name, samples, seconds, limit, ended, dat.name), samples


def _request(name: str, settings: Settings, summary: dict[str, Any], limit_bytes: int) -> str:
    assert settings.images is not None
    listing = list_images(settings.images, None, exclude=settings.exclude, **vars(settings.manifest))
    files = [os.fsencode(listing.path(row)).hex() for row in range(len(listing))]
    request = {
        "way": name,
        "limit_bytes": limit_bytes,
        "files": files,
        "image_size": summary["image_size"],
        "color": settings.features == "color",
        "n_components": summary["n_components"] if settings.has_pca else None,
        "n_clusters": summary["n_clusters"],
        "seed": settings.seed,
    }
    return json.dumps(request) + "\n"


def _last_line(file: IO[str]) -> str:
    file.seek(0)
    return next(iter(reversed(file.read().splitlines())), "")


def _exit_reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed (SIGKILL), as systems do when memory runs out"
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit status {code}"


def _way(name: str, samples: list[Sample], seconds: float, limit_bytes: int, ended: str, dat: str) -> Way:
    return Way(name, round(max(s.n_bytes for s in samples)), round(seconds, 1), limit_bytes, ended, dat)

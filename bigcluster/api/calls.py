"""The calls: each resolves its arguments, has a working process do the job, and returns what came of it.

The command line calls these functions, so that every argument is written once.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace as replace_in
from typing import TYPE_CHECKING, Any

from bigcluster.api.arguments import (
    Images,
    PathLike,
    Sets,
    budget_notes,
    cluster_resources,
    dotted,
    kept_notes,
    names,
    resolve_report,
    resolve_settings,
    resolve_sweep,
    resources,
    stored_settings,
    texts,
)
from bigcluster.api.finished_run import Run
from bigcluster.config import Settings
from bigcluster.errors import ConfigError, UsageError
from bigcluster.files import targets
from bigcluster.files.paths import local_path
from bigcluster.pipeline import image_list
from bigcluster.runtime.events import RESULT, Event, Listener, Note
from bigcluster.runtime.processes import absolute
from bigcluster.runtime.sampler import Caller
from bigcluster.runtime.supervisor import supervise
from bigcluster.units import parse_bytes, parse_count, quoted

if TYPE_CHECKING:
    from bigcluster.planning.plan import Plan
    from bigcluster.profiling import Profile
    from bigcluster.runtime.resources import Resources


def log_events(event: Event) -> None:
    """The listener of Python calls: what the command line would print goes to the logger "bigcluster"."""
    if isinstance(event, Note):
        logging.getLogger("bigcluster").log(logging.WARNING if event.level == "warning" else logging.INFO, event.text)


def run(
    images: Images | None = None,
    out: PathLike | None = None,
    *,
    n_clusters: int | str | None = None,
    memory: str | None = None,
    workers: int | None = None,
    config: PathLike | None = None,
    set: Sets = None,
    fresh: bool = False,
    replace: bool = False,
    rehash: bool = False,
    listener: Listener = log_events,
    **settings: Any,
) -> Run:
    """Cluster a folder of images; the same call again resumes or reuses what OUT holds.

    images : a folder, glob or manifest; or a list of paths, or a DataFrame with a column `path`, whose other columns
    pass through. A list is kept as OUT/manifest.csv, so that the same call resumes, and one without images too.
    out : the folder of results. memory : such as "1GiB", for all processes that the job starts and for what it adds to
    the calling one; what that one held before does not count and is told. workers : decode and compute threads.
    `settings` are keys such as size="64" or variance=0.8, `set` takes the dotted ones ({"kmeans.n_init": 8}).
    Precedence is that of the command line. `rehash` reads every image again, whatever its size and time say. The work
    is done in a process of its own, started as a module, so that a script needs no main guard.

    Raises the errors of bigcluster.errors.
    """
    if not callable(listener):
        raise ConfigError(f"listener must be a function that takes an event, not {quoted(listener)}")
    values, sets = dotted(set)
    flags = {"k": n_clusters, **settings, **values}
    resolved = resolve_settings(images, out, flags=flags, sets=sets, config=config, fresh=fresh)
    # The listener may go to another folder.
    resolved = replace_in(resolved, images=absolute(resolved.images or ""), out=absolute(resolved.out or ""))
    limits = resources(memory, workers)
    for note in [
        *kept_notes(resolved.out or "", resolved, flags, sets, config=config, fresh=fresh),
        *budget_notes(limits),
    ]:
        listener(note)
    how = {"replace": bool(replace), "rehash": bool(rehash)}
    with _listed(images) as source:
        summary = _start("run", resolved, limits, listener, **how, **source)
    from bigcluster.outputs.summary import memory_lines

    for line in memory_lines(summary["memory"]):
        listener(Note(line, RESULT))
    return Run(resolved.out or "")


def plan(
    images: Images | None = None,
    out: PathLike | None = None,
    *,
    n_clusters: int | str | None = None,
    memory: str | None = None,
    workers: int | None = None,
    config: PathLike | None = None,
    set: Sets = None,
    fresh: bool = False,
    n_images: int | str | None = None,
    scheduler: str | None = None,
    listener: Listener = log_events,
    **settings: Any,
) -> Plan:
    """What `run` with these arguments would do; nothing is decoded or written.

    n_images : plan for so many pictures that are not there, such as "1M"; images is left out then. scheduler : plan
    for the workers of a dask cluster, of which `workers` says how many there are and `memory` what each may hold.

    Its seconds are estimates at the rates of this machine, which the first call measures (one to two seconds).
    """
    if n_images is not None and images is not None:
        raise ConfigError(
            f"--images {n_images} plans for images that need not exist; leave out {quoted(images)}, or --images"
        )
    values, sets = dotted(set)
    needs = ("images",) if n_images is None else ()
    flags = {"k": n_clusters, **settings, **values}
    resolved = resolve_settings(images, out, flags=flags, sets=sets, config=config, fresh=fresh, needs=needs)
    limits = resources(memory, workers) if scheduler is None else cluster_resources(memory, workers)
    if n_images is not None:
        from bigcluster.pipeline.plan import estimated, plan_absent

        return estimated(plan_absent(resolved, parse_count(str(n_images)), limits), resolved)
    with _listed(images) as source:
        values = _start("plan", resolved, limits, listener, **source)
    from bigcluster.planning.plan import Plan

    return Plan.from_json(values)


def profile(
    images: Images | None = None,
    out: PathLike | None = None,
    *,
    n_clusters: int | str | None = None,
    memory: str | None = None,
    workers: int | None = None,
    config: PathLike | None = None,
    set: Sets = None,
    fresh: bool = False,
    replace: bool = False,
    compare: Sequence[str] = (),
    limit: str | None = None,
    quiet: bool = True,
    listener: Listener = log_events,
    **settings: Any,
) -> Profile:
    """`run` under memory-profiler, children included: OUT/profile with a .dat for mprof, timeline.csv and timeline.png.

    compare : "numpy" and "naive-dask" are done too, each in a process of its own that may allocate `limit`, such as
    "8GiB" (default: nine tenths of the memory that is free), so that its MemoryError is a result.
    Raises ProfiledRunError where the run fails; the other arguments are those of `run`.
    """
    from bigcluster import profiling

    if image_list.is_list(images):
        raise UsageError("profile takes a folder, a glob or a manifest: give the list to bc.run, then profile that OUT")
    values, sets = dotted(set)
    flags = {"k": n_clusters, **settings, **values}
    resolved = resolve_settings(images, out, flags=flags, sets=sets, config=config, fresh=fresh)
    return profiling.profile(
        resolved,
        resources(memory, workers),
        compare=names("compare", compare),
        limit_bytes=None if limit is None else parse_bytes(limit, "limit"),
        replace=replace,
        quiet=quiet,
        listener=listener,
    )


def open(out: PathLike) -> Run:
    """The finished run in OUT. Raises RunNotFoundError where there is none."""
    return Run(out)


def sweep(
    out: PathLike,
    k: int | str,
    *,
    memory: str | None = None,
    workers: int | None = None,
    set: Sets = None,
    listener: Listener = log_events,
) -> dict[str, Any]:
    """Cluster the stored scores for every k; returns the rows of OUT/sweep.csv and which k they suggest, and why."""
    settings, ks = resolve_sweep(out, k, sets=texts(set))
    return _start("sweep", settings, resources(memory, workers), listener, ks=ks)


def predict(
    out: PathLike,
    images: Images,
    to: PathLike,
    *,
    exclude: Sequence[str] | str | None = None,
    memory: str | None = None,
    workers: int | None = None,
    listener: Listener = log_events,
) -> dict[str, Any]:
    """Label new images by the model in OUT into the CSV `to`, a file or a stream; returns the counts."""
    settings, limits = stored_settings(out, exclude=exclude), resources(memory, workers)
    target = targets.named("--to", to)
    if image_list.is_list(images):
        with image_list.as_manifest(images) as source:
            return _start("predict", image_list.settings_for_list(settings), limits, listener, images=source, to=target)
    return _start("predict", settings, limits, listener, images=local_path("IMAGES", images), to=target)


def verify(
    out: PathLike,
    *,
    quick: bool = False,
    memory: str | None = None,
    workers: int | None = None,
    listener: Listener = log_events,
) -> dict[str, Any]:
    """Check everything in OUT; returns `ok`, and what is damaged and which stages the next run makes anew."""
    return _start("verify", Settings(out=local_path("OUT", out)), resources(memory, workers), listener, quick=quick)


def report(
    out: PathLike,
    *,
    memory: str | None = None,
    workers: int | None = None,
    set: Sets = None,
    listener: Listener = log_events,
) -> dict[str, Any]:
    """Write the report anew from what OUT holds; returns where its first page is."""
    return _start("report", resolve_report(out, sets=texts(set)), resources(memory, workers), listener)


def make_components(out: PathLike) -> None:
    """Have the components computed and stored, which most fits leave for later."""
    _start("components", stored_settings(out), resources(None, None), log_events)


def _start(task: str, settings: Settings, limits: Resources, listener: Listener, **arguments: Any) -> dict[str, Any]:
    """A task of bigcluster.pipeline in a working process, on behalf of this one."""
    return supervise(task, settings, limits, listener=listener, caller=Caller.now(), **arguments)


@contextlib.contextmanager
def _listed(images: Any) -> Iterator[dict[str, str]]:
    """The argument of a job that lists the images which the caller gave one by one; none for others."""
    if image_list.is_list(images):
        with image_list.as_manifest(images) as manifest:
            yield {"given": manifest}
    else:
        yield {}

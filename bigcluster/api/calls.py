"""The public functions. Each resolves its arguments, starts a working process for the job, and returns the result.

The command line calls these functions too, so that every argument is written once.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bigcluster.api.arguments import (
    Images,
    PathLike,
    Sets,
    as_names,
    as_texts,
    budget_notes,
    dotted,
    plan_resources,
    resolve_finished,
    resolve_resolutions,
    resolve_settings,
    resolve_verify,
    resources,
    reused_settings_notes,
    scheduler_of,
    stored_settings,
    worker_notes,
)
from bigcluster.api.finished_run import Run
from bigcluster.config import KEYS, Settings, parse_ks
from bigcluster.errors import ConfigError, UsageError
from bigcluster.files import targets
from bigcluster.files.paths import local_path
from bigcluster.pipeline import image_list
from bigcluster.runtime.events import RESULT, Event, Listener, Note
from bigcluster.runtime.sampler import Caller
from bigcluster.runtime.supervisor import supervise, with_absolute_paths
from bigcluster.units import parse_bytes, parse_count, quoted

if TYPE_CHECKING:
    from bigcluster.planning.plan import Plan
    from bigcluster.profiling import Profile
    from bigcluster.runtime.resources import Resources


def log_events(event: Event) -> None:
    """Write notes to the logger "bigcluster". This is the default listener; the command line prints notes instead."""
    if isinstance(event, Note):
        logging.getLogger("bigcluster").log(logging.WARNING if event.level == "warning" else logging.INFO, event.text)


def run(
    images: Images | None = None,
    out: PathLike | None = None,
    *,
    n_clusters: int | str | None = None,
    memory: str | None = None,
    threads: int | None = None,
    workers: int | None = None,
    scheduler: PathLike | None = None,
    client: Any = None,
    config: PathLike | None = None,
    set: Sets = None,
    fresh: bool = False,
    replace: bool = False,
    rehash: bool = False,
    listener: Listener = log_events,
    **settings: Any,
) -> Run:
    """Cluster the images. The same call again continues an interrupted run and reuses results that are still valid.

    images : a folder, a glob or a manifest; or a list of paths, or a DataFrame with a column `path`, whose other
    columns are copied to the results. A list is stored as OUT/manifest.csv, so that the same call, also one without
    `images`, can continue the run.
    out : the folder for the results.
    n_clusters : the number of clusters, or a range to try, such as "5:20"; "auto", the default, finds the number.
    memory : the most memory, such as "1GiB". It counts all processes that the job starts, and what the job adds to the
    calling process. What the calling process held before does not count; the summary shows it. Default: half of the
    memory that this process may use.
    threads : the number of threads that decode and compute. Default: all cores.
    workers : start so many worker processes on this machine, each with its own threads, and share the work among them.
    scheduler : the address of a dask scheduler (tcp:// or tls://), or its file: share the work among its workers, which
    must see the images and `out` under the same paths. `memory` is then for each worker, and for this machine.
    client : a dask.distributed.Client, whose scheduler is joined. Give one of workers, scheduler and client.
    config : a TOML file with settings, or the name of a shipped one.
    set : settings by dotted name, such as {"kmeans.n_init": 8}. settings : those without a dot, such as size="64" or
    variance=0.8. Where several give a value, the order is that of the command line.
    fresh : ignore the settings of the last run in OUT.
    replace : allow the run to discard pixels that were decoded with other settings.
    rehash : read every image again, also where size and time of the file are unchanged.
    listener : called with every event of the run.

    The work is done in another process, which is started as a module: a script needs no main guard.
    Raises the errors of bigcluster.errors.
    """
    if not callable(listener):
        raise ConfigError(f"listener must be a function that takes an event, not {quoted(listener)}")
    values, sets = dotted(set)
    flags = {"k": n_clusters, **settings, **values}
    scheduler, certificates = scheduler_of(scheduler, client, values)
    flags |= certificates
    resolved = resolve_settings(images, out, flags=flags, sets=sets, config=config, fresh=fresh)
    # The listener may change the current folder.
    resolved = with_absolute_paths(resolved)
    limits = resources(memory, threads, workers, scheduler)
    for note in [
        *reused_settings_notes(resolved.out or "", resolved, flags, sets, config=config, fresh=fresh),
        *budget_notes(limits),
    ]:
        listener(note)
    how = {"replace": bool(replace), "rehash": bool(rehash)}
    with _list_argument(images) as source:
        summary = _run_task("run", resolved, limits, listener, **how, **source)
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
    threads: int | None = None,
    workers: int | None = None,
    config: PathLike | None = None,
    set: Sets = None,
    fresh: bool = False,
    n_images: int | str | None = None,
    scheduler: PathLike | None = None,
    listener: Listener = log_events,
    **settings: Any,
) -> Plan:
    """Return the plan of what `run` with these arguments would do. Nothing is decoded or written.

    n_images : plan for this number of images, which need not exist, such as "1M"; `images` is left out then.
    scheduler : plan for a dask cluster; `workers` is the number of its worker processes, `threads` (default: 1) and
    `memory` are for each of them.

    The other arguments are those of `run`. The seconds of the plan are estimates from the speed of this machine, which
    the first call measures; that takes one to two seconds. Raises the errors of bigcluster.errors.
    """
    if n_images is not None and images is not None:
        raise ConfigError(
            f"--images {n_images} plans for images that need not exist; leave out {quoted(images)}, or --images"
        )
    values, sets = dotted(set)
    needs = ("images",) if n_images is None else ()
    flags = {"k": n_clusters, **settings, **values}
    resolved = resolve_settings(images, out, flags=flags, sets=sets, config=config, fresh=fresh, needs=needs)
    limits = plan_resources(memory, threads, workers, scheduler)
    if n_images is not None:
        from bigcluster.pipeline.plan import estimated, plan_absent

        return estimated(plan_absent(resolved, parse_count(str(n_images)), limits), resolved)
    with _list_argument(images) as source:
        values = _run_task("plan", resolved, limits, listener, **source)
    from bigcluster.planning.plan import Plan

    return Plan.from_json(values)


def profile(
    images: Images | None = None,
    out: PathLike | None = None,
    *,
    n_clusters: int | str | None = None,
    memory: str | None = None,
    threads: int | None = None,
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
    """Do `run` under memory-profiler, which measures its child processes too.

    OUT/profile gets a .dat file for mprof, timeline.csv and timeline.png. With `workers`, these have each worker too,
    and the processes that start and schedule them.

    compare : naive ways that do the same job after it, "numpy" or "naive-dask" or both. Each runs in a process of its
    own, so that running out of memory is a result and not an error.
    limit : the most memory that a naive way may allocate, such as "8GiB". Default: 0.9 of the free memory.
    quiet : whether the run prints only warnings and errors.
    The other arguments are those of `run`. Raises ProfiledRunError where the run fails.
    """
    from bigcluster import profiling

    if image_list.is_list(images):
        raise UsageError("profile takes a folder, a glob or a manifest: give the list to bc.run, then profile that OUT")
    values, sets = dotted(set)
    flags = {"k": n_clusters, **settings, **values}
    resolved = resolve_settings(images, out, flags=flags, sets=sets, config=config, fresh=fresh)
    return profiling.profile(
        resolved,
        resources(memory, threads, workers),
        compare=as_names("compare", compare),
        limit_bytes=None if limit is None else parse_bytes(limit, "limit"),
        replace=replace,
        quiet=quiet,
        listener=listener,
    )


def open(out: PathLike) -> Run:
    """Return the finished run in OUT. Raises StoreError where there is none."""
    return Run(out)


def sweep(
    out: PathLike,
    k: int | str | None = None,
    *,
    resolution: float | str | Sequence[float] | None = None,
    memory: str | None = None,
    threads: int | None = None,
    workers: int | None = None,
    scheduler: PathLike | None = None,
    client: Any = None,
    set: Sets = None,
    listener: Listener = log_events,
) -> dict[str, Any]:
    """Cluster the stored scores for every k, and write OUT/sweep.csv and OUT/sweep.png.

    k : one number, or several such as "5:20", "10:100:10" or "5,9,17". memory, threads, workers, scheduler, client : as
    in `run`. set : seed, kmeans.* and cluster.* keys only.
    Returns a dict: `rows` are those of OUT/sweep.csv, `suggested_k` may be None, and `reason` says why.

    resolution : in place of k, for groups without a number: one, or several such as "0.5,1,2"; where neither is given
    and the run has found such groups, 0.25 to 4. The stored graph is grouped for each of them, and the table is
    OUT/resolutions.csv; the dict has its `rows`, and the resolution that is `in_use`.
    """
    if k is not None and resolution is not None:
        raise ConfigError("k and resolution exclude each other in a sweep: give one")
    if k is None:
        if any(given is not None for given in (workers, scheduler, client)):
            raise ConfigError("a sweep of resolutions groups the stored graph in one process: no workers, no scheduler")
        settings, values = resolve_resolutions(out, resolution, sets=as_texts(set))
        return _run_task("resolutions", settings, resources(memory, threads), listener, values=values)
    settings, scheduler = resolve_finished(
        out, as_texts(set), scheduler=scheduler, client=client, may_name=("seed", "kmeans.*", "cluster.*")
    )
    ks = parse_ks("k", k)
    return _run_task(
        "sweep", settings, _told(resources(memory, threads, workers, scheduler), listener), listener, ks=ks
    )


def predict(
    out: PathLike,
    images: Images,
    to: PathLike,
    *,
    features: PathLike | None = None,
    exclude: Sequence[str] | str | None = None,
    memory: str | None = None,
    threads: int | None = None,
    workers: int | None = None,
    scheduler: PathLike | None = None,
    client: Any = None,
    set: Sets = None,
    listener: Listener = log_events,
) -> dict[str, Any]:
    """Label new images by the model in OUT, and write the labels to a CSV file or a stream.

    images : as in `run`. to : the file or stream. features : the vectors of the new images, where the model was made of
    vectors; default: those of the model, which may have the new images too. exclude : patterns of files that are not
    listed; default: those of the run. memory, threads, workers, scheduler, client : as in `run`. set : cluster.* keys
    only. Returns a dict: `counts` of the images, and `beyond_share` and `unlike`, which say whether they resemble the
    images of the run (None where the model has too few images to tell).
    """
    settings, scheduler = resolve_finished(out, as_texts(set), scheduler=scheduler, client=client, exclude=exclude)
    limits = _told(resources(memory, threads, workers, scheduler), listener)
    target = targets.named("--to", to)
    new_features = None if features is None else KEYS["features"].check("features", features)
    if image_list.is_list(images):
        with image_list.as_manifest(images) as source:
            settings = image_list.settings_for_list(settings)
            return _run_task("predict", settings, limits, listener, images=source, to=target, features=new_features)
    source = local_path("IMAGES", images)
    return _run_task("predict", settings, limits, listener, images=source, to=target, features=new_features)


def verify(
    out: PathLike,
    *,
    quick: bool = False,
    memory: str | None = None,
    threads: int | None = None,
    workers: int | None = None,
    scheduler: PathLike | None = None,
    client: Any = None,
    set: Sets = None,
    listener: Listener = log_events,
) -> dict[str, Any]:
    """Check all files of OUT for damage.

    quick : read only a sample. memory, threads, workers, scheduler, client : as in `run`. set : cluster.* keys only.
    Returns a dict: `ok`, the files that are `damaged`, and in `redo` the stages that the next run does again.
    """
    joins = any(given is not None for given in (workers, scheduler, client))
    settings, scheduler = resolve_verify(out, as_texts(set), joins=joins, scheduler=scheduler, client=client)
    limits = _told(resources(memory, threads, workers, scheduler), listener)
    return _run_task("verify", settings, limits, listener, quick=quick)


def report(
    out: PathLike,
    *,
    memory: str | None = None,
    threads: int | None = None,
    workers: int | None = None,
    scheduler: PathLike | None = None,
    client: Any = None,
    set: Sets = None,
    listener: Listener = log_events,
) -> dict[str, Any]:
    """Write the report again from the results in OUT.

    memory, threads, workers, scheduler, client : as in `run`. set : report.* and cluster.* keys only.
    Returns a dict: `report` is the path of its first page.
    """
    settings, scheduler = resolve_finished(
        out, as_texts(set), scheduler=scheduler, client=client, may_name=("report.*", "cluster.*")
    )
    return _run_task("report", settings, _told(resources(memory, threads, workers, scheduler), listener), listener)


def _told(limits: Resources, listener: Listener) -> Resources:
    """Tell the listener which worker processes are started, and return the resources."""
    for note in worker_notes(limits):
        listener(note)
    return limits


def make_components(out: PathLike) -> None:
    """Compute the components of the run in OUT and store them there. Most fits do not compute them."""
    _run_task("components", stored_settings(out), resources(None, None), log_events)


def _run_task(task: str, settings: Settings, limits: Resources, listener: Listener, **arguments: Any) -> dict[str, Any]:
    """Do a task of bigcluster.pipeline in a working process, and return its result."""
    return supervise(task, settings, limits, listener=listener, caller=Caller.now(), **arguments)


@contextlib.contextmanager
def _list_argument(images: Any) -> Iterator[dict[str, str]]:
    """Yield the argument that names the images which the caller gave as a list; no argument for a folder or a glob."""
    if image_list.is_list(images):
        with image_list.as_manifest(images) as manifest:
            yield {"given": manifest}
    else:
        yield {}

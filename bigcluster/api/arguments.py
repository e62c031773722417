"""The arguments of a call (flags, settings by dotted name, a config, a budget), turned into Settings and Resources."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from bigcluster import outdir
from bigcluster.config import KEYS, Settings, flatten, parse_resolutions, parse_sets, resolve
from bigcluster.config.ks import RESOLUTIONS
from bigcluster.errors import ConfigError
from bigcluster.files.paths import local_path
from bigcluster.pipeline import image_list
from bigcluster.runtime.events import Note
from bigcluster.runtime.processes import absolute
from bigcluster.units import as_whole, counted, parse_bytes, quoted, show_bytes

if TYPE_CHECKING:
    from bigcluster.runtime.resources import Resources

PathLike = str | os.PathLike[str]
Images = PathLike | Iterable[PathLike]
"""A folder, a glob or a manifest; a list of paths; or a pandas.DataFrame with a column `path`."""
Sets = Mapping[str, Any] | Sequence[str] | None
"""Settings by dotted name: {"kmeans.n_init": 8}, or ["kmeans.n_init=8"] as the command line takes them."""


def dotted(sets: Sets) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Split the argument `set` into values by dotted name and texts "KEY=VALUE". One of the two is empty.

    Raises ConfigError for anything that is neither a dict with names nor a list of texts.
    """
    if sets is None:
        return {}, ()
    if isinstance(sets, Mapping) and all(isinstance(name, str) for name in sets):
        return dict(sets), ()
    if isinstance(sets, list | tuple) and all(isinstance(text, str) for text in sets):
        return {}, tuple(sets)
    raise ConfigError(f'set must be a dict of settings, such as {{"kmeans.n_init": 8}}, not {quoted(sets)}')


def as_texts(sets: Sets) -> tuple[str, ...]:
    """Return the argument `set` as texts "KEY=VALUE". Values that are None are left out. Raises ConfigError."""
    values, pairs = dotted(sets)
    return tuple(f"{name}={value}" for name, value in values.items() if value is not None) + pairs


def as_names(option: str, value: Any) -> tuple[str, ...]:
    """Return a name, or a list of names, as a tuple. Raises ConfigError for anything else.

    option : the argument, for the message.
    """
    items = (value,) if isinstance(value, str) else value
    if not (isinstance(items, Sequence) and all(isinstance(item, str) for item in items)):
        raise ConfigError(f"{option} must be a list of names, not {quoted(value)}")
    return tuple(items)


def resolve_settings(
    images: Images | None,
    out: PathLike | None,
    *,
    flags: dict[str, Any],
    sets: tuple[str, ...] = (),
    config: PathLike | None = None,
    fresh: bool = False,
    needs: tuple[str, ...] = ("images", "out"),
) -> Settings:
    """Merge the arguments of a call with a config, or with the settings that OUT/run.toml holds.

    flags : dict, values by dotted name; None counts as not given. sets : texts KEY=VALUE. config : a TOML file or the
    name of a shipped config. fresh : ignore OUT/run.toml. needs : settings that must have a value.
    Raises ConfigError for a bad value, and where one of `needs` is missing.
    """
    of_paths = image_list.is_list(images)
    paths = {
        name: None if path is None else local_path(name.upper(), path)
        for name, path in (("images", None if of_paths else images), ("out", out))
    }
    stored = None if fresh or paths["out"] is None else outdir.kept_values(paths["out"])
    resolved = resolve(
        flags={**paths, **flags},
        sets=sets,
        config=None if config is None else local_path("--config", config),
        kept=stored,
    )
    if of_paths:
        resolved = image_list.settings_for_list(resolved)
    for name in needs:
        if getattr(resolved, name) is None:
            raise ConfigError(f"{name.upper()} is missing: bigcluster run IMAGES --out OUT -k 10")
    return resolved


def reused_settings_notes(
    out: PathLike, settings: Settings, flags: Mapping[str, Any], sets: tuple[str, ...], *, config: Any, fresh: bool
) -> list[Note]:
    """Return one note that names the settings which have their values from the last run in OUT; else an empty list.

    settings : the result of `resolve_settings` with the other arguments.
    """
    earlier = None if fresh or config is not None else outdir.kept_values(local_path("OUT", out))
    of_this_call = {name for name, value in flags.items() if value is not None} | set(parse_sets(sets))
    now = flatten(settings)
    used = [
        f"{name} = {json.dumps(value, ensure_ascii=False) if isinstance(value, tuple | list) else value}"
        for name, value in (earlier or {}).items()
        if name != "images" and name not in of_this_call and now.get(name) == value and KEYS[name].default != value
    ]
    if not used:
        return []
    return [Note(f"kept from the last run: {', '.join(used)} (--fresh ignores {'it' if len(used) == 1 else 'them'})")]


def resolve_resolutions(
    out: PathLike, resolution: Any, *, sets: tuple[str, ...] = ()
) -> tuple[Settings, tuple[float, ...]]:
    """Return the settings of the run in OUT, and the resolutions to try in ascending order.

    resolution : one or several; None for the usual ones, where the run has found communities. sets : texts KEY=VALUE,
    of seed only. Raises ConfigError for other keys and where neither k nor a resolution is known, RunNotFoundError.
    """
    for name in parse_sets(sets):
        if name != "seed":
            raise ConfigError(f"a sweep of resolutions takes the stored graph: --set may name seed, not {name}")
    settings = stored_settings(out, sets=sets)
    if resolution is None and not settings.finds_communities:
        raise ConfigError("a sweep needs the numbers of clusters to try, such as -k 5:20")
    return settings, RESOLUTIONS if resolution is None else parse_resolutions("resolution", resolution)


def stored_settings(
    out: PathLike,
    *,
    sets: tuple[str, ...] = (),
    exclude: Sequence[str] | str | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the settings of the run in OUT, as OUT/run.toml holds them.

    sets : texts KEY=VALUE that replace some of them. exclude : patterns that replace its `exclude`, or None. flags :
    values by dotted name that replace others.
    Raises RunNotFoundError where OUT holds no run, ConfigError for a bad value.
    """
    out = local_path("OUT", out)
    stored = outdir.kept_values(out)
    if stored is None:
        raise outdir.no_run(out)
    return resolve(flags={"out": out, "exclude": exclude, **(flags or {})}, sets=sets, config=None, kept=stored)


def resources(
    memory: str | None, threads: int | None, workers: int | None = None, scheduler: PathLike | None = None
) -> Resources:
    """Return the memory budget, the threads and the processes of one call.

    memory : a size with its unit, such as "1GiB"; None is half of the memory that this process may use. threads : the
    number of threads of each process; None is the number of cores, which worker processes share. workers : the number
    of worker processes that are started; None for none. scheduler : the address of a cluster that is joined, or the
    file that says it; memory is for each of its processes then, and the workers say how many threads they have.
    Raises ConfigError for other values.
    """
    from bigcluster.runtime.blas import available_cores
    from bigcluster.runtime.resources import Resources, allowed_memory

    given = memory is not None
    budget = parse_bytes(memory) if memory is not None else allowed_memory().n_bytes // 2
    if scheduler is not None:
        if workers is not None:
            raise ConfigError("--workers starts a cluster on this machine and --scheduler joins one: give one of them")
        if threads is not None:
            raise ConfigError("the workers of --scheduler have the threads that they were started with: no --threads")
        return Resources(budget, 1, given, joined=True, scheduler=_scheduler(scheduler))
    n_workers = 0 if workers is None else _at_least_one("workers", workers)
    cores = max(1, available_cores() // max(1, n_workers))
    n_threads = cores if threads is None else _at_least_one("threads", threads)
    if not n_workers:
        return Resources(budget, n_threads, given)
    share = budget // (n_workers + 1)
    return Resources(share, n_threads, given, workers=n_workers, joined=True, tree_bytes=budget)


def _scheduler(scheduler: PathLike) -> str:
    """Return an address as it is, and a file from the root."""
    text = os.fspath(scheduler) if isinstance(scheduler, str | os.PathLike) else scheduler
    if not isinstance(text, str):
        raise ConfigError(f"scheduler must be an address or a file, not {quoted(scheduler)}")
    return text if "://" in text else absolute(local_path("--scheduler", text))


def joined_by(client: Any, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the address of the scheduler of a dask client, and the settings cluster.tls_* of its certificates.

    The work is done in another process, which joins the cluster by itself. Raises ConfigError for a client whose
    cluster no other process can join, or whose certificates are not in files.
    """
    address = getattr(getattr(client, "scheduler", None), "address", None)
    if not isinstance(address, str):
        raise ConfigError(f"client must be a dask.distributed.Client, not {quoted(client)}")
    if address.startswith("inproc://"):
        raise ConfigError("the cluster of this client is in this process: make it with LocalCluster(processes=True)")
    files = {"tls_ca": "tls_ca_file", "tls_cert": "tls_client_cert", "tls_key": "tls_client_key"}
    found = {f"cluster.{name}": getattr(client.security, file, None) for name, file in files.items()}
    for name, value in found.items():
        if value is not None and "\n" in value:
            raise ConfigError(f"the certificates of this client are not in files: give the file as {name}")
    given = {name: settings.get(name) or value for name, value in found.items()}
    return address, given if address.startswith("tls://") else {}


def scheduler_of(
    scheduler: PathLike | None, client: Any, settings: Mapping[str, Any]
) -> tuple[PathLike | None, dict[str, Any]]:
    """Return the scheduler that a call names, and the settings cluster.tls_* that come with it; see `joined_by`.

    Raises ConfigError where both are given, and as `joined_by` does.
    """
    if client is None:
        return scheduler, {}
    if scheduler is not None:
        raise ConfigError("client and scheduler both name a cluster: give one of them")
    return joined_by(client, settings)


def resolve_finished(
    out: PathLike,
    sets: tuple[str, ...],
    *,
    scheduler: PathLike | None,
    client: Any,
    exclude: Sequence[str] | str | None = None,
    may_name: tuple[str, ...] = ("cluster.*",),
) -> tuple[Settings, PathLike | None]:
    """Return the settings of the run in OUT for a call that reads it, and the scheduler that the call names.

    sets : texts KEY=VALUE. may_name : the settings that they may name. exclude : as in `stored_settings`.
    Raises ConfigError for other keys and as `scheduler_of` does, RunNotFoundError.
    """
    values = _named_sets(sets, may_name)
    scheduler, certificates = scheduler_of(scheduler, client, values)
    return stored_settings(out, sets=sets, exclude=exclude, flags=certificates), scheduler


def resolve_verify(
    out: PathLike, sets: tuple[str, ...], *, joins: bool, scheduler: PathLike | None, client: Any
) -> tuple[Settings, PathLike | None]:
    """Return the settings of verify, and the scheduler that the call names. The settings of the run may be damaged.

    sets : as for `resolve_finished`. joins : whether the call has workers, for which the settings cluster.* of the run
    count where they can be read.
    """
    path, values = local_path("OUT", out), _named_sets(sets, ("cluster.*",))
    scheduler, certificates = scheduler_of(scheduler, client, values)
    kept: dict[str, Any] = {}
    if joins:
        with suppress(ConfigError):  # verify itself says that they cannot be read
            kept = outdir.kept_values(path) or {}
    kept = {name: value for name, value in kept.items() if name.startswith("cluster.")}
    return resolve(flags={"out": path, **certificates}, sets=sets, config=None, kept=kept), scheduler


def _named_sets(sets: tuple[str, ...], may_name: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of texts KEY=VALUE. Raises ConfigError for a name that is not one of `may_name`."""
    values = parse_sets(sets)
    for name in values:
        if not any(fnmatchcase(name, allowed) for allowed in may_name):
            raise ConfigError(
                f"the other settings are those of the run in OUT: --set may name {' and '.join(may_name)}, not {name}"
            )
    return values


def plan_resources(
    memory: str | None, threads: int | None, workers: int | None, scheduler: PathLike | None
) -> Resources:
    """Return the resources that a plan counts with: those of this machine, or of a dask cluster where one is named.

    scheduler : the address of a cluster, or any word for one that does not exist yet; None plans for this machine.
    workers : the number of worker processes. memory, threads : as in `resources`, but for each process of a cluster;
    there, threads is 1 where it is None. Raises ConfigError for other values, and where a cluster lacks `workers` or
    `memory`.
    """
    from bigcluster.runtime.resources import Resources

    if scheduler is None:
        return resources(memory, threads, workers)
    if workers is None or memory is None:
        raise ConfigError("--scheduler needs --workers and --memory: how many there are, and what each may hold")
    n_workers = _at_least_one("workers", workers)
    n_threads = 1 if threads is None else _at_least_one("threads", threads)
    return Resources(parse_bytes(memory), n_threads, workers=n_workers, joined=True)


def _at_least_one(name: str, value: Any) -> int:
    number = as_whole(value)
    if number is None or number < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, not {quoted(value)}")
    return number


def worker_notes(resources: Resources) -> list[Note]:
    """Return one note about the worker processes that are started; else an empty list."""
    if not resources.starts_workers:
        return []
    n_processes = "1 worker process" if resources.workers == 1 else f"{resources.workers:,} worker processes"
    return [Note(f"{n_processes} of {counted(resources.threads, 'thread')} (their number is --threads)")]


def budget_notes(resources: Resources) -> list[Note]:
    """Return what a person should know about the memory budget and the processes before a run."""
    from bigcluster.runtime.resources import allowed_memory

    allowed, notes = allowed_memory(), worker_notes(resources)
    if resources.scheduler is not None:
        return notes
    if not resources.budget_given:
        budget = show_bytes(resources.promised_bytes)
        notes.append(Note(f"memory budget: {budget}, half of what this process may use: {allowed.shown}"))
    elif resources.promised_bytes > allowed.n_bytes:
        text = f"the budget is {show_bytes(resources.promised_bytes)}, but this process may use {allowed.shown}"
        notes.append(Note(f"{text}: nothing holds the run to what is there", "warning"))
    return notes

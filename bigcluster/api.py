"""Python, the same thing as the command line: `bc.run(...)`, `bc.plan(...)`, `bc.open(...)`."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace as replace_in
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigcluster import outdir
from bigcluster.config import Settings, parse_ks, parse_sets, resolve
from bigcluster.errors import ConfigError, DamagedError, StoreError, UsageError
from bigcluster.files import targets
from bigcluster.files.bounded import check_table
from bigcluster.files.paths import local_path
from bigcluster.pipeline import image_list
from bigcluster.runtime.events import Event, Listener, Note
from bigcluster.runtime.processes import absolute
from bigcluster.runtime.sampler import Caller
from bigcluster.runtime.supervisor import supervise
from bigcluster.units import as_whole, parse_bytes, show_bytes, shown

if TYPE_CHECKING:
    import dask.array as da
    import pandas as pd

    from bigcluster.planning.plan import Plan
    from bigcluster.profiling import Profile
    from bigcluster.runtime.resources import Resources
    from bigcluster.store import Store

PathLike = str | os.PathLike[str]
Images = PathLike | Iterable[PathLike]
"""A folder, a glob or a manifest; a list of paths; or a pandas.DataFrame with a column `path`."""


def log_events(event: Event) -> None:
    """The listener of Python calls: what the command line would print goes to the logger "bigcluster"."""
    if isinstance(event, Note):
        logging.getLogger("bigcluster").log(logging.WARNING if event.level == "warning" else logging.INFO, event.text)


class Run:
    """What a finished run left in OUT. Everything is read when asked for."""

    def __init__(self, out: PathLike) -> None:
        """Raises StoreError where `out` holds no finished run."""
        self.out = Path(local_path("OUT", out)).absolute()  # it holds when the current folder changes
        if not (self.out / "summary.json").is_file():
            raise StoreError(
                f"{self.out} holds no finished run; run `bigcluster run IMAGES --out {self.out} -k 10` first"
            )

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        from bigcluster.outputs.summary import read_summary

        return read_summary(self.out / "summary.json")

    @property
    def labels(self) -> pd.DataFrame:
        """labels.csv: one row per listed file, in listing order. A failed file has the label -1."""
        path = self._table("labels.csv")
        from bigcluster.outputs.frames import NUMBERS_OF_LABELS, read_table

        return read_table(path, NUMBERS_OF_LABELS)

    @property
    def images(self) -> pd.DataFrame:
        """images.csv, the ledger: one row per listed file, with its status and the reason."""
        path = self._table("images.csv")
        from bigcluster.outputs.frames import NUMBERS_OF_IMAGES, read_table

        return read_table(path, NUMBERS_OF_IMAGES)

    def _table(self, name: str) -> Path:
        """A table with a row for every listed file. Raises StoreError where it is not one of ours."""
        path, n_rows = self.out / name, int(self.summary["counts"]["listed"])
        try:
            check_table(path, n_rows)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}; run the job again") from error
        return path

    def _store(self) -> Store:
        """Raises DamagedError where the arrays of the model are not of the sizes that summary.json says."""
        from bigcluster.store import Store

        store, found = Store(self.out / outdir.STORE, create=False), self.summary
        try:
            n_ok, shape = found["counts"]["ok"], (found["n_clusters"], found["n_components"])
            wanted = {"centers": shape, "ok": (found["counts"]["listed"],)}
            rows = {} if found["settings"]["reduce"] == "none" else {"scores": n_ok, "labels": n_ok}
        except (KeyError, TypeError) as error:
            raise StoreError(f"{self.out / 'summary.json'} is not a summary; run the job again") from error
        sizes = {name: store.array(name).shape for name in (*wanted, *rows)}
        others = [name for name, size in wanted.items() if sizes[name] != tuple(size)]
        if others or any(sizes[name][0] != n for name, n in rows.items()):
            raise DamagedError(
                f"{store.root} holds other arrays than summary.json says: `bigcluster verify {self.out}`"
            )
        return store

    @property
    def scores(self) -> da.Array:
        """(n_samples, n_components) float32: the rows that were clustered, good images only, in listing order."""
        store = self._store()
        import numpy as np

        found = self.summary
        if found["settings"]["reduce"] == "none":
            return store.dask("pixels")[store.load("ok")].astype(np.float32)
        return store.dask("scores")[:, : found["n_components"]]

    @property
    def centers(self) -> Any:
        """(n_clusters, n_components) float64, in the order of the labels."""
        return self._store().load("centers")

    @property
    def components(self) -> da.Array:
        """(n_components, n_values) float32, one picture a row, orthonormal: scores = (pixels - mean) components'.

        Most fits leave them for later: the first call makes them, in one pass over the stored pixels, and keeps them.
        Raises StoreError where nothing was reduced (reduce = none).
        """
        from bigcluster.stages.components import are_stored
        from bigcluster.store import Store

        found = self.summary
        if found["settings"]["reduce"] == "none":
            raise StoreError(f"{self.out} was clustered without a reduction (reduce = none): there are no components")
        if not are_stored(Store(self.out / outdir.STORE, create=False)):
            settings = stored_settings(self.out)
            supervise("components", settings, resources(None, None), listener=log_events, caller=Caller.now())
        return Store(self.out / outdir.STORE, create=False).dask("components")[: found["n_components"]]

    @property
    def mean(self) -> Any:
        """(n_values,) float64: the mean picture of all good images, row by row as the pixels are."""
        from bigcluster.stages.ingest import load_ingested
        from bigcluster.stages.novelty import mean_picture
        from bigcluster.store import Store

        store = Store(self.out / outdir.STORE, create=False)
        if self.summary["settings"]["reduce"] == "none":
            return mean_picture(load_ingested(store))
        return store.load("mean")

    def sweep(self, k: int | str, *, memory: str | None = None, workers: int | None = None) -> pd.DataFrame:
        """sweep.csv: inertia, both silhouettes and stability for every k, such as "5:20", on the stored scores."""
        from bigcluster.outputs.frames import read_table

        settings, ks = resolve_sweep(self.out, k)
        supervise("sweep", settings, resources(memory, workers), listener=log_events, caller=Caller.now(), ks=ks)
        return read_table(self.out / "sweep.csv")

    def predict(
        self,
        images: Images,
        to: PathLike,
        *,
        exclude: Sequence[str] | str | None = None,
        memory: str | None = None,
        workers: int | None = None,
    ) -> pd.DataFrame:
        """Labels of new images by the stored model, also written to `to`: the columns of labels.csv and `novelty`.

        images : as in `run`; to : a CSV file, replaced where it exists; exclude : patterns of what is not listed, by
        default those of the run.
        """
        from bigcluster.outputs.frames import NUMBERS_OF_PREDICTIONS, read_table

        target = targets.named("to", to)
        if not targets.check("to", target):
            raise UsageError(f"to must be a file, from which the table is read: {target} is a stream")
        settings, allowed = stored_settings(self.out, exclude=exclude), resources(memory, workers)
        with contextlib.ExitStack() as stack:
            if image_list.is_list(images):
                settings = image_list.keeping_list(settings)
                source = stack.enter_context(image_list.as_manifest(images))
            else:
                source = local_path("IMAGES", images)
            arguments = {"images": source, "to": target}
            supervise("predict", settings, allowed, listener=log_events, caller=Caller.now(), **arguments)
        return read_table(Path(target), NUMBERS_OF_PREDICTIONS)

    def verify(self, *, quick: bool = False, memory: str | None = None, workers: int | None = None) -> dict[str, Any]:
        """Check digests, counts, labels, folders and model: `ok`, and what is damaged and which stages are redone.

        quick : read a sample only. What is damaged is made anew by the next run.
        """
        return supervise(
            "verify",
            Settings(out=os.fspath(self.out)),
            resources(memory, workers),
            listener=log_events,
            caller=Caller.now(),
            quick=quick,
        )

    def report(
        self, *, memory: str | None = None, workers: int | None = None, set: dict[str, Any] | None = None
    ) -> Path:
        """Write the report anew; returns its index.html. `set` takes report.* keys, such as {"report.map": "tsne"}."""
        sets = tuple(f"{name}={value}" for name, value in _flags(None, {}, set).items() if value is not None)
        found = supervise(
            "report",
            resolve_report(self.out, sets=sets),
            resources(memory, workers),
            listener=log_events,
            caller=Caller.now(),
        )
        return Path(found["report"])

    def _repr_html_(self) -> str:
        """What a notebook shows: counts, sizes and a small montage."""
        store = self._store()
        from bigcluster.report.notebook import run_html

        return run_html(self.out, self.summary, store)

    def __repr__(self) -> str:
        found = self.summary
        return f"<bigcluster run {self.out}: {found['counts']['ok']} images in {found['n_clusters']} clusters>"


def run(
    images: Images | None = None,
    out: PathLike | None = None,
    *,
    n_clusters: int | str | None = None,
    memory: str | None = None,
    workers: int | None = None,
    config: PathLike | None = None,
    set: dict[str, Any] | None = None,
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
        raise ConfigError(f"listener must be a function that takes an event, not {shown(listener)}")
    resolved = resolve_settings(images, out, flags=_flags(n_clusters, settings, set), config=config, fresh=fresh)
    # The listener may go to another folder.
    resolved = replace_in(resolved, images=absolute(resolved.images or ""), out=absolute(resolved.out or ""))
    allowed = resources(memory, workers)
    for note in budget_notes(allowed):
        listener(note)
    how = {"replace": bool(replace), "rehash": bool(rehash)}
    with _listed(images) as source:
        found = supervise("run", resolved, allowed, listener=listener, caller=Caller.now(), **how, **source)
    from bigcluster.outputs.summary import memory_lines

    for line in memory_lines(found["memory"]):
        listener(Note(line))
    return Run(resolved.out or "")


def plan(
    images: Images | None = None,
    out: PathLike | None = None,
    *,
    n_clusters: int | None = None,
    memory: str | None = None,
    workers: int | None = None,
    config: PathLike | None = None,
    set: dict[str, Any] | None = None,
    **settings: Any,
) -> Plan:
    """What `run` with these arguments would do; nothing is decoded or written.

    Its seconds are estimates at the rates of this machine, which the first call measures (one to two seconds).
    """
    flags = _flags(n_clusters, settings, set)
    resolved = resolve_settings(images, out, flags=flags, config=config, needs=("images",))
    allowed, caller = resources(memory, workers), Caller.now()
    with _listed(images) as source:
        found = supervise("plan", resolved, allowed, listener=log_events, caller=caller, **source)
    from bigcluster.planning.plan import Plan

    return Plan.from_json(found)


def profile(
    images: Images | None = None,
    out: PathLike | None = None,
    *,
    n_clusters: int | str | None = None,
    memory: str | None = None,
    workers: int | None = None,
    config: PathLike | None = None,
    set: dict[str, Any] | None = None,
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
    resolved = resolve_settings(images, out, flags=_flags(n_clusters, settings, set), config=config, fresh=fresh)
    return profiling.profile(
        resolved,
        resources(memory, workers),
        compare=_names("compare", compare),
        limit_bytes=None if limit is None else parse_bytes(limit, "limit"),
        replace=replace,
        quiet=quiet,
        listener=listener,
    )


def open(out: PathLike) -> Run:
    """The finished run in OUT."""
    return Run(out)


def _flags(n_clusters: Any, settings: dict[str, Any], dotted: Any) -> dict[str, Any]:
    """What a call gives by name, and by dotted name in `set`."""
    if dotted is not None and not (isinstance(dotted, Mapping) and all(isinstance(name, str) for name in dotted)):
        raise ConfigError(f'set must be a dict of settings, such as {{"kmeans.n_init": 8}}, not {shown(dotted)}')
    return {"k": n_clusters, **settings, **(dotted or {})}


def _names(name: str, given: Any) -> tuple[str, ...]:
    """Some words, or a single one."""
    words = (given,) if isinstance(given, str) else given
    if not (isinstance(words, Sequence) and all(isinstance(word, str) for word in words)):
        raise ConfigError(f"{name} must be a list of names, not {shown(given)}")
    return tuple(words)


@contextlib.contextmanager
def _listed(images: Any) -> Iterator[dict[str, str]]:
    """The argument of a job that lists the images which the caller gave one by one; none for others."""
    if image_list.is_list(images):
        with image_list.as_manifest(images) as manifest:
            yield {"given": manifest}
    else:
        yield {}


def resolve_settings(
    images: Images | None,
    out: PathLike | None,
    *,
    flags: dict[str, Any],
    sets: tuple[str, ...] = (),
    config: PathLike | None = None,
    fresh: bool = False,
    needs: tuple[str, ...] = ("images", "out", "k"),
) -> Settings:
    """Merge what was given with a config or with what OUT kept. Raises ConfigError where one of `needs` is missing."""
    of_paths = image_list.is_list(images)
    paths = {
        name: None if path is None else local_path(name.upper(), path)
        for name, path in (("images", None if of_paths else images), ("out", out))
    }
    kept = None if fresh or paths["out"] is None else outdir.kept_values(paths["out"])
    resolved = resolve(
        flags={**paths, **flags},
        sets=sets,
        config=None if config is None else local_path("--config", config),
        kept=kept,
    )
    if of_paths:
        resolved = image_list.keeping_list(resolved)
    for name in needs:
        if getattr(resolved, name) is None:
            raise ConfigError(
                f"{name if name == 'k' else name.upper()} is missing: bigcluster run IMAGES --out OUT -k 10"
            )
    return resolved


def resolve_sweep(out: PathLike, k: int | str, *, sets: tuple[str, ...] = ()) -> tuple[Settings, tuple[int, ...]]:
    """The settings that OUT kept, and the numbers of clusters to sweep. `sets` may name seed and kmeans.* alone."""
    for name in parse_sets(sets):
        if name != "seed" and not name.startswith("kmeans."):
            raise ConfigError(f"a sweep takes the stored scores: --set may name seed and kmeans.*, not {name}")
    return stored_settings(out, sets=sets), parse_ks("k", k)


def resolve_report(out: PathLike, *, sets: tuple[str, ...] = ()) -> Settings:
    """The settings that OUT kept; `sets` may name report.* alone."""
    for name in parse_sets(sets):
        if not name.startswith("report."):
            raise ConfigError(f"a report shows what OUT holds: --set may name report.*, not {name}")
    return stored_settings(out, sets=sets)


def stored_settings(
    out: PathLike, *, sets: tuple[str, ...] = (), exclude: Sequence[str] | str | None = None
) -> Settings:
    """The settings that OUT kept, with another `exclude` where one is given. Raises RunNotFoundError."""
    out = local_path("OUT", out)
    kept = outdir.kept_values(out)
    if kept is None:
        raise outdir.no_run(out)
    return resolve(flags={"out": out, "exclude": exclude}, sets=sets, config=None, kept=kept)


def resources(memory: str | None, workers: int | None) -> Resources:
    """The budget and threads of one call. Without `memory`, half of what the process may use."""
    from bigcluster.runtime.blas import available_cores
    from bigcluster.runtime.resources import Resources, allowed_memory

    n_threads = available_cores() if workers is None else _workers(workers)
    budget = parse_bytes(memory) if memory is not None else allowed_memory().n_bytes // 2
    return Resources(budget, n_threads, budget_given=memory is not None)


def cluster_resources(memory: str | None, workers: int | None) -> Resources:
    """What the joined workers of a cluster would have, for a plan: one thread and the budget each."""
    from bigcluster.runtime.resources import Resources

    if workers is None or memory is None:
        raise ConfigError("--scheduler needs --workers and --memory: how many there are, and what each may hold")
    return Resources(parse_bytes(memory), 1, workers=_workers(workers), joined=True)


def _workers(workers: Any) -> int:
    number = as_whole(workers)
    if number is None or number < 1:
        raise ConfigError(f"workers must be a whole number of at least 1, not {shown(workers)}")
    return number


def budget_notes(resources: Resources) -> list[Note]:
    """What a person should know of the budget before a run."""
    from bigcluster.runtime.resources import allowed_memory

    allowed = allowed_memory()
    if not resources.budget_given:
        budget = show_bytes(resources.budget_bytes)
        return [Note(f"memory budget: {budget}, half of what this process may use: {allowed.shown}")]
    if resources.budget_bytes > allowed.n_bytes:
        text = f"the budget is {show_bytes(resources.budget_bytes)}, but this process may use {allowed.shown}"
        return [Note(f"{text}: nothing holds the run to what is there", "warning")]
    return []

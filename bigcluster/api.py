"""Python, the same thing as the command line: `bc.run(...)`, `bc.plan(...)`, `bc.open(...)`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigcluster import outdir, targets
from bigcluster.config import Settings, parse_ks, parse_sets, resolve
from bigcluster.errors import ConfigError, StoreError, UsageError
from bigcluster.measure import Caller
from bigcluster.paths import local_path
from bigcluster.progress import Event, Listener, Note
from bigcluster.supervisor import supervise
from bigcluster.units import parse_bytes, show_bytes

if TYPE_CHECKING:
    import dask.array as da
    import pandas as pd

    from bigcluster.allowed import Resources
    from bigcluster.planning import Plan
    from bigcluster.profiling import Profile

PathLike = str | os.PathLike[str]


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
        return _read_table(self.out / "labels.csv")

    @property
    def images(self) -> pd.DataFrame:
        """images.csv, the ledger: one row per listed file, with its status and the reason."""
        return _read_table(self.out / "images.csv")

    @property
    def scores(self) -> da.Array:
        """(n_samples, n_components) float32: the rows that were clustered, good images only, in listing order."""
        import numpy as np

        from bigcluster.store import Store

        store = Store(self.out / outdir.STORE, create=False)
        found = self.summary
        if found["settings"]["reduce"] == "none":
            return store.dask("pixels")[store.load("ok")].astype(np.float32)
        return store.dask("scores")[:, : found["n_components"]]

    @property
    def centers(self) -> Any:
        """(n_clusters, n_components) float64, in the order of the labels."""
        from bigcluster.store import Store

        return Store(self.out / outdir.STORE, create=False).load("centers")

    def sweep(self, k: int | str, *, memory: str | None = None, workers: int | None = None) -> pd.DataFrame:
        """Elbow and silhouette for every k, such as "5:20", on the stored scores: sweep.csv, one row per k."""
        settings, ks = resolve_sweep(self.out, k)
        supervise("sweep", settings, resources(memory, workers), listener=log_events, caller=Caller.now(), ks=ks)
        return _read_table(self.out / "sweep.csv")

    def predict(
        self, images: PathLike, to: PathLike, *, memory: str | None = None, workers: int | None = None
    ) -> pd.DataFrame:
        """Labels of new images by the stored model, also written to `to`: the columns of labels.csv and `novelty`."""
        target = targets.named("to", to)
        if not targets.check("to", target):
            raise UsageError(f"to must be a file, from which the table is read: {target} is a stream")
        arguments = {"images": local_path("images", images), "to": target}
        allowed = resources(memory, workers)
        supervise("predict", stored_settings(self.out), allowed, listener=log_events, caller=Caller.now(), **arguments)
        return _read_table(Path(target))

    def verify(self, *, quick: bool = False) -> dict[str, Any]:
        """Check digests, counts, labels, folders and model: `ok`, and what is damaged and which stages are redone.

        quick : read a sample only. What is damaged is made anew by the next run.
        """
        return supervise(
            "verify",
            Settings(out=os.fspath(self.out)),
            resources(None, None),
            listener=log_events,
            caller=Caller.now(),
            quick=quick,
        )

    def report(
        self, *, memory: str | None = None, workers: int | None = None, set: dict[str, Any] | None = None
    ) -> Path:
        """Write the report anew; returns its index.html. `set` takes report.* keys, such as {"report.map": "tsne"}."""
        sets = tuple(f"{name}={value}" for name, value in (set or {}).items())
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
        from bigcluster.report.notebook import run_html
        from bigcluster.store import Store

        return run_html(self.out, self.summary, Store(self.out / outdir.STORE, create=False))

    def __repr__(self) -> str:
        found = self.summary
        return f"<bigcluster run {self.out}: {found['counts']['ok']} images in {found['n_clusters']} clusters>"


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    # Names such as "NA" and "null" are names.
    return pd.read_csv(path, keep_default_na=False, na_values={"distance": "", "runner_up": "", "margin": ""})


def run(
    images: PathLike | None = None,
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

    images : folder, glob or manifest; out : the folder of results; memory : such as "1GiB", for all processes that the
    job starts and for what it adds to the calling one; what that one held before does not count and is told;
    workers : decode and compute threads; `settings` are keys such as size="64" or variance=0.8, `set` takes the dotted
    ones ({"kmeans.n_init": 8}). Precedence is that of the command line. `rehash` reads every image again, whatever its
    size and time say. The work is done in a process of its own, started as a module, so that a script needs no main
    guard.

    Raises the errors of bigcluster.errors.
    """
    resolved = resolve_settings(
        images, out, flags={"k": n_clusters, **settings, **(set or {})}, config=config, fresh=fresh
    )
    allowed = resources(memory, workers)
    for note in budget_notes(allowed):
        listener(note)
    where = Path(resolved.out or "").absolute()  # the listener may go to another folder
    found = supervise("run", resolved, allowed, listener=listener, caller=Caller.now(), replace=replace, rehash=rehash)
    from bigcluster.outputs.summary import memory_lines

    for line in memory_lines(found["memory"]):
        listener(Note(line))
    return Run(where)


def plan(
    images: PathLike | None = None,
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
    from bigcluster.pipeline.plan import estimated
    from bigcluster.pipeline.run import prepare

    flags = {"k": n_clusters, **settings, **(set or {})}
    resolved = resolve_settings(images, out, flags=flags, config=config, needs=("images",))
    return estimated(prepare(resolved, resources(memory, workers))[1], resolved)


def profile(
    images: PathLike | None = None,
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

    resolved = resolve_settings(
        images, out, flags={"k": n_clusters, **settings, **(set or {})}, config=config, fresh=fresh
    )
    return profiling.profile(
        resolved,
        resources(memory, workers),
        compare=compare,
        limit_bytes=None if limit is None else parse_bytes(limit),
        replace=replace,
        quiet=quiet,
        listener=listener,
    )


def open(out: PathLike) -> Run:
    """The finished run in OUT."""
    return Run(out)


def resolve_settings(
    images: PathLike | None,
    out: PathLike | None,
    *,
    flags: dict[str, Any],
    sets: tuple[str, ...] = (),
    config: PathLike | None = None,
    fresh: bool = False,
    needs: tuple[str, ...] = ("images", "out", "k"),
) -> Settings:
    """Merge what was given with a config or with what OUT kept. Raises ConfigError where one of `needs` is missing."""
    given = {
        name: None if path is None else local_path(name.upper(), path)
        for name, path in (("images", images), ("out", out))
    }
    kept = None if fresh or given["out"] is None else outdir.kept_values(given["out"])
    resolved = resolve(
        flags={**given, **flags},
        sets=sets,
        config=None if config is None else local_path("--config", config),
        kept=kept,
    )
    for name in needs:
        if getattr(resolved, name) is None:
            shown = name if name == "k" else name.upper()
            raise ConfigError(f"{shown} is missing: bigcluster run IMAGES --out OUT -k 10")
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


def stored_settings(out: PathLike, *, sets: tuple[str, ...] = ()) -> Settings:
    """The settings that OUT kept. Raises StoreError where it kept none."""
    out = local_path("OUT", out)
    kept = outdir.kept_values(out)
    if kept is None:
        raise StoreError(f"{out} holds no run; run `bigcluster run IMAGES --out {out} -k 10` first")
    return resolve(flags={"out": out}, sets=sets, config=None, kept=kept)


def resources(memory: str | None, workers: int | None) -> Resources:
    """The budget and threads of one call. Without `memory`, half of what the process may use."""
    from bigcluster.allowed import Resources, allowed_memory
    from bigcluster.cores import available_cores

    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    budget = parse_bytes(memory) if memory is not None else allowed_memory().n_bytes // 2
    return Resources(budget, workers or available_cores(), budget_given=memory is not None)


def cluster_resources(memory: str | None, workers: int | None) -> Resources:
    """What the joined workers of a cluster would have, for a plan: one thread and the budget each."""
    from bigcluster.allowed import Resources

    if workers is None or memory is None:
        raise ConfigError("--scheduler needs --workers and --memory: how many there are, and what each may hold")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    return Resources(parse_bytes(memory), 1, workers=workers, joined=True)


def budget_notes(resources: Resources) -> list[Note]:
    """What a person should know of the budget before a run."""
    from bigcluster.allowed import allowed_memory

    allowed = allowed_memory()
    if not resources.budget_given:
        budget = show_bytes(resources.budget_bytes)
        return [Note(f"memory budget: {budget}, half of what this process may use: {allowed.shown}")]
    if resources.budget_bytes > allowed.n_bytes:
        text = f"the budget is {show_bytes(resources.budget_bytes)}, but this process may use {allowed.shown}"
        return [Note(f"{text}: nothing holds the run to what is there", "warning")]
    return []

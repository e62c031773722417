"""The commands of the command line, one function each.

A command turns its arguments into settings and resources, calls the layer below once, and prints what came back.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bigcluster.cli import finished, models
from bigcluster.cli.answers import leave_with, listening, stdout, tell
from bigcluster.cli.options import (
    AsJson,
    Components,
    Config,
    DryRun,
    Exclude,
    Features,
    Fresh,
    Images,
    K,
    Link,
    Log,
    Memory,
    Out,
    Quiet,
    Rehash,
    Replace,
    Scheduler,
    Seed,
    Sets,
    Size,
    Threads,
    Variance,
    Workers,
    number,
)
from bigcluster.errors import UsageError
from bigcluster.units import printable

if TYPE_CHECKING:
    from bigcluster.planning.plan import Plan


app = typer.Typer(
    name="bigcluster",
    help="Cluster more images than fit into memory: from a folder of images to labels, folders and a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(models.app)


def _version(is_asked: bool) -> None:
    if is_asked:
        from bigcluster._version import __version__

        print(f"bigcluster {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    images: Images = None,
    out: Out = None,
    k: K = None,
    features: Features = None,
    size: Size = None,
    variance: Variance = None,
    components: Components = None,
    memory: Memory = None,
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    link: Link = None,
    seed: Seed = None,
    exclude: Exclude = None,
    config: Config = None,
    sets: Sets = None,
    fresh: Fresh = False,
    replace: Replace = False,
    rehash: Rehash = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    log: Log = None,
) -> None:
    """Cluster the images. The same command continues an interrupted run and reuses all results that are still valid."""
    from bigcluster import api
    from bigcluster.cli import display

    settings: dict[str, Any] = {
        "n_clusters": k,
        "exclude": exclude,
        "features": features,
        "size": size,
        "variance": variance,
        "components": components,
        "link": link,
        "seed": seed,
        "memory": memory,
        "threads": threads,
        "workers": workers,
        "config": config,
        "set": sets,
        "fresh": fresh,
    }
    if dry_run:
        if scheduler is not None:
            raise UsageError("--dry-run joins no cluster: use plan --scheduler any --workers N --memory SIZE")
        with listening(quiet=True) as listener:
            planned = api.plan(images, out, listener=listener, **settings)
        _show_plan(planned, as_json)
        return
    with listening(quiet=quiet) as listener:
        finished = api.run(
            images, out, scheduler=scheduler, replace=replace, rehash=rehash, listener=listener, **settings
        )
    summary, folder = finished.summary, out or str(finished.out)
    tell(summary, as_json, lambda: display.print_summary(summary, folder, stdout()), quiet=quiet)
    leave_with(summary["counts"], f"{folder}/images.csv", quiet)


@app.command()
def plan(
    images: Images = None,
    out: Out = None,
    k: K = None,
    features: Features = None,
    size: Size = None,
    variance: Variance = None,
    components: Components = None,
    memory: Memory = None,
    threads: Threads = None,
    workers: Annotated[
        int | None,
        typer.Option(
            parser=number, metavar="INTEGER", help="The number of worker processes, on this machine or of the cluster."
        ),
    ] = None,
    exclude: Exclude = None,
    config: Config = None,
    sets: Sets = None,
    count: Annotated[
        str | None,
        typer.Option(
            "--images",
            metavar="NUMBER",
            help="Plan for this number of images, which need not exist: 8190, 1M or 100e6.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Plan for a dask cluster: its address, or the word any. --workers says how many processes it has, "
            "--memory and --threads what each of them may use."
        ),
    ] = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Show what `run` would do. Nothing is decoded or written.

    The plan names the stages with their solvers, bytes, disk, time and memory.
    """
    from bigcluster import api

    with listening(quiet=True) as listener:
        planned = api.plan(
            images,
            out,
            n_clusters=k,
            memory=memory,
            threads=threads,
            workers=workers,
            config=config,
            set=sets,
            fresh=fresh,
            n_images=count,
            scheduler=scheduler,
            listener=listener,
            exclude=exclude,
            features=features,
            size=size,
            variance=variance,
            components=components,
        )
    _show_plan(planned, as_json)


@app.command()
def sweep(
    out: Annotated[str, typer.Argument(help="The results folder of a finished run.")],
    k: Annotated[
        str | None,
        typer.Option("-k", "--n-clusters", help="The numbers of clusters to try: 5:20, 10:100:10 or 5,9,17."),
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS", help="Of groups without a number, the resolutions to try, such as 0.25,0.5,1,2,4."
        ),
    ] = None,
    memory: Memory = None,
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    sets: Sets = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    log: Log = None,
) -> None:
    """Compare several numbers of clusters, or several resolutions.

    They are tried on the stored scores, in shared passes. OUT/sweep.csv and OUT/sweep.png show inertia, silhouettes and
    stability for every number. With --resolution, the stored graph of neighbors is grouped at every resolution, and
    OUT/resolutions.csv has the number of groups.
    """
    from bigcluster import api
    from bigcluster.cli import display

    with listening(quiet=quiet) as listener:
        suggestion = api.sweep(
            out,
            k,
            resolution=resolution,
            memory=memory,
            threads=threads,
            workers=workers,
            scheduler=scheduler,
            set=sets,
            listener=listener,
        )
    if k is None:
        tell(suggestion, as_json, lambda: display.print_resolutions(suggestion, out, stdout()), quiet=quiet)
        return
    tell(suggestion, as_json, lambda: display.print_sweep(suggestion, out, stdout()), quiet=quiet)


@app.command()
def profile(
    images: Images = None,
    out: Out = None,
    k: K = None,
    features: Features = None,
    size: Size = None,
    variance: Variance = None,
    components: Components = None,
    memory: Memory = None,
    threads: Threads = None,
    workers: Workers = None,
    seed: Seed = None,
    exclude: Exclude = None,
    config: Config = None,
    sets: Sets = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Also do the job in the naive way: numpy or naive-dask. May be given several times."),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            help="The most memory that a naive way may allocate, such as 8GiB. The default is 0.9 of the free memory."
        ),
    ] = None,
    fresh: Fresh = False,
    replace: Replace = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    log: Log = None,
) -> None:
    """Run under memory-profiler. OUT/profile gets a .dat file for mprof, and the timeline as CSV and PNG."""
    from bigcluster import api
    from bigcluster.cli import display

    with listening(quiet=quiet) as listener:
        profiled = api.profile(
            images,
            out,
            n_clusters=k,
            memory=memory,
            threads=threads,
            workers=workers,
            config=config,
            set=sets,
            fresh=fresh,
            replace=replace,
            compare=compare or (),
            limit=limit,
            quiet=quiet,
            listener=listener,
            exclude=exclude,
            features=features,
            size=size,
            variance=variance,
            components=components,
            seed=seed,
        )
    tell(profiled.to_json(), as_json, lambda: display.print_profile(profiled, stdout()), quiet=quiet)
    leave_with(profiled.summary["counts"], f"{out or profiled.folder.parent}/images.csv", quiet)


for _command in (finished.predict, finished.verify, finished.report):
    app.command()(_command)


@app.command()
def demo(
    directory: Annotated[str, typer.Argument(help="A new or empty folder for the pictures.")],
    images: Annotated[
        int, typer.Option(parser=number, metavar="INTEGER", help="The number of pictures (catalog cuts) to draw.")
    ] = 600,
    seed: Annotated[
        int,
        typer.Option(
            parser=number, metavar="INTEGER", help="The seed of the pictures. Another seed draws other pictures."
        ),
    ] = 0,
    hostile: Annotated[bool, typer.Option("--hostile", help="Add a folder of broken and unusual files.")] = False,
    quiet: Quiet = False,
    log: Log = None,
) -> None:
    """Draw a synthetic catalog. The file truth.csv beside it says which style each picture has."""
    from bigcluster.demo import generate
    from bigcluster.files.paths import local_path
    from bigcluster.runtime.events import Progress

    folder = Path(local_path("DIRECTORY", directory))

    with listening(quiet=quiet) as listener:
        progress = Progress(listener)
        with progress.stage("demo", images, "cuts"):
            truth = generate(folder, images, seed=seed, hostile=hostile, on_progress=progress.at)
            progress.at(images)
    tell({"truth": str(truth)}, False, lambda: print(printable(str(truth))), quiet=quiet)


def _show_plan(planned: Plan, as_json: bool) -> None:
    """Print the plan. Raises MemoryBudgetError after that where the plan does not fit the budget."""
    from bigcluster.cli import display

    tell(planned.to_json(), as_json, lambda: display.print_plan(planned, stdout()), in_files=False)
    planned.check()

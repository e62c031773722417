"""The command line. Results go to stdout, progress and messages to stderr; the exit code says how it went.

0 all good; 1 the run failed, or verify found damage; 2 wrong usage or config; 3 done, but some inputs could not be
read; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bigcluster.errors import BigclusterError, ConfigError

EXIT_DAMAGED = 1
EXIT_SOME_UNREAD = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="bigcluster",
    help="Cluster more pictures than memory holds: from a folder of images to labels, folders and numbers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Images = Annotated[str | None, typer.Argument(help="A folder, a glob, or a CSV/Parquet manifest with a path column.")]
Out = Annotated[str | None, typer.Option("--out", "-o", help="The folder that takes the results.")]
K = Annotated[
    str | None,
    typer.Option("-k", "--n-clusters", help="Number of clusters; or a range to sweep: 5:20, 10:100:10 or 5,9,17."),
]
Features = Annotated[str | None, typer.Option(help="gray or color pixels.")]
Size = Annotated[str | None, typer.Option(help="64, WIDTHxHEIGHT, or native (all images of one size).")]
Variance = Annotated[float | None, typer.Option(help="Keep as many components as capture this share, such as 0.8.")]
Components = Annotated[int | None, typer.Option(help="Keep this many components (instead of --variance).")]
Memory = Annotated[str | None, typer.Option(help="Budget of the whole process tree, such as 1GiB.")]
Workers = Annotated[int | None, typer.Option(help="Threads that decode and compute; default: all cores.")]
Link = Annotated[str | None, typer.Option(help="hardlink, symlink, copy or none.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Config = Annotated[str | None, typer.Option(help="A TOML file, or a shipped one: catalog, thumbnails, dask-ml.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting by its name.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore the settings that OUT/run.toml kept.")]
Replace = Annotated[bool, typer.Option("--replace", help="Permit discarding decoded pixels that no longer match.")]
Rehash = Annotated[
    bool, typer.Option("--rehash", help="Read every image again; by default a new size or time is what shows a change.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages, errors excepted.")]


def _version(wanted: bool) -> None:
    if wanted:
        from bigcluster import __version__

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
    workers: Workers = None,
    link: Link = None,
    seed: Seed = None,
    config: Config = None,
    sets: Sets = None,
    fresh: Fresh = False,
    replace: Replace = False,
    rehash: Rehash = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Cluster the images. The same command again resumes, or reuses what still holds."""
    flags = {
        "k": k,
        "features": features,
        "size": size,
        "variance": variance,
        "components": components,
        "link": link,
        "seed": seed,
    }
    from bigcluster import api, outdir

    settings = api.resolve_settings(images, out, flags=flags, sets=tuple(sets or ()), config=config, fresh=fresh)
    resources = api.resources(memory, workers)
    if dry_run:
        _show_plan(settings, resources, as_json)
        return
    from bigcluster import display
    from bigcluster.supervisor import supervise

    folder = settings.out
    assert folder is not None
    with display.listening(quiet=quiet) as listener:
        if not quiet:
            _say_kept(None if fresh or config else outdir.kept_values(folder), settings)
            for note in api.budget_notes(resources):
                listener(note)
        summary = supervise("run", settings, resources, listener=listener, replace=replace, rehash=rehash)
    _tell(summary, as_json, lambda: display.print_summary(summary, folder, _stdout()))
    if summary["counts"]["failed"]:
        raise typer.Exit(EXIT_SOME_UNREAD)


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
    workers: Annotated[int | None, typer.Option(help="Threads; with --scheduler, workers of the cluster.")] = None,
    config: Config = None,
    sets: Sets = None,
    count: Annotated[
        str | None,
        typer.Option("--images", metavar="NUMBER", help="Plan for pictures that are not there: 8190, 1M or 100e6."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Plan for a dask cluster: its address, or any. --workers counts it, --memory is of each."),
    ] = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Show what `run` would do: stages, solvers, bytes, disk, time, memory. Nothing is decoded or written."""
    flags = {"k": k, "features": features, "size": size, "variance": variance, "components": components}
    from bigcluster import api
    from bigcluster.units import parse_count

    if count is not None and images is not None:
        raise ConfigError(f"--images {count} plans for pictures that are not there; leave out {images}, or --images")
    settings = api.resolve_settings(
        images,
        out,
        flags=flags,
        sets=tuple(sets or ()),
        config=config,
        fresh=fresh,
        needs=("images",) if count is None else (),
    )
    resources = api.resources(memory, workers) if scheduler is None else api.cluster_resources(memory, workers)
    _show_plan(settings, resources, as_json, n_images=None if count is None else parse_count(count))


@app.command()
def sweep(
    out: Annotated[str, typer.Argument(help="The OUT of a finished run.")],
    k: Annotated[str, typer.Option("-k", "--n-clusters", help="The range: 5:20, 10:100:10 or 5,9,17.")],
    memory: Memory = None,
    workers: Workers = None,
    sets: Sets = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Elbow and silhouette for every k, on the stored scores, in shared passes: sweep.csv and sweep.png in OUT."""
    from bigcluster import api, display
    from bigcluster.supervisor import supervise

    settings, ks = api.resolve_sweep(out, k, sets=tuple(sets or ()))
    with display.listening(quiet=quiet) as listener:
        found = supervise("sweep", settings, api.resources(memory, workers), listener=listener, ks=ks)
    _tell(found, as_json, lambda: display.print_sweep(found, out, _stdout()))


@app.command()
def predict(
    out: Annotated[str, typer.Argument(help="The OUT of a finished run.")],
    images: Annotated[str, typer.Argument(help="A folder, a glob, or a CSV/Parquet manifest with a path column.")],
    to: Annotated[str, typer.Option("--to", metavar="FILE.csv", help="The CSV that takes the labels.")],
    memory: Memory = None,
    workers: Workers = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Label new images by the stored model; nothing is fitted again."""
    from bigcluster import api, display
    from bigcluster.supervisor import supervise

    settings = api.stored_settings(out)
    with display.listening(quiet=quiet) as listener:
        found = supervise("predict", settings, api.resources(memory, workers), listener=listener, images=images, to=to)
    _tell(found, as_json, lambda: display.print_prediction(found, to, _stdout()))
    if found["counts"]["failed"]:
        raise typer.Exit(EXIT_SOME_UNREAD)


@app.command()
def verify(
    out: Annotated[str, typer.Argument(help="The OUT of a run.")],
    quick: Annotated[bool, typer.Option("--quick", help="Read a sample of the data and of the links.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check digests, counts, labels, folders and model; exit 1 on any damage, which the next run makes good."""
    from bigcluster import api, display
    from bigcluster.config import Settings
    from bigcluster.supervisor import supervise

    with display.listening(quiet=quiet) as listener:
        found = supervise("verify", Settings(out=out), api.resources(None, None), listener=listener, quick=quick)
    _tell(found, as_json, lambda: display.print_verified(found, out, _stdout()))
    if not found["ok"]:
        raise typer.Exit(EXIT_DAMAGED)


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
    workers: Workers = None,
    seed: Seed = None,
    config: Config = None,
    sets: Sets = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="Also do it the naive way: numpy or naive-dask; may be repeated.")
    ] = None,
    limit: Annotated[
        str | None, typer.Option(help="What a naive way may allocate, such as 8GiB; default: 0.9 of what is free.")
    ] = None,
    fresh: Fresh = False,
    replace: Replace = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """`run` under memory-profiler: OUT/profile with a .dat for mprof, and the timeline as CSV and PNG."""
    flags = {
        "k": k,
        "features": features,
        "size": size,
        "variance": variance,
        "components": components,
        "seed": seed,
    }
    from bigcluster import api, display, profiling
    from bigcluster.units import parse_bytes

    settings = api.resolve_settings(images, out, flags=flags, sets=tuple(sets or ()), config=config, fresh=fresh)
    with display.listening(quiet=quiet) as listener:
        found = profiling.profile(
            settings,
            api.resources(memory, workers),
            compare=tuple(compare or ()),
            limit_bytes=None if limit is None else parse_bytes(limit),
            replace=replace,
            quiet=quiet,
            listener=listener,
        )
    _tell(found.to_json(), as_json, lambda: display.print_profile(found, _stdout()))
    if found.summary["counts"]["failed"]:
        raise typer.Exit(EXIT_SOME_UNREAD)


@app.command()
def report(
    out: Annotated[str, typer.Argument(help="The OUT of a finished run.")],
    memory: Memory = None,
    workers: Workers = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="report.map or report.thumbnails.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the report anew: pages to look at, from what OUT holds. They open from disk, in any browser."""
    from bigcluster import api, display
    from bigcluster.supervisor import supervise

    settings = api.resolve_report(out, sets=tuple(sets or ()))
    with display.listening(quiet=quiet) as listener:
        found = supervise("report", settings, api.resources(memory, workers), listener=listener)
    _tell(found, as_json, lambda: print(f"look at: {found['report']}"))


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    images: Annotated[int, typer.Option(help="How many cuts to draw.")] = 600,
    seed: Annotated[int, typer.Option(help="Another seed draws other cuts.")] = 0,
    hostile: Annotated[
        bool, typer.Option("--hostile", help="Add the files of a bad day in a folder of their own.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Draw a synthetic catalog with known styles (truth.csv beside it)."""
    from bigcluster import display
    from bigcluster.demo import generate
    from bigcluster.progress import Progress

    with display.listening(quiet=quiet) as listener:
        progress = Progress(listener)
        with progress.stage("demo", images, "cuts"):
            truth = generate(directory, images, seed=seed, hostile=hostile, on_progress=progress.at)
            progress.at(images)
    print(truth)


def _show_plan(settings: Any, resources: Any, as_json: bool, n_images: int | None = None) -> None:
    from bigcluster import display
    from bigcluster.pipeline.plan import estimated, plan_absent
    from bigcluster.pipeline.run import prepare

    found = prepare(settings, resources)[1] if n_images is None else plan_absent(settings, n_images, resources)
    found = estimated(found, settings)
    _tell(found.to_json(), as_json, lambda: display.print_plan(found, _stdout()))
    found.check()


def _tell(found: dict[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """The result: one JSON document, or what `show` prints for a person."""
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show()


def _stdout() -> Any:
    from rich.console import Console

    # Tables in a pipe are not squeezed into 80 columns.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say_kept(kept: dict[str, Any] | None, settings: Any) -> None:
    """Name the settings that are in force because the last run had them."""
    from bigcluster.config import KEYS, flatten

    now = flatten(settings)
    used = [
        f"{name} = {value}"
        for name, value in (kept or {}).items()
        if name != "images" and now.get(name) == value and KEYS[name].default != value
    ]
    if used:
        _say(f"kept from the last run: {', '.join(used)} (--fresh ignores them)")


def main() -> None:
    """The console script: errors become one line and their exit code."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as leaving:
        code = leaving.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except BigclusterError as error:
        _say(f"bigcluster: {_one_line(error)}")
        for note in getattr(error, "__notes__", ()):
            if note.strip():
                _say(note.rstrip())
        code = error.exit_code
    except Exception as error:
        code = _usage_error(error)
    if code == EXIT_INTERRUPTED:  # some versions of typer return it, others raise
        _say("interrupted; what is done is saved, the same command resumes")
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(error: BigclusterError) -> str:
    """Names in a message come from strangers: a newline or a terminal's control code is shown, not obeyed."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))


def _usage_error(error: Exception) -> int:
    """click's usage errors as one line; anything else is a fault of ours and keeps its traceback."""
    shown = getattr(error, "format_message", None)
    if shown is None:
        raise error
    _say(f"bigcluster: {shown()} (see bigcluster --help)")
    return int(getattr(error, "exit_code", ConfigError.exit_code))

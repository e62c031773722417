"""The commands that read a finished run: predict, verify and report. commands.py registers them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from bigcluster.cli.answers import leave_with, listening, stdout, tell
from bigcluster.cli.options import (
    AsJson,
    ClusterSets,
    Exclude,
    Log,
    Memory,
    Quiet,
    Scheduler,
    Threads,
    Workers,
)
from bigcluster.errors import EXIT_FAILED, UsageError
from bigcluster.units import printable


def predict(
    out: Annotated[str, typer.Argument(help="The results folder of a finished run.")],
    images: Annotated[
        str,
        typer.Argument(help="The new images: a folder, a glob in quotes, or a CSV or Parquet file with a path column."),
    ],
    to: Annotated[str, typer.Option("--to", metavar="FILE.csv", help="The CSV file for the labels.")],
    features: Annotated[
        str | None,
        typer.Option(help="The vectors of the new images, where the model was made of vectors: a file or column:NAME."),
    ] = None,
    exclude: Exclude = None,
    memory: Memory = None,
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    sets: ClusterSets = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    log: Log = None,
) -> None:
    """Label new images with the stored model. Nothing is fitted again."""
    from bigcluster import api
    from bigcluster.cli import display
    from bigcluster.files import targets

    if log is not None and os.path.realpath(log) == os.path.realpath(targets.named("--to", to)):
        raise UsageError(f"--log and --to are the same file ({to}); give two")
    with listening(quiet=quiet) as listener:
        prediction = api.predict(
            out,
            images,
            to,
            features=features,
            exclude=exclude,
            memory=memory,
            threads=threads,
            workers=workers,
            scheduler=scheduler,
            set=sets,
            listener=listener,
        )
    tell(prediction, as_json, lambda: display.print_prediction(prediction, to, stdout()), quiet=quiet)
    leave_with(prediction["counts"], to, quiet)


def verify(
    out: Annotated[str, typer.Argument(help="The results folder of a run.")],
    quick: Annotated[bool, typer.Option("--quick", help="Read only a sample of the data and of the links.")] = False,
    memory: Memory = None,
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    sets: ClusterSets = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    log: Log = None,
) -> None:
    """Check all files of OUT for damage. The exit code is 1 where there is any; the next run repairs it."""
    from bigcluster import api
    from bigcluster.cli import display

    with listening(quiet=quiet) as listener:
        verdict = api.verify(
            out,
            quick=quick,
            memory=memory,
            threads=threads,
            workers=workers,
            scheduler=scheduler,
            set=sets,
            listener=listener,
        )
    tell(verdict, as_json, lambda: display.print_verified(verdict, out, stdout()), quiet=quiet and verdict["ok"])
    if not verdict["ok"]:
        raise typer.Exit(EXIT_FAILED)


def report(
    out: Annotated[str, typer.Argument(help="The results folder of a finished run.")],
    memory: Memory = None,
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set report.map, report.thumbnails or cluster.*."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    log: Log = None,
) -> None:
    """Write the pages of the report again, from the results in OUT. They open from disk in any browser."""
    from bigcluster import api

    with listening(quiet=quiet) as listener:
        written = api.report(
            out, memory=memory, threads=threads, workers=workers, scheduler=scheduler, set=sets, listener=listener
        )
    tell(written, as_json, lambda: print(printable(f"look at: {written['report']}")), quiet=quiet)

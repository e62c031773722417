"""Arguments and options that several commands share, with their help."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from bigcluster.cli.answers import log_to


def number(text: str) -> float | str:
    """The number, as int where it is whole; any other text as it is: the check of the setting refuses it."""
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    return text


Images = Annotated[str | None, typer.Argument(help="A folder, a glob, or a CSV/Parquet manifest with a path column.")]
Out = Annotated[str | None, typer.Option("--out", "-o", help="The folder that takes the results.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN", help="Leave out files and folders of that name, such as '*_thumb.jpg'; repeatable."
    ),
]
K = Annotated[
    str | None,
    typer.Option("-k", "--n-clusters", help="Number of clusters; or a range to sweep: 5:20, 10:100:10 or 5,9,17."),
]
Features = Annotated[str | None, typer.Option(help="gray or color pixels.")]
Size = Annotated[str | None, typer.Option(help="64, WIDTHxHEIGHT, or native (all images of one size).")]
Variance = Annotated[
    float | None,
    typer.Option(parser=number, metavar="FLOAT", help="Keep as many components as capture this share, such as 0.8."),
]
Components = Annotated[
    int | None,
    typer.Option(parser=number, metavar="INTEGER", help="Keep this many components (instead of --variance)."),
]
Memory = Annotated[str | None, typer.Option(help="Budget of the whole process tree, such as 1GiB.")]
Workers = Annotated[
    int | None,
    typer.Option(parser=number, metavar="INTEGER", help="Threads that decode and compute; default: all cores."),
]
Link = Annotated[str | None, typer.Option(help="hardlink, symlink, copy or none.")]
Seed = Annotated[int | None, typer.Option(parser=number, metavar="INTEGER", help="Seed of everything random.")]
Config = Annotated[str | None, typer.Option(help="A TOML file, or a shipped one: catalog, thumbnails, dask-ml.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting by its name.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore the settings that OUT/run.toml kept.")]
Replace = Annotated[bool, typer.Option("--replace", help="Permit discarding decoded pixels that no longer match.")]
Rehash = Annotated[
    bool, typer.Option("--rehash", help="Read every image again; by default a new size or time is what shows a change.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but warnings, errors and the result.")]
Log = Annotated[
    str | None,
    typer.Option("--log", metavar="FILE", callback=log_to, help="Add progress and messages to a file, with times."),
]

"""The arguments and options that several commands share, with their help texts."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from bigcluster.cli.answers import log_to


def number(text: str) -> float | str:
    """Read a number: an int where the text is a whole number, else a float.

    Any other text is returned as it is, so that the check of the setting can refuse it with its own message.
    """
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    return text


Images = Annotated[
    str | None,
    typer.Argument(help="The images: a folder, a glob in quotes, or a CSV or Parquet file with a path column."),
]
Out = Annotated[
    str | None,
    typer.Option("--out", "-o", help="The folder for the results. It must be new, empty, or of an earlier run."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Skip files and folders with this name, such as '*_thumb.jpg'. May be given several times.",
    ),
]
K = Annotated[
    str | None,
    typer.Option(
        "-k",
        "--n-clusters",
        help="The number of clusters, or a range to try: 5:20, 10:100:10 or 5,9,17. The default, auto, finds it.",
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        help="What describes an image: gray (the default) or color pixels, a network by name or .onnx file, or your "
        "own vectors: a file .npy or .parquet, or column:NAME of a Parquet manifest."
    ),
]
Size = Annotated[
    str | None,
    typer.Option(help="The size that images are resized to: 64, WIDTHxHEIGHT, or native (all images have one size)."),
]
Variance = Annotated[
    float | None,
    typer.Option(
        parser=number,
        metavar="FLOAT",
        help="Keep the fewest PCA components that explain this share of the variance, such as 0.8.",
    ),
]
Components = Annotated[
    int | None,
    typer.Option(
        parser=number, metavar="INTEGER", help="Keep exactly this number of PCA components. It replaces --variance."
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="The most memory that all processes of the run hold together, such as 1GiB. "
        "The default is half of the memory that may be used."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        parser=number,
        metavar="INTEGER",
        help="The number of threads that decode and compute. The default is all cores.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        parser=number,
        metavar="INTEGER",
        help="Start so many worker processes on this machine and share the work among them. --threads is for each.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|FILE",
        help="Share the work among the workers of a dask cluster, which see the images and OUT under the same paths: "
        "the address of its scheduler (tcp:// or tls://), or its scheduler file. --memory is then for each worker.",
    ),
]
Link = Annotated[
    str | None, typer.Option(help="How images appear under clusters/: hardlink (the default), symlink, copy or none.")
]
Seed = Annotated[
    int | None, typer.Option(parser=number, metavar="INTEGER", help="The seed of all random choices. The default is 0.")
]
Config = Annotated[
    str | None,
    typer.Option(help="A TOML file with settings, or a shipped one by name: catalog, thumbnails, dask-ml, cluster."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set any other setting by its name, such as kmeans.n_init=8. May be given several times.",
    ),
]
ClusterSets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set cluster.patience, cluster.min_workers or cluster.tls_*."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore the settings of the last run, which OUT/run.toml keeps.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Allow the run to discard pixels that were decoded with other settings.")
]
Rehash = Annotated[
    bool,
    typer.Option(
        "--rehash", help="Read every image again. Otherwise a file counts as changed when its size or time is new."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop. Nothing is decoded or written.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result, or the error, as one JSON document on stdout.")]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print only warnings and errors. The JSON document of --json is printed all the same."
    ),
]
Log = Annotated[
    str | None,
    typer.Option(
        "--log",
        metavar="FILE",
        callback=log_to,
        help="Append progress and messages to this file, each line with its time.",
    ),
]

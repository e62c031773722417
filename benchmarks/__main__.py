"""The command line: `python -m benchmarks --small`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.cases import SCALES, choose
from benchmarks.data import RESULTS
from benchmarks.run import Options, run_family
from benchmarks.table import place, render, write_readme


def main(argv: list[str] | None = None) -> int:
    """Tables go to stdout, progress to stderr, JSON to benchmarks/results. Exit code 2 for wrong usage."""
    arguments = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Peers and ourselves on the same work."
    )
    scale = arguments.add_mutually_exclusive_group()
    for name in SCALES:
        scale.add_argument(f"--{name}", dest="scale", action="store_const", const=name)
    arguments.add_argument("--only", nargs="+", default=[], metavar="NAME", help="families or cases, as in cases.py")
    arguments.add_argument("--repeat", type=int, default=1, metavar="N", help="runs of each case; medians are shown")
    arguments.add_argument("--images", type=Path, metavar="DIR", help="a catalog of your own or of `bigcluster demo`")
    arguments.add_argument("--timeout", type=float, default=3600, metavar="S", help="of one process")
    arguments.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help=argparse.SUPPRESS)
    arguments.add_argument("--write-readme", action="store_true", help="put the latest tables into the README")
    args = arguments.parse_args(argv)
    try:
        if args.repeat < 1:
            raise ValueError("--repeat must be at least 1")
        if args.images is not None and not args.images.is_dir():
            raise ValueError(f"--images {args.images} is no folder")
        name = args.scale or "small"
        chosen = choose(name, args.only) if args.scale or not args.write_readme else []
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    images = None if args.images is None else args.images.resolve()
    options = Options(name, args.repeat, images, args.timeout, args.results.resolve())
    for index, (family, cases) in enumerate(chosen):
        found = run_family(family, cases, options)
        print(render(found) if index else f"{place(found)}\n{render(found)}", flush=True)
    if args.write_readme:
        write_readme(args.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

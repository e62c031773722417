"""The command line: `python -m benchmarks.stress [--small] [--only NAME ...]`.

Every module of this package with a `main(full)` is one figure: it raises where the promise is broken, and returns what
it counted, `says` among it, the line that is printed.
"""

from __future__ import annotations

import argparse
import json
import pkgutil
import sys
import time
from importlib import import_module
from pathlib import Path

import benchmarks.stress
from benchmarks.data import RESULTS
from benchmarks.machine import describe_machine, now, versions
from bigcluster.runtime.signals import end_as_interrupted


def figures() -> list[str]:
    """The modules of this package that are figures, by name."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.stress.__path__) if module.name != "__main__"]
    return [name for name in names if hasattr(import_module(f"benchmarks.stress.{name}"), "main")]


def main(argv: list[str] | None = None) -> int:
    """One line a figure on stdout, JSON in benchmarks/results. Exit code 1 where a promise is broken."""
    end_as_interrupted()  # so that the processes of a figure end with it
    known = figures()
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.stress", description=benchmarks.stress.__doc__)
    arguments.add_argument("--small", action="store_true", help="seconds instead of minutes, as in CI")
    arguments.add_argument("--only", nargs="+", default=known, choices=known, metavar="NAME", help=", ".join(known))
    arguments.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help=argparse.SUPPRESS)
    args = arguments.parse_args(argv)
    broken = 0
    for name in args.only:
        began = time.monotonic()
        try:
            found = import_module(f"benchmarks.stress.{name}").main(full=not args.small)
        except AssertionError as error:
            broken += 1
            print(f"{name}: BROKEN: {error}", flush=True)
            continue
        seconds = round(time.monotonic() - began, 1)
        print(f"{name}: {found['says']} ({seconds} s)", flush=True)
        kept = {"machine": describe_machine(), "date": now(), "versions": versions(), "seconds": seconds, **found}
        args.results.mkdir(parents=True, exist_ok=True)
        file = args.results / f"stress-{name}{'-small' * args.small}.json"
        file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

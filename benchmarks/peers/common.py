"""What the peers share: arguments, the clock, and the JSON line at the end.

A peer does its work, stops the clock, then saves what the harness judges it by. Time and memory after the clock was
stopped belong to nobody. Heavy imports stand inside the jobs: starting up is part of what a user waits for.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEASURED = "measured"
"""The line that says: what follows is not measured."""


class Clock:
    """Seconds since the process was started, as far as that is known."""

    def __init__(self, started: float) -> None:
        self._started = started  # time.monotonic() is one clock for all processes of a machine

    def seconds(self) -> float:
        return round(time.monotonic() - self._started, 4)

    def stop(self) -> float:
        """The last reading; tells the harness that the measured part is over."""
        seconds = self.seconds()
        print(MEASURED, flush=True)
        return seconds


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments of every peer."""
    arguments = argparse.ArgumentParser(description=doc)
    arguments.add_argument("--out", type=Path, required=True, help="takes scores.npy, labels.npy, centers.npy, ids.npy")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--started", type=float, default=time.monotonic(), help=argparse.SUPPRESS)
    return arguments


def image_parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments of the peers that go from a folder of images to labels."""
    arguments = parser(doc)
    arguments.add_argument("--images", type=Path, required=True, help="a folder of images")
    arguments.add_argument("--components", type=int, default=64)
    arguments.add_argument("--clusters", type=int, default=10)
    return arguments


def row_parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments of the peers that cluster the rows of a float32 matrix."""
    arguments = parser(doc)
    arguments.add_argument("--rows", type=Path, required=True, help=".npy, (n_samples, n_features) float32")
    arguments.add_argument("--init", type=Path, help=".npy, (n_clusters, n_features) first centers")
    arguments.add_argument("--iterations", type=int, default=20)
    return arguments


def graph_parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments of the peers that find the nearest neighbors of the rows of a float32 matrix."""
    arguments = parser(doc)
    arguments.add_argument("--rows", type=Path, required=True, help=".npy, (n_samples, n_features) float32")
    arguments.add_argument("--neighbors", type=int, default=15)
    return arguments


def run(arguments: argparse.ArgumentParser, job: Callable[[argparse.Namespace, Clock], dict[str, Any]]) -> None:
    """Parse, work, print one JSON line. A failure is a line too, with its reason."""
    args, rest = arguments.parse_known_args()
    args.rest = rest
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        report = job(args, Clock(args.started))
    except ImportError as error:
        report = {"error": f"not installed: {error}"}
    except Exception as error:
        # MemoryError among them: that a peer does not fit is a result.
        traceback.print_exc()
        report = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    print(json.dumps(report), flush=True)
    sys.exit("error" in report)


def save(out: Path, **arrays: Any) -> None:
    """Each array as NAME.npy; None is left out."""
    import numpy as np

    for name, array in arrays.items():
        if array is not None:
            np.save(out / f"{name}.npy", np.ascontiguousarray(array))


def task_counter() -> Any:
    """A context that counts the dask tasks that run in it, as `.count`."""
    from dask.callbacks import Callback

    class TaskCounter(Callback):  # type: ignore[misc]
        count = 0

        def _posttask(self, *_: Any) -> None:
            self.count += 1

    return TaskCounter()

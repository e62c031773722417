"""What the figures share: a catalog, a job over it, and the bytes that it must end with."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigcluster.config import Settings, resolve
from bigcluster.demo import generate
from bigcluster.pipeline.predict import predict
from bigcluster.pipeline.run import run
from bigcluster.pipeline.verify import verify
from bigcluster.runtime.events import Listener, silent
from bigcluster.runtime.resources import Resources
from bigcluster.units import GIB

BUDGET = Resources(budget_bytes=GIB, threads=2)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bigcluster-stress-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Job:
    """One command: images, settings; `out` is where it writes."""

    images: Path
    values: dict[str, Any]

    def settings(self, out: Path) -> Settings:
        given = {"images": str(self.images), "out": str(out), **self.values}
        return resolve(flags=given, sets=(), config=None, kept=None)

    def run(self, out: Path, listener: Listener = silent) -> dict[str, Any]:
        """In this process; returns what summary.json says."""
        return run(self.settings(out), BUDGET, listener=listener)

    def predict(self, out: Path, to: Path) -> dict[str, Any]:
        return predict(self.settings(out), BUDGET, images=str(self.images), to=str(to))

    def verify(self, out: Path) -> dict[str, Any]:
        return verify(self.settings(out), BUDGET)

    def arguments(self, out: Path) -> list[str]:
        """The same job as arguments of `bigcluster`."""
        values = {name: str(v).lower() if isinstance(v, bool) else v for name, v in self.values.items()}
        sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
        return ["run", str(self.images), "--out", str(out), *sets, "--memory", "1GiB", "--threads", "2", "--quiet"]


def catalog(folder: Path, n_images: int) -> Path:
    """Drawn cuts, 300 x 430 pixels, JPEG."""
    generate(folder, n_images)
    return folder


def labels(out: Path) -> bytes:
    return (out / "labels.csv").read_bytes()

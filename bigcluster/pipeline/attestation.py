"""Before a job on a cluster begins, every worker shows that it can do it: versions, images, OUT and arithmetic.

Each fault is one line that names the worker and the path, so that nothing is half done when it is noticed.
"""

from __future__ import annotations

import platform
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from bigcluster._version import __version__
from bigcluster.catalog import Listing
from bigcluster.errors import BigclusterError, ClusterError
from bigcluster.files.durable import (
    TOKEN,
    digest_of,
    digest_of_file,
    unfinished_name,
    unlink_below,
    write_bytes,
    write_for,
)
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.runtime.blas import blas_threads
from bigcluster.runtime.cluster import Cluster, Worker
from bigcluster.runtime.dask_cluster import DaskCluster
from bigcluster.units import counted

PACKAGES = ("numpy", "zarr", "opencv-python-headless", "pillow", "onnxruntime", "scipy", "dask", "distributed")
"""The packages whose versions must be the same everywhere: they compute, or read and write what others read."""
SHARED_SECONDS = 35.0
"""Seconds in which a file of one host must be seen by another one. NFS remembers for 30 s that a file is not there
(nfs(5), acdirmax)."""
MOST_FAULTS = 5
"""The number of faults that are shown; more of them would not be read."""


@dataclass(frozen=True)
class Attest:
    """Say what a worker has. It is run once on each."""

    image: str | None
    """The first image, whose size and digest are told."""
    out: Path
    nonce: str
    """The name of a file in OUT, which holds its own name."""
    token: str
    """The token of the process that has locked OUT: what a killed worker leaves is removed with its files."""

    def __call__(self, worker: Worker) -> dict[str, Any]:
        return {
            "versions": versions(),
            "image": None if self.image is None else facts_of(self.image),
            "nonce": read_when_there(self.out / self.nonce),
            "written": self._write(),
            "arithmetic": arithmetic(),
        }

    def _write(self) -> dict[str, str]:
        write_for(self.token)
        name = unfinished_name()
        try:
            write_bytes(self.out / name, name.encode(), self.out)
        except (OSError, BigclusterError) as error:
            return {"error": str(error)}
        return {"name": name}


def versions() -> dict[str, str]:
    """Return the versions that must be the same on all workers, by name."""
    found = {"bigcluster": __version__, "python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def facts_of(image: str) -> dict[str, Any]:
    """Return the size in bytes and the digest of a file, or why it cannot be read."""
    try:
        return {"n_bytes": Path(image).stat().st_size, "digest": digest_of_file(image)}
    except OSError as error:
        return {"error": error.strerror or str(error)}


def read_when_there(file: Path) -> str | None:
    """Return the content of a small file, once it is there; None where it does not come."""
    deadline = time.monotonic() + SHARED_SECONDS
    while True:
        try:
            return file.read_text(encoding="ascii")
        except OSError:
            if time.monotonic() > deadline or not file.parent.is_dir():
                return None
            time.sleep(0.2)


def arithmetic() -> str:
    """Return a digest of products and eigenvectors in floating point: it depends on the processor's instructions."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((96, 160)).astype(np.float32)
    with blas_threads(1):
        product = float_product(rows, rows, transpose_right=True)
        gram = rows.astype(np.float64) @ rows.T.astype(np.float64)
        values, vectors = np.linalg.eigh(gram)
    return digest_of(b"".join(np.ascontiguousarray(one).tobytes() for one in (product, gram, values, vectors)))


def attest(cluster: Cluster, listing: Listing, out: Path) -> None:
    """Ask every worker what it has, and compare; this process itself needs no proof. OUT must be locked.

    Raises ClusterError with one line for each fault.
    """
    if not isinstance(cluster, DaskCluster):
        return
    image = str(listing.path(0)) if len(listing) else None
    nonce = f"{unfinished_name()}{secrets.token_hex(4)}"
    write_bytes(out / nonce, nonce.encode(), out)
    expected = {"versions": versions(), "image": None if image is None else facts_of(image), "nonce": nonce}
    try:
        found = cluster.each(Attest(image, out, nonce, TOKEN))
        faults = [
            f"the worker {worker}: {fault}"
            for worker, facts in found.items()
            for fault in _faults(facts, expected, image, out)
        ]
    finally:
        unlink_below(out / nonce, out)
    faults += _of_mixed_processors(found)
    if faults:
        more = [f"and {counted(len(faults) - MOST_FAULTS, 'more fault')}"] * (len(faults) > MOST_FAULTS)
        raise ClusterError("; ".join([*faults[:MOST_FAULTS], *more]))


def _faults(facts: Any, expected: Mapping[str, Any], image: str | None, out: Path) -> Iterator[str]:
    """Yield what a worker lacks."""
    if isinstance(facts, BaseException):
        yield f"it cannot do the work: {facts}"
        return
    for name, here in expected["versions"].items():
        if facts["versions"][name] != here:
            yield f"it has {name} {facts['versions'][name]}, and this process has {here}"
    if image is not None and "error" in facts["image"] and "error" not in expected["image"]:
        yield f"it cannot read {image} ({facts['image']['error']}): all workers must see the images under this path"
    elif facts["image"] != expected["image"]:
        yield f"{image} is another file there: all workers must see the same images under this path"
    if facts["nonce"] != expected["nonce"]:
        yield f"it does not see what this process wrote in {out}: OUT must be on a disk that all workers share"
    elif "error" in facts["written"]:
        yield f"it cannot write in {out} ({facts['written']['error']})"
    else:
        name = facts["written"]["name"]
        if read_when_there(out / name) != name:
            yield f"what it wrote in {out} is not seen here: OUT must be on a disk that all workers share"
        unlink_below(out / name, out)


def _of_mixed_processors(found: Mapping[str, Any]) -> list[str]:
    """Return one line where workers compute differently: labels would depend on who did what."""
    kinds: dict[str, list[str]] = {}
    for worker, facts in found.items():
        if not isinstance(facts, BaseException):
            kinds.setdefault(facts["arithmetic"], []).append(worker)
    if len(kinds) < 2:
        return []
    fewest = min(kinds.values(), key=len)
    return [
        f"the worker {fewest[0]}: its processor or its libraries round numbers in another way than those of other "
        "workers, so that results would depend on chance; use workers of one kind"
    ]

"""Before a job on a cluster begins, every worker shows that it can do it: versions, images, OUT and arithmetic.

Each fault is one line that names the worker and the path, so that nothing is half done when it is noticed.
"""

from __future__ import annotations

import platform
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from bigcluster._version import __version__
from bigcluster.catalog import Listing
from bigcluster.errors import BigclusterError, ClusterError
from bigcluster.files.durable import digest_of, digest_of_file, unfinished_name, unlink_below, write_bytes
from bigcluster.files.shared_disk import NFS_SECONDS, comes_to_light, expect_other_hosts
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.outdir.holder import HeldBy
from bigcluster.runtime.blas import blas_threads
from bigcluster.runtime.cluster import Cluster, Worker
from bigcluster.runtime.dask_cluster import DaskCluster
from bigcluster.units import counted

PACKAGES = (
    *("numpy", "zarr", "opencv-python-headless", "pillow", "onnxruntime", "scipy", "dask", "distributed"),
    *("pi-heif", "pylibjxl", "rawpy"),
    *("graspologic-native", "openTSNE", "umap-learn"),
)
"""The packages whose versions must be the same everywhere: they compute, or read and write what others read. Where an
extra decoder is missing, the pictures that it decodes would depend on the worker; any worker may get the fit of an
extra library."""
SHARED_SECONDS = NFS_SECONDS
"""Seconds in which a file of one host must be seen by another one."""
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

    def __call__(self, worker: Worker) -> dict[str, Any]:
        return {
            "versions": versions(),
            "image": None if self.image is None else facts_of(self.image),
            "nonce": read_when_there(self.out / self.nonce),
            "written": self._write(),
            "arithmetic": arithmetic(),
        }

    def _write(self) -> dict[str, str]:
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
    if not file.parent.is_dir() or not comes_to_light(file, SHARED_SECONDS):
        return None
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return None


def arithmetic() -> str:
    """Return a digest of products and eigenvectors in floating point: it depends on the processor's instructions."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((96, 160)).astype(np.float32)
    with blas_threads(1):
        product = float_product(rows, rows, transpose_right=True)
        gram = rows.astype(np.float64) @ rows.T.astype(np.float64)
        values, vectors = np.linalg.eigh(gram)
    return digest_of(b"".join(np.ascontiguousarray(one).tobytes() for one in (product, gram, values, vectors)))


def attest(cluster: Cluster, listing: Listing | None, out: Path, *, between_hosts: bool) -> None:
    """Ask every worker what it has, and compare; this process itself needs no proof. OUT must be locked.

    listing : the images that the workers must see; None for none.
    between_hosts : whether workers may be on other hosts. From now on, workers write for this process as long as it
    holds OUT.

    Raises ClusterError with one line for each fault.
    """
    if not isinstance(cluster, DaskCluster):
        return
    cluster.before_jobs = HeldBy(out, between_hosts)
    expect_other_hosts(NFS_SECONDS if between_hosts else 0.0)
    image = str(listing.path(0)) if listing is not None and len(listing) else None
    nonce = f"{unfinished_name()}{secrets.token_hex(4)}"
    write_bytes(out / nonce, nonce.encode(), out)
    expected = {"versions": versions(), "image": None if image is None else facts_of(image), "nonce": nonce}
    try:
        found = cluster.each(Attest(image, out, nonce))
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
            yield f"it has {name} {facts['versions'][name]}, and this process has {name} {here}"
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

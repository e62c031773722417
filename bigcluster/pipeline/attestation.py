"""Before a job on a cluster begins, every worker shows that it can do it: versions, images, OUT and arithmetic.

Each fault is one line that names the worker and the path, so that nothing is half done when it is noticed.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from bigcluster._version import __version__
from bigcluster.catalog import Listing
from bigcluster.config import are_vectors
from bigcluster.errors import BigclusterError, ClusterError, ModelError
from bigcluster.files.durable import digest_of, digest_of_file, unfinished_name, unlink_below, write_bytes
from bigcluster.files.shared_disk import NFS_SECONDS, comes_to_light, expect_other_hosts
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.models import cpu_class, digest_of_network
from bigcluster.outdir.holder import HeldBy
from bigcluster.pipeline.job import Job
from bigcluster.pipeline.on_cluster import WORKER_SHARE
from bigcluster.runtime.blas import blas_threads
from bigcluster.runtime.cluster import Worker
from bigcluster.runtime.dask_cluster import DaskCluster
from bigcluster.runtime.resources import Resources
from bigcluster.units import counted, show_bytes, show_seconds

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
JOINED_SECONDS = 1.0
"""Seconds in which a file of a worker that joins during a run must be seen: the run waits meanwhile."""
CLOCK_SECONDS = 60.0
"""Seconds by which clocks may differ. Times of files and the signs of life of a run are compared between hosts, over
half a minute and more. Chosen, not measured."""
VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NPY_DISABLE_CPU_FEATURES", "PYTHONOPTIMIZE")
PREFIXES = ("OPENCV_IO_", "OPENCV_CPU_DISABLE", "OPENCV_IPP", "JSIMD_")
"""Environment variables, and how the names of others begin, that change what is computed (the kernels of OpenBLAS,
numpy, OpenCV and libjpeg-turbo) or what is refused (the size limits of OpenCV's codecs, and assertions)."""
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
    network: str | None = None
    """The network that makes features: a name of the registry or a path."""
    offline: bool = False
    """Whether it may not be downloaded."""

    def __call__(self, worker: Worker) -> dict[str, Any]:
        return {
            **self.compared(),
            "nonce": read_when_there(self.out / self.nonce),
            "written": self._write(),
            "arithmetic": arithmetic(),
            "clock": time.time(),
        }

    def compared(self) -> dict[str, Any]:
        """Return what every process must have in common with the one that starts the run."""
        return {
            "versions": versions(),
            "variables": variables(os.environ),
            "user": os.getuid() if hasattr(os, "getuid") else None,
            "image": None if self.image is None else facts_of(self.image),
            "network": None if self.network is None else self._network(),
        }

    def _network(self) -> dict[str, str]:
        try:
            assert self.network is not None
            digest = digest_of_network(self.network, offline=self.offline)
        except ModelError as error:
            return {"error": str(error)}
        return {"digest": digest, "processor": cpu_class()}

    def _write(self) -> dict[str, str]:
        name = unfinished_name()
        try:
            write_bytes(self.out / name, name.encode(), self.out)
        except OSError as error:
            return {"error": error.strerror or str(error)}
        except BigclusterError as error:
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


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that change results or safety."""
    return {
        name: value for name, value in sorted(environment.items()) if name in VARIABLES or name.startswith(PREFIXES)
    }


def facts_of(image: str) -> dict[str, Any]:
    """Return the size in bytes and the digest of a file, or why it cannot be read."""
    try:
        return {"n_bytes": Path(image).stat().st_size, "digest": digest_of_file(image)}
    except OSError as error:
        return {"error": error.strerror or str(error)}


def read_when_there(file: Path, seconds: float | None = None) -> str | None:
    """Return the content of a small file, once it is there; None where it does not come in time."""
    if not file.parent.is_dir() or not comes_to_light(file, SHARED_SECONDS if seconds is None else seconds):
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


@contextmanager
def attested(job: Job, listing: Listing | None) -> Iterator[None]:
    """Ask every worker of a job what it has, compare, and admit them; this process itself needs no proof.

    listing : the images that the workers must see; None where they read none. OUT must be locked. During the block,
    workers write for this process as long as it holds OUT, and those that join are asked before they get work: what
    they lack is a warning. Raises ClusterError with one line for each fault.
    """
    cluster, out = job.cluster, job.out
    if not isinstance(cluster, DaskCluster):
        yield
        return
    between_hosts = not job.resources.starts_workers
    cluster.before_jobs = HeldBy(out, between_hosts)
    expect_other_hosts(NFS_SECONDS if between_hosts else 0.0)
    features = job.settings.features
    has_network = listing is not None and not job.settings.has_pixel_features and not are_vectors(features)
    nonce = f"{unfinished_name()}{secrets.token_hex(4)}"
    asked = Attest(
        str(listing.path(0)) if listing is not None and len(listing) else None,
        out,
        nonce,
        features if has_network else None,
        job.settings.models.offline,
    )
    write_bytes(out / nonce, nonce.encode(), out)
    try:
        _ask_all(cluster, asked, job.resources)
        yield
    finally:
        unlink_below(out / nonce, out)


def _ask_all(cluster: DaskCluster, asked: Attest, resources: Resources) -> None:
    """Ask the workers that there are, admit them, and have the cluster ask those that join."""
    judge = Judge(asked, asked.compared())
    began = time.time()
    found = cluster.each(asked)
    faults = [
        f"the worker {worker}: {fault}"
        for worker, facts in found.items()
        for fault in judge.faults(facts, began, SHARED_SECONDS)
    ]
    faults += _of_mixed_processors(found)
    if faults:
        more = [f"and {counted(len(faults) - MOST_FAULTS, 'more fault')}"] * (len(faults) > MOST_FAULTS)
        raise ClusterError("; ".join([*faults[:MOST_FAULTS], *more]))
    arithmetic_of_others = next(facts["arithmetic"] for facts in found.values())

    def faults_of(answer: Any, of_scheduler: Mapping[str, Any]) -> list[str]:
        lacks = list(judge.faults(answer, time.time(), JOINED_SECONDS))
        if not isinstance(answer, BaseException) and answer["arithmetic"] != arithmetic_of_others:
            lacks.append(OTHER_PROCESSOR)
        return lacks + _of_size(of_scheduler, resources)

    cluster.admit(found, asked, faults_of)


def _of_size(of_scheduler: Mapping[str, Any], resources: Resources) -> list[str]:
    """Return what a worker that joins lacks for the plan of the run. of_scheduler : what the scheduler says of it."""
    lacks = []
    limit, threads = int(WORKER_SHARE * of_scheduler.get("memory_limit", 0)), of_scheduler.get("nthreads", 1)
    if 0 < limit < resources.budget_bytes:  # 0: dask sets no limit
        lacks.append(
            f"it may hold {show_bytes(limit)} (three quarters of its memory limit), and the budget of each worker is "
            f"{show_bytes(resources.budget_bytes)}"
        )
    if threads > resources.threads:
        lacks.append(f"it has {threads} threads, and the plan counts with {resources.threads}")
    return lacks


OTHER_PROCESSOR = "its processor or its libraries round numbers in another way than those of other workers"
"""The fault of a worker whose results would have other bits."""


@dataclass(frozen=True)
class Judge:
    """Compares what a worker has with what the process that starts the run has."""

    asked: Attest
    here: Mapping[str, Any]
    """What `Attest.compared` says in this process."""

    def faults(self, facts: Any, since: float, seconds: float) -> Iterator[str]:
        """Yield what a worker lacks.

        facts : its answer, or the error with which it failed. since : when it was asked, by the clock of this process.
        seconds : how long a file that it wrote is waited for.
        """
        if isinstance(facts, BaseException):
            yield f"it cannot do the work: {facts}"
            return
        for name, here in self.here["versions"].items():
            if facts["versions"][name] != here:
                yield f"it has {name} {facts['versions'][name]}, and this process has {name} {here}"
        yield from self._of_environment(facts, since)
        image = self.asked.image
        if image is not None and "error" in facts["image"] and "error" not in self.here["image"]:
            yield f"it cannot read {image} ({facts['image']['error']}): all workers must see the images under this path"
        elif facts["image"] != self.here["image"]:
            yield f"{image} is another file there: all workers must see the same images under this path"
        yield from self._of_network(facts["network"])
        yield from self._of_out(facts, seconds)

    def _of_environment(self, facts: Mapping[str, Any], since: float) -> Iterator[str]:
        theirs, mine = facts["variables"], self.here["variables"]
        for name in sorted(theirs.keys() | mine.keys()):
            if theirs.get(name) != mine.get(name):
                yield (
                    f"its environment has {_shown(name, theirs)}, and that of this process {_shown(name, mine)}: "
                    "results may depend on it"
                )
        if facts["user"] != self.here["user"]:
            yield (
                f"it runs as user {facts['user']}, and this process as user {self.here['user']}: neither may replace "
                "the files of the other in OUT"
            )
        # The worker answered at some moment between the question and now.
        ahead, behind = facts["clock"] - time.time(), since - facts["clock"]
        if max(ahead, behind) > CLOCK_SECONDS:
            where = "ahead of" if ahead > behind else "behind"
            yield f"its clock is {show_seconds(max(ahead, behind))} {where} that of this process: set both by NTP"

    def _of_network(self, theirs: Any) -> Iterator[str]:
        mine, network = self.here["network"], self.asked.network
        if theirs == mine or theirs is None or mine is None:
            return
        if "error" in theirs:
            yield f"it cannot use the network {network} ({theirs['error']})"
        elif "error" not in mine and theirs["digest"] != mine["digest"]:
            yield f"the network {network} is another file there, with the SHA-256 {theirs['digest']}"
        elif "error" not in mine:
            yield (
                f"its processor ({theirs['processor']}) is of another kind than that of this process "
                f"({mine['processor']}), and the last bits of features depend on it"
            )

    def _of_out(self, facts: Mapping[str, Any], seconds: float) -> Iterator[str]:
        out = self.asked.out
        if facts["nonce"] != self.asked.nonce:
            yield f"it does not see what this process wrote in {out}: OUT must be on a disk that all workers share"
        elif "error" in facts["written"]:
            yield f"it cannot write in {out} ({facts['written']['error']})"
        else:
            name = facts["written"]["name"]
            if read_when_there(out / name, seconds) != name:
                yield f"what it wrote in {out} is not seen here: OUT must be on a disk that all workers share"
            unlink_below(out / name, out)


def _shown(name: str, values: Mapping[str, str]) -> str:
    return f"{name}={values[name]}" if name in values else f"no {name}"


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
        f"the worker {fewest[0]}: {OTHER_PROCESSOR}, so that results would depend on chance; use workers of one kind"
    ]

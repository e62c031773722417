"""The network of a worker is cut in the middle of a run, and restored or not: the labels are those of one process.

    sudo .venv/bin/python -m benchmarks.cut_network [--small]

The scheduler, the run and each of two workers have network namespaces of their own, joined by a bridge: to each other
they are three hosts. Needs root, `ip` and `unshare`; no network outside of the namespaces is touched.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.dask_processes import dask_processes, end, python_of, variables
from benchmarks.stress.work import Job, catalog, labels, scratch
from bigcluster.runtime.signals import end_as_interrupted
from bigcluster.solvers.kmeans.spread_jobs import LloydPass
from bigcluster.solvers.pca.product_parts import SumProducts
from bigcluster.stages.ingest_jobs import Fill

INSIDE = "BIGCLUSTER_CUT_NETWORK"
"""This variable is set in the process that has the namespaces."""
NET = "10.77.0"
HUB = f"{NET}.1"
HOSTS = ("2", "3")
FOR_GOOD = 0.0
PATIENCE_SECONDS = 900.0
"""Seconds after which a run counts as hanging."""
CUTS = (
    (Fill, 10.0),
    (Fill, FOR_GOOD),
    (SumProducts, FOR_GOOD),
    (LloydPass, 10.0),
    (LloydPass, FOR_GOOD),
)
"""In which job the cut happens, and for how many seconds. 10 seconds are shorter than the timeouts of TCP and dask."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line for each cut. The exit code is 1 where the labels are others."""
    end_as_interrupted()  # so that the processes of a figure end with it
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cut_network", description=__doc__)
    parser.add_argument("--small", action="store_true", help="one cut of two seconds in a run of 600 images")
    small = parser.parse_args(argv).small
    if INSIDE not in os.environ:
        again = ["unshare", "-n", "-m", *python_of("benchmarks.cut_network"), *["--small"] * small]
        return subprocess.run(again, env=variables({INSIDE: "yes"}), check=False).returncode
    _make_hosts()
    # The covariance of 2,304 values, and passes of k-means of 10^10 multiply-adds, which workers share.
    values = {
        "size": 48,
        "pca.solver": "covariance",
        "kmeans.algorithm": "lloyd",
        "report.write": False,
        "link": "none",
    }
    values |= {"k": 12, "components": 40} if small else {"k": 800, "components": 400}
    cuts = ((Fill, 2.0),) if small else CUTS
    with scratch() as folder:
        job = Job(catalog(folder / "images", 600 if small else 8190), values)
        subprocess.run([*python_of("bigcluster"), *job.arguments(folder / "alone")], env=variables(), check=True)
        expected = labels(folder / "alone")
        usual, wrong = _run(folder, job, expected, None, 0.0), 0
        print(f"undisturbed: {usual[0]:.1f} s, {usual[1]}", flush=True)
        for stage, seconds in cuts:
            took, found, told = _run(folder, job, expected, stage.__name__, seconds)
            how = f"for {seconds:g} s" if seconds else "for good"
            print(
                f"cut in {stage.__name__} {how}: {took:.1f} s ({took - usual[0]:+.1f} s), {found}; {told}", flush=True
            )
            wrong += found != SAME
    return 1 if wrong or usual[1] != SAME else 0


SAME = "the same labels"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _make_hosts() -> None:
    """Make a bridge in this namespace, and for each host a namespace that is joined to it."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    names = Path("/run/netns")
    names.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(names)], check=True)
    _ip("link", "set", "lo", "up")
    _ip("link", "add", "hub", "type", "bridge")
    _ip("address", "add", f"{HUB}/24", "dev", "hub")
    _ip("link", "set", "hub", "up")
    for host in HOSTS:
        _ip("netns", "add", f"host{host}")
        _ip("link", "add", f"port{host}", "type", "veth", "peer", "name", "eth0", "netns", f"host{host}")
        _ip("link", "set", f"port{host}", "master", "hub", "up")
        _ip("-n", f"host{host}", "address", "add", f"{NET}.{host}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            _ip("-n", f"host{host}", "link", "set", link, "up")


def _run(folder: Path, job: Job, expected: bytes, name: str | None, cut_seconds: float) -> tuple[float, str, list[str]]:
    """Run the job, and cut the first host off while it has a task of the job `name`.

    Returns the seconds, whether the labels are the expected ones, and what the run told about workers.
    """
    place = folder / os.urandom(4).hex()
    place.mkdir()
    out, host = place / "out", HOSTS[0]
    arguments = job.arguments(out)
    with dask_processes(place, 0, host=HUB) as dask:
        for number in HOSTS:
            dask.start_worker(f"{NET}.{number}", ["ip", "netns", "exec", f"host{number}"])
        dask.wait_for(len(HOSTS))
        at = arguments.index("--threads")
        arguments[at : at + 2] = ["--scheduler", str(dask.file), "--set", f"cluster.min_workers={len(HOSTS)}"]
        begin = time.perf_counter()
        process = subprocess.Popen([*python_of("bigcluster"), *arguments], env=variables(), stderr=subprocess.PIPE)
        try:
            while name is not None and not any(f"//{NET}.{host}:" in one for one in dask.working_on(name)):
                assert process.poll() is None, f"the run ended before {name}"
                time.sleep(0.005)
            if name is not None:
                _ip("link", "set", f"port{host}", "down")
                if cut_seconds:
                    time.sleep(cut_seconds)
                    _ip("link", "set", f"port{host}", "up")
            said = process.communicate(timeout=PATIENCE_SECONDS)[1].decode()
        finally:
            end(process)
        seconds = time.perf_counter() - begin
        _ip("link", "set", f"port{host}", "up")
    assert process.returncode == 0, said
    told = [line for line in said.splitlines() if "sign of life" in line or "again" in line]
    return seconds, SAME if labels(out) == expected else "OTHER LABELS", told


if __name__ == "__main__":
    sys.exit(main())

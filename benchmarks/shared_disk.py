"""Two workers that see OUT through two mounts, as two hosts see a shared disk: the labels are those of one process.

    sudo .venv/bin/python -m benchmarks.shared_disk FOLDER

Each worker sees the same folder through a bindfs mount of its own, in a mount namespace of its own. bindfs remembers
for 20 seconds that a file was not there, as clients of NFS do for 30 seconds, and its locks do not reach other mounts.
Needs root, bindfs and unshare; nothing is mounted outside of the namespaces.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.dask_processes import no_dashboard

MOUNT = "bindfs -o entry_timeout=0,negative_timeout=20,attr_timeout=1 {disk} {share}"
START_SECONDS = 60.0
"""Seconds in which the scheduler must have written its address."""


def started(stack: ExitStack, command: Sequence[str], disk: Path, share: Path) -> subprocess.Popen[bytes]:
    """Start a process that sees `disk` at `share` through a mount of its own; it ends with the block."""
    script = "; ".join(
        (
            "mount --make-rprivate /",
            MOUNT.format(disk=shlex.quote(str(disk)), share=shlex.quote(str(share))),
            f"exec {shlex.join(command)}",
        )
    )
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-e", "-c", script],
        cwd=os.sep,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stderr=subprocess.PIPE if "run" in command else subprocess.DEVNULL,
    )

    def end() -> None:
        process.terminate()
        process.wait()

    stack.callback(end)
    return process


def main(argv: Sequence[str] | None = None) -> int:
    """Print the seconds of the run on two workers, and whether its labels are those of one process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_disk", description=__doc__)
    parser.add_argument("images", type=Path, help="a folder of images, which all workers see under this path")
    images = parser.parse_args(argv).images.resolve()
    python = [sys.executable, "-P", "-m"]
    job = ["bigcluster", "run", str(images), "-k", "5", "--memory", "1GiB", "--quiet"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        disk, share, file = Path(folder, "disk"), Path(folder, "share"), Path(folder, "scheduler.json")
        disk.mkdir()
        share.mkdir()
        local = ["--host", "127.0.0.1", *no_dashboard(), "--scheduler-file", str(file)]
        started(stack, [*python, "distributed.cli.dask_scheduler", "--port", "0", *local], disk, share)
        deadline = time.monotonic() + START_SECONDS
        while not file.exists():
            assert time.monotonic() < deadline, "the scheduler does not start"
            time.sleep(0.1)
        for _ in range(2):
            worker = ["distributed.cli.dask_worker", "--nworkers", "1", "--nthreads", "1", "--memory-limit", "2GiB"]
            started(stack, [*python, *worker, *local, "--local-directory", str(folder)], disk, share)
        begin = time.perf_counter()
        cluster = ["--scheduler", str(file), "--set", "cluster.min_workers=2"]
        shared = started(stack, [*python, *job, "--out", str(share / "two"), *cluster], disk, share)
        assert shared.stderr is not None
        said = shared.stderr.read().decode()
        assert shared.wait() in (0, 3), said
        seconds = time.perf_counter() - begin
        alone = subprocess.run([*python, *job, "--out", str(disk / "one")], check=False)
        assert alone.returncode in (0, 3)
        same = (disk / "two" / "labels.csv").read_bytes() == (disk / "one" / "labels.csv").read_bytes()
    print(
        f"two workers, each with its own mount: {seconds:.1f} s; labels.csv is {'the same' if same else 'ANOTHER ONE'}"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

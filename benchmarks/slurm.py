"""The batch job of README.md on SLURM: it ends with the labels of one process, also where it is stopped and sent again.

    sudo .venv/bin/python -m benchmarks.slurm [--small]

Needs root and SLURM (on Debian: `apt-get install slurmctld slurmd slurm-client munge`). Its daemons run in a temporary
folder, listen on ports that are free, and end with this command; a SLURM that is there already is not touched.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from benchmarks.dask_processes import LOOPBACK, ROOT, python_of, started, variables
from benchmarks.stress.work import Job, catalog, labels, scratch
from bigcluster.runtime.signals import end_as_interrupted

DAEMONS = ("munged", "slurmctld", "slurmd")
START_SECONDS = 60.0
"""Seconds in which the daemons must answer."""
PATIENCE_SECONDS = 900.0
"""Seconds after which a job counts as hanging."""
STOPPED = 130
"""The exit code of a run that was interrupted."""
CONFIG = """
ClusterName=bigcluster
SlurmctldHost={host}({loopback})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SlurmdParameters=config_overrides
NodeName={host} NodeAddr={loopback} CPUs=8 RealMemory=64000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""One node that says it has 8 processors, as many as the job of README.md asks for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each job. The exit code is 1 where the labels are others."""
    end_as_interrupted()  # so that the processes of a figure end with it
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slurm", description=__doc__)
    parser.add_argument("--small", action="store_true", help="300 images instead of 4,000")
    n_images = 300 if parser.parse_args(argv).small else 4000
    missing = [name for name in (*DAEMONS, "sbatch") if shutil.which(name) is None]
    assert not missing, f"not installed: {', '.join(missing)}"
    with scratch() as folder:
        images = catalog(folder / "photos", n_images)
        alone = Job(images, {"k": 100}).arguments(folder / "alone")
        subprocess.run([*python_of("bigcluster"), *alone], env=variables(), check=True)
        expected = labels(folder / "alone")
        with slurm(folder / "slurm") as call:
            begin = time.perf_counter()
            job = _submit(call, folder, "whole")
            code = _ended(call, job)
            whole = labels(folder / "whole") == expected
            print(
                f"job {job}: exit code {code}, {time.perf_counter() - begin:.1f} s, the same labels: {whole}",
                flush=True,
            )
            job = _submit(call, folder, "stopped")
            marks = folder / "stopped" / ".bigcluster" / "marks" / "ingest"
            while not any(marks.glob("0*.json")):
                assert call("squeue", "-h", "-j", job), (folder / "slurm" / "job.log").read_text()
                time.sleep(0.05)
            call("scancel", "--batch", "--signal=TERM", job)  # what --signal=B:TERM@60 does
            codes = [_ended(call, job), _ended(call, _submit(call, folder, "stopped"))]
            resumed = labels(folder / "stopped") == expected
            print(f"stopped and sent again: exit codes {codes}, the same labels: {resumed}", flush=True)
        right = code == 0 and codes == [STOPPED, 0]
        if not right:
            print((folder / "slurm" / "job.log").read_text(), file=sys.stderr)
    return 0 if whole and resumed and right else 1


class Call:
    """Runs a command of SLURM and returns what it prints."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables

    def __call__(self, *command: str) -> str:
        done = subprocess.run(command, env=self._variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
        return done.stdout.strip()


@contextmanager
def slurm(folder: Path) -> Iterator[Call]:
    """Start munged, slurmctld and slurmd in a folder, and end them and all their jobs after the block."""
    for name in ("", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    config = folder / "slurm.conf"
    controller, node = _free_ports(2)
    config.write_text(
        CONFIG.format(host=socket.gethostname(), loopback=LOOPBACK, folder=folder, controller=controller, node=node)
    )
    extra = {"SLURM_CONF": str(config)}
    munge = [f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid", f"--key-file={key}"]
    munge += [f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munge.log"]
    call = Call(variables(extra))
    with ExitStack() as stack:
        started(stack, ["munged", "--foreground", "--force", *munge], folder / "munged.out")
        started(stack, ["slurmctld", "-D", "-f", str(config)], folder / "slurmctld.log", extra)
        started(stack, ["slurmd", "-D", "-f", str(config)], folder / "slurmd.log", extra)
        deadline = time.monotonic() + START_SECONDS
        while "idle" not in _states(call):
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(0.5)
        try:
            yield call
        finally:
            call("scancel", "--user=root", "--full")
            while call("squeue", "-h"):
                time.sleep(0.2)
            left = [one.pid for one in psutil.process_iter(["cmdline"]) if _is_of_a_job(one, folder.parent)]
            assert not left, f"processes of jobs that have ended: {left}"


def _is_of_a_job(process: psutil.Process, folder: Path) -> bool:
    words = process.info["cmdline"] or ()
    return "dask" in " ".join(words) and any(str(folder) in word for word in words)


def _states(call: Call) -> str:
    try:
        return call("sinfo", "-h", "-o", "%t")
    except AssertionError:  # the controller does not answer yet
        return ""


def _free_ports(n_ports: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n_ports)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]


def story() -> str:
    """The batch job that README.md shows."""
    found = re.search(
        r"^```bash\n(#!/bin/bash\n#SBATCH.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None, "README.md shows no batch job"
    return found[1]


def _submit(call: Call, folder: Path, out: str) -> str:
    """Send the job with paths of this machine, and return its number."""
    paths = {"/net/venv/bin": str(Path(sys.executable).parent), "/net/photos": str(folder / "photos")}
    paths |= {"/net/out": str(folder / out), "/net/": f"{folder}/"}
    script = story()
    for theirs, ours in paths.items():
        assert theirs in script, theirs
        script = script.replace(theirs, ours)
    file = folder / "slurm" / "job.sh"
    file.write_text(script)
    return call("sbatch", "--parsable", f"--output={folder / 'slurm' / 'job.log'}", "--open-mode=append", str(file))


def _ended(call: Call, job: str) -> int:
    """Wait until a job has ended, and return its exit code."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        facts = dict(re.findall(r"(\w+)=(\S+)", call("scontrol", "show", "job", job)))
        if facts["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            return int(facts["ExitCode"].partition(":")[0])
        assert time.monotonic() < deadline, f"job {job} hangs"
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())

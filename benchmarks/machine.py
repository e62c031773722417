"""What a table must say about the place it was measured at, and nothing more."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

import bigcluster
from benchmarks.measure import cpu_count

NAMED = (
    "numpy", "scikit-learn", "dask", "dask-ml", "opencv-python-headless", "onnxruntime", "zarr",
    "clustimage", "faiss-cpu", "superkmeans",
)  # fmt: skip
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
"""What decides the rates of GEMM, in 8 bits and in float32."""


def describe_machine() -> dict[str, str | int | float]:
    model, flags = platform.processor() or platform.machine(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        said = {
            name.strip(): value.strip()
            for name, colon, value in (line.partition(":") for line in cpuinfo.read_text().splitlines())
            if colon
        }
        model, flags = said.get("model name", model), said.get("flags", "")
    return {
        "cpu": model,
        "instructions": " ".join(name for name in INSTRUCTIONS if name in flags.split()),
        "cores": cpu_count(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def versions() -> dict[str, str]:
    found = {"bigcluster": bigcluster.__version__}
    for name in NAMED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")

"""This module names the class of the processor, on which the kernels of ONNX Runtime and the last bits depend."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_NAMES = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "sve")
"""The instruction sets by which ONNX Runtime (MLAS) chooses its kernels and layouts, as Linux names them."""


@cache
def cpu_class() -> str:
    """Return the architecture and the instruction sets of this machine, such as "x86_64 avx avx2 fma"."""
    cpuinfo = Path("/proc/cpuinfo")
    flags: set[str] = set()
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    return " ".join([platform.machine(), *(name for name in _NAMES if name in flags)])

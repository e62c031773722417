"""The class of a processor: what decides which kernels ONNX Runtime takes, and with them the last bits of features."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_DECIDING = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "sve")
"""Instruction sets, as Linux names them, by which ONNX Runtime (MLAS) chooses its kernels and layouts."""


@cache
def cpu_class() -> str:
    """Return the architecture with those instruction sets, such as "x86_64 avx avx2 fma"."""
    cpuinfo = Path("/proc/cpuinfo")
    flags: set[str] = set()
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    return " ".join([platform.machine(), *(name for name in _DECIDING if name in flags)])

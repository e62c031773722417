"""Compiles the C files beside it when bigcluster is installed: a build hook of hatchling's, named in pyproject.toml."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("bigcluster/kernels/linalg/native")
LIBRARY = NATIVE / "compiled.so"
FLAGS = ("-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fPIC", "-shared")
"""No product is fused with a sum: the sums of a cluster must have the same bits on every processor."""


class NativeHook(BuildHookInterface[Any]):  # type: ignore[misc]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version  # an editable installation finds the library where a wheel has it
        compiler = shlex.split(os.environ.get("CC", "cc"))
        if shutil.which(compiler[0]) is None:
            raise FileNotFoundError(
                f"bigcluster is built with a C compiler, and there is no {compiler[0]!r}; on Debian and Ubuntu: "
                "apt-get install gcc"
            )
        root = Path(self.root)
        unfinished = (root / LIBRARY).with_suffix(".unfinished")
        sources = sorted((root / NATIVE).glob("*.c"))
        digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
        made_from = f'-DMADE_FROM="{digest}"'
        subprocess.run([*compiler, *FLAGS, made_from, "-o", str(unfinished), *map(str, sources)], check=True)
        unfinished.replace(root / LIBRARY)
        build_data["artifacts"].append(LIBRARY.as_posix())
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

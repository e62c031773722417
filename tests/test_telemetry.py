"""ONNX Runtime neither identifies the machine nor sends anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

USES = {
    "products": "from bigcluster.kernels.linalg.gemm import Gemm; import numpy as np; "
    "Gemm('integer', in_panels=False).product(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.int8))",
    "library": "from bigcluster.runtime.onnx_runtime import onnx_runtime; onnx_runtime()",
}


@pytest.mark.parametrize("use", USES)
def test_nothing_is_written_about_the_machine(tmp_path: Path, use: str) -> None:
    folders = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", f"{USES[use]}; import sys; assert 'onnxruntime' in sys.modules"],
        env={name: value for name, value in environment(folders).items() if name != "ORT_DISABLE_TELEMETRY"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
